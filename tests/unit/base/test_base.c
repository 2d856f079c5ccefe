// SPDX-License-Identifier: Apache-2.0
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"

static void test_first_error_wins_and_prefixes_add_context(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(err_set(&err, -ERANGE, "size %d", 7), -ERANGE);
	assert_int_equal(err_set(&err, -EIO, "later"), -EIO);
	err_prefix(&err, "disk %s", "a");
	assert_string_equal(err_msg(&err), "disk a: size 7");
	assert_int_equal(err.code, -ERANGE);
	assert_int_equal(err_set(NULL, -EINVAL, "nobody listens"), -EINVAL);
}

static void test_error_text_longer_than_its_room_is_cut(void **state)
{
	struct err err = ERR_INIT;
	char text[2 * ERR_MSG_MAX];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	err_set(&err, -EIO, "%s", text);
	err_prefix(&err, "%s", text);
	assert_int_equal(strlen(err_msg(&err)), ERR_MSG_MAX - 1);
}

static void test_bitmap_ranges_cross_words(void **state)
{
	uint64_t *map = bitmap_new(300);

	(void)state;
	bitmap_set(map, 60, 100);
	assert_int_equal(bitmap_count(map, 0, 300), 100);
	assert_int_equal(bitmap_next_set(map, 0, 300), 60);
	assert_int_equal(bitmap_next_clear(map, 60, 300), 160);
	bitmap_clear(map, 64, 64);
	assert_int_equal(bitmap_count(map, 0, 300), 36);
	assert_int_equal(bitmap_next_set(map, 64, 300), 128);
	assert_int_equal(bitmap_next_set(map, 160, 300), 300);
	assert_true(bitmap_take_word_atomic(map, 0) == 0xfull << 60);
	assert_int_equal(bitmap_count(map, 0, 64), 0);
	bitmap_free(map, 300);
}

static void test_short_input_yields_zero_and_is_remembered(void **state)
{
	const uint8_t data[] = { 1, 2, 3, 4, 5, 6 };
	struct bytes_reader r = bytes_read(data, sizeof(data));

	(void)state;
	assert_int_equal(bytes_take_u32(&r), 0x04030201);
	assert_int_equal(bytes_take_u32(&r), 0);
	assert_true(r.is_short);
	assert_int_equal(bytes_take_u8(&r), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_first_error_wins_and_prefixes_add_context),
		cmocka_unit_test(test_error_text_longer_than_its_room_is_cut),
		cmocka_unit_test(test_bitmap_ranges_cross_words),
		cmocka_unit_test(
			test_short_input_yields_zero_and_is_remembered),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
