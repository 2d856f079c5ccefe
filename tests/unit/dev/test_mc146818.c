// SPDX-License-Identifier: Apache-2.0
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "dev/mc146818_priv.h"

#define SECONDS 0
#define MINUTES 2
#define HOURS   4
#define WEEKDAY 6
#define DAY     7
#define MONTH   8
#define YEAR    9
#define CENTURY 0x32
#define REG_A   10
#define REG_B   11
#define REG_C   12
#define REG_D   13
#define SET     0x80
#define BINARY  0x04
#define H24     0x02
#define UIP     0x80

#define RANDOM_CASES 20000

/* Thursday, 2026-02-05 21:43:58 UTC */
#define NOW 1770327838ull

struct fixture {
	struct mc146818 rtc;
	struct state_registry registry;
	uint64_t now_ns;
	struct err err;
};

static uint64_t test_now(void *now)
{
	return *(uint64_t *)now;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->now_ns = NOW * NS_PER_SEC;
	mc146818_init(&f->rtc);
	f->rtc.now_ns = test_now;
	f->rtc.now = &f->now_ns;
	state_registry_init(&f->registry);
	state_register(&f->registry, &f->rtc.state, "rtc", &mc146818_state,
		       &f->rtc);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mc146818_fini(&f->rtc);
	free(f);
	return 0;
}

static uint8_t in(struct fixture *f, uint8_t index)
{
	mc146818_io_ops.write(&f->rtc, 0, index, 1);
	return (uint8_t)mc146818_io_ops.read(&f->rtc, 1, 1);
}

static void out(struct fixture *f, uint8_t index, uint8_t value)
{
	mc146818_io_ops.write(&f->rtc, 0, index, 1);
	mc146818_io_ops.write(&f->rtc, 1, value, 1);
}

static void expect(struct fixture *f, const uint8_t *values)
{
	static const uint8_t order[] = { CENTURY, YEAR,    MONTH,   DAY,
					 HOURS,   MINUTES, SECONDS, WEEKDAY };

	for (size_t i = 0; i < array_size(order); i++)
		assert_int_equal(in(f, order[i]), values[i]);
}

#define EXPECT(f, ...) expect(f, (const uint8_t[]){ __VA_ARGS__ })

static void test_time_is_the_hosts_in_bcd(void **state)
{
	struct fixture *f = *state;

	EXPECT(f, 0x20, 0x26, 0x02, 0x05, 0x21, 0x43, 0x58, 0x05);
	f->now_ns += 2 * NS_PER_SEC;
	EXPECT(f, 0x20, 0x26, 0x02, 0x05, 0x21, 0x44, 0x00, 0x05);
}

static void test_binary_mode_gives_plain_numbers(void **state)
{
	struct fixture *f = *state;

	out(f, REG_B, BINARY | H24);
	EXPECT(f, 20, 26, 2, 5, 21, 43, 58, 5);
}

static void test_twelve_hour_mode_has_a_pm_bit(void **state)
{
	struct fixture *f = *state;

	out(f, REG_B, 0);
	assert_int_equal(in(f, HOURS), 0x80 | 0x09);
	f->now_ns = (NOW - 21 * 3600) * NS_PER_SEC;
	assert_int_equal(in(f, HOURS), 0x12);
	f->now_ns += 12 * 3600 * NS_PER_SEC;
	assert_int_equal(in(f, HOURS), 0x80 | 0x12);
	out(f, HOURS, 0x80 | 0x01);
	out(f, REG_B, H24);
	assert_int_equal(in(f, HOURS), 0x13);
	out(f, REG_B, 0);
	out(f, HOURS, 0x12);
	out(f, REG_B, H24);
	assert_int_equal(in(f, HOURS), 0x00);
}

static void test_update_in_progress_before_each_second(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, REG_A), 0x26);
	f->now_ns += NS_PER_SEC - 244001;
	assert_int_equal(in(f, REG_A), 0x26);
	f->now_ns += 1;
	assert_int_equal(in(f, REG_A), 0x26 | UIP);
	out(f, REG_B, SET | H24);
	assert_int_equal(in(f, REG_A), 0x26);
}

static void test_time_stands_still_while_it_is_set(void **state)
{
	struct fixture *f = *state;

	out(f, REG_B, SET | H24);
	f->now_ns += 100 * NS_PER_SEC;
	EXPECT(f, 0x20, 0x26, 0x02, 0x05, 0x21, 0x43, 0x58, 0x05);
	out(f, CENTURY, 0x19);
	out(f, YEAR, 0x99);
	out(f, MONTH, 0x12);
	out(f, DAY, 0x31);
	out(f, HOURS, 0x23);
	out(f, MINUTES, 0x59);
	out(f, SECONDS, 0x58);
	f->now_ns += 100 * NS_PER_SEC;
	out(f, REG_B, H24);
	f->now_ns += 2 * NS_PER_SEC;
	/* 2000-01-01 was a Saturday. */
	EXPECT(f, 0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00, 0x07);
}

static void test_divider_reset_holds_the_time(void **state)
{
	struct fixture *f = *state;

	out(f, REG_A, 0x70);
	f->now_ns += 5 * NS_PER_SEC;
	assert_int_equal(in(f, SECONDS), 0x58);
	out(f, REG_A, 0x26);
	f->now_ns += 1 * NS_PER_SEC;
	assert_int_equal(in(f, SECONDS), 0x59);
}

static void test_setting_one_byte_of_running_time(void **state)
{
	struct fixture *f = *state;

	out(f, MINUTES, 0x10);
	f->now_ns += 3 * NS_PER_SEC;
	EXPECT(f, 0x20, 0x26, 0x02, 0x05, 0x21, 0x11, 0x01, 0x05);
}

/* Found by fuzz_state_load: a negative year was shifted. */
static void test_year_before_the_first_wraps(void **state)
{
	struct fixture *f = *state;
	static const uint8_t zero[] = { DAY, MONTH, YEAR, CENTURY };

	out(f, REG_B, SET | H24);
	for (size_t i = 0; i < array_size(zero); i++)
		out(f, zero[i], 0);
	out(f, REG_B, H24);
	assert_int_equal(in(f, CENTURY), 0x99);
	assert_int_equal(in(f, YEAR), 0x99);
	assert_int_equal(in(f, MONTH), 0x11);
	out(f, REG_B, H24 | BINARY);
	assert_int_equal(in(f, CENTURY), 255);
	assert_int_equal(in(f, YEAR), 99);
}

static void test_ram_keeps_what_is_written(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 14; i < 128; i++) {
		if (i != CENTURY)
			out(f, (uint8_t)i, (uint8_t)(i ^ 0x55));
	}
	for (unsigned int i = 14; i < 128; i++) {
		if (i != CENTURY)
			assert_int_equal(in(f, (uint8_t)i), i ^ 0x55);
	}
	out(f, 0x80 | 14, 9); /* bit 7 masks NMIs */
	assert_int_equal(in(f, 14), 9);
}

static void test_status_registers_are_read_only(void **state)
{
	struct fixture *f = *state;

	out(f, REG_A, 0xff & ~0x60);
	assert_int_equal(in(f, REG_A) & UIP, 0);
	out(f, REG_C, 0xff);
	assert_int_equal(in(f, REG_C), 0);
	out(f, REG_D, 0);
	assert_int_equal(in(f, REG_D), 0x80);
	assert_int_equal(mc146818_io_ops.read(&f->rtc, 0, 1), 0xff);
}

static void test_set_time_moves_to_another_host(void **state)
{
	struct fixture *f = *state, *to;
	struct bytes_writer saved = { .data = NULL };

	setup((void **)&to);
	out(f, HOURS, 0x03);
	out(f, 0x40, 0x77);
	mc146818_io_ops.write(&f->rtc, 0, SECONDS, 1);
	assert_int_equal(state_save(&f->rtc.state, &saved, NULL), 0);
	assert_int_equal(
		state_load(&to->rtc.state, 1, saved.data, saved.size, &to->err),
		0);
	to->now_ns += 1 * NS_PER_SEC; /* the move took a second */
	assert_int_equal(mc146818_io_ops.read(&to->rtc, 1, 1), 0x59);
	EXPECT(to, 0x20, 0x26, 0x02, 0x05, 0x03, 0x43, 0x59, 0x05);
	assert_int_equal(in(to, 0x40), 0x77);
	bytes_writer_fini(&saved);
	teardown((void **)&to);
}

static void test_hostile_state_is_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[1 + 128 + 8] = { 0 };

	bytes[0] = 128;
	assert_int_equal(
		state_load(&f->rtc.state, 1, bytes, sizeof(bytes), &f->err),
		-EBADMSG);
	assert_string_equal(err_msg(&f->err), "rtc: index[0]: 128, at most "
					      "127");
	err_clear(&f->err);
	bytes[0] = 0;
	memset(bytes + 129, 0x7f, 8);
	assert_int_equal(
		state_load(&f->rtc.state, 1, bytes, sizeof(bytes), &f->err),
		-EBADMSG);
	assert_non_null(strstr(err_msg(&f->err), "rtc: offset_s: "));
	memset(bytes + 129, 0, 8);
	bytes[136] = 0x80; /* INT64_MIN */
	assert_int_equal(
		state_load(&f->rtc.state, 1, bytes, sizeof(bytes), NULL),
		-EBADMSG);
	bytes[136] = 0;
	bytes[1 + REG_A] = UIP;
	assert_int_equal(
		state_load(&f->rtc.state, 1, bytes, sizeof(bytes), NULL),
		-EBADMSG);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void test_random_accesses_keep_state_that_loads(void **state)
{
	struct fixture *f = *state, *to;
	uint64_t seed = 0xda3e39cb94b95bdbull;

	setup((void **)&to);
	for (int i = 0; i < RANDOM_CASES; i++) {
		struct bytes_writer saved = { .data = NULL };
		uint64_t what = next_random(&seed);
		uint8_t index = what >> 16 & 1 ? what % 14 : what % 128;

		if (what >> 32 & 1)
			out(f, index, (uint8_t)(what >> 8));
		else
			in(f, index);
		f->now_ns += what >> 40;
		assert_int_equal(state_save(&f->rtc.state, &saved, NULL), 0);
		assert_int_equal(state_load(&to->rtc.state, 1, saved.data,
					    saved.size, &to->err),
				 0);
		bytes_writer_fini(&saved);
	}
	teardown((void **)&to);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_time_is_the_hosts_in_bcd),
		TEST(test_binary_mode_gives_plain_numbers),
		TEST(test_twelve_hour_mode_has_a_pm_bit),
		TEST(test_update_in_progress_before_each_second),
		TEST(test_time_stands_still_while_it_is_set),
		TEST(test_divider_reset_holds_the_time),
		TEST(test_setting_one_byte_of_running_time),
		TEST(test_year_before_the_first_wraps),
		TEST(test_ram_keeps_what_is_written),
		TEST(test_status_registers_are_read_only),
		TEST(test_set_time_moves_to_another_host),
		TEST(test_hostile_state_is_refused),
		TEST(test_random_accesses_keep_state_that_loads),
	};

	return cmocka_run_group_tests_name("mc146818", tests, NULL, NULL);
}
