// SPDX-License-Identifier: Apache-2.0
/*
 * The vCPU threads, above an accelerator whose guests do nothing but wait for
 * a kick (odd vCPUs) or count until there is one (even ones).  What a guest
 * counts is plain memory: only a pause makes it safe to look at, which the
 * thread sanitizer checks.
 */
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "machine/vcpu.h"

#define CPUS   12
#define ROUNDS 300

struct fake_vcpu {
	struct accel_vcpu vcpu;
	struct fake *fake;
	uint64_t counted; /* owned by who runs or, paused, by the test */
	unsigned int saves;

	pthread_mutex_t mutex;
	/* protected by mutex */
	pthread_cond_t wake;
	bool is_kicked, is_running;
	bool is_stuck; /* a kick does not get it out */
	bool is_exit_wanted;
	enum accel_exit exit;
	unsigned int runs;
	bool is_halting; /* call vcpu_set_halt() from inside the guest */
};

struct fake {
	struct accel accel;
	struct fake_vcpu vcpus[CPUS];
	struct vcpu_set *set;
	unsigned int created, freed, fail_at;
	pthread_barrier_t together;

	/* atomic */
	unsigned int exits, exit_mask;
	int last_exit;
	char message[64]; /* of the one exit that failed */
	bool is_halting_on_exit;
};

static struct fake_vcpu *fake_of(struct accel_vcpu *vcpu)
{
	return (struct fake_vcpu *)vcpu;
}

static int fake_vcpu_new(struct accel *accel, unsigned int index,
			 struct accel_vcpu **ret_vcpu, struct err *err)
{
	struct fake *fake = (struct fake *)accel;
	struct fake_vcpu *vcpu = &fake->vcpus[index];

	if (index == fake->fail_at)
		return err_set(err, -ENOSPC, "no vCPU %u", index);
	*vcpu = (struct fake_vcpu){ .vcpu = { accel->ops, index },
				    .fake = fake };
	pthread_mutex_init(&vcpu->mutex, NULL);
	pthread_cond_init(&vcpu->wake, NULL);
	fake->created++;
	*ret_vcpu = &vcpu->vcpu;
	return 0;
}

static void fake_vcpu_free(struct accel_vcpu *accel_vcpu)
{
	struct fake_vcpu *vcpu = fake_of(accel_vcpu);

	assert_false(vcpu->is_running);
	vcpu->fake->freed++;
	pthread_cond_destroy(&vcpu->wake);
	pthread_mutex_destroy(&vcpu->mutex);
}

static enum accel_exit fake_vcpu_run(struct accel_vcpu *accel_vcpu,
				     struct err *err)
{
	struct fake_vcpu *vcpu = fake_of(accel_vcpu);
	enum accel_exit exit;

	pthread_mutex_lock(&vcpu->mutex);
	if (vcpu->is_kicked) { /* before it could enter the guest */
		pthread_mutex_unlock(&vcpu->mutex);
		return ACCEL_EXIT_KICKED;
	}
	vcpu->is_running = true;
	vcpu->runs++;
	if (vcpu->is_halting) {
		pthread_mutex_unlock(&vcpu->mutex);
		vcpu_set_halt(vcpu->fake->set);
		pthread_mutex_lock(&vcpu->mutex);
	}
	while ((!vcpu->is_kicked || vcpu->is_stuck) && !vcpu->is_exit_wanted) {
		vcpu->counted++;
		if (accel_vcpu->index % 2) {
			pthread_cond_wait(&vcpu->wake, &vcpu->mutex);
			continue;
		}
		pthread_mutex_unlock(&vcpu->mutex);
		sched_yield();
		pthread_mutex_lock(&vcpu->mutex);
	}
	exit = vcpu->is_kicked ? ACCEL_EXIT_KICKED : vcpu->exit;
	vcpu->is_running = false;
	pthread_mutex_unlock(&vcpu->mutex);
	if (exit == ACCEL_EXIT_FAILED)
		err_set(err, -EIO, "vCPU %u broke", accel_vcpu->index);
	return exit;
}

static void fake_set_kicked(struct accel_vcpu *accel_vcpu, bool is_kicked)
{
	struct fake_vcpu *vcpu = fake_of(accel_vcpu);

	pthread_mutex_lock(&vcpu->mutex);
	vcpu->is_kicked = is_kicked;
	pthread_cond_signal(&vcpu->wake);
	pthread_mutex_unlock(&vcpu->mutex);
}

static void fake_vcpu_kick(struct accel_vcpu *vcpu)
{
	fake_set_kicked(vcpu, true);
}

static void fake_vcpu_unkick(struct accel_vcpu *vcpu)
{
	fake_set_kicked(vcpu, false);
}

static const struct accel_ops fake_ops = {
	.name = "fake",
	.vcpu_new = fake_vcpu_new,
	.vcpu_free = fake_vcpu_free,
	.vcpu_run = fake_vcpu_run,
	.vcpu_kick = fake_vcpu_kick,
	.vcpu_unkick = fake_vcpu_unkick,
};

static void on_exit_of(void *opaque, unsigned int index, enum accel_exit exit,
		       const struct err *err)
{
	struct fake *fake = opaque;

	if (__atomic_fetch_or(&fake->exit_mask, 1u << index,
			      __ATOMIC_RELAXED) >>
		    index &
	    1)
		abort(); /* twice */
	if (exit == ACCEL_EXIT_FAILED)
		strncpy(fake->message, err_msg(err), sizeof(fake->message) - 1);
	__atomic_store_n(&fake->last_exit, (int)exit, __ATOMIC_RELAXED);
	__atomic_add_fetch(&fake->exits, 1, __ATOMIC_RELEASE);
	if (fake->is_halting_on_exit)
		vcpu_set_halt(fake->set);
}

/* ---- the tests' side ---- */

static int setup(void **state)
{
	struct fake *fake = calloc(1, sizeof(*fake));

	fake->accel.ops = &fake_ops;
	fake->fail_at = CPUS;
	pthread_barrier_init(&fake->together, NULL, CPUS);
	assert_int_equal(vcpu_set_new(&fake->accel, CPUS, on_exit_of, fake,
				      &fake->set, NULL),
			 0);
	*state = fake;
	return 0;
}

static void set_stuck(struct fake_vcpu *vcpu, bool is_stuck)
{
	pthread_mutex_lock(&vcpu->mutex);
	vcpu->is_stuck = is_stuck;
	pthread_cond_signal(&vcpu->wake);
	pthread_mutex_unlock(&vcpu->mutex);
}

static int teardown(void **state)
{
	struct fake *fake = *state;

	/* A test that failed may have left one. */
	for (int i = 0; i < CPUS; i++)
		set_stuck(&fake->vcpus[i], false);
	vcpu_set_free(fake->set);
	assert_int_equal(fake->created, fake->freed);
	pthread_barrier_destroy(&fake->together);
	free(fake);
	return 0;
}

static unsigned int count_running(struct fake *fake)
{
	unsigned int running = 0;

	for (int i = 0; i < CPUS; i++) {
		struct fake_vcpu *vcpu = &fake->vcpus[i];

		pthread_mutex_lock(&vcpu->mutex);
		running += vcpu->is_running;
		pthread_mutex_unlock(&vcpu->mutex);
	}
	return running;
}

/* A failure here is a test that does not end. */
static void wait_running(struct fake *fake, unsigned int count)
{
	while (count_running(fake) != count)
		sched_yield();
}

static void make_exit(struct fake *fake, unsigned int index,
		      enum accel_exit exit)
{
	struct fake_vcpu *vcpu = &fake->vcpus[index];

	pthread_mutex_lock(&vcpu->mutex);
	vcpu->is_exit_wanted = true;
	vcpu->exit = exit;
	pthread_cond_signal(&vcpu->wake);
	pthread_mutex_unlock(&vcpu->mutex);
}

static void wait_exits(struct fake *fake, unsigned int count)
{
	while (__atomic_load_n(&fake->exits, __ATOMIC_ACQUIRE) != count)
		sched_yield();
}

/* Plain reads and writes, which only a parked vCPU allows. */
static uint64_t take_counts(struct fake *fake)
{
	uint64_t sum = 0;

	for (int i = 0; i < CPUS; i++) {
		sum += fake->vcpus[i].counted;
		fake->vcpus[i].counted = 0;
	}
	return sum;
}

static int save(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct fake_vcpu *vcpu = fake_of(accel_vcpu);

	(void)err;
	vcpu->counted++;
	vcpu->saves++;
	return 0;
}

static void assert_saves(struct fake *fake, unsigned int count)
{
	for (int i = 0; i < CPUS; i++)
		assert_int_equal(fake->vcpus[i].saves, count);
}

/* ---- facts ---- */

static void test_no_vcpu_runs_before_the_first_resume(void **state)
{
	struct fake *fake = *state;

	for (unsigned int i = 0; i < CPUS; i++) {
		assert_ptr_equal(vcpu_set_get(fake->set, i),
				 &fake->vcpus[i].vcpu);
		while (!vcpu_set_thread_id(fake->set, i))
			sched_yield();
	}
	vcpu_set_pause(fake->set); /* of what does not run */
	for (int i = 0; i < CPUS; i++)
		assert_int_equal(fake->vcpus[i].runs, 0);
	assert_int_equal(take_counts(fake), 0);
}

static void test_a_pause_returns_when_no_vcpu_runs(void **state)
{
	struct fake *fake = *state;

	for (int i = 0; i < ROUNDS; i++) {
		vcpu_set_resume(fake->set);
		if (i % 3 == 0) /* all of them, some, or none yet */
			wait_running(fake, CPUS);
		else if (i % 3 == 1)
			sched_yield();
		vcpu_set_pause(fake->set);
		assert_int_equal(count_running(fake), 0);
		assert_true(take_counts(fake) > 0 || i % 3);
	}
}

static void test_a_pause_waits_only_until_its_deadline(void **state)
{
	struct fake *fake = *state;
	struct err err = ERR_INIT;
	uint64_t deadline_ns;

	set_stuck(&fake->vcpus[3], true);
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
	for (int i = 0; i < 2; i++) {
		/* The others are there by then on a busy machine, too. */
		deadline_ns = clock_mono_ns() + 500 * NS_PER_MS;
		assert_int_equal(
			vcpu_set_pause_until(fake->set, deadline_ns, &err),
			-ETIMEDOUT);
		assert_true(clock_mono_ns() >= deadline_ns);
		assert_non_null(strstr(err_msg(&err), "vCPU 3 does not stop"));
		err_clear(&err);
		assert_int_equal(count_running(fake), 1);
		/* And nobody is lost by that. */
		vcpu_set_resume(fake->set);
		wait_running(fake, CPUS);
	}
	set_stuck(&fake->vcpus[3], false);
	assert_int_equal(vcpu_set_pause_until(fake->set, UINT64_MAX, &err), 0);
	assert_int_equal(count_running(fake), 0);
}

static void test_each_resume_lets_every_vcpu_run(void **state)
{
	struct fake *fake = *state;

	for (unsigned int i = 1; i <= 20; i++) {
		vcpu_set_resume(fake->set);
		vcpu_set_resume(fake->set); /* again changes nothing */
		wait_running(fake, CPUS);
		vcpu_set_pause(fake->set);
		vcpu_set_pause(fake->set);
		for (int v = 0; v < CPUS; v++)
			assert_int_equal(fake->vcpus[v].runs, i);
	}
}

/* It comes while they look out for it, after that, behind work, or not at all. */
static void test_an_expected_resume_may_come_or_not(void **state)
{
	struct fake *fake = *state;
	int runs = 0;

	for (unsigned int i = 0; i < ROUNDS; i++) {
		vcpu_set_expect(fake->set,
				clock_mono_ns() + i % 3 * 100 * NS_PER_US);
		if (i % 5 == 1)
			sched_yield();
		if (i % 5 == 2)
			assert_int_equal(vcpu_set_work(fake->set, save, NULL),
					 0);
		if (i % 4 != 3) {
			vcpu_set_resume(fake->set);
			wait_running(fake, CPUS);
			runs++;
		}
		vcpu_set_pause(fake->set);
		assert_int_equal(count_running(fake), 0);
		for (int v = 0; v < CPUS; v++)
			assert_int_equal(fake->vcpus[v].runs, runs);
	}
}

static void test_the_first_vcpu_looks_out_for_an_expected_resume(void **state)
{
	struct fake *fake = *state;
	uint64_t deadline_ns = clock_mono_ns() + 10 * NS_PER_SEC;
	uint64_t first_ns, second_ns;

	vcpu_set_pause(fake->set);
	while (!vcpu_set_thread_id(fake->set, CPUS - 1))
		sched_yield();
	first_ns = vcpu_set_cpu_ns(fake->set, 0);
	second_ns = vcpu_set_cpu_ns(fake->set, 1);
	vcpu_set_expect(fake->set, deadline_ns);
	while (vcpu_set_cpu_ns(fake->set, 0) - first_ns < 20 * NS_PER_MS)
		assert_true(clock_mono_ns() < deadline_ns);
	assert_true(vcpu_set_cpu_ns(fake->set, 1) - second_ns < 10 * NS_PER_MS);
	assert_int_equal(count_running(fake), 0);
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
	assert_true(clock_mono_ns() < deadline_ns);
}

static int meet(struct accel_vcpu *accel_vcpu, struct err *err)
{
	pthread_barrier_wait(&fake_of(accel_vcpu)->fake->together);
	return save(accel_vcpu, err);
}

static void test_work_is_done_once_for_every_vcpu_and_in_parallel(void **state)
{
	struct fake *fake = *state;

	/* They meet in a barrier: one after another would never end. */
	assert_int_equal(vcpu_set_work(fake->set, meet, NULL), 0);
	assert_saves(fake, 1);
	assert_int_equal(vcpu_set_work(fake->set, meet, NULL), 0);
	assert_saves(fake, 2);
	assert_int_equal(take_counts(fake), 2 * CPUS);
}

static void test_work_finds_and_leaves_the_vcpus_parked(void **state)
{
	struct fake *fake = *state;

	for (unsigned int i = 1; i <= ROUNDS; i++) {
		vcpu_set_resume(fake->set);
		if (i % 4 == 0)
			wait_running(fake, CPUS);
		vcpu_set_pause(fake->set);
		assert_int_equal(vcpu_set_work(fake->set, save, NULL), 0);
		assert_int_equal(count_running(fake), 0);
		assert_saves(fake, i);
	}
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
}

static int interrupt(struct vcpu_set *set, vcpu_work_fn *work)
{
	return vcpu_set_interrupt(set, work, UINT64_MAX, -1, NULL);
}

static void test_running_vcpus_leave_for_work_and_go_on(void **state)
{
	struct fake *fake = *state;

	vcpu_set_resume(fake->set);
	for (unsigned int i = 1; i <= ROUNDS; i++) {
		if (i % 2)
			wait_running(fake, CPUS);
		assert_int_equal(interrupt(fake->set, save), 0);
		assert_saves(fake, i);
	}
	wait_running(fake, CPUS);
	make_exit(fake, 5, ACCEL_EXIT_SHUTDOWN);
	wait_exits(fake, 1);
	assert_int_equal(interrupt(fake->set, save), 0);
	assert_saves(fake, ROUNDS + 1);
	/* All at once, and those that are parked too. */
	vcpu_set_pause(fake->set);
	assert_int_equal(interrupt(fake->set, meet), 0);
	assert_saves(fake, ROUNDS + 2);
	assert_int_equal(count_running(fake), 0);
}

/* All but vCPU @late did @saves of them. */
static void assert_all_saved_but(struct fake *fake, unsigned int late,
				 unsigned int saves)
{
	for (unsigned int i = 0; i < CPUS; i++)
		assert_int_equal(fake->vcpus[i].saves, i == late ? 0 : saves);
}

static void test_work_waits_for_a_vcpu_only_until_its_deadline(void **state)
{
	struct fake *fake = *state;
	struct err err = ERR_INIT;
	uint64_t deadline_ns;

	set_stuck(&fake->vcpus[3], true);
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
	for (unsigned int i = 1; i <= 2; i++) {
		deadline_ns = clock_mono_ns() + 500 * NS_PER_MS;
		assert_int_equal(vcpu_set_interrupt(fake->set, save,
						    deadline_ns, -1, &err),
				 -ETIMEDOUT);
		assert_true(clock_mono_ns() >= deadline_ns);
		assert_non_null(strstr(err_msg(&err), "vCPU 3 does not leave"));
		err_clear(&err);
		assert_all_saved_but(fake, 3, i);
	}
	/* What was given up is not done later, and what comes next is. */
	set_stuck(&fake->vcpus[3], false);
	vcpu_set_pause(fake->set);
	assert_all_saved_but(fake, 3, 2);
	assert_int_equal(interrupt(fake->set, save), 0);
	assert_int_equal(fake->vcpus[3].saves, 1);
	assert_int_equal(count_running(fake), 0);
}

static void test_work_on_running_vcpus_can_be_stopped(void **state)
{
	struct fake *fake = *state;
	struct err err = ERR_INIT;
	int stop_fd = eventfd(1, EFD_CLOEXEC);

	assert_true(stop_fd >= 0);
	set_stuck(&fake->vcpus[0], true);
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
	assert_int_equal(
		vcpu_set_interrupt(fake->set, save, UINT64_MAX, stop_fd, &err),
		-ECANCELED);
	assert_non_null(strstr(err_msg(&err), "vCPU 0 does not leave"));
	set_stuck(&fake->vcpus[0], false);
	vcpu_set_pause(fake->set);
	assert_int_equal(fake->vcpus[0].saves, 0);
	assert_int_equal(interrupt(fake->set, save), 0);
	assert_int_equal(fake->vcpus[0].saves, 1);
	close(stop_fd);
}

static int refuse_some(struct accel_vcpu *vcpu, struct err *err)
{
	save(vcpu, NULL);
	if (vcpu->index < 3 || vcpu->index == 7)
		return 0;
	return err_set(err, -(int)vcpu->index, "register of vCPU %u",
		       vcpu->index);
}

static int refuse_first(struct accel_vcpu *vcpu, struct err *err)
{
	return vcpu->index ? 0 : err_set(err, -EIO, "the first");
}

struct interrupter {
	struct fake *fake;
	bool is_over; /* atomic */
};

static void *interrupt_often(void *opaque)
{
	struct interrupter *interrupter = opaque;

	for (unsigned int i = 0; i < ROUNDS; i++)
		interrupt(interrupter->fake->set, save);
	__atomic_store_n(&interrupter->is_over, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Each of the two waits for all vCPUs; what ends one wait must not be lost on the other. */
static void test_work_beside_pauses_loses_no_wakeup(void **state)
{
	struct interrupter interrupter = { .fake = *state };
	struct fake *fake = *state;
	pthread_t thread;

	pthread_create(&thread, NULL, interrupt_often, &interrupter);
	while (!__atomic_load_n(&interrupter.is_over, __ATOMIC_ACQUIRE)) {
		vcpu_set_resume(fake->set);
		vcpu_set_pause(fake->set);
		assert_int_equal(count_running(fake), 0);
	}
	pthread_join(thread, NULL);
	assert_saves(fake, ROUNDS);
}

static void test_the_error_of_the_lowest_vcpu_is_told(void **state)
{
	struct fake *fake = *state;
	struct err err = ERR_INIT, other = ERR_INIT;

	assert_int_equal(vcpu_set_work(fake->set, refuse_some, &err), -3);
	assert_string_equal(err_msg(&err), "register of vCPU 3");
	assert_saves(fake, 1); /* the others were done all the same */
	assert_int_equal(vcpu_set_work(fake->set, refuse_first, &other), -EIO);
	assert_string_equal(err_msg(&other), "the first");
	/* Errors do not stay. */
	assert_int_equal(vcpu_set_work(fake->set, save, NULL), 0);
}

static void test_a_vcpu_that_ended_stays_parked(void **state)
{
	struct fake *fake = *state;

	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
	make_exit(fake, 5, ACCEL_EXIT_SHUTDOWN);
	wait_exits(fake, 1);
	assert_int_equal(fake->last_exit, ACCEL_EXIT_SHUTDOWN);
	wait_running(fake, CPUS - 1);
	vcpu_set_pause(fake->set);
	/* It takes part in work, so that it can be saved. */
	assert_int_equal(vcpu_set_work(fake->set, save, NULL), 0);
	assert_saves(fake, 1);
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS - 1);
	vcpu_set_pause(fake->set);
	assert_int_equal(fake->vcpus[5].runs, 1);
	assert_int_equal(fake->exit_mask, 1u << 5);
}

static void test_why_a_vcpu_failed_is_told(void **state)
{
	struct fake *fake = *state;

	vcpu_set_resume(fake->set);
	make_exit(fake, 8, ACCEL_EXIT_FAILED);
	wait_exits(fake, 1);
	vcpu_set_pause(fake->set);
	assert_int_equal(fake->last_exit, ACCEL_EXIT_FAILED);
	assert_string_equal(fake->message, "vCPU 8 broke");
}

static void test_an_exit_may_halt_the_others(void **state)
{
	struct fake *fake = *state;

	fake->is_halting_on_exit = true;
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
	make_exit(fake, 0, ACCEL_EXIT_SHUTDOWN);
	wait_running(fake, 0);
	vcpu_set_pause(fake->set);
	assert_int_equal(fake->exits, 1);
}

static bool has_run(struct fake *fake)
{
	unsigned int runs;

	pthread_mutex_lock(&fake->vcpus[2].mutex);
	runs = fake->vcpus[2].runs;
	pthread_mutex_unlock(&fake->vcpus[2].mutex);
	return runs > 0;
}

static void test_a_guest_may_halt_itself_from_inside(void **state)
{
	struct fake *fake = *state;

	fake->vcpus[2].is_halting = true;
	vcpu_set_resume(fake->set);
	do
		sched_yield();
	while (!has_run(fake));
	wait_running(fake, 0);
	vcpu_set_pause(fake->set);
	assert_int_equal(fake->exits, 0);
}

static void test_halted_vcpus_never_run_again(void **state)
{
	struct fake *fake = *state;
	unsigned int runs[CPUS];

	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
	vcpu_set_halt(fake->set);
	vcpu_set_pause(fake->set);
	for (int i = 0; i < CPUS; i++)
		runs[i] = fake->vcpus[i].runs;
	/* As when the guest is resumed after a move that failed. */
	vcpu_set_resume(fake->set);
	usleep(2000);
	vcpu_set_pause(fake->set);
	for (int i = 0; i < CPUS; i++)
		assert_int_equal(fake->vcpus[i].runs, runs[i]);
	/* They can still be saved. */
	assert_int_equal(vcpu_set_work(fake->set, save, NULL), 0);
	assert_saves(fake, 1);
}

static void *halt_soon(void *opaque)
{
	struct fake *fake = opaque;

	sched_yield();
	vcpu_set_halt(fake->set);
	return NULL;
}

static void test_a_halt_beside_pauses_and_resumes_wins(void **unused)
{
	(void)unused;
	for (int round = 0; round < 20; round++) {
		struct fake *fake;
		pthread_t thread;
		void *state;

		setup(&state);
		fake = state;
		pthread_create(&thread, NULL, halt_soon, fake);
		for (int i = 0; i < round; i++) {
			vcpu_set_resume(fake->set);
			if (i % 2)
				vcpu_set_pause(fake->set);
		}
		pthread_join(thread, NULL);
		vcpu_set_resume(fake->set);
		wait_running(fake, 0);
		vcpu_set_pause(fake->set);
		take_counts(fake);
		teardown(&state);
	}
}

/* Longer than any test: who waits for its end hangs. */
#define FOR_EVER (clock_mono_ns() + 1000 * NS_PER_SEC)

static bool is_running(struct fake *fake, unsigned int index)
{
	struct fake_vcpu *vcpu = &fake->vcpus[index];
	bool is;

	pthread_mutex_lock(&vcpu->mutex);
	is = vcpu->is_running;
	pthread_mutex_unlock(&vcpu->mutex);
	return is;
}

/* It has left its guest, and is on its way. */
static void wait_held(struct fake *fake, unsigned int index)
{
	struct vcpu_held held;

	do {
		sched_yield();
		vcpu_set_held(fake->set, index, &held);
	} while (!held.total_ns);
}

static void test_held_vcpu_does_not_run_and_others_do(void **state)
{
	struct fake *fake = *state;
	struct vcpu_held held;

	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
	vcpu_set_hold(fake->set, 4, FOR_EVER);
	vcpu_set_hold(fake->set, 5, FOR_EVER);
	wait_running(fake, CPUS - 2);
	wait_held(fake, 4);
	wait_held(fake, 5);
	assert_false(is_running(fake, 4) || is_running(fake, 5));
	/* It runs on when it is let go. */
	vcpu_set_hold(fake->set, 4, 0);
	wait_running(fake, CPUS - 1);
	vcpu_set_held(fake->set, 4, &held);
	assert_int_equal(held.holds, 1);
	assert_true(held.total_ns > 0 && held.total_ns == held.longest_ns);
	vcpu_set_held(fake->set, 5, &held);
	assert_int_equal(held.holds, 0); /* it is not over */
	assert_true(held.total_ns > 0);
	vcpu_set_held(fake->set, 0, &held);
	assert_true(held.total_ns == 0);
	vcpu_set_forget_held(fake->set);
	vcpu_set_held(fake->set, 4, &held);
	assert_true(held.total_ns == 0 && held.holds == 0);
}

static void test_hold_ends_by_itself(void **state)
{
	struct fake *fake = *state;
	struct vcpu_held held;

	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
	do { /* one may be over before its vCPU has noticed it */
		vcpu_set_hold(fake->set, 1, clock_mono_ns() + NS_PER_MS);
		wait_running(fake, CPUS);
		vcpu_set_held(fake->set, 1, &held);
	} while (held.holds < 20);
	wait_running(fake, CPUS);
	assert_true(held.longest_ns <= held.total_ns);
	/* A time that has passed holds nobody. */
	vcpu_set_hold(fake->set, 1, clock_mono_ns() - 1);
	wait_running(fake, CPUS);
}

/* docs/lessons.md: "a vCPU never acknowledges a pause": blocked in an exit handler,
 * and worse with throttling. */
static void test_lesson_held_vcpu_acknowledges_a_pause_at_once(void **state)
{
	struct fake *fake = *state;

	for (unsigned int round = 1; round <= 10; round++) {
		vcpu_set_resume(fake->set);
		for (unsigned int i = 0; i < CPUS; i++)
			vcpu_set_hold(fake->set, i, FOR_EVER);
		if (round % 2)
			wait_running(fake, 0);
		vcpu_set_pause(fake->set);
		assert_int_equal(count_running(fake), 0);
		take_counts(fake);
		/* And work reaches it. */
		assert_int_equal(vcpu_set_work(fake->set, meet, NULL), 0);
		assert_saves(fake, round);
	}
}

static void test_hold_outlasts_a_pause(void **state)
{
	struct fake *fake = *state;

	vcpu_set_hold(fake->set, 2, FOR_EVER); /* before it ever ran */
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS - 1);
	vcpu_set_pause(fake->set);
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS - 1);
	vcpu_set_pause(fake->set);
	vcpu_set_hold(fake->set, 2, 0);
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
}

static void *hold_some(void *opaque)
{
	struct fake *fake = opaque;

	for (unsigned int i = 0; i < 2000; i++)
		vcpu_set_hold(fake->set, i * 7 % CPUS,
			      i % 5 ? clock_mono_ns() + i % 13 * 20 * NS_PER_US
				    : 0);
	return NULL;
}

static void test_holds_beside_pauses_and_work_lose_nobody(void **state)
{
	struct fake *fake = *state;
	pthread_t thread;

	pthread_create(&thread, NULL, hold_some, fake);
	for (unsigned int i = 1; i <= 100; i++) {
		vcpu_set_resume(fake->set);
		if (i % 2)
			sched_yield();
		vcpu_set_pause(fake->set);
		assert_int_equal(vcpu_set_work(fake->set, save, NULL), 0);
		assert_saves(fake, i);
	}
	pthread_join(thread, NULL);
	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
}

static void test_held_vcpus_can_be_freed(void **state)
{
	struct fake *fake = *state;

	vcpu_set_resume(fake->set);
	for (unsigned int i = 0; i < CPUS; i++)
		vcpu_set_hold(fake->set, i, FOR_EVER);
	wait_running(fake, 0);
}

static void test_exits_beside_pauses_are_told_once(void **state)
{
	struct fake *fake = *state;

	for (unsigned int i = 0; i < CPUS; i++) {
		vcpu_set_resume(fake->set);
		make_exit(fake, i, ACCEL_EXIT_SHUTDOWN);
		vcpu_set_pause(fake->set); /* a kick may come first */
		take_counts(fake);
		assert_int_equal(vcpu_set_work(fake->set, save, NULL), 0);
	}
	vcpu_set_resume(fake->set);
	wait_exits(fake, CPUS);
	assert_int_equal(fake->exit_mask, (1u << CPUS) - 1);
}

static void test_a_running_set_can_be_freed(void **state)
{
	struct fake *fake = *state;

	vcpu_set_resume(fake->set);
	wait_running(fake, CPUS);
	/* by teardown */
}

static void test_a_set_that_cannot_be_whole_is_not_there(void **unused)
{
	static const unsigned int fail_at[] = { 0, 1, CPUS - 1 };

	(void)unused;
	for (int i = 0; i < 3; i++) {
		struct fake *fake = calloc(1, sizeof(*fake));
		struct err err = ERR_INIT;

		fake->accel.ops = &fake_ops;
		fake->fail_at = fail_at[i];
		assert_int_equal(vcpu_set_new(&fake->accel, CPUS, on_exit_of,
					      fake, &fake->set, &err),
				 -ENOSPC);
		assert_non_null(strstr(err_msg(&err), "no vCPU"));
		assert_null(fake->set);
		assert_int_equal(fake->created, fail_at[i]);
		assert_int_equal(fake->freed, fake->created);
		free(fake);
	}
	vcpu_set_free(NULL);
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_no_vcpu_runs_before_the_first_resume),
		fact(test_a_pause_returns_when_no_vcpu_runs),
		fact(test_a_pause_waits_only_until_its_deadline),
		fact(test_each_resume_lets_every_vcpu_run),
		fact(test_an_expected_resume_may_come_or_not),
		fact(test_the_first_vcpu_looks_out_for_an_expected_resume),
		fact(test_work_is_done_once_for_every_vcpu_and_in_parallel),
		fact(test_work_finds_and_leaves_the_vcpus_parked),
		fact(test_running_vcpus_leave_for_work_and_go_on),
		fact(test_work_waits_for_a_vcpu_only_until_its_deadline),
		fact(test_work_on_running_vcpus_can_be_stopped),
		fact(test_work_beside_pauses_loses_no_wakeup),
		fact(test_the_error_of_the_lowest_vcpu_is_told),
		fact(test_a_vcpu_that_ended_stays_parked),
		fact(test_why_a_vcpu_failed_is_told),
		fact(test_an_exit_may_halt_the_others),
		fact(test_a_guest_may_halt_itself_from_inside),
		fact(test_halted_vcpus_never_run_again),
		cmocka_unit_test(test_a_halt_beside_pauses_and_resumes_wins),
		fact(test_held_vcpu_does_not_run_and_others_do),
		fact(test_hold_ends_by_itself),
		fact(test_lesson_held_vcpu_acknowledges_a_pause_at_once),
		fact(test_hold_outlasts_a_pause),
		fact(test_holds_beside_pauses_and_work_lose_nobody),
		fact(test_held_vcpus_can_be_freed),
		fact(test_exits_beside_pauses_are_told_once),
		fact(test_a_running_set_can_be_freed),
		cmocka_unit_test(test_a_set_that_cannot_be_whole_is_not_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
