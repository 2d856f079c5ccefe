// SPDX-License-Identifier: Apache-2.0
/* How far writers are held back, and when they are not. */
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "migrate/policy.h"
#include "migrate/throttle.h"

#define MIB   (1ull << 20)
#define LIMIT (100 * NS_PER_MS)

/* 1000 MiB/s, and 10 ms of fixed costs, in rounds that no longer shrink. */
static struct policy policy_of(uint64_t remaining)
{
	return (struct policy){
		.limit_ns = LIMIT,
		.bandwidth = 1000 * MIB,
		.idle_rounds = 1,
		.estimate_ns = 10 * NS_PER_MS + remaining / MIB * NS_PER_MS,
	};
}

static void test_what_fits_is_not_held_back(void **state)
{
	struct policy policy = policy_of(90 * MIB);

	(void)state;
	assert_true(throttle_share(&policy, 1, 90 * MIB) == 1);
	assert_true(throttle_share(&policy, 0.5, 90 * MIB) == 0.5);
}

static void test_rounds_that_shrink_are_left_alone(void **state)
{
	struct policy policy = policy_of(500 * MIB);

	(void)state;
	policy.idle_rounds = 0;
	assert_true(throttle_share(&policy, 1, 500 * MIB) == 1);
}

static void test_the_share_falls_by_what_is_too_much(void **state)
{
	/* 90 MiB fit. */
	struct policy policy = policy_of(120 * MIB);
	double share = throttle_share(&policy, 1, 120 * MIB);

	(void)state;
	assert_true(share > 0.749 && share < 0.751);
	/* On top of what was held back before. */
	share = throttle_share(&policy, 0.4, 120 * MIB);
	assert_true(share > 0.299 && share < 0.301);
}

static void test_one_step_is_a_tenth_to_a_half(void **state)
{
	struct policy policy = policy_of(91 * MIB);
	double share = throttle_share(&policy, 1, 91 * MIB);

	(void)state;
	assert_true(share == 0.9);
	policy = policy_of(10000 * MIB);
	share = throttle_share(&policy, 1, 10000 * MIB);
	assert_true(share == 0.5);
}

static void test_nobody_is_stopped_altogether(void **state)
{
	struct policy policy = policy_of(10000 * MIB);
	double share = 1;

	(void)state;
	for (int i = 0; i < 100; i++)
		share = throttle_share(&policy, share, 10000 * MIB);
	assert_true(share == THROTTLE_SHARE_MIN);
}

static void test_fixed_costs_above_the_limit_hold_nobody_back(void **state)
{
	struct policy policy = policy_of(50 * MIB);

	(void)state;
	policy.estimate_ns += LIMIT;
	assert_true(throttle_share(&policy, 1, 50 * MIB) == 1);
	assert_true(throttle_share(&policy, 1, 0) == 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_fits_is_not_held_back),
		cmocka_unit_test(test_rounds_that_shrink_are_left_alone),
		cmocka_unit_test(test_the_share_falls_by_what_is_too_much),
		cmocka_unit_test(test_one_step_is_a_tenth_to_a_half),
		cmocka_unit_test(test_nobody_is_stopped_altogether),
		cmocka_unit_test(
			test_fixed_costs_above_the_limit_hold_nobody_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
