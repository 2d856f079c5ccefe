// SPDX-License-Identifier: Apache-2.0
/*
 * Every entry of saved state of a machine with devices of all kinds, field by field: each
 * bit of each element is changed, and whoever takes the change says the same when it is
 * saved again, of this bit and of all others.  Fields that are loaded into the wrong
 * place, or into none, differ.
 *
 * Twice: as after a reset, and with drivers whose queues are at work in guest memory.
 * Each field changes in one of the two.
 */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "machine/machine.h"
#include "mem/space.h"
#include "state/state.h"
#include "tap_net.h"

#define ENTRIES_MIN 20u
#define BITS_MIN    10000u
#define IMAGE_SIZE  (64u << 10)
#define FIELDS_MAX  1024u

struct scene {
	struct machine *machine;
	char image[32];
	unsigned int taken, kept, refused; /* bits */
	unsigned int taken_of[FIELDS_MAX]; /* of each field of each entry */
	unsigned int fields;               /* of those that were looked at */
};

static void on_event(void *opaque, enum machine_event event)
{
	(void)opaque;
	(void)event;
}

static void scene_init(struct scene *scene, bool has_card)
{
	char disk[64];
	struct machine_options options = {
		.name = "fields",
		.memory = 32u << 20,
		.cpus = 2,
		.serial = "null",
		.is_incoming = true,
		.device_count = has_card ? 5 : 4,
		.devices = {
			{ DEVICE_DISK, disk },
			{ DEVICE_RNG, "on" },
			{ DEVICE_CONSOLE, "null" },
			{ DEVICE_SHMEM, "size=64K" },
			{ DEVICE_NET, "tap=tap7,queues=3" },
		},
	};
	struct err err = ERR_INIT;
	int fd;

	*scene = (struct scene){ .image = "/tmp/godwit-fields-XXXXXX" };
	fd = mkstemp(scene->image);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, IMAGE_SIZE), 0);
	close(fd);
	snprintf(disk, sizeof(disk), "path=%s,queues=2", scene->image);
	if (accel_options_parse("sim", &options.accel, &err) ||
	    machine_new(&options, on_event, NULL, &scene->machine, &err))
		fail_msg("%s", err_msg(&err));
}

static void scene_fini(struct scene *scene)
{
	machine_free(scene->machine);
	unlink(scene->image);
}

/* As in the switch: fields in one transaction, then what they stand for. */
static int load_why(struct scene *scene, const struct state_entry *entry,
		    const struct bytes_writer *bytes, struct err *err)
{
	struct mem *mem = machine_mem(scene->machine);
	int ret;

	mem_load_begin(mem);
	mem_begin(mem);
	ret = state_load(entry, entry->desc->version, bytes->data, bytes->size,
			 err);
	mem_commit(mem);
	mem_load_end(mem);
	return ret ? ret : state_activate(entry, err);
}

static int load(struct scene *scene, const struct state_entry *entry,
		const struct bytes_writer *bytes)
{
	return load_why(scene, entry, bytes, NULL);
}

/* Some bits are nobody's to change: they stay as they were. */
static const struct {
	const char *entry, *field; /* the ends of their names */
} fixed[] = {
	{ "-pci", "saved" },  { "-pci-setup", "saved" },  /* read-only */
	{ "-msix", "table" }, { "-msix-setup", "table" }, /* reserved */
	{ "pci", "address" },                             /* reserved */
	{ "net0", "config" }, /* MAC and link: of net0-net, and of the host */
};

/* Whose value says which device this is, or what the host has, and nothing else is taken. */
static const struct {
	const char *entry, *field; /* the end of the one, all of the other */
} single[] = {
	{ "-pci", "saved_slot" },   { "-pci-setup", "saved_slot" },
	{ "-blk", "saved_serial" }, { "console0", "config" },
	{ "net0", "config" },       { "rng0", "config" }, /* has none */
};

static bool ends_with(const char *text, const char *end)
{
	size_t size = strlen(text), end_size = strlen(end);

	return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

/* Clocks go on between two saves, and interrupts that were pending are, for good: of these
 * are test_acpi_pm.c and test_msix.c. */
static bool is_left_out(const struct state_field *field)
{
	return ends_with(field->name, "_ns") ||
	       strcmp(field->name, "pending") == 0;
}

static uint32_t field_bytes(const struct state_field *field, const uint8_t *at)
{
	uint32_t count = field->count;

	if (field->count_at != STATE_FIXED)
		memcpy(&count, at, sizeof(count));
	return count * (uint32_t)state_kind_size(field->kind);
}

static void save(const struct state_entry *entry, struct bytes_writer *bytes)
{
	size_t at = 0;

	bytes->size = 0;
	assert_int_equal(state_save(entry, bytes, NULL), 0);
	for (uint32_t i = 0; i < entry->desc->field_count; i++) {
		const struct state_field *field = &entry->desc->fields[i];
		uint32_t size = field_bytes(field, bytes->data + at);

		if (field->count_at != STATE_FIXED)
			at += sizeof(uint32_t);
		if (is_left_out(field))
			memset(bytes->data + at, 0, size);
		at += size;
	}
	assert_int_equal(at, bytes->size);
}

static bool may_be_fixed(const struct state_entry *entry,
			 const struct state_field *field)
{
	for (size_t i = 0; i < array_size(fixed); i++) {
		if (ends_with(entry->name, fixed[i].entry) &&
		    ends_with(field->name, fixed[i].field))
			return true;
	}
	return false;
}

static bool is_same(const struct bytes_writer *a, const struct bytes_writer *b)
{
	return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

/* Both are as they were when this returns. */
static void check_bit(struct scene *scene, const struct state_entry *entry,
		      const struct state_field *field, size_t at,
		      struct bytes_writer *bytes, struct bytes_writer *again)
{
	uint8_t *byte = bytes->data + at / 8, mask = (uint8_t)(1u << at % 8);
	bool is_taken, is_right;

	*byte ^= mask;
	is_taken = load(scene, entry, bytes) == 0;
	if (is_taken) {
		save(entry, again);
		is_right = is_same(bytes, again);
	}
	*byte ^= mask;
	if (!is_taken) {
		scene->refused++;
	} else if (is_right) {
		scene->taken++;
	} else {
		scene->kept++;
		if (!may_be_fixed(entry, field) || !is_same(bytes, again))
			fail_msg("%s: bit %zu is in %s, and does not come back",
				 entry->name, at, field->name);
	}
}

/* ---- a machine whose drivers are at work ---- */

#define AT_WORK                                                 \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)
#define QUEUE_AT   0x100000u
#define QUEUE_SIZE 0x10000u

/* The bytes of field @name, and how many; NULL: there is none. */
static uint8_t *find_field(const struct state_entry *entry,
			   const struct bytes_writer *bytes, const char *name,
			   uint32_t *ret_size)
{
	uint8_t *at = bytes->data;

	for (uint32_t i = 0; i < entry->desc->field_count; i++) {
		const struct state_field *field = &entry->desc->fields[i];

		*ret_size = field_bytes(field, at);
		if (field->count_at != STATE_FIXED)
			at += sizeof(uint32_t);
		if (strcmp(field->name, name) == 0)
			return at;
		at += *ret_size;
	}
	return NULL;
}

/* Each element, @size bytes wide, becomes @first, and @step more than the one before. */
static void fill(const struct state_entry *entry, struct bytes_writer *bytes,
		 const char *name, uint64_t first, uint64_t step)
{
	const struct state_field *field = entry->desc->fields;
	uint32_t bytes_in_all = 0;
	uint8_t *at = find_field(entry, bytes, name, &bytes_in_all);
	size_t size;

	assert_non_null(at);
	while (strcmp(field->name, name) != 0)
		field++;
	size = state_kind_size(field->kind);
	for (uint32_t i = 0; i < bytes_in_all / size; i++, first += step)
		memcpy(at + i * size, &first, size); /* little endian */
}

static bool has_field(const struct state_entry *entry,
		      const struct bytes_writer *bytes, const char *name)
{
	uint32_t size;

	return find_field(entry, bytes, name, &size) != NULL;
}

/* An empty array of bytes gets one. */
static void grow(const struct state_entry *entry, struct bytes_writer *bytes,
		 const char *name)
{
	uint32_t size;
	size_t at =
		(size_t)(find_field(entry, bytes, name, &size) - bytes->data);
	const uint32_t one = 1;

	assert_int_equal(size, 0);
	bytes_put(bytes, "", 1);
	memmove(bytes->data + at + 1, bytes->data + at, bytes->size - at - 1);
	bytes->data[at] = 'x';
	memcpy(bytes->data + at - sizeof(one), &one, sizeof(one));
}

/* All queues have rings in RAM, and interrupts are by the first vector; there is input. */
static void set_up(struct scene *scene, const struct state_entry *entry,
		   uint64_t rings)
{
	struct bytes_writer bytes = { .data = NULL };
	struct err err = ERR_INIT;

	save(entry, &bytes);
	if (has_field(entry, &bytes, "next_avail")) {
		fill(entry, &bytes, "status", AT_WORK, 0);
		fill(entry, &bytes, "features", 1ull << VIRTIO_F_VERSION_1, 0);
		fill(entry, &bytes, "vector", 0, 0);
		fill(entry, &bytes, "is_enabled", 1, 0);
		fill(entry, &bytes, "desc", rings, QUEUE_SIZE);
		fill(entry, &bytes, "driver", rings + 0x4000, QUEUE_SIZE);
		fill(entry, &bytes, "device", rings + 0x8000, QUEUE_SIZE);
	}
	if (has_field(entry, &bytes, "config_vector"))
		fill(entry, &bytes, "config_vector", 0, 0);
	if (has_field(entry, &bytes, "rx"))
		grow(entry, &bytes, "rx");
	if (has_field(entry, &bytes, "input"))
		grow(entry, &bytes, "input");
	if (load_why(scene, entry, &bytes, &err))
		fail_msg("%s: %s", entry->name, err_msg(&err));
	bytes_writer_fini(&bytes);
}

static void set_up_all(struct scene *scene)
{
	struct state_entry *entry;
	uint64_t rings = QUEUE_AT;

	list_for_each (entry, &machine_state(scene->machine)->entries, link) {
		set_up(scene, entry, rings);
		rings += 8 * QUEUE_SIZE;
	}
}

/* ---- each bit ---- */

static bool is_single(const struct state_entry *entry,
		      const struct state_field *field)
{
	for (size_t i = 0; i < array_size(single); i++) {
		if (ends_with(entry->name, single[i].entry) &&
		    strcmp(field->name, single[i].field) == 0)
			return true;
	}
	return false;
}

static void check_entry(struct scene *scene, const struct state_entry *entry)
{
	struct bytes_writer bytes = { .data = NULL }, again = { .data = NULL };
	size_t at = 0;

	save(entry, &bytes);
	for (uint32_t i = 0; i < entry->desc->field_count; i++) {
		const struct state_field *field = &entry->desc->fields[i];
		uint32_t size = field_bytes(field, bytes.data + at);
		unsigned int taken = scene->taken;

		assert_true(scene->fields < FIELDS_MAX);
		if (field->count_at != STATE_FIXED)
			at += sizeof(uint32_t);
		for (uint32_t bit = 0; !is_left_out(field) && bit < 8 * size;
		     bit++)
			check_bit(scene, entry, field, 8 * at + bit, &bytes,
				  &again);
		scene->taken_of[scene->fields++] += scene->taken - taken;
		at += size;
	}
	assert_int_equal(load(scene, entry, &bytes), 0);
	bytes_writer_fini(&bytes);
	bytes_writer_fini(&again);
}

/* How many there are. */
static unsigned int check_all(struct scene *scene)
{
	struct state_registry *registries[] = {
		machine_state(scene->machine),
		machine_setup_state(scene->machine),
	};
	struct state_entry *entry;
	unsigned int entries = 0;

	scene->fields = 0;
	for (size_t i = 0; i < array_size(registries); i++) {
		list_for_each (entry, &registries[i]->entries, link) {
			check_entry(scene, entry);
			entries++;
		}
	}
	return entries;
}

/* By one look or the other each field has changed, unless it has one value. */
static void check_taken(const struct scene *scene)
{
	struct state_registry *registries[] = {
		machine_state(scene->machine),
		machine_setup_state(scene->machine),
	};
	struct state_entry *entry;
	unsigned int index = 0, wrong = 0;

	for (size_t i = 0; i < array_size(registries); i++) {
		list_for_each (entry, &registries[i]->entries, link) {
			for (uint32_t f = 0; f < entry->desc->field_count;
			     f++, index++) {
				const struct state_field *field =
					&entry->desc->fields[f];
				bool is_taken = scene->taken_of[index] > 0;

				if (is_taken != (is_single(entry, field) ||
						 is_left_out(field)))
					continue;
				print_error("%s: %s is %s\n", entry->name,
					    field->name,
					    is_taken ? "taken" : "never taken");
				wrong++;
			}
		}
	}
	assert_int_equal(wrong, 0);
}

static void test_each_field_is_saved_as_it_was_loaded(void **state)
{
	const bool *has_card = *state;
	struct scene scene;
	unsigned int entries;

	scene_init(&scene, *has_card);
	entries = check_all(&scene);
	set_up_all(&scene);
	assert_int_equal(check_all(&scene), entries);
	print_message("%u entries: %u bits change, %u do not, %u may not\n",
		      entries, scene.taken, scene.kept, scene.refused);
	assert_true(entries >= ENTRIES_MIN);
	assert_int_equal(*has_card, state_find(machine_state(scene.machine),
					       "net0-net") != NULL);
	assert_true(scene.taken > BITS_MIN);
	check_taken(&scene);
	scene_fini(&scene);
}

/* ---- load and activate ---- */

/* What these have activated is no matter of guest memory. */
static const char *const looks_at_no_memory[] = {
	"serial0", "acpi-pm",     "-pci",   "-pci-setup",
	"-msix",   "-msix-setup", "-setup",
};

enum {
	NO_ENTRY = 100, /* so many are not seen */
	NO_MATTER,
};

/* An entry whose `load` does the work of `activate`, and the other way round. */
static const struct state_desc *right;

static int activate_early(void *obj, uint16_t version, struct err *err)
{
	(void)version;
	return right->activate(obj, err);
}

static int load_late(void *obj, struct err *err)
{
	return right->load(obj, right->version, err);
}

static struct state_entry *nth_entry(struct machine *machine,
				     unsigned int number)
{
	struct state_entry *entry;

	list_for_each (entry, &machine_state(machine)->entries, link) {
		if (number-- == 0)
			return entry;
	}
	list_for_each (entry, &machine_setup_state(machine)->entries, link) {
		if (number-- == 0)
			return entry;
	}
	return NULL;
}

/* In a process of its own, which dies of a stale read in builds with assertions, and else
 * exits with how many were seen. */
static int load_swapped(unsigned int number, bool has_card)
{
	struct bytes_writer bytes = { .data = NULL };
	struct state_entry *entry;
	struct state_desc swapped;
	struct scene scene;

	scene_init(&scene, has_card);
	unlink(scene.image);
	set_up_all(&scene);
	entry = nth_entry(scene.machine, number);
	if (!entry)
		return NO_ENTRY;
	right = entry->desc;
	if (!right->load || !right->activate)
		return NO_MATTER;
	for (size_t i = 0; i < array_size(looks_at_no_memory); i++) {
		if (ends_with(entry->name, looks_at_no_memory[i]))
			return NO_MATTER;
	}
	save(entry, &bytes);
	swapped = *right;
	swapped.load = activate_early;
	swapped.activate = load_late;
	entry->desc = &swapped;
	load(&scene, entry, &bytes);
	return (int)mem_stale_reads(machine_mem(scene.machine));
}

static int status_of(unsigned int number, bool has_card)
{
	const struct rlimit no_core = { 0, 0 };
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGABRT, SIG_DFL);
		close(STDERR_FILENO);
		_exit(load_swapped(number, has_card));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* Each machine is made in the child: a process that had threads should not fork. */
static void
test_swapped_load_and_activate_of_each_device_are_caught(void **state)
{
	const bool *has_card = *state;
	unsigned int caught = 0;

	for (unsigned int i = 0;; i++) {
		int status = status_of(i, *has_card);

		if (WIFEXITED(status) && WEXITSTATUS(status) == NO_ENTRY)
			break;
		if (WIFEXITED(status) && WEXITSTATUS(status) == NO_MATTER)
			continue;
#ifndef NDEBUG
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
			fail_msg("entry %u: nothing was noticed", i);
#else
		if (!WIFEXITED(status) || WEXITSTATUS(status) == 0)
			fail_msg("entry %u: nothing was noticed", i);
#endif
		caught++;
	}
	/* disk, rng, console, and where there can be one a card, with its pairs */
	assert_int_equal(caught, *has_card ? 5 : 3);
}

int main(void)
{
	bool has_card = tap_net_enter();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(
			test_swapped_load_and_activate_of_each_device_are_caught,
			&has_card),
		cmocka_unit_test_prestate(
			test_each_field_is_saved_as_it_was_loaded, &has_card),
	};
	int ret = cmocka_run_group_tests(tests, NULL, NULL);

	/* Without a card only a part of it was tested. */
	return ret || has_card ? ret : 77;
}
