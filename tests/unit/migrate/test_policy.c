// SPDX-License-Identifier: Apache-2.0
/*
 * When the guest is stopped.  A round is told to the policy as source.c does
 * it; guests are modelled by what they leave dirty after each round.
 */
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/clock.h"
#include "migrate/policy.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)

#define LIMIT_NS (300 * NS_PER_MS)
#define SYNC_NS  (50 * NS_PER_US)

/* A round that found @remaining after a pass of @sent bytes at @bandwidth. */
static bool tell(struct policy *policy, uint64_t remaining, uint64_t sent,
		 uint64_t bandwidth)
{
	const struct policy_round round = {
		.remaining_bytes = remaining,
		.sent_bytes = sent,
		.busy_ns = bandwidth ? (uint64_t)((double)sent *
						  (double)NS_PER_SEC /
						  (double)bandwidth)
				     : 0,
		.sync_ns = SYNC_NS,
	};

	return policy_decide(policy, &round);
}

/* Rounds of @remaining[] (then of the last one for ever), each sent whole at
 * 1 GiB/s; returns the round that stopped the guest, or -1 after 500. */
static int run(struct policy *policy, const uint64_t *remaining, int count)
{
	uint64_t sent = 0;

	for (int i = 0; i < 500; i++) {
		uint64_t now = remaining[i < count ? i : count - 1];

		if (tell(policy, now, sent, GIB))
			return i;
		sent = now;
	}
	return -1;
}

static void
test_rounds_go_on_while_they_shrink_and_stop_at_the_minimum(void **state)
{
	struct policy policy;
	uint64_t remaining = 64 * GIB, sent = 0;
	int rounds = 0;

	(void)state;
	policy_init(&policy, 10 * NS_PER_SEC);
	while (!tell(&policy, remaining, sent, GIB)) {
		sent = remaining;
		remaining /= 2;
		assert_in_range(++rounds, 1, 60);
	}
	/* 10 s were within the limit from 8 GiB on; now sending is the
	 * smaller part of the pause, and half a round ago it was not. */
	assert_in_range(remaining, 1, 64 * KIB);
	assert_true(2 * remaining * NS_PER_SEC / GIB > policy.fixed_ns / 8);
}

static void test_above_the_limit_the_guest_is_never_stopped(void **state)
{
	static const uint64_t constant[] = { GIB };
	struct policy policy;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	assert_int_equal(run(&policy, constant, 1), -1);
	assert_true(policy.estimate_ns > LIMIT_NS);
}

static void test_random_guests_are_only_stopped_below_the_limit(void **state)
{
	(void)state;
	srand(1);
	for (int guest = 0; guest < 2000; guest++) {
		struct policy policy;
		uint64_t limit = (uint64_t)(rand() % 200) * NS_PER_MS;
		uint64_t sent = 0;

		policy_init(&policy, limit);
		for (int i = 0; i < 100; i++) {
			uint64_t remaining =
				((uint64_t)rand() + 1) % (256 * MIB);
			bool is_time = tell(&policy, remaining, sent,
					    (uint64_t)rand() % GIB);

			sent = remaining;
			if (!is_time)
				continue;
			assert_true(policy.estimate_ns <= limit);
			break;
		}
	}
}

static void
test_a_round_that_leaves_nothing_stops_the_guest_at_once(void **state)
{
	struct policy policy;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	assert_true(tell(&policy, 0, 0, 0));
}

/* However little it is beside what the switch costs. */
static void
test_what_was_never_sent_is_sent_before_the_guest_stops(void **state)
{
	struct policy policy;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	policy_set_costs(&policy, LIMIT_NS / 2, 0);
	assert_false(tell(&policy, MIB, 0, 0));
	assert_true(tell(&policy, MIB, MIB, GIB));
}

static void test_limit_below_the_fixed_costs_is_out_of_reach(void **state)
{
	struct policy policy;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	policy_set_costs(&policy, LIMIT_NS, 0);
	for (int i = 0; i < 500; i++) {
		assert_false(tell(&policy, 0, 0, 0));
		assert_true(policy.is_out_of_reach);
	}
	assert_true(policy.estimate_ns > LIMIT_NS);
	/* Until it is raised. */
	policy.limit_ns = policy.estimate_ns;
	assert_true(tell(&policy, 0, 0, 0));
	assert_false(policy.is_out_of_reach);
}

static void test_what_is_left_to_send_puts_no_limit_out_of_reach(void **state)
{
	static const uint64_t constant[] = { GIB };
	struct policy policy;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	policy_set_costs(&policy, LIMIT_NS / 2, 0);
	assert_int_equal(run(&policy, constant, 1), -1);
	assert_false(policy.is_out_of_reach);
}

static void test_one_slow_sync_puts_no_limit_out_of_reach(void **state)
{
	struct policy policy;
	struct policy_round round = { .sync_ns = SYNC_NS };

	(void)state;
	policy_init(&policy, LIMIT_NS);
	tell(&policy, GIB, 0, 0);
	/* Now it does not fit, the next round may. */
	round.sync_ns = LIMIT_NS;
	assert_false(policy_decide(&policy, &round));
	assert_false(policy.is_out_of_reach);
	round.sync_ns = SYNC_NS;
	assert_true(policy_decide(&policy, &round));
	/* When all are slow, none will. */
	policy_init(&policy, LIMIT_NS);
	round.sync_ns = LIMIT_NS;
	assert_false(policy_decide(&policy, &round));
	assert_true(policy.is_out_of_reach);
}

/* Nobody notices the pause of a guest that does not run. */
static void test_a_paused_guest_is_taken_whatever_the_limit(void **state)
{
	struct policy policy;
	const struct policy_round first = { .remaining_bytes = GIB,
					    .is_paused = true };
	const struct policy_round last = { .sent_bytes = GIB,
					   .busy_ns = NS_PER_SEC,
					   .is_paused = true };

	(void)state;
	policy_init(&policy, 0);
	policy_set_costs(&policy, NS_PER_SEC, 0);
	assert_false(policy_decide(&policy, &first));
	assert_false(policy.is_out_of_reach);
	assert_true(policy_decide(&policy, &last));
}

/* docs/lessons.md: "estimate 300 ms, guest frozen 53 s": many vCPUs, a far host, and
 * a link on which their state takes a while. */
static void test_lesson_estimate_has_the_whole_switch_in_it(void **state)
{
	struct policy policy;
	const struct policy_round round = { .remaining_bytes = 10 * MIB,
					    .sent_bytes = 100 * MIB,
					    .busy_ns = NS_PER_SEC,
					    .sync_ns = 5 * NS_PER_MS };

	(void)state;
	policy_init(&policy, LIMIT_NS);
	policy_set_costs(&policy, 40 * NS_PER_MS, MIB);
	policy_set_rtt(&policy, 20 * NS_PER_MS);
	policy_decide(&policy, &round);
	/* 5 + 40 + 30 ms, and 11 MiB at 100 MiB/s. */
	assert_in_range(policy.estimate_ns, 185 * NS_PER_MS, 186 * NS_PER_MS);
	assert_in_range(policy.fixed_ns, 85 * NS_PER_MS, 86 * NS_PER_MS);
}

static void
test_a_guest_that_stopped_shrinking_is_taken_after_a_few_rounds(void **state)
{
	static const uint64_t settled[] = { GIB, 100 * MIB, 20 * MIB };
	struct policy policy;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	assert_in_range(run(&policy, settled, 3), 3, 8);
}

static void test_a_fluctuating_guest_is_taken_near_its_best(void **state)
{
	static const uint64_t wave[] = { 10 * MIB, 40 * MIB, 80 * MIB,
					 40 * MIB };
	struct policy policy;
	uint64_t sent = 0;
	bool is_time = false;
	int i;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	for (i = 0; !is_time; i++) {
		assert_in_range(i, 0, 40);
		is_time = tell(&policy, wave[i % 4], sent, GIB);
		sent = wave[i % 4];
	}
	assert_int_equal(sent, 10 * MIB);
}

static void test_one_lucky_round_does_not_hold_out_for_another(void **state)
{
	/* Once it was 1 MiB, ever since it is 100. */
	static const uint64_t lucky[] = { GIB, MIB, 100 * MIB };
	struct policy policy;
	int stopped_at;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	stopped_at = run(&policy, lucky, 3);
	assert_in_range(stopped_at, 4, 100);
}

/* Rounds until the stop: the same rest each time, over a disk whose speed swings
 * between 50 MiB/s and 3.2 GiB/s; the estimate always fits. */
static int rounds_over_a_disk(uint32_t seed, uint64_t *ret_ns)
{
	struct policy policy;
	int rounds = 0;
	bool is_stopped = false;

	*ret_ns = 0;

	policy_init(&policy, 1000 * NS_PER_SEC);
	while (!is_stopped && rounds < 200) {
		struct policy_round round = { .remaining_bytes = 256 * MIB,
					      .sent_bytes = 256 * MIB };

		seed = seed * 1664525 + 1013904223;
		round.busy_ns = 5 * NS_PER_SEC >> (seed >> 16) % 7;
		is_stopped = policy_decide(&policy, &round);
		*ret_ns += round.busy_ns;
		rounds++;
	}
	return rounds;
}

static void test_a_bandwidth_that_swings_does_not_put_the_stop_off(void **state)
{
	uint64_t ns;

	(void)state;
	for (uint32_t seed = 0; seed < 1000; seed++) {
		assert_in_range(rounds_over_a_disk(seed, &ns), 1, 24);
		/* Longer when only their number is bounded. */
		assert_true(ns <= 20 * NS_PER_SEC);
	}
}

/* Nanoseconds to send what is left at the stop: a guest that writes 200 MiB/s
 * somewhere in 300 MiB, over a link of @bandwidth. */
static uint64_t rest_of_a_writer(uint64_t bandwidth)
{
	const uint64_t rate = 200 * MIB, hot = 300 * MIB;
	uint64_t remaining = GIB, sent = 0;
	struct policy policy;

	policy_init(&policy, LIMIT_NS);
	for (int i = 0; !tell(&policy, remaining, sent, bandwidth); i++) {
		assert_in_range(i, 0, 60);
		sent = remaining;
		remaining = (uint64_t)((double)rate * (double)sent /
				       (double)bandwidth);
		if (remaining > hot)
			remaining = hot;
	}
	return (uint64_t)((double)remaining * (double)NS_PER_SEC /
			  (double)bandwidth);
}

/* docs/lessons.md: "a faster link lengthened the pause": it made the rest fit the limit
 * one round early. */
static void test_lesson_faster_link_does_not_lengthen_the_pause(void **state)
{
	uint64_t slower = UINT64_MAX;

	(void)state;
	for (uint64_t bandwidth = 300 * MIB; bandwidth < 40 * GIB;
	     bandwidth += bandwidth / 16) {
		uint64_t rest = rest_of_a_writer(bandwidth);

		/* A last round less may cost a part of the fixed costs. */
		assert_true(rest <= slower || rest <= 50 * NS_PER_US);
		slower = rest;
	}
}

/* docs/lessons.md: "bandwidth estimate collapses, never converges": a thread that scans
 * for seconds and sends for milliseconds has a fast link. */
static void test_lesson_bandwidth_counts_only_the_time_of_sending(void **state)
{
	struct policy policy;
	const struct policy_round idle = { .remaining_bytes = 10 * MIB,
					   .sent_bytes = 100 * MIB,
					   .busy_ns = NS_PER_SEC / 10 };
	const struct policy_round tiny = { .remaining_bytes = 10 * MIB,
					   .sent_bytes = 4 * KIB,
					   .busy_ns = NS_PER_SEC };
	const struct policy_round unmeasured = { .remaining_bytes = 10 * MIB,
						 .sent_bytes = 100 * MIB };
	uint64_t before;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	/* 100 MiB in 0.1 s of sending, however long the round took. */
	policy_decide(&policy, &idle);
	assert_in_range(policy.bandwidth, 999 * MIB, 1001 * MIB);
	before = policy.bandwidth;
	policy_decide(&policy, &tiny);
	policy_decide(&policy, &unmeasured);
	assert_int_equal(policy.bandwidth, before);
}

static void test_bandwidth_follows_the_link(void **state)
{
	struct policy policy;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	tell(&policy, GIB, 100 * MIB, 100 * MIB);
	assert_in_range(policy.bandwidth, 99 * MIB, 101 * MIB);
	for (int i = 0; i < 10; i++)
		tell(&policy, GIB, 100 * MIB, 10 * MIB);
	assert_in_range(policy.bandwidth, 9 * MIB, 11 * MIB);
	assert_in_range(policy.estimate_ns, 90 * NS_PER_SEC, 110 * NS_PER_SEC);
}

static void test_the_estimate_is_fixed_costs_and_sending(void **state)
{
	struct policy policy;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	tell(&policy, 100 * MIB, 100 * MIB, 100 * MIB);
	assert_int_equal(policy.estimate_ns, policy.fixed_ns + NS_PER_SEC);
	assert_int_equal(policy.best_ns, policy.estimate_ns);
}

static void test_a_raised_limit_counts_from_the_next_round_on(void **state)
{
	static const uint64_t constant[] = { 2 * GIB };
	struct policy policy;

	(void)state;
	policy_init(&policy, LIMIT_NS);
	assert_int_equal(run(&policy, constant, 1), -1);
	policy.limit_ns = 10 * NS_PER_SEC;
	assert_true(tell(&policy, 2 * GIB, 2 * GIB, GIB));
}

/* x-estimate=size: what bench/estimate compares with. */
static void
test_a_policy_that_divides_only_takes_the_first_round_that_fits(void **state)
{
	static const uint64_t shrinking[] = { GIB, 8 * MIB, 2 * MIB, 0 };
	struct policy policy;

	(void)state;
	policy_init(&policy, 10 * NS_PER_MS);
	policy_set_costs(&policy, 20 * NS_PER_MS, 0);
	policy.divides_only = true;
	assert_int_equal(run(&policy, shrinking, 4), 1);
	assert_false(policy.is_out_of_reach);
	policy_init(&policy, 10 * NS_PER_MS);
	policy_set_costs(&policy, 20 * NS_PER_MS, 0);
	assert_int_equal(run(&policy, shrinking, 4), -1);
	assert_true(policy.is_out_of_reach);
}

static void
test_a_link_that_all_but_stands_still_overflows_nothing(void **state)
{
	struct policy policy;

	(void)state;
	policy_init(&policy, UINT64_MAX);
	policy_set_costs(&policy, 1ull << 40, 1ull << 40);
	for (int i = 0; i < 300; i++)
		tell(&policy, 1ull << 60, 256 * KIB, 1);
	assert_true(policy.estimate_ns >= UINT64_MAX / 4);
	assert_true(policy.best_ns >= UINT64_MAX / 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_rounds_go_on_while_they_shrink_and_stop_at_the_minimum),
		cmocka_unit_test(
			test_above_the_limit_the_guest_is_never_stopped),
		cmocka_unit_test(
			test_random_guests_are_only_stopped_below_the_limit),
		cmocka_unit_test(
			test_a_round_that_leaves_nothing_stops_the_guest_at_once),
		cmocka_unit_test(
			test_what_was_never_sent_is_sent_before_the_guest_stops),
		cmocka_unit_test(
			test_limit_below_the_fixed_costs_is_out_of_reach),
		cmocka_unit_test(
			test_what_is_left_to_send_puts_no_limit_out_of_reach),
		cmocka_unit_test(test_one_slow_sync_puts_no_limit_out_of_reach),
		cmocka_unit_test(
			test_a_paused_guest_is_taken_whatever_the_limit),
		cmocka_unit_test(
			test_lesson_estimate_has_the_whole_switch_in_it),
		cmocka_unit_test(
			test_a_guest_that_stopped_shrinking_is_taken_after_a_few_rounds),
		cmocka_unit_test(
			test_a_fluctuating_guest_is_taken_near_its_best),
		cmocka_unit_test(
			test_one_lucky_round_does_not_hold_out_for_another),
		cmocka_unit_test(
			test_a_bandwidth_that_swings_does_not_put_the_stop_off),
		cmocka_unit_test(
			test_lesson_bandwidth_counts_only_the_time_of_sending),
		cmocka_unit_test(
			test_lesson_faster_link_does_not_lengthen_the_pause),
		cmocka_unit_test(test_bandwidth_follows_the_link),
		cmocka_unit_test(test_the_estimate_is_fixed_costs_and_sending),
		cmocka_unit_test(
			test_a_raised_limit_counts_from_the_next_round_on),
		cmocka_unit_test(
			test_a_policy_that_divides_only_takes_the_first_round_that_fits),
		cmocka_unit_test(
			test_a_link_that_all_but_stands_still_overflows_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
