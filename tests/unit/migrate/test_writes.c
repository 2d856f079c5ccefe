// SPDX-License-Identifier: Apache-2.0
/*
 * The write sets: closed forms, limits, and the built-in guest's own patterns
 * (guest/pattern.c), drawn and counted beside the formulas.
 */
#include <cmocka.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "guest/pattern.h"
#include "migrate/writes.h"

#define PAGES 10000

static struct writes writes_of(enum writes_pattern pattern)
{
	return (struct writes){
		.pattern = pattern, .pages = PAGES, .vcpus = 1, .rate = 1000
	};
}

static void assert_near(double value, double expected, double share)
{
	if (fabs(value - expected) > share * fabs(expected) + 1e-9)
		fail_msg("%f is not within %g of %f", value, share, expected);
}

static void test_a_sequence_dirties_each_page_once_a_turn(void **state)
{
	struct writes writes = writes_of(WRITES_SEQ);

	(void)state;
	assert_near(writes_distinct(&writes, 1), 1000, 0);
	assert_near(writes_distinct(&writes, 9.5), 9500, 1e-12);
	assert_near(writes_distinct(&writes, 10), PAGES, 1e-12);
	assert_near(writes_distinct(&writes, 1e9), PAGES, 1e-12);
}

static void test_random_writes_meet_pages_twice(void **state)
{
	struct writes writes = writes_of(WRITES_RANDOM);

	(void)state;
	assert_near(writes_distinct(&writes, 1), PAGES * (1 - exp(-0.1)),
		    1e-12);
	assert_near(writes_distinct(&writes, 10), PAGES * (1 - exp(-1)), 1e-12);
	assert_near(writes_distinct(&writes, 1e6), PAGES, 1e-12);
}

static void test_hotcold_is_two_random_sets(void **state)
{
	struct writes writes = writes_of(WRITES_HOTCOLD);

	(void)state;
	/* 900 writes a second to 1000 pages, 100 to 9000. */
	assert_near(writes_distinct(&writes, 2),
		    1000 * (1 - exp(-1.8)) + 9000 * (1 - exp(-200 / 9000.0)),
		    1e-12);
}

static void test_classes_have_all_pages_and_all_writes(void **state)
{
	(void)state;
	for (int p = 0; p < WRITES_PATTERN_COUNT; p++) {
		for (uint64_t pages = 1; pages < 5000; pages += 7) {
			struct writes writes =
				writes_of((enum writes_pattern)p);
			struct writes_class classes[WRITES_CLASSES_MAX];
			double sum = 0, rate = 0;
			int count;

			writes.pages = pages;
			count = writes_classes(&writes, classes);
			for (int i = 0; i < count; i++) {
				sum += classes[i].pages;
				rate += classes[i].pages * classes[i].rate;
			}
			assert_near(sum, (double)pages, 1e-9);
			assert_near(rate, 1000, 1e-9);
		}
	}
}

static void test_what_nobody_writes_has_no_classes(void **state)
{
	struct writes_class classes[WRITES_CLASSES_MAX];
	struct writes writes = writes_of(WRITES_ZIPF);

	(void)state;
	writes.rate = 0;
	assert_int_equal(writes_classes(&writes, classes), 0);
	writes.rate = 1;
	writes.pages = 3;
	writes.vcpus = 4; /* not a page for each */
	assert_int_equal(writes_classes(&writes, classes), 0);
	assert_true(writes_distinct(&writes, 100) == 0);
}

static void test_more_time_never_dirties_less(void **state)
{
	(void)state;
	for (int p = 0; p < WRITES_PATTERN_COUNT; p++) {
		struct writes writes = writes_of((enum writes_pattern)p);
		double before = 0;

		writes.vcpus = 3;
		for (double t = 1e-6; t < 1e4; t *= 1.3) {
			double now = writes_distinct(&writes, t);

			assert_true(now >= before);
			assert_true(now <= PAGES);
			assert_true(now <= 1000 * t * (1 + 1e-9));
			before = now;
		}
	}
}

/* More skew, fewer different pages. */
static void test_patterns_are_ordered_by_their_skew(void **state)
{
	(void)state;
	for (double t = 1; t < 100; t *= 1.5) {
		double pages[WRITES_PATTERN_COUNT];

		for (int p = 0; p < WRITES_PATTERN_COUNT; p++) {
			struct writes writes =
				writes_of((enum writes_pattern)p);

			pages[p] = writes_distinct(&writes, t);
		}
		assert_true(pages[WRITES_SEQ] > pages[WRITES_RANDOM]);
		assert_true(pages[WRITES_RANDOM] > pages[WRITES_HOTCOLD]);
		assert_true(pages[WRITES_RANDOM] > pages[WRITES_ZIPF]);
	}
}

static void test_bursts_are_active_half_of_the_time(void **state)
{
	struct writes writes = writes_of(WRITES_SEQ);

	(void)state;
	assert_near(writes_active(&writes, 3.5), 3.5, 0);
	writes.burst_s = 1;
	assert_near(writes_active(&writes, 0.5), 0.5, 0);
	assert_near(writes_active(&writes, 1.5), 1, 0);
	assert_near(writes_active(&writes, 2), 1, 0);
	assert_near(writes_active(&writes, 2.25), 1.25, 0);
	assert_near(writes_active(&writes, 1000), 500, 1e-12);
}

/* Different pages that the guest's own generator touches in @writes. */
static double drawn(enum pattern_kind kind, uint64_t writes, uint64_t seed)
{
	static uint8_t seen[PAGES];
	struct pattern pattern;
	double distinct = 0;

	for (int i = 0; i < PAGES; i++)
		seen[i] = 0;
	pattern_init(&pattern, kind, PAGES, seed);
	for (uint64_t i = 0; i < writes; i++) {
		uint64_t page = pattern_next(&pattern);

		distinct += !seen[page];
		seen[page] = 1;
	}
	return distinct;
}

static void test_formulas_are_those_of_the_built_in_guest(void **state)
{
	static const struct {
		enum writes_pattern pattern;
		enum pattern_kind kind;
	} pairs[] = {
		{ WRITES_SEQ, PATTERN_SEQ },
		{ WRITES_RANDOM, PATTERN_RANDOM },
		{ WRITES_ZIPF, PATTERN_ZIPF },
		{ WRITES_HOTCOLD, PATTERN_HOTCOLD },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		struct writes writes = writes_of(pairs[i].pattern);

		for (uint64_t n = 100; n <= 1000000; n *= 10)
			assert_near(drawn(pairs[i].kind, n, n),
				    writes_distinct(&writes, (double)n / 1000),
				    0.08);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_sequence_dirties_each_page_once_a_turn),
		cmocka_unit_test(test_random_writes_meet_pages_twice),
		cmocka_unit_test(test_hotcold_is_two_random_sets),
		cmocka_unit_test(test_classes_have_all_pages_and_all_writes),
		cmocka_unit_test(test_what_nobody_writes_has_no_classes),
		cmocka_unit_test(test_more_time_never_dirties_less),
		cmocka_unit_test(test_patterns_are_ordered_by_their_skew),
		cmocka_unit_test(test_bursts_are_active_half_of_the_time),
		cmocka_unit_test(test_formulas_are_those_of_the_built_in_guest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
