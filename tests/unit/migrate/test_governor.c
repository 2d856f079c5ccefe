// SPDX-License-Identifier: Apache-2.0
/*
 * vCPUs that write at a steady speed whenever they are not held, under limits.  The
 * program is linked with --wrap=machine_vcpu_writes, machine_hold_vcpu and
 * machine_vcpu_cpu_ns: the machine is there, its vCPUs are these.  How late a thread wakes up on a busy
 * machine decides how exactly a limit is met, so that only bounds are checked.
 */
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "machine/machine.h"
#include "migrate/governor.h"
#include "puppet/puppet.h"

#define CPUS  4u
#define SPEED 100000u /* pages a second */

struct writer {
	double speed;    /* pages a ns, while it is not held */
	bool is_starved; /* has no CPU */
	double pages, ran_ns;
	uint64_t at_ns, hold_until_ns;
	uint64_t holds, longest_ns; /* asked for */
	uint64_t releases;
};

static struct {
	struct machine *machine;
	struct governor *governor;
	bool is_unknown; /* who writes */
	pthread_mutex_t mutex;
	/* protected by mutex */
	struct writer writers[CPUS];
} scene = { .mutex = PTHREAD_MUTEX_INITIALIZER };

int __wrap_machine_vcpu_writes(struct machine *machine, unsigned int vcpu,
			       uint64_t *ret_pages);
void __wrap_machine_hold_vcpu(struct machine *machine, unsigned int vcpu,
			      uint64_t until_ns);
uint64_t __wrap_machine_vcpu_cpu_ns(struct machine *machine, unsigned int vcpu);

/* With the mutex. */
static void live(struct writer *writer)
{
	uint64_t now = clock_mono_ns(), from = writer->at_ns;

	if (writer->hold_until_ns > from)
		from = writer->hold_until_ns;
	if (from < now && !writer->is_starved) {
		writer->pages += writer->speed * (double)(now - from);
		writer->ran_ns += (double)(now - from);
	}
	writer->at_ns = now;
}

int __wrap_machine_vcpu_writes(struct machine *machine, unsigned int vcpu,
			       uint64_t *ret_pages)
{
	(void)machine;
	if (scene.is_unknown)
		return -ENOTSUP;
	pthread_mutex_lock(&scene.mutex);
	live(&scene.writers[vcpu]);
	*ret_pages = (uint64_t)scene.writers[vcpu].pages;
	pthread_mutex_unlock(&scene.mutex);
	return 0;
}

void __wrap_machine_hold_vcpu(struct machine *machine, unsigned int vcpu,
			      uint64_t until_ns)
{
	struct writer *writer = &scene.writers[vcpu];

	(void)machine;
	pthread_mutex_lock(&scene.mutex);
	live(writer);
	writer->hold_until_ns = until_ns;
	if (!until_ns)
		writer->releases++;
	else
		writer->holds++;
	/* Less the time that the caller took to come here. */
	if (until_ns > writer->at_ns &&
	    until_ns - writer->at_ns > writer->longest_ns)
		writer->longest_ns = until_ns - writer->at_ns;
	pthread_mutex_unlock(&scene.mutex);
}

uint64_t __wrap_machine_vcpu_cpu_ns(struct machine *machine, unsigned int vcpu)
{
	uint64_t ran_ns;

	(void)machine;
	pthread_mutex_lock(&scene.mutex);
	live(&scene.writers[vcpu]);
	ran_ns = (uint64_t)scene.writers[vcpu].ran_ns;
	pthread_mutex_unlock(&scene.mutex);
	return ran_ns;
}

static struct writer writer_of(unsigned int vcpu)
{
	struct writer writer;

	pthread_mutex_lock(&scene.mutex);
	live(&scene.writers[vcpu]);
	writer = scene.writers[vcpu];
	pthread_mutex_unlock(&scene.mutex);
	return writer;
}

static void pass_ms(unsigned int ms)
{
	const struct timespec ts = { .tv_nsec = (long)(ms * NS_PER_MS) };

	nanosleep(&ts, NULL);
}

static void limit(enum governor_client client, unsigned int vcpu,
		  uint64_t pages_per_sec)
{
	assert_int_equal(
		governor_set(scene.governor, client, vcpu, pages_per_sec, NULL),
		0);
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
	puppet_options(&options, CPUS, false);
	assert_int_equal(
		machine_new(&options, on_machine, NULL, &scene.machine, NULL),
		0);
	scene.governor = governor_new(scene.machine);
	assert_non_null(scene.governor);
	scene.is_unknown = false;
	for (unsigned int i = 0; i < CPUS; i++)
		scene.writers[i] = (struct writer){ .at_ns = clock_mono_ns() };
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	governor_free(scene.governor);
	for (unsigned int i = 0; i < CPUS; i++)
		assert_true(scene.writers[i].hold_until_ns <= clock_mono_ns());
	machine_free(scene.machine);
	return 0;
}

/* ---- facts ---- */

static void test_who_writes_too_much_is_held_for_moments(void **state)
{
	struct writer heavy;
	uint64_t start;

	(void)state;
	scene.writers[1].speed = SPEED / 1e9;
	start = clock_mono_ns();
	limit(GOVERNOR_MIGRATION, 1, SPEED / 10);
	while (writer_of(1).holds < 100)
		pass_ms(5);
	heavy = writer_of(1);
	assert_true(heavy.pages <
		    heavy.speed * (double)(clock_mono_ns() - start) * 0.9);
	assert_true(heavy.longest_ns <= GOVERNOR_HOLD_MAX_NS);
	/* Nobody else has anything to do with it. */
	assert_int_equal(writer_of(0).holds + writer_of(2).holds, 0);
}

static void test_no_hold_is_longer_than_it_may_be(void **state)
{
	uint64_t before;

	(void)state;
	scene.writers[0].speed = SPEED / 1e9;
	governor_set_hold_max(scene.governor, 0); /* as little as there is */
	limit(GOVERNOR_MIGRATION, 0, SPEED / 100);
	while (writer_of(0).holds < 100)
		pass_ms(5);
	assert_true(writer_of(0).longest_ns <= GOVERNOR_HOLD_MIN_NS);
	/* From now on: deep in debt as it is. */
	governor_set_hold_max(scene.governor, NS_PER_SEC);
	before = writer_of(0).holds;
	while (writer_of(0).holds < before + 20)
		pass_ms(5);
	assert_in_range(writer_of(0).longest_ns, GOVERNOR_HOLD_MIN_NS + 1,
			GOVERNOR_HOLD_MAX_NS);
}

static void test_who_only_reads_is_never_held(void **state)
{
	(void)state;
	scene.writers[0].speed = SPEED / 1e9;
	for (unsigned int i = 0; i < CPUS; i++)
		limit(GOVERNOR_MIGRATION, i, 100);
	while (writer_of(0).holds < 50)
		pass_ms(5);
	for (unsigned int i = 1; i < CPUS; i++)
		assert_int_equal(writer_of(i).holds, 0);
}

static void test_who_keeps_to_the_limit_is_not_held(void **state)
{
	(void)state;
	scene.writers[0].speed = SPEED / 1e9;
	scene.writers[1].speed = SPEED / 1e9 / 2;
	limit(GOVERNOR_MIGRATION, 0, SPEED / 10);
	limit(GOVERNOR_MIGRATION, 1, SPEED);
	while (writer_of(0).holds < 50)
		pass_ms(5);
	assert_int_equal(writer_of(1).holds, 0);
}

/* A few pages at once, as after each round, and no more than the limit in all. */
static void test_who_writes_a_few_pages_now_and_then_is_not_held(void **state)
{
	(void)state;
	scene.writers[0].speed = SPEED / 1e9;
	limit(GOVERNOR_MIGRATION, 0, 150);
	limit(GOVERNOR_MIGRATION, 1, 150);
	for (unsigned int i = 0; i < 10; i++) {
		pthread_mutex_lock(&scene.mutex);
		scene.writers[1].pages += 5;
		pthread_mutex_unlock(&scene.mutex);
		pass_ms(50);
	}
	assert_int_equal(writer_of(1).holds, 0);
	assert_true(writer_of(0).holds > 0);
}

static void test_who_stops_writing_is_soon_let_go(void **state)
{
	uint64_t before;

	(void)state;
	scene.writers[0].speed = SPEED / 1e9;
	limit(GOVERNOR_MIGRATION, 0, 1000);
	while (writer_of(0).holds < 50)
		pass_ms(5);
	pthread_mutex_lock(&scene.mutex);
	live(&scene.writers[0]);
	scene.writers[0].speed = 0;
	before = scene.writers[0].holds;
	pthread_mutex_unlock(&scene.mutex);
	/* 20 ms of debt at most, paid in holds of 2 ms. */
	pass_ms(200);
	assert_true(writer_of(0).holds <= before + 13);
	before = writer_of(0).holds;
	pass_ms(100);
	assert_int_equal(writer_of(0).holds, before);
}

/* Or a busy host would make one long hold of many. */
static void test_who_has_not_run_since_is_not_held_again(void **state)
{
	uint64_t before;

	(void)state;
	scene.writers[0].speed = SPEED / 1e9;
	limit(GOVERNOR_MIGRATION, 0, 1000);
	for (int i = 0; i < 5; i++) {
		while (writer_of(0).holds < 20u * (unsigned int)(i + 1))
			pass_ms(1);
		pthread_mutex_lock(&scene.mutex);
		live(&scene.writers[0]);
		scene.writers[0].is_starved = true;
		before = scene.writers[0].holds;
		pthread_mutex_unlock(&scene.mutex);
		pass_ms(50);
		/* One at most, for what it did before. */
		assert_true(writer_of(0).holds <= before + 1);
		pthread_mutex_lock(&scene.mutex);
		live(&scene.writers[0]);
		scene.writers[0].is_starved = false;
		pthread_mutex_unlock(&scene.mutex);
	}
}

static void test_lower_limit_of_two_holds(void **state)
{
	uint64_t before;

	(void)state;
	scene.writers[0].speed = SPEED / 1e9;
	limit(GOVERNOR_OPERATOR, 0, SPEED * 10);
	limit(GOVERNOR_MIGRATION, 0, SPEED / 10);
	while (writer_of(0).holds < 20)
		pass_ms(5);
	governor_clear(scene.governor, GOVERNOR_MIGRATION);
	pass_ms(50); /* what it still owes */
	before = writer_of(0).holds;
	pass_ms(100);
	assert_int_equal(writer_of(0).holds, before);
	limit(GOVERNOR_OPERATOR, 0, SPEED / 10);
	while (writer_of(0).holds < before + 20)
		pass_ms(5);
}

static void test_nobody_is_held_once_limits_are_gone(void **state)
{
	struct writer after;

	(void)state;
	for (unsigned int i = 0; i < CPUS; i++) {
		scene.writers[i].speed = SPEED / 1e9;
		limit(GOVERNOR_MIGRATION, i, 1);
	}
	while (writer_of(CPUS - 1).holds < 20)
		pass_ms(5);
	governor_clear(scene.governor, GOVERNOR_MIGRATION);
	for (unsigned int i = 0; i < CPUS; i++) {
		after = writer_of(i);
		assert_int_equal(after.hold_until_ns, 0);
		assert_int_equal(after.releases, 1);
	}
	governor_clear(scene.governor, GOVERNOR_MIGRATION); /* again */
	pass_ms(50);
	assert_int_equal(writer_of(0).hold_until_ns, 0);
	assert_int_equal(writer_of(0).releases, 1);
	/* One vCPU's alone: */
	limit(GOVERNOR_OPERATOR, 0, 1);
	limit(GOVERNOR_OPERATOR, 1, 1);
	limit(GOVERNOR_OPERATOR, 0, GOVERNOR_ANY);
	assert_int_equal(writer_of(0).hold_until_ns, 0);
	while (!writer_of(1).hold_until_ns)
		pass_ms(1);
}

static void test_end_lets_all_go(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < CPUS; i++) {
		scene.writers[i].speed = SPEED / 1e9;
		limit(GOVERNOR_OPERATOR, i, 1);
	}
	while (!writer_of(CPUS - 1).hold_until_ns)
		pass_ms(1);
	/* teardown() looks. */
}

static void test_no_limit_where_it_is_not_known_who_writes(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	scene.is_unknown = true;
	assert_int_equal(
		governor_set(scene.governor, GOVERNOR_OPERATOR, 0, 1, &err),
		-ENOTSUP);
	assert_true(err_msg(&err)[0] != '\0');
	governor_clear(scene.governor, GOVERNOR_OPERATOR);
}

static void *set_and_clear(void *opaque)
{
	enum governor_client client = *(enum governor_client *)opaque;

	for (unsigned int i = 0; i < 300; i++) {
		limit(client, i % CPUS, i % 7 ? i : GOVERNOR_ANY);
		if (i % 11 == 0)
			governor_clear(scene.governor, client);
	}
	governor_clear(scene.governor, client);
	return NULL;
}

static void test_clients_may_come_and_go_at_the_same_time(void **state)
{
	enum governor_client clients[] = { GOVERNOR_OPERATOR,
					   GOVERNOR_MIGRATION };
	pthread_t threads[2];

	(void)state;
	for (unsigned int i = 0; i < CPUS; i++)
		scene.writers[i].speed = SPEED / 1e9;
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, set_and_clear, &clients[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (unsigned int i = 0; i < CPUS; i++)
		assert_int_equal(writer_of(i).hold_until_ns, 0);
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_who_writes_too_much_is_held_for_moments),
		fact(test_no_hold_is_longer_than_it_may_be),
		fact(test_who_only_reads_is_never_held),
		fact(test_who_keeps_to_the_limit_is_not_held),
		fact(test_who_writes_a_few_pages_now_and_then_is_not_held),
		fact(test_who_stops_writing_is_soon_let_go),
		fact(test_who_has_not_run_since_is_not_held_again),
		fact(test_lower_limit_of_two_holds),
		fact(test_nobody_is_held_once_limits_are_gone),
		fact(test_end_lets_all_go),
		fact(test_no_limit_where_it_is_not_known_who_writes),
		fact(test_clients_may_come_and_go_at_the_same_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
