// SPDX-License-Identifier: Apache-2.0
/* Which state records go out, and when again. */
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "migrate/format.h"
#include "migrate/state_send.h"
#include "state/state.h"

struct chip {
	uint32_t word;
	uint8_t count_bytes[4];
	uint32_t count;
	int save_result;
	unsigned int saves;
};

static int chip_save(void *obj, struct err *err)
{
	struct chip *chip = obj;

	chip->saves++;
	return chip->save_result ? err_set(err, chip->save_result, "no") : 0;
}

static int chip_activate(void *obj, struct err *err)
{
	(void)obj;
	(void)err;
	return 0;
}

static const struct state_field fields[] = {
	STATE_FIELD(struct chip, word, STATE_U32),
	STATE_VARRAY(struct chip, count_bytes, STATE_U8, count),
};

static const struct state_desc desc = {
	.version = 3,
	.min_version = 3,
	.fields = fields,
	.field_count = array_size(fields),
	.save = chip_save,
	.activate = chip_activate,
};

/* What an accelerator has: nothing is built by it, and it can do without. */
static const struct state_desc cpu_desc = {
	.version = 3,
	.min_version = 3,
	.fields = fields,
	.field_count = array_size(fields),
	.save = chip_save,
	.is_optional = true,
};

struct fixture {
	struct state_registry registry;
	struct state_entry entries[3];
	struct chip chips[3];
	struct state_send send;
	struct bytes_writer out;
	struct err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	state_registry_init(&f->registry);
	state_register(&f->registry, &f->entries[0], "a-setup", &desc,
		       &f->chips[0]);
	state_register(&f->registry, &f->entries[1], "b-setup", &desc,
		       &f->chips[1]);
	state_register(&f->registry, &f->entries[2], "cpu-setup", &cpu_desc,
		       &f->chips[2]);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	state_send_fini(&f->send);
	bytes_writer_fini(&f->out);
	free(f);
	return 0;
}

/* The next record, which is of @type and of @name; its word. */
static uint32_t next_word(struct bytes_reader *r, uint32_t type,
			  const char *name)
{
	struct fmt_record record;
	struct fmt_state state;
	struct le32 word;
	size_t size;

	bytes_take_copy(r, &record, sizeof(record));
	bytes_take_copy(r, &state, sizeof(state));
	bytes_take_copy(r, &word, sizeof(word));
	assert_int_equal(le32_get(record.type), type);
	assert_int_equal(le32_get(record.length),
			 sizeof(state) + le32_get(state.size));
	assert_string_equal(state.name, name);
	assert_int_equal(le16_get(state.version), 3);
	size = le32_get(record.length) - sizeof(state) - sizeof(word);
	bytes_take(r, (size + sizeof(state) + sizeof(word) + 7) / 8 * 8 -
			      sizeof(state) - sizeof(word));
	return le32_get(word);
}

static void send_setup(struct fixture *f)
{
	assert_int_equal(state_send_setup(&f->send, &f->out, &f->registry, true,
					  &f->err),
			 0);
	f->out.size = 0;
}

static bool send_changed(struct fixture *f)
{
	bool any;

	f->out.size = 0;
	assert_int_equal(state_send_changed(&f->send, &f->out, &f->registry,
					    &any, &f->err),
			 0);
	return any;
}

static void test_all_of_the_pre_state_goes_out_once(void **state)
{
	struct fixture *f = *state;
	struct bytes_reader r;

	f->chips[0].word = 10;
	f->chips[1].word = 11;
	assert_int_equal(state_send_setup(&f->send, &f->out, &f->registry, true,
					  &f->err),
			 0);
	r = bytes_read(f->out.data, f->out.size);
	assert_int_equal(next_word(&r, FMT_SETUP_STATE, "a-setup"), 10);
	assert_int_equal(next_word(&r, FMT_SETUP_STATE, "b-setup"), 11);
	assert_int_equal(next_word(&r, FMT_EARLY_STATE, "cpu-setup"), 0);
	assert_int_equal(bytes_left(&r), 0);
}

static void test_what_no_guest_changes_is_not_even_looked_at(void **state)
{
	struct fixture *f = *state;

	send_setup(f);
	f->chips[2].word = 1;
	assert_false(send_changed(f));
	assert_int_equal(f->chips[2].saves, 1);
}

static void test_what_did_not_change_is_not_sent_again(void **state)
{
	struct fixture *f = *state;

	send_setup(f);
	assert_false(send_changed(f));
	assert_int_equal(f->out.size, 0);
	assert_int_equal(f->chips[0].saves, 2); /* it was looked at */
}

static void test_entry_that_changed_is_sent_again_alone(void **state)
{
	struct fixture *f = *state;
	struct bytes_reader r;

	send_setup(f);
	f->chips[1].word = 12;
	assert_true(send_changed(f));
	r = bytes_read(f->out.data, f->out.size);
	assert_int_equal(next_word(&r, FMT_SETUP_AGAIN, "b-setup"), 12);
	assert_int_equal(bytes_left(&r), 0);
	assert_false(send_changed(f));
}

static void test_change_that_was_undone_is_sent_as_another_one(void **state)
{
	struct fixture *f = *state;

	send_setup(f);
	f->chips[0].word = 1;
	assert_true(send_changed(f));
	f->chips[0].word = 0;
	assert_true(send_changed(f));
	assert_false(send_changed(f));
}

static void test_state_of_another_length_is_a_change(void **state)
{
	struct fixture *f = *state;

	send_setup(f);
	f->chips[0].count = 4;
	assert_true(send_changed(f));
	assert_false(send_changed(f));
	f->chips[0].count = 3;
	assert_true(send_changed(f));
}

static void test_entry_that_cannot_be_saved_ends_it(void **state)
{
	struct fixture *f = *state;
	bool any;

	send_setup(f);
	f->chips[1].save_result = -EIO;
	assert_int_equal(state_send_changed(&f->send, &f->out, &f->registry,
					    &any, &f->err),
			 -EIO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_all_of_the_pre_state_goes_out_once),
		TEST(test_what_no_guest_changes_is_not_even_looked_at),
		TEST(test_what_did_not_change_is_not_sent_again),
		TEST(test_entry_that_changed_is_sent_again_alone),
		TEST(test_change_that_was_undone_is_sent_as_another_one),
		TEST(test_state_of_another_length_is_a_change),
		TEST(test_entry_that_cannot_be_saved_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
