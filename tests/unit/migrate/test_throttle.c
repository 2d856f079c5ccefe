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
	policy.is_out_of_reach = true;
	assert_true(throttle_share(&policy, 1, 50 * MIB) == 1);
	assert_true(throttle_share(&policy, 1, 0) == 1);
	/* The limit was lowered, or the link became slower, in between. */
	assert_true(throttle_share(&policy, 0.3, 50 * MIB) == 1);
	assert_true(throttle_share(&policy, 0.3, 0) == 1);
}

/* As when the vCPUs were slow to leave the guest: they will not always be. */
static void test_one_slow_sync_is_no_reason_to_give_up(void **state)
{
	struct policy policy = policy_of(50 * MIB);

	(void)state;
	policy.estimate_ns += 2 * LIMIT;
	assert_true(throttle_share(&policy, 1, 50 * MIB) == 0.5);
}

/* 90 MiB fit. */
static void test_holding_helps_if_the_rest_would_fit_without_vcpus(void **state)
{
	struct policy policy = policy_of(120 * MIB);

	(void)state;
	assert_true(throttle_helps(&policy, 100 * MIB, 120 * MIB, 31 * MIB));
	assert_false(throttle_helps(&policy, 100 * MIB, 120 * MIB, 29 * MIB));
	policy = policy_of(90 * MIB);
	assert_true(throttle_helps(&policy, 1 * MIB, 90 * MIB, 0));
}

static void
test_holding_helps_if_rounds_would_shrink_without_vcpus(void **state)
{
	struct policy policy = policy_of(1000 * MIB);

	(void)state;
	assert_true(throttle_helps(&policy, 1000 * MIB, 1000 * MIB, 101 * MIB));
	assert_false(throttle_helps(&policy, 1000 * MIB, 1000 * MIB, 99 * MIB));
	/* Held already: what they still write does not make it long. */
	assert_true(throttle_helps(&policy, 1000 * MIB, 890 * MIB, 0));
	assert_false(
		throttle_helps(&policy, 1000 * MIB, 2000 * MIB, 900 * MIB));
	/* They may count a page more than once. */
	assert_true(
		throttle_helps(&policy, 1000 * MIB, 1000 * MIB, 3000 * MIB));
	/* Nothing was sent so far. */
	assert_true(throttle_helps(&policy, 0, 1000 * MIB, 0));
}

static double sum_below(const double *rates, unsigned int count, double cap)
{
	double sum = 0;

	for (unsigned int i = 0; i < count; i++)
		sum += rates[i] < cap ? rates[i] : cap;
	return sum;
}

static void test_the_cap_leaves_the_share_of_all_together(void **state)
{
	const double rates[] = { 1000, 1, 400, 0, 50 };

	(void)state;
	for (double share = 0.99; share > 0.01; share *= 0.7) {
		double cap = throttle_cap(rates, 5, share);
		double left = sum_below(rates, 5, cap);

		assert_true(left <= 1451 * share);
		assert_true(left > 1451 * share - 0.1);
	}
}

static void
test_who_writes_most_is_held_most_and_readers_not_at_all(void **state)
{
	const double rates[] = { 1000, 400, 50, 0 };
	double cap = throttle_cap(rates, 4, 0.5);

	(void)state;
	/* 337.5, 337.5, 50, 0 */
	assert_true(cap > 337 && cap <= 337.5);
	cap = throttle_cap(rates, 4, 0.9); /* the first alone: 855 */
	assert_true(cap > 854 && cap <= 855);
}

static void test_whole_share_caps_nobody(void **state)
{
	const double rates[] = { 1000, 400, 50, 0 };
	const double none[] = { 0, 0 };

	(void)state;
	assert_true(throttle_cap(rates, 4, 1) == 1000);
	assert_true(throttle_cap(none, 2, 0.5) == 0);
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
		cmocka_unit_test(test_one_slow_sync_is_no_reason_to_give_up),
		cmocka_unit_test(
			test_holding_helps_if_the_rest_would_fit_without_vcpus),
		cmocka_unit_test(
			test_holding_helps_if_rounds_would_shrink_without_vcpus),
		cmocka_unit_test(test_the_cap_leaves_the_share_of_all_together),
		cmocka_unit_test(
			test_who_writes_most_is_held_most_and_readers_not_at_all),
		cmocka_unit_test(test_whole_share_caps_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
