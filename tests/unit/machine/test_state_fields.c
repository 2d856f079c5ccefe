// SPDX-License-Identifier: Apache-2.0
/*
 * Every entry of saved state of a machine with devices of all kinds, field by field: each
 * bit of each element is changed, and whoever takes the change says the same when it is
 * saved again, of this bit and of all others.  Fields that are loaded into the wrong
 * place, or into none, differ.
 */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

struct scene {
	struct machine *machine;
	char image[32];
	unsigned int taken, kept, refused; /* bits */
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
static int load(struct scene *scene, const struct state_entry *entry,
		const struct bytes_writer *bytes)
{
	struct mem *mem = machine_mem(scene->machine);
	int ret;

	mem_load_begin(mem);
	mem_begin(mem);
	ret = state_load(entry, entry->desc->version, bytes->data, bytes->size,
			 NULL);
	mem_commit(mem);
	mem_load_end(mem);
	return ret ? ret : state_activate(entry, NULL);
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

static void check_entry(struct scene *scene, const struct state_entry *entry)
{
	struct bytes_writer bytes = { .data = NULL }, again = { .data = NULL };
	size_t at = 0;

	save(entry, &bytes);
	for (uint32_t i = 0; i < entry->desc->field_count; i++) {
		const struct state_field *field = &entry->desc->fields[i];
		uint32_t size = field_bytes(field, bytes.data + at);
		unsigned int taken = scene->taken;

		if (field->count_at != STATE_FIXED)
			at += sizeof(uint32_t);
		for (uint32_t bit = 0; !is_left_out(field) && bit < 8 * size;
		     bit++)
			check_bit(scene, entry, field, 8 * at + bit, &bytes,
				  &again);
		/* In other entries some fields have one value only here. */
		if (ends_with(entry->name, "-net"))
			assert_true(scene->taken > taken);
		at += size;
	}
	assert_int_equal(load(scene, entry, &bytes), 0);
	bytes_writer_fini(&bytes);
	bytes_writer_fini(&again);
}

static void test_each_field_is_saved_as_it_was_loaded(void **state)
{
	const bool *has_card = *state;
	struct scene scene;
	struct state_entry *entry;
	unsigned int entries = 0;

	scene_init(&scene, *has_card);
	list_for_each (entry, &machine_state(scene.machine)->entries, link) {
		check_entry(&scene, entry);
		entries++;
	}
	list_for_each (entry, &machine_setup_state(scene.machine)->entries,
		       link) {
		check_entry(&scene, entry);
		entries++;
	}
	print_message("%u entries: %u bits change, %u do not, %u may not\n",
		      entries, scene.taken, scene.kept, scene.refused);
	assert_true(entries >= ENTRIES_MIN);
	assert_int_equal(*has_card, state_find(machine_state(scene.machine),
					       "net0-net") != NULL);
	assert_true(scene.taken > BITS_MIN);
	scene_fini(&scene);
}

int main(void)
{
	bool has_card = tap_net_enter();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(
			test_each_field_is_saved_as_it_was_loaded, &has_card),
	};
	int ret = cmocka_run_group_tests(tests, NULL, NULL);

	/* Without a card only a part of it was tested. */
	return ret || has_card ? ret : 77;
}
