// SPDX-License-Identifier: Apache-2.0
/*
 * Which limits a migration sets after which rounds.  The program is linked with
 * --wrap=machine_vcpu_writes, machine_vcpu_held, governor_set, governor_clear and
 * governor_set_hold_max: what vCPUs wrote is the test's, and limits come here.
 */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "machine/machine.h"
#include "migrate/converge.h"
#include "migrate/governor.h"
#include "migrate/policy.h"
#include "puppet/puppet.h"

#define CPUS  4u
#define MIB   (1ull << 20)
#define LIMIT (100 * NS_PER_MS)
#define REST  (1000 * MIB)

static struct {
	struct machine *machine;
	struct governor *governor;
	struct converge *converge;
	uint64_t writes[CPUS];
	uint64_t limits[CPUS], hold_max_ns;
	struct vcpu_held held[CPUS];
	unsigned int sets, clears;
	bool is_unknown, has_no_thread;
} scene;

int __wrap_machine_vcpu_writes(struct machine *machine, unsigned int vcpu,
			       uint64_t *ret_pages);
void __wrap_machine_vcpu_held(struct machine *machine, unsigned int vcpu,
			      struct vcpu_held *ret_held);
int __wrap_governor_set(struct governor *governor, enum governor_client client,
			unsigned int vcpu, uint64_t pages_per_sec,
			struct err *err);
void __wrap_governor_clear(struct governor *governor,
			   enum governor_client client);
void __wrap_governor_set_hold_max(struct governor *governor, uint64_t hold_ns);

int __wrap_machine_vcpu_writes(struct machine *machine, unsigned int vcpu,
			       uint64_t *ret_pages)
{
	(void)machine;
	*ret_pages = scene.writes[vcpu];
	return scene.is_unknown ? -ENOTSUP : 0;
}

void __wrap_machine_vcpu_held(struct machine *machine, unsigned int vcpu,
			      struct vcpu_held *ret_held)
{
	(void)machine;
	*ret_held = scene.held[vcpu];
}

int __wrap_governor_set(struct governor *governor, enum governor_client client,
			unsigned int vcpu, uint64_t pages_per_sec,
			struct err *err)
{
	assert_ptr_equal(governor, scene.governor);
	assert_int_equal(client, GOVERNOR_MIGRATION);
	if (scene.has_no_thread && vcpu == 2)
		return err_set(err, -EAGAIN, "no thread");
	scene.limits[vcpu] = pages_per_sec;
	scene.sets++;
	return 0;
}

void __wrap_governor_clear(struct governor *governor,
			   enum governor_client client)
{
	assert_ptr_equal(governor, scene.governor);
	assert_int_equal(client, GOVERNOR_MIGRATION);
	for (unsigned int i = 0; i < CPUS; i++)
		scene.limits[i] = GOVERNOR_ANY;
	scene.clears++;
}

void __wrap_governor_set_hold_max(struct governor *governor, uint64_t hold_ns)
{
	assert_ptr_equal(governor, scene.governor);
	scene.hold_max_ns = hold_ns;
}

static void on_machine(void *opaque, enum machine_event event)
{
	(void)opaque;
	(void)event;
}

static int setup(void **state)
{
	struct machine_options options;

	(void)state;
	memset(&scene, 0, sizeof(scene));
	puppet_options(&options, CPUS, false);
	assert_int_equal(
		machine_new(&options, on_machine, NULL, &scene.machine, NULL),
		0);
	scene.governor = governor_new(scene.machine);
	scene.converge = converge_new(scene.machine, scene.governor);
	assert_non_null(scene.converge);
	__wrap_governor_clear(scene.governor, GOVERNOR_MIGRATION);
	converge_begin(scene.converge);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	converge_end(scene.converge);
	converge_free(scene.converge);
	governor_free(scene.governor);
	machine_free(scene.machine);
	return 0;
}

/* A round of a second in which vCPUs wrote that many pages; far too much is left. */
static void round_with(const uint64_t *pages, bool is_idle,
		       unsigned int max_percent)
{
	const struct policy policy = {
		.limit_ns = LIMIT,
		.bandwidth = 1000 * MIB,
		.idle_rounds = is_idle,
		.estimate_ns = NS_PER_SEC,
	};

	for (unsigned int i = 0; i < CPUS; i++)
		scene.writes[i] += pages[i];
	converge_round(scene.converge, &policy, REST, NS_PER_SEC, max_percent);
}

/* vCPU 0 wrote most, vCPU 1 some, vCPU 2 little and the last nothing. */
static void round_of(bool is_idle, unsigned int max_percent)
{
	static const uint64_t pages[CPUS] = { 100000, 20000, 10, 0 };

	round_with(pages, is_idle, max_percent);
}

static struct converge_report report_of_it(void)
{
	struct converge_report report;

	converge_report(scene.converge, &report);
	return report;
}

/* ---- facts ---- */

static void test_rounds_that_shrink_limit_nobody(void **state)
{
	(void)state;
	for (int i = 0; i < 10; i++)
		round_of(false, 99);
	assert_int_equal(scene.sets, 0);
	assert_int_equal(report_of_it().percent, 0);
}

static void test_idle_round_limits_all_to_what_the_heaviest_may(void **state)
{
	uint64_t cap;

	(void)state;
	round_of(true, 99);
	assert_int_equal(report_of_it().percent, 50);
	cap = scene.limits[0];
	for (unsigned int i = 1; i < CPUS; i++)
		assert_int_equal(scene.limits[i], cap);
	/* 60005 of all, 20010 of which are the others'. */
	assert_in_range(cap, 39990, 39995);
	round_of(true, 99);
	assert_int_equal(report_of_it().percent, 75);
	assert_in_range(scene.limits[0], 14990, 14996);
}

static void test_who_begins_to_write_while_others_are_held_counts(void **state)
{
	static const uint64_t held[CPUS] = { 39995, 20000, 10, 50000 };

	(void)state;
	round_of(true, 99);
	round_with(held, true, 99);
	assert_int_equal(report_of_it().percent, 75);
	/* 42502 of all that they wrote when nobody held them, 10 of them vCPU 2's. */
	assert_in_range(scene.limits[0], 14160, 14164);
}

/* 39 MiB of the thousand that are sent, and left again. */
static void test_vcpus_are_not_held_for_what_others_write(void **state)
{
	static const uint64_t few[CPUS] = { 10000, 0, 0, 0 };

	(void)state;
	round_with(few, false, 99);
	for (int i = 0; i < 5; i++)
		round_with(few, true, 99);
	assert_int_equal(scene.sets, 0);
	/* Once they do, too: */
	round_of(true, 99);
	assert_int_equal(report_of_it().percent, 50);
	/* And no longer than that. */
	round_with(few, true, 99);
	assert_int_equal(report_of_it().percent, 0);
	for (unsigned int i = 0; i < CPUS; i++)
		assert_int_equal(scene.limits[i], GOVERNOR_ANY);
}

static void test_limits_stay_while_rounds_shrink_again(void **state)
{
	unsigned int sets;

	(void)state;
	round_of(true, 99);
	sets = scene.sets;
	for (int i = 0; i < 5; i++)
		round_of(false, 99);
	assert_int_equal(scene.sets, sets);
	assert_int_equal(report_of_it().percent, 50);
}

static void test_no_more_is_denied_than_the_parameter_says(void **state)
{
	(void)state;
	for (int i = 0; i < 10; i++)
		round_of(true, 60);
	assert_int_equal(report_of_it().percent, 60);
	/* It may be changed while it lasts. */
	round_of(true, 30);
	assert_int_equal(report_of_it().percent, 30);
	assert_int_equal(report_of_it().most_percent, 60);
	round_of(true, 0);
	assert_int_equal(report_of_it().percent, 0);
	assert_int_equal(scene.limits[0], GOVERNOR_ANY);
}

static void test_limit_out_of_reach_lets_those_go_that_are_held(void **state)
{
	const struct policy policy = {
		.limit_ns = LIMIT,
		.bandwidth = 1000 * MIB,
		.idle_rounds = 1,
		.estimate_ns = NS_PER_SEC,
		.is_out_of_reach = true,
	};

	(void)state;
	round_of(true, 99);
	assert_int_equal(report_of_it().percent, 50);
	scene.writes[0] += 100000;
	converge_round(scene.converge, &policy, REST, NS_PER_SEC, 99);
	assert_int_equal(report_of_it().percent, 0);
	assert_int_equal(report_of_it().most_percent, 50);
	for (unsigned int i = 0; i < CPUS; i++)
		assert_int_equal(scene.limits[i], GOVERNOR_ANY);
	/* Within reach again. */
	round_of(true, 99);
	assert_int_equal(report_of_it().percent, 50);
}

static void test_parameter_of_nothing_leaves_all_alone(void **state)
{
	(void)state;
	for (int i = 0; i < 10; i++)
		round_of(true, 0);
	assert_int_equal(scene.sets, 0);
	assert_int_equal(report_of_it().most_percent, 0);
}

static void test_hold_and_pause_together_fit_the_limit(void **state)
{
	struct policy policy = {
		.limit_ns = 2 * NS_PER_MS,
		.bandwidth = 1000 * MIB,
		.idle_rounds = 1,
		.fixed_ns = 700 * NS_PER_US,
		.estimate_ns = NS_PER_SEC,
	};

	(void)state;
	converge_round(scene.converge, &policy, REST, NS_PER_SEC, 99);
	assert_int_equal(scene.hold_max_ns, 1300 * NS_PER_US);
	/* This could be the last round: */
	policy.estimate_ns = 1500 * NS_PER_US;
	converge_round(scene.converge, &policy, MIB, NS_PER_SEC, 99);
	assert_int_equal(scene.hold_max_ns, 500 * NS_PER_US);
	policy.limit_ns = 600 * NS_PER_US;
	converge_round(scene.converge, &policy, MIB, NS_PER_SEC, 99);
	assert_int_equal(scene.hold_max_ns, 0);
	converge_end(scene.converge);
	assert_int_equal(scene.hold_max_ns, GOVERNOR_HOLD_MAX_NS);
}

static void test_guest_that_writes_nothing_is_not_limited(void **state)
{
	const struct policy policy = {
		.limit_ns = LIMIT,
		.bandwidth = 1000 * MIB,
		.idle_rounds = 1,
		.estimate_ns = NS_PER_SEC,
	};

	(void)state;
	converge_round(scene.converge, &policy, REST, NS_PER_SEC, 99);
	assert_int_equal(scene.sets, 0);
	assert_int_equal(report_of_it().percent, 0);
}

static void
test_nobody_is_limited_where_it_is_not_known_who_writes(void **state)
{
	(void)state;
	scene.is_unknown = true;
	converge_end(scene.converge);
	converge_begin(scene.converge);
	for (int i = 0; i < 5; i++)
		round_of(true, 99);
	assert_int_equal(scene.sets, 0);
	/* Nor any longer, if it was: */
	scene.is_unknown = false;
	converge_end(scene.converge);
	converge_begin(scene.converge);
	round_of(true, 99);
	assert_int_equal(report_of_it().percent, 50);
	scene.is_unknown = true;
	round_of(true, 99);
	assert_int_equal(report_of_it().percent, 0);
	assert_int_equal(scene.limits[0], GOVERNOR_ANY);
}

static void test_limits_that_fail_halfway_are_taken_back(void **state)
{
	(void)state;
	scene.has_no_thread = true;
	round_of(true, 99);
	for (unsigned int i = 0; i < CPUS; i++)
		assert_int_equal(scene.limits[i], GOVERNOR_ANY);
	assert_int_equal(report_of_it().percent, 0);
}

static void test_end_clears_limits_and_keeps_the_report(void **state)
{
	struct vcpu_held held;

	(void)state;
	round_of(true, 99);
	scene.held[0] = (struct vcpu_held){ 7, 9 * NS_PER_MS, 2 * NS_PER_MS };
	scene.held[1] = (struct vcpu_held){ 1, NS_PER_MS, NS_PER_MS };
	converge_end(scene.converge);
	assert_int_equal(scene.limits[0], GOVERNOR_ANY);
	/* An operator's limit goes on. */
	scene.held[0].total_ns = NS_PER_SEC;
	assert_int_equal(report_of_it().percent, 0);
	assert_int_equal(report_of_it().most_percent, 50);
	assert_true(report_of_it().total_ns == 10 * NS_PER_MS);
	assert_true(report_of_it().longest_ns == 2 * NS_PER_MS);
	converge_held(scene.converge, 0, &held);
	assert_int_equal(held.holds, 7);
	converge_end(scene.converge); /* again */
	assert_true(report_of_it().total_ns == 10 * NS_PER_MS);
	/* And the next begins anew. */
	memset(scene.held, 0, sizeof(scene.held));
	converge_begin(scene.converge);
	assert_true(report_of_it().total_ns == 0);
	assert_int_equal(report_of_it().most_percent, 0);
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_rounds_that_shrink_limit_nobody),
		fact(test_idle_round_limits_all_to_what_the_heaviest_may),
		fact(test_who_begins_to_write_while_others_are_held_counts),
		fact(test_vcpus_are_not_held_for_what_others_write),
		fact(test_limits_stay_while_rounds_shrink_again),
		fact(test_no_more_is_denied_than_the_parameter_says),
		fact(test_limit_out_of_reach_lets_those_go_that_are_held),
		fact(test_parameter_of_nothing_leaves_all_alone),
		fact(test_hold_and_pause_together_fit_the_limit),
		fact(test_guest_that_writes_nothing_is_not_limited),
		fact(test_nobody_is_limited_where_it_is_not_known_who_writes),
		fact(test_limits_that_fail_halfway_are_taken_back),
		fact(test_end_clears_limits_and_keeps_the_report),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
