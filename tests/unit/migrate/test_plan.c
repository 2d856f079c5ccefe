// SPDX-License-Identifier: Apache-2.0
/* Predictions: limits, what must grow with what, and that all of them end. */
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "mem/ram.h"
#include "migrate/plan.h"
#include "migrate/throttle.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define TIB (1ull << 40)

static struct plan_input input_of(uint64_t memory, uint64_t hot, double rate)
{
	struct plan_input input = {
		.guest = { .memory = memory,
			   .touched = memory,
			   .hot = hot,
			   .cpus = 1,
			   .pattern = WRITES_RANDOM,
			   .rate = rate },
		.limits = { .downtime_ms = 300 },
	};

	plan_costs_init(&input.costs);
	return input;
}

static struct plan *run(const struct plan_input *input)
{
	struct plan *plan = malloc(sizeof(*plan));

	assert_non_null(plan);
	assert_int_equal(plan_check(input, NULL), 0);
	plan_run(input, plan);
	assert_in_range(plan->rounds, 1, PLAN_ROUNDS_MAX);
	return plan;
}

static void assert_near(double value, double expected, double share)
{
	if (fabs(value - expected) > share * expected)
		fail_msg("%f is not within %g of %f", value, share, expected);
}

static double sum_of_source(const struct plan *plan)
{
	double sum = 0;

	for (int i = 0; i < MIG_PHASE_DST_RECEIVE; i++)
		sum += plan->phase_ns[i];
	return sum;
}

static void test_an_idle_guest_is_sent_once(void **state)
{
	struct plan_input input = input_of(GIB, 0, 0);
	struct plan *plan = run(&input);

	(void)state;
	assert_int_equal(plan->outcome, PLAN_MOVES);
	assert_int_equal(plan->rounds, 2);
	assert_near(plan->precopy_bytes, (double)GIB, 1e-9);
	assert_near(plan->round[0].pass_ns,
		    (double)GIB / 1.3e9 * (double)NS_PER_SEC, 0.1);
	assert_true(plan->round[1].remaining == 0);
	assert_true(plan->downtime_ns < 1e6);
	free(plan);
}

static void test_a_guest_that_touched_nothing_sends_nothing(void **state)
{
	struct plan_input input = input_of(TIB, 0, 0);
	struct plan *plan;

	(void)state;
	input.guest.touched = 0;
	plan = run(&input);
	assert_int_equal(plan->outcome, PLAN_MOVES);
	assert_true(plan->precopy_bytes == 0);
	assert_int_equal(plan->rounds, 1);
	free(plan);
}

static void test_the_pause_is_the_sum_of_its_phases(void **state)
{
	struct plan_input input = input_of(GIB, 100 * MIB, 20000);
	struct plan *plan;

	(void)state;
	input.guest.cpus = 8;
	input.link = (struct plan_link){ 125000000, 50000 };
	plan = run(&input);
	assert_int_equal(plan->outcome, PLAN_MOVES);
	assert_near(plan->downtime_ns, sum_of_source(plan), 1e-12);
	/* Both answers cross a link of 50 us. */
	assert_true(plan->phase_ns[MIG_PHASE_WAIT_READY] >= 100e3);
	assert_true(plan->phase_ns[MIG_PHASE_WAIT_RUNNING] >= 100e3);
	free(plan);
}

/* A page sent at a random moment of a pass of T is exposed for T/2 on average;
 * slow writers rarely meet one twice. */
static void test_the_first_pass_exposes_its_pages_for_half_of_it(void **state)
{
	struct plan_input input = input_of(GIB, GIB, 1000);
	struct plan *plan = run(&input);
	double seconds = plan->round[0].pass_ns / (double)NS_PER_SEC;

	(void)state;
	assert_near(plan->round[1].remaining, 1000 * seconds / 2, 0.02);
	free(plan);
}

/* rate / bandwidth of the rest is left by each pass. */
static void test_rounds_shrink_by_the_ratio_of_the_rates(void **state)
{
	struct plan_input input = input_of(64 * GIB, 64 * GIB, 30000);
	struct plan *plan;
	double ratio;

	(void)state;
	input.costs.value[PLAN_COST_SCAN_PAGE] = 0;
	input.costs.value[PLAN_COST_CLEAR_WINDOW] = 0;
	input.costs.value[PLAN_COST_SYNC_GIB] = 0;
	input.costs.value[PLAN_COST_WARM] = 1e9;
	plan = run(&input);
	ratio = 30000 * (RAM_PAGE_SIZE + 16) / 1e9;
	assert_int_equal(plan->outcome, PLAN_MOVES);
	for (int i = 2; i < plan->rounds && plan->round[i].remaining > 1000;
	     i++)
		assert_near(plan->round[i].remaining,
			    plan->round[i - 1].remaining * ratio, 0.1);
	assert_true(plan->rounds > 4);
	free(plan);
}

static void test_a_faster_link_or_slower_guest_is_never_slower(void **state)
{
	double before = INFINITY, before_guest = 0;

	(void)state;
	for (uint64_t rate = 50000000; rate < 50ull * 1000000000; rate *= 2) {
		struct plan_input input = input_of(4 * GIB, GIB, 5000);
		struct plan *plan;

		input.link.rate = rate;
		plan = run(&input);
		assert_int_equal(plan->outcome, PLAN_MOVES);
		assert_true(plan->precopy_ns <= before);
		before = plan->precopy_ns;
		free(plan);
	}
	for (double rate = 100; rate < 1e6; rate *= 2) {
		struct plan_input input = input_of(4 * GIB, GIB, rate);
		struct plan *plan;

		input.limits.downtime_ms = 2000000;
		plan = run(&input);
		assert_true(plan->precopy_bytes >= before_guest);
		before_guest = plan->precopy_bytes;
		free(plan);
	}
}

static void test_a_link_that_cannot_keep_up_is_named(void **state)
{
	struct plan_input input = input_of(4 * GIB, 2 * GIB, 100000);
	struct plan *plan;

	(void)state;
	input.link.rate = 125000000;
	plan = run(&input);
	assert_int_equal(plan->outcome, PLAN_LINK_TOO_SLOW);
	assert_true(plan->downtime_ns == 0);
	assert_true(plan->rounds < 200);
	free(plan);
}

static void test_throttling_moves_what_a_link_cannot_keep_up_with(void **state)
{
	struct plan_input input = input_of(4 * GIB, 2 * GIB, 100000);
	struct plan *plan;

	(void)state;
	input.link.rate = 125000000;
	input.limits.throttle = true;
	plan = run(&input);
	assert_int_equal(plan->outcome, PLAN_MOVES);
	assert_true(plan->share < 1 && plan->share >= THROTTLE_SHARE_MIN);
	assert_true(plan->throttled_ns > 0);
	assert_true(plan->writes < plan->writes_wanted);
	assert_true(plan->expected_ns <= 300 * NS_PER_MS);
	free(plan);
}

/* It writes each of few pages many times a round: to be denied half of its speed
 * would change nothing, half of the pages that become dirty does. */
static void test_share_is_of_the_pages_that_become_dirty(void **state)
{
	struct plan_input input = input_of(GIB, 64 * MIB, 0);
	struct plan *plan;

	(void)state;
	input.guest.is_rate_max = true;
	input.link.rate = 125000000;
	input.limits.downtime_ms = 100;
	input.limits.throttle = true;
	plan = run(&input);
	assert_int_equal(plan->outcome, PLAN_MOVES);
	assert_true(plan->share < 1 && plan->share > 0.1);
	for (int r = 1; r < plan->rounds; r++) {
		/* What one round left was dirtied in the time of the one before. */
		if (plan->round[r - 1].share == 0.5)
			assert_true(plan->round[r].remaining <
				    64 * MIB / RAM_PAGE_SIZE * 0.6);
	}
	free(plan);
}

static void test_who_moves_anyway_is_not_throttled(void **state)
{
	struct plan_input input = input_of(4 * GIB, GIB, 5000);
	struct plan *plan;

	(void)state;
	input.limits.throttle = true;
	plan = run(&input);
	assert_int_equal(plan->outcome, PLAN_MOVES);
	assert_true(plan->share == 1 && plan->throttled_ns == 0);
	free(plan);
}

static void test_a_limit_below_the_fixed_costs_is_out_of_reach(void **state)
{
	struct plan_input input = input_of(GIB, 100 * MIB, 20000);
	struct plan *plan;

	(void)state;
	input.limits.downtime_ms = 10;
	input.link.latency_ns = 20 * NS_PER_MS;
	input.limits.throttle = true;
	plan = run(&input);
	assert_int_equal(plan->outcome, PLAN_OUT_OF_REACH);
	/* Holding writers back would not help. */
	assert_true(plan->share == 1);
	free(plan);
}

static void test_a_bandwidth_limit_slows_rounds_and_not_the_pause(void **state)
{
	struct plan_input input = input_of(GIB, 0, 0);
	struct plan *free_run = run(&input), *limited;

	(void)state;
	input.limits.max_bandwidth = 100 * MIB;
	limited = run(&input);
	assert_near(limited->precopy_ns,
		    (double)GIB / (double)(100 * MIB) * 1e9, 0.01);
	assert_near(limited->downtime_ns, free_run->downtime_ns, 0.05);
	free(free_run);
	free(limited);
}

static void test_faults_slow_a_guest_that_has_no_time_to_spare(void **state)
{
	struct plan_input input = input_of(GIB, 256 * MIB, 0);
	struct plan *plan;

	(void)state;
	input.guest.is_rate_max = true;
	input.limits.downtime_ms = 2000;
	plan = run(&input);
	assert_true(plan->writes < plan->writes_wanted);
	free(plan);
	input.costs.value[PLAN_COST_FAULT] = 0;
	plan = run(&input);
	assert_near(plan->writes, plan->writes_wanted, 1e-9);
	free(plan);
}

static void test_a_guest_of_12_tib_is_predicted(void **state)
{
	struct plan_input input = input_of(12 * TIB, 200 * GIB, 2e6);
	struct plan *plan;
	uint64_t start = clock_mono_ns();

	(void)state;
	input.guest.pattern = WRITES_ZIPF;
	input.guest.cpus = 64;
	input.link = (struct plan_link){ 50000000000ull, 20000 };
	input.costs.value[PLAN_COST_FRESH] = 60e9;
	input.costs.value[PLAN_COST_WARM] = 60e9;
	plan = run(&input);
	assert_true(clock_mono_ns() - start < 5 * NS_PER_SEC);
	/* 12 TiB at 50 GB/s take 264 s, scanned besides. */
	assert_true(plan->precopy_ns > 264e9);
	free(plan);
}

/* Whatever is asked: it ends, and no figure is absurd. */
static void test_random_plans_end_and_are_finite(void **state)
{
	(void)state;
	srand(7);
	for (int i = 0; i < 1500; i++) {
		uint64_t memory = 1ull << (18 + rand() % 24);
		struct plan_input input = input_of(memory, memory >> rand() % 4,
						   rand() % 2000000);
		struct plan *plan;

		input.guest.pattern =
			(enum writes_pattern)(rand() % WRITES_PATTERN_COUNT);
		input.guest.cpus = 1u << rand() % 3;
		input.guest.is_rate_max = rand() % 4 == 0;
		input.guest.reads = (unsigned int)rand() % 101;
		input.guest.burst_ns = rand() % 3 ? 0 : 1ull << rand() % 34;
		input.link.rate = rand() % 3 ? 1ull << (10 + rand() % 27) : 0;
		input.link.latency_ns = (uint64_t)rand() % NS_PER_SEC;
		input.limits.downtime_ms = (uint64_t)rand() % 2000;
		input.limits.max_bandwidth =
			rand() % 4 ? 0 : 1ull << (10 + rand() % 27);
		input.limits.throttle = rand() % 2;
		plan = run(&input);
		assert_true(isfinite(plan->precopy_ns));
		assert_true(isfinite(plan->downtime_ns));
		assert_true(plan->precopy_bytes >= 0);
		assert_true(plan->writes <= plan->writes_wanted * (1 + 1e-9));
		for (int r = 0; r < plan->rounds; r++)
			assert_true(plan->round[r].remaining >= 0 &&
				    plan->round[r].remaining <=
					    (double)(memory / RAM_PAGE_SIZE) *
						    (1 + 1e-9));
		if (plan->outcome == PLAN_MOVES)
			assert_near(plan->downtime_ns, sum_of_source(plan),
				    1e-9);
		else
			assert_true(plan->expected_ns >
				    input.limits.downtime_ms * NS_PER_MS);
		free(plan);
	}
}

static void test_contradictions_are_refused(void **state)
{
	const struct plan_input good = input_of(GIB, MIB, 1000);
	struct plan_input bad;
	struct err err = ERR_INIT;

	(void)state;
	bad = good;
	bad.guest.touched = 2 * GIB;
	assert_int_equal(plan_check(&bad, &err), -EINVAL);
	assert_true(err_msg(&err)[0] != '\0');
	bad = good;
	bad.guest.hot = 2 * GIB;
	assert_int_equal(plan_check(&bad, NULL), -EINVAL);
	bad = good;
	bad.guest.hot = 0;
	assert_int_equal(plan_check(&bad, NULL), -EINVAL);
	bad = good;
	bad.guest.cpus = 1000;
	assert_int_equal(plan_check(&bad, NULL), -EINVAL);
	bad = good;
	bad.guest.cpus = 0;
	assert_int_equal(plan_check(&bad, NULL), -ERANGE);
	bad = good;
	bad.guest.memory = 0;
	assert_int_equal(plan_check(&bad, NULL), -ERANGE);
	bad = good;
	bad.guest.reads = 101;
	assert_int_equal(plan_check(&bad, NULL), -ERANGE);
	bad = good;
	bad.link.latency_ns = 11 * NS_PER_SEC;
	assert_int_equal(plan_check(&bad, NULL), -ERANGE);
	bad = good;
	bad.costs.value[PLAN_COST_WARM] = 0;
	assert_int_equal(plan_check(&bad, NULL), -ERANGE);
	bad = good;
	bad.costs.value[PLAN_COST_FAULT] = NAN;
	assert_int_equal(plan_check(&bad, NULL), -ERANGE);
	assert_int_equal(plan_check(&good, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_idle_guest_is_sent_once),
		cmocka_unit_test(
			test_a_guest_that_touched_nothing_sends_nothing),
		cmocka_unit_test(test_the_pause_is_the_sum_of_its_phases),
		cmocka_unit_test(
			test_the_first_pass_exposes_its_pages_for_half_of_it),
		cmocka_unit_test(test_rounds_shrink_by_the_ratio_of_the_rates),
		cmocka_unit_test(
			test_a_faster_link_or_slower_guest_is_never_slower),
		cmocka_unit_test(test_a_link_that_cannot_keep_up_is_named),
		cmocka_unit_test(
			test_throttling_moves_what_a_link_cannot_keep_up_with),
		cmocka_unit_test(test_share_is_of_the_pages_that_become_dirty),
		cmocka_unit_test(test_who_moves_anyway_is_not_throttled),
		cmocka_unit_test(
			test_a_limit_below_the_fixed_costs_is_out_of_reach),
		cmocka_unit_test(
			test_a_bandwidth_limit_slows_rounds_and_not_the_pause),
		cmocka_unit_test(
			test_faults_slow_a_guest_that_has_no_time_to_spare),
		cmocka_unit_test(test_a_guest_of_12_tib_is_predicted),
		cmocka_unit_test(test_random_plans_end_and_are_finite),
		cmocka_unit_test(test_contradictions_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
