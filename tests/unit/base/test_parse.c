// SPDX-License-Identifier: Apache-2.0
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/parse.h"

static void test_size_suffixes_are_binary(void **state)
{
	static const struct {
		const char *text;
		uint64_t size;
	} cases[] = {
		{ "0", 0 },
		{ "4096", 4096 },
		{ "4k", 4096 },
		{ "64M", 64ull << 20 },
		{ "1G", 1ull << 30 },
		{ "1g", 1ull << 30 },
		{ "2T", 2ull << 40 },
		{ "16383P", 16383ull << 50 },
		{ "18446744073709551615", UINT64_MAX },
	};
	uint64_t size;
	size_t i;

	(void)state;
	for (i = 0; i < array_size(cases); i++) {
		assert_int_equal(parse_size(cases[i].text, &size, NULL), 0);
		assert_true(size == cases[i].size);
	}
}

static void test_text_that_is_no_size_is_refused_and_leaves_ret(void **state)
{
	static const char *const bad[] = {
		"",   "M",   " 1",  "1 ",  "-1",  "+1",  "1.5G",
		"1E", "1MB", "0x1", "1MM", "1,",  "one", "1M,thp=on",
		"G1", "1\n", "1\t", "١",   "1k ", "1kB",
	};
	static const char *const big[] = {
		"18446744073709551616",
		"16384P",
		"99999999999999999999999999999",
		"17179869184G",
	};
	uint64_t size = 7;
	size_t i;

	(void)state;
	for (i = 0; i < array_size(bad); i++) {
		struct err err = ERR_INIT;

		assert_int_equal(parse_size(bad[i], &size, &err), -EINVAL);
		assert_non_null(strstr(err_msg(&err), "is not a size"));
	}
	for (i = 0; i < array_size(big); i++)
		assert_int_equal(parse_size(big[i], &size, NULL), -ERANGE);
	assert_true(size == 7);
}

static void test_numbers_are_held_to_their_range(void **state)
{
	struct err err = ERR_INIT;
	uint64_t v = 7;

	(void)state;
	assert_int_equal(parse_u64("12", 0, 12, &v, NULL), 0);
	assert_true(v == 12);
	assert_int_equal(parse_u64("0xfF", 0, 255, &v, NULL), 0);
	assert_true(v == 255);
	assert_int_equal(
		parse_u64("18446744073709551615", 0, UINT64_MAX, &v, NULL), 0);
	assert_true(v == UINT64_MAX);
	v = 7;
	assert_int_equal(parse_u64("13", 1, 12, &v, &err), -ERANGE);
	assert_string_equal(err_msg(&err), "'13' is not between 1 and 12");
	assert_int_equal(parse_u64("0", 1, 12, &v, NULL), -ERANGE);
	assert_int_equal(
		parse_u64("18446744073709551616", 0, UINT64_MAX, &v, NULL),
		-ERANGE);
	assert_int_equal(parse_u64("", 0, 9, &v, NULL), -EINVAL);
	assert_int_equal(parse_u64("0x", 0, 9, &v, NULL), -EINVAL);
	assert_int_equal(parse_u64("1f", 0, 9, &v, NULL), -EINVAL);
	assert_int_equal(parse_u64("-1", 0, 9, &v, NULL), -EINVAL);
	assert_int_equal(parse_u64("1 ", 0, 9, &v, NULL), -EINVAL);
	assert_true(v == 7);
}

static void test_switch_words(void **state)
{
	bool v = false;

	(void)state;
	assert_int_equal(parse_bool("on", &v, NULL), 0);
	assert_true(v);
	assert_int_equal(parse_bool("No", &v, NULL), 0);
	assert_false(v);
	assert_int_equal(parse_bool("true", &v, NULL), 0);
	assert_true(v);
	assert_int_equal(parse_bool("1", &v, NULL), -EINVAL);
	assert_int_equal(parse_bool("", &v, NULL), -EINVAL);
	assert_true(v);
}

static void test_sub_options_come_in_order(void **state)
{
	const char *at = "kvm,dirty=ring,empty=,path=a,,b=c,flag";
	struct parse_kv kv;

	(void)state;
	assert_int_equal(parse_kv_next(&at, &kv), 1);
	assert_string_equal(kv.key, "kvm");
	assert_null(kv.value);
	assert_int_equal(parse_kv_next(&at, &kv), 1);
	assert_string_equal(kv.key, "dirty");
	assert_string_equal(kv.value, "ring");
	assert_int_equal(parse_kv_next(&at, &kv), 1);
	assert_string_equal(kv.key, "empty");
	assert_string_equal(kv.value, "");
	assert_int_equal(parse_kv_next(&at, &kv), 1);
	assert_string_equal(kv.key, "path");
	assert_string_equal(kv.value, "a,b=c");
	assert_int_equal(parse_kv_next(&at, &kv), 1);
	assert_string_equal(kv.key, "flag");
	assert_null(kv.value);
	assert_int_equal(parse_kv_next(&at, &kv), 0);
	assert_int_equal(parse_kv_next(&at, &kv), 0);
}

static void test_sub_options_without_a_key_are_refused(void **state)
{
	static const char *const bad[] = { "=1", ",a", "a,", "a=1,", ",", "=" };
	struct parse_kv kv;
	size_t i;

	(void)state;
	for (i = 0; i < array_size(bad); i++) {
		const char *at = bad[i];
		int ret;

		while ((ret = parse_kv_next(&at, &kv)) > 0)
			;
		assert_int_equal(ret, -EINVAL);
	}
}

static void test_sub_options_without_room_are_refused(void **state)
{
	char text[PARSE_VALUE_MAX + 16];
	struct parse_kv kv;
	const char *at;

	(void)state;
	memset(text, 'x', sizeof(text));
	text[1] = '=';
	text[2 + PARSE_VALUE_MAX - 1] = '\0';
	at = text;
	assert_int_equal(parse_kv_next(&at, &kv), 1);
	assert_int_equal(strlen(kv.value), PARSE_VALUE_MAX - 1);
	text[2 + PARSE_VALUE_MAX - 1] = 'x';
	text[2 + PARSE_VALUE_MAX] = '\0';
	at = text;
	assert_int_equal(parse_kv_next(&at, &kv), -ENAMETOOLONG);
	text[1] = 'x';
	text[PARSE_KEY_MAX] = '\0';
	at = text;
	assert_int_equal(parse_kv_next(&at, &kv), -ENAMETOOLONG);
	text[PARSE_KEY_MAX - 1] = '\0';
	at = text;
	assert_int_equal(parse_kv_next(&at, &kv), 1);
}

static void test_rates_say_bits_or_bytes_and_their_thousand(void **state)
{
	static const struct {
		const char *text;
		uint64_t rate;
	} good[] = {
		{ "8b/s", 1 },
		{ "10Gb/s", 1250000000 },
		{ "400Gb/s", 50000000000 },
		{ "5kB/s", 5000 },
		{ "500MB/s", 500000000 },
		{ "2GiB/s", 2ull << 30 },
		{ "1MiB/s", 1 << 20 },
		{ "8Kib/s", 1024 },
		{ "0B/s", 0 },
	};
	static const char *const bad[] = {
		"",       "1",      "10G",    "10Gb",    "10gb/s", "1.5GB/s",
		"GB/s",   "1GGB/s", "1kiB/s", "1iB/s",   "-1B/s",  "1B/s ",
		"1TiB/h", "1 GB/s", "1GBs",   "1GiiB/s",
	};
	uint64_t rate = 7;

	(void)state;
	for (size_t i = 0; i < array_size(good); i++) {
		assert_int_equal(parse_rate(good[i].text, &rate, NULL), 0);
		assert_true(rate == good[i].rate);
	}
	rate = 7;
	for (size_t i = 0; i < array_size(bad); i++) {
		struct err err = ERR_INIT;

		assert_int_equal(parse_rate(bad[i], &rate, &err), -EINVAL);
		assert_non_null(strstr(err_msg(&err), "10Gb/s"));
	}
	assert_int_equal(parse_rate("99999999999TB/s", &rate, NULL), -ERANGE);
	assert_true(rate == 7);
}

static void test_durations_have_a_unit_unless_they_are_0(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} good[] = {
		{ "0", 0 },        { "0s", 0 },          { "7ns", 7 },
		{ "50us", 50000 }, { "10ms", 10000000 }, { "2s", 2000000000 },
	};
	static const char *const bad[] = { "",   "10",   "us",  "1.5ms",
					   "1h", "10 s", "-1s", "1sec" };
	uint64_t ns = 7;

	(void)state;
	for (size_t i = 0; i < array_size(good); i++) {
		assert_int_equal(parse_duration(good[i].text, &ns, NULL), 0);
		assert_true(ns == good[i].ns);
	}
	ns = 7;
	for (size_t i = 0; i < array_size(bad); i++)
		assert_int_equal(parse_duration(bad[i], &ns, NULL), -EINVAL);
	assert_int_equal(parse_duration("99999999999s", &ns, NULL), -ERANGE);
	assert_true(ns == 7);
}

static void test_counts_go_by_thousands(void **state)
{
	static const char *const bad[] = { "", "k", "1K", "1m", "1kk", "1.5k" };
	uint64_t count = 7;

	(void)state;
	for (size_t i = 0; i < array_size(bad); i++)
		assert_int_equal(parse_count(bad[i], &count, NULL), -EINVAL);
	assert_int_equal(parse_count("99999999999999G", &count, NULL), -ERANGE);
	assert_true(count == 7);
	assert_int_equal(parse_count("20k", &count, NULL), 0);
	assert_true(count == 20000);
	assert_int_equal(parse_count("3M", &count, NULL), 0);
	assert_true(count == 3000000);
	assert_int_equal(parse_count("500", &count, NULL), 0);
	assert_true(count == 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_rates_say_bits_or_bytes_and_their_thousand),
		cmocka_unit_test(test_durations_have_a_unit_unless_they_are_0),
		cmocka_unit_test(test_counts_go_by_thousands),
		cmocka_unit_test(test_size_suffixes_are_binary),
		cmocka_unit_test(
			test_text_that_is_no_size_is_refused_and_leaves_ret),
		cmocka_unit_test(test_numbers_are_held_to_their_range),
		cmocka_unit_test(test_switch_words),
		cmocka_unit_test(test_sub_options_come_in_order),
		cmocka_unit_test(test_sub_options_without_a_key_are_refused),
		cmocka_unit_test(test_sub_options_without_room_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
