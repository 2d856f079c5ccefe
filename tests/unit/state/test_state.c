// SPDX-License-Identifier: Apache-2.0
#include <cmocka.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "state/state.h"

#define RANDOM_CASES 30000

struct chip {
	uint8_t mode;
	uint16_t timer;
	uint32_t words[3];
	uint64_t address;
	uint8_t fifo[16];
	uint32_t fifo_used;
	uint8_t century; /* since version 2 */
	unsigned int saves, loads, activations;
	uint16_t loaded_version;
	bool is_refusing;
};

static const struct state_field chip_fields[] = {
	STATE_FIELD_MAX(struct chip, mode, STATE_U8, 3),
	STATE_FIELD(struct chip, timer, STATE_U16),
	STATE_ARRAY(struct chip, words, STATE_U32),
	STATE_FIELD(struct chip, address, STATE_U64),
	STATE_VARRAY(struct chip, fifo, STATE_U8, fifo_used),
	STATE_SINCE(struct chip, century, STATE_U8, 2),
};

#define FIFO_COUNT_AT 23 /* bytes before it: 1 + 2 + 12 + 8 */

static int chip_save(void *obj, struct err *err)
{
	struct chip *chip = obj;

	chip->saves++;
	return chip->is_refusing ? err_set(err, -EBUSY, "not now") : 0;
}

static int chip_load(void *obj, uint16_t version, struct err *err)
{
	struct chip *chip = obj;

	chip->loads++;
	chip->loaded_version = version;
	return chip->is_refusing ? err_set(err, -EBADMSG, "odd fields") : 0;
}

static int chip_activate(void *obj, struct err *err)
{
	struct chip *chip = obj;

	(void)err;
	chip->activations++;
	return 0;
}

static const struct state_desc chip_desc = {
	.version = 2,
	.min_version = 1,
	.fields = chip_fields,
	.field_count = array_size(chip_fields),
	.save = chip_save,
	.load = chip_load,
	.activate = chip_activate,
};

struct fixture {
	struct state_registry registry;
	struct state_entry entry;
	struct chip chip;
	struct bytes_writer saved, described;
	struct err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	state_registry_init(&f->registry);
	state_register(&f->registry, &f->entry, "chip0", &chip_desc, &f->chip);
	f->chip.mode = 3;
	f->chip.timer = 0x1234;
	f->chip.words[2] = 0xfedcba98;
	f->chip.address = 0x0123456789abcdefull;
	memcpy(f->chip.fifo, "hello", 5);
	f->chip.fifo_used = 5;
	f->chip.century = 20;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	state_unregister(&f->entry);
	state_unregister(&f->entry);
	bytes_writer_fini(&f->saved);
	bytes_writer_fini(&f->described);
	free(f);
	return 0;
}

static void save(struct fixture *f)
{
	assert_int_equal(state_save(&f->entry, &f->saved, &f->err), 0);
}

static int load(struct fixture *f, uint16_t version, size_t size)
{
	err_clear(&f->err);
	return state_load(&f->entry, version, f->saved.data, size, &f->err);
}

static void test_what_was_saved_loads_again(void **state)
{
	struct fixture *f = *state;
	struct chip before;

	save(f);
	before = f->chip;
	memset(&f->chip, 0, sizeof(f->chip));
	assert_int_equal(load(f, 2, f->saved.size), 0);
	assert_int_equal(f->chip.mode, before.mode);
	assert_int_equal(f->chip.timer, before.timer);
	assert_memory_equal(f->chip.words, before.words, sizeof(before.words));
	assert_true(f->chip.address == before.address);
	assert_int_equal(f->chip.fifo_used, 5);
	assert_memory_equal(f->chip.fifo, "hello", 5);
	assert_int_equal(f->chip.century, 20);
	assert_int_equal(f->chip.loads, 1);
	assert_int_equal(f->chip.loaded_version, 2);
}

static void test_encoding_is_little_endian_in_table_order(void **state)
{
	struct fixture *f = *state;
	const uint8_t expected[] = {
		3,                                              /* mode */
		0x34, 0x12,                                     /* timer */
		0,    0,    0,    0,    0,    0,    0,    0,    /* words */
		0x98, 0xba, 0xdc, 0xfe,                         /* words[2] */
		0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, /* address */
		5,    0,    0,    0,    'h',  'e',  'l',  'l',  'o', 20,
	};

	save(f);
	assert_int_equal(f->saved.size, sizeof(expected));
	assert_memory_equal(f->saved.data, expected, sizeof(expected));
	assert_int_equal(f->chip.saves, 1);
}

static void test_older_version_keeps_fields_it_lacks(void **state)
{
	struct fixture *f = *state;

	save(f);
	f->chip.century = 19;
	assert_int_equal(load(f, 1, f->saved.size - 1), 0);
	assert_int_equal(f->chip.century, 19);
	assert_int_equal(f->chip.loaded_version, 1);
}

static void test_version_out_of_range_is_refused(void **state)
{
	struct fixture *f = *state;

	save(f);
	assert_int_equal(load(f, 0, f->saved.size), -ENOTSUP);
	assert_int_equal(load(f, 3, f->saved.size), -ENOTSUP);
	assert_string_equal(err_msg(&f->err), "chip0: state version 3, this "
					      "godwit loads 1 to 2");
	assert_int_equal(f->chip.loads, 0);
}

static void test_state_cut_off_at_any_byte_is_refused(void **state)
{
	struct fixture *f = *state;

	save(f);
	for (size_t size = 0; size < f->saved.size; size++)
		assert_int_equal(load(f, 2, size), -EBADMSG);
	assert_int_equal(load(f, 2, 2), -EBADMSG);
	assert_string_equal(err_msg(&f->err),
			    "chip0: the state ends inside timer");
	assert_int_equal(f->chip.loads, 0);
}

static void test_bytes_left_over_are_refused(void **state)
{
	struct fixture *f = *state;

	save(f);
	bytes_put_u8(&f->saved, 0);
	assert_int_equal(load(f, 2, f->saved.size), -EBADMSG);
	assert_string_equal(err_msg(&f->err),
			    "chip0: 1 bytes of state left over");
}

static void test_value_over_its_limit_is_refused(void **state)
{
	struct fixture *f = *state;

	save(f);
	f->saved.data[0] = 4;
	assert_int_equal(load(f, 2, f->saved.size), -EBADMSG);
	assert_string_equal(err_msg(&f->err), "chip0: mode[0]: 4, at most 3");
	assert_int_equal(f->chip.mode, 3);
}

static void test_varying_count_above_capacity_is_refused(void **state)
{
	struct fixture *f = *state;

	save(f);
	f->saved.data[FIFO_COUNT_AT] = 17;
	assert_int_equal(load(f, 2, f->saved.size), -EBADMSG);
	assert_string_equal(err_msg(&f->err),
			    "chip0: fifo: 17 elements, at most 16");
	memset(f->saved.data + FIFO_COUNT_AT, 0xff, 4);
	assert_int_equal(load(f, 2, f->saved.size), -EBADMSG);
	assert_int_equal(f->chip.fifo_used, 5);
}

static void test_source_learns_of_state_that_would_not_load(void **state)
{
	struct fixture *f = *state;

	f->chip.mode = 4;
	assert_int_equal(state_save(&f->entry, &f->saved, &f->err), -ERANGE);
	f->chip.mode = 0;
	f->chip.fifo_used = 17;
	assert_int_equal(state_save(&f->entry, &f->saved, &f->err), -ERANGE);
}

static void test_refusal_by_the_device_names_it(void **state)
{
	struct fixture *f = *state;

	save(f);
	f->chip.is_refusing = true;
	assert_int_equal(load(f, 2, f->saved.size), -EBADMSG);
	assert_string_equal(err_msg(&f->err), "chip0: odd fields");
	err_clear(&f->err);
	assert_int_equal(state_save(&f->entry, &f->saved, &f->err), -EBUSY);
	assert_string_equal(err_msg(&f->err), "chip0: not now");
}

static void test_activation_reaches_the_device(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(state_activate(&f->entry, &f->err), 0);
	assert_int_equal(f->chip.activations, 1);
}

static void test_entries_are_found_by_name_until_unregistered(void **state)
{
	struct fixture *f = *state;

	assert_ptr_equal(state_find(&f->registry, "chip0"), &f->entry);
	assert_null(state_find(&f->registry, "chip"));
	state_unregister(&f->entry);
	assert_null(state_find(&f->registry, "chip0"));
}

/* What a visitor was told, and whether it kept to the promises. */
struct seen {
	unsigned int entries, fields;
	uint32_t field_count;
	char text[512];
	uint64_t sum; /* of all values: reads every byte */
	int answer;
};

static int see_entry(void *opaque, const char *name, uint16_t version,
		     uint32_t field_count)
{
	struct seen *seen = opaque;
	size_t used = strlen(seen->text);

	assert_true(strlen(name) < STATE_NAME_MAX);
	assert_true(field_count <= STATE_FIELDS_MAX);
	seen->entries++;
	seen->field_count = field_count;
	snprintf(seen->text + used, sizeof(seen->text) - used, "%s.%u:", name,
		 version);
	return seen->answer;
}

static int see_field(void *opaque, const struct state_field_text *field,
		     const void *values, uint32_t used)
{
	struct seen *seen = opaque;
	size_t at = strlen(seen->text);

	assert_true(strlen(field->name) < STATE_FIELD_NAME_MAX);
	assert_true(field->count <= STATE_COUNT_MAX);
	assert_true(used <= field->count);
	seen->fields++;
	for (uint32_t i = 0; values && i < used; i++)
		seen->sum += state_value(values, field->kind, i);
	snprintf(seen->text + at, sizeof(seen->text) - at, " %s", field->name);
	if (values && used > 0) {
		at = strlen(seen->text);
		snprintf(seen->text + at, sizeof(seen->text) - at, "=%llx",
			 (unsigned long long)state_value(values, field->kind,
							 used - 1));
	}
	return 0;
}

static const struct state_visitor visitor = { see_entry, see_field };

static void test_description_names_every_field(void **state)
{
	struct fixture *f = *state;
	struct seen seen = { .entries = 0 };
	struct bytes_reader r;

	state_describe(&f->entry, &f->described);
	r = bytes_read(f->described.data, f->described.size);
	assert_int_equal(state_describe_read(&r, &visitor, &seen, &f->err), 0);
	assert_int_equal(bytes_left(&r), 0);
	assert_string_equal(seen.text,
			    "chip0.2: mode timer words address fifo century");
	assert_int_equal(seen.field_count, 6);
}

/* What is said of a table that differs from the chip's in one field. */
static void assert_differs(struct fixture *f, uint32_t at,
			   struct state_field other, uint32_t field_count,
			   const char *reason)
{
	struct state_field fields[array_size(chip_fields) + 1];
	struct state_desc desc = chip_desc;
	struct state_entry theirs = { .name = "chip0", .desc = &desc };
	struct bytes_reader r;

	memcpy(fields, chip_fields, sizeof(chip_fields));
	fields[at] = other;
	desc.fields = fields;
	desc.field_count = field_count;
	f->described.size = 0;
	state_describe(&theirs, &f->described);
	r = bytes_read(f->described.data, f->described.size);
	err_clear(&f->err);
	assert_int_equal(state_describe_check(&f->entry, &r, &f->err), -EINVAL);
	assert_string_equal(err_msg(&f->err), reason);
}

static void
test_description_that_differs_is_told_by_its_first_field(void **state)
{
	const struct state_field timer = chip_fields[1], fifo = chip_fields[4];
	struct state_field other = timer;
	struct fixture *f = *state;
	struct bytes_reader r;

	state_describe(&f->entry, &f->described);
	r = bytes_read(f->described.data, f->described.size);
	assert_int_equal(state_describe_check(&f->entry, &r, &f->err), 0);

	other.kind = STATE_U32;
	assert_differs(
		f, 1, other, 6,
		"chip0: field 1 of version 2 is 'timer, 1 x u32 since "
		"version 1' at the source, 'timer, 1 x u16 since version "
		"1' here");
	other = timer;
	other.name = "clock";
	assert_differs(
		f, 1, other, 6,
		"chip0: field 1 of version 2 is 'clock, 1 x u16 since "
		"version 1' at the source, 'timer, 1 x u16 since version "
		"1' here");
	other = fifo;
	other.count_at = STATE_FIXED;
	other.since = 2;
	assert_differs(f, 4, other, 6,
		       "chip0: field 4 of version 2 is 'fifo, 16 x u8 since "
		       "version 2' at the source, 'fifo, up to 16 x u8 since "
		       "version 1' here");
	assert_differs(f, 6, timer, 7,
		       "chip0: field 6 of version 2 is 'timer, 1 x u16 since "
		       "version 1' at the source, 'none' here");
	assert_differs(f, 6, timer, 5,
		       "chip0: field 5 of version 2 is 'none' at the source, "
		       "'century, 1 x u8 since version 2' here");
}

static void test_saved_state_is_explained_without_the_table(void **state)
{
	struct fixture *f = *state;
	struct seen seen = { .entries = 0 };
	struct bytes_reader r;

	save(f);
	state_describe(&f->entry, &f->described);
	r = bytes_read(f->described.data, f->described.size);
	assert_int_equal(state_explain(&r, 2, f->saved.data, f->saved.size,
				       &visitor, &seen, &f->err),
			 0);
	assert_string_equal(seen.text,
			    "chip0.2: mode=3 timer=1234 words=fedcba98 "
			    "address=123456789abcdef fifo=6f century=14");

	memset(&seen, 0, sizeof(seen));
	r = bytes_read(f->described.data, f->described.size);
	assert_int_equal(state_explain(&r, 1, f->saved.data, f->saved.size - 1,
				       &visitor, &seen, &f->err),
			 0);
	assert_int_equal(seen.fields, 5);
}

static void test_state_that_does_not_fit_its_description(void **state)
{
	struct fixture *f = *state;
	struct seen seen = { .entries = 0 };

	save(f);
	bytes_put_u8(&f->saved, 0);
	state_describe(&f->entry, &f->described);
	for (size_t size = 0; size <= f->saved.size; size++) {
		struct bytes_reader r =
			bytes_read(f->described.data, f->described.size);
		int ret;

		seen.text[0] = '\0';
		err_clear(&f->err);
		ret = state_explain(&r, 2, f->saved.data, size, &visitor, &seen,
				    &f->err);
		assert_int_equal(ret, size == f->saved.size - 1 ? 0 : -EBADMSG);
	}
}

static void test_visitor_ends_the_walk(void **state)
{
	struct fixture *f = *state;
	struct seen seen = { .answer = -ECANCELED };
	struct bytes_reader r;

	state_describe(&f->entry, &f->described);
	r = bytes_read(f->described.data, f->described.size);
	assert_int_equal(state_describe_read(&r, &visitor, &seen, &f->err),
			 -ECANCELED);
	assert_int_equal(seen.fields, 0);
}

static int read_description(struct fixture *f)
{
	struct seen seen = { .entries = 0 };
	struct bytes_reader r =
		bytes_read(f->described.data, f->described.size);

	err_clear(&f->err);
	return state_describe_read(&r, &visitor, &seen, &f->err);
}

static void test_description_cut_off_at_any_byte_is_refused(void **state)
{
	struct fixture *f = *state;

	state_describe(&f->entry, &f->described);
	while (f->described.size > 0) {
		f->described.size--;
		assert_int_equal(read_description(f), -EBADMSG);
	}
}

/* Offsets in the description of chip0: its name takes 7 bytes, version and
 * field count 4, the first field's name 6. */
static void test_description_out_of_bounds_is_refused(void **state)
{
	static const struct {
		size_t at;
		uint8_t value;
	} cases[] = {
		{ 0, 0 },       /* entry name of no bytes */
		{ 0, 32 },      /* entry name too long */
		{ 2, '\n' },    /* not printable */
		{ 2, 0x1b },    /* escape sequence */
		{ 2, 0x80 },    /* not ASCII */
		{ 2, ' ' },     /* would look like two names */
		{ 7, 0 },       /* version 0 */
		{ 10, 0x7f },   /* field count */
		{ 13, '\x7f' }, /* field name */
		{ 17, 0 },      /* kind */
		{ 17, 5 },      /* kind */
		{ 18, 2 },      /* is_varying */
		{ 19, 0 },      /* since 0 */
		{ 19, 3 },      /* since after the version */
		{ 21, 0 },      /* no elements */
		{ 24, 0x10 },   /* too many elements */
	};
	struct fixture *f = *state;

	state_describe(&f->entry, &f->described);
	assert_int_equal(read_description(f), 0);
	for (size_t i = 0; i < array_size(cases); i++) {
		uint8_t old = f->described.data[cases[i].at];

		f->described.data[cases[i].at] = cases[i].value;
		assert_int_equal(read_description(f), -EBADMSG);
		f->described.data[cases[i].at] = old;
	}
}

/* xorshift64: the same cases in every run. */
static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Random bytes, or what is good with some bytes spoiled, of any length, at
 * the end of an allocation so that the sanitizers see a step past it. */
static uint8_t *spoil(const struct bytes_writer *good, size_t *ret_size,
		      uint64_t *seed)
{
	size_t size = next_random(seed) % (good->size + 8);
	bool is_random = next_random(seed) % 4 == 0;
	uint8_t *bytes = malloc(size ? size : 1);

	for (size_t i = 0; i < size; i++)
		bytes[i] = i < good->size && !is_random
				   ? good->data[i]
				   : (uint8_t)next_random(seed);
	for (uint64_t n = next_random(seed) % 4; size > 0 && n > 0; n--)
		bytes[next_random(seed) % size] = (uint8_t)next_random(seed);
	*ret_size = size;
	return bytes;
}

static void test_random_state_never_leaves_the_limits(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = 0x9e3779b97f4a7c15ull;
	unsigned int accepted = 0;

	save(f);
	for (int i = 0; i < RANDOM_CASES; i++) {
		size_t size;
		uint8_t *bytes = spoil(&f->saved, &size, &seed);
		int ret = state_load(&f->entry, next_random(&seed) % 4, bytes,
				     size, NULL);

		assert_true(ret == 0 || ret == -EBADMSG || ret == -ENOTSUP);
		accepted += ret == 0;
		assert_true(f->chip.mode <= 3);
		assert_true(f->chip.fifo_used <= sizeof(f->chip.fifo));
		free(bytes);
	}
	assert_true(accepted > 0);
	assert_int_equal(f->chip.loads, accepted);
}

static void test_random_descriptions_stay_in_bounds(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = 88172645463325252ull;
	unsigned int accepted = 0;

	save(f);
	state_describe(&f->entry, &f->described);
	for (int i = 0; i < RANDOM_CASES; i++) {
		struct seen seen = { .entries = 0 };
		size_t size, data_size;
		uint8_t *bytes = spoil(&f->described, &size, &seed);
		uint8_t *data = spoil(&f->saved, &data_size, &seed);
		struct bytes_reader r = bytes_read(bytes, size);
		int ret = state_explain(&r, next_random(&seed) % 4, data,
					data_size, &visitor, &seen, NULL);

		assert_true(ret == 0 || ret == -EBADMSG);
		accepted += ret == 0;
		r = bytes_read(bytes, size);
		ret = state_describe_read(&r, &visitor, &seen, NULL);
		assert_true(ret == 0 || ret == -EBADMSG);
		free(bytes);
		free(data);
	}
	assert_true(accepted > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_was_saved_loads_again),
		TEST(test_encoding_is_little_endian_in_table_order),
		TEST(test_older_version_keeps_fields_it_lacks),
		TEST(test_version_out_of_range_is_refused),
		TEST(test_state_cut_off_at_any_byte_is_refused),
		TEST(test_bytes_left_over_are_refused),
		TEST(test_value_over_its_limit_is_refused),
		TEST(test_varying_count_above_capacity_is_refused),
		TEST(test_source_learns_of_state_that_would_not_load),
		TEST(test_refusal_by_the_device_names_it),
		TEST(test_activation_reaches_the_device),
		TEST(test_entries_are_found_by_name_until_unregistered),
		TEST(test_description_names_every_field),
		TEST(test_description_that_differs_is_told_by_its_first_field),
		TEST(test_saved_state_is_explained_without_the_table),
		TEST(test_state_that_does_not_fit_its_description),
		TEST(test_visitor_ends_the_walk),
		TEST(test_description_cut_off_at_any_byte_is_refused),
		TEST(test_description_out_of_bounds_is_refused),
		TEST(test_random_state_never_leaves_the_limits),
		TEST(test_random_descriptions_stay_in_bounds),
	};

	return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
