// SPDX-License-Identifier: Apache-2.0
/*
 * One thread for all vCPUs that have a limit; it sleeps while none has.  Each is
 * looked at when it may be in debt, which a vCPU of steady habits is then by about
 * GOVERNOR_HOLD_NS.
 */
#include "migrate/governor.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/lock.h"
#include "base/thread.h"
#include "base/trace.h"
#include "machine/machine.h"

/* Shorter, a vCPU would run for less than it takes to let it go and stop it; longer,
 * one that begins to write is noticed late. */
#define SLICE_MIN_NS (20 * NS_PER_US)
#define SLICE_MAX_NS (4 * NS_PER_MS)
/* How often to look whether one has come to run that waits for a CPU, or sleeps. */
#define SLICE_ASLEEP_NS (100 * NS_PER_US)
/* Less is the way to the guest and back. */
#define RAN_MIN_NS (5 * NS_PER_US)
/* Of a speed, from one look to the next: one that writes no more is looked at less
 * and less often, every SLICE_MAX_NS after some 30 ms. */
#define SPEED_KEPT        (7.0 / 8)
#define SPEED_KEPT_ASLEEP (63.0 / 64)
/* What a vCPU may save up, and what it may owe: one that wrote and now reads is not
 * held for long for what was.  The pages that every vCPU writes (its stack, its
 * clock) it writes one after the other once a round has protected them, whatever it
 * does: under a limit of 150 a second, a millisecond's worth is none of them. */
#define CREDIT_NS    (1 * NS_PER_MS)
#define CREDIT_PAGES 32.0
#define DEBT_NS      (20 * NS_PER_MS)

struct governed {
	uint64_t limit[GOVERNOR_CLIENTS]; /* pages a second */
	double debt;                      /* pages; negative: saved up */
	double speed;                     /* pages a ns, see measure_speed() */
	uint64_t writes, at_ns;           /* as last looked at */
	uint64_t cpu_ns;                  /* that it has had, likewise */
	uint64_t due_ns;                  /* when to look at it; 0: never */
};

struct governor {
	/* immutable after init */
	struct machine *machine; /* borrowed */
	unsigned int cpus;

	struct lock lock; /* LOCK_GOVERNOR */
	/* protected by lock */
	pthread_cond_t changed;
	struct governed *vcpus; /* owned */
	uint64_t hold_max_ns;
	bool is_ending, has_thread;
	pthread_t thread;
};

static double pages_in(uint64_t pages_per_sec, uint64_t ns)
{
	return (double)pages_per_sec * (double)ns / (double)NS_PER_SEC;
}

static uint64_t limit_of(const struct governed *vcpu)
{
	uint64_t least = GOVERNOR_ANY;

	for (int i = 0; i < GOVERNOR_CLIENTS; i++)
		least = vcpu->limit[i] < least ? vcpu->limit[i] : least;
	return least;
}

static uint64_t clamp(double ns, uint64_t least, uint64_t most)
{
	if (ns < (double)least)
		return least;
	return ns > (double)most ? most : (uint64_t)ns;
}

/* What it wrote since it was last looked at is owed, and what it might have is
 * paid.  Returns the former, in pages. */
static double settle(struct governed *vcpu, uint64_t writes, uint64_t now)
{
	uint64_t limit = limit_of(vcpu);
	double wrote = 0, most = pages_in(limit, DEBT_NS);
	double credit = pages_in(limit, CREDIT_NS);

	/* It counts some a little late (accel_ops.vcpu_writes). */
	if (writes > vcpu->writes) {
		wrote = (double)(writes - vcpu->writes);
		vcpu->writes = writes;
	}
	vcpu->debt += wrote - pages_in(limit, now - vcpu->at_ns);
	vcpu->at_ns = now;
	if (vcpu->debt > most)
		vcpu->debt = most;
	if (credit < CREDIT_PAGES)
		credit = CREDIT_PAGES;
	if (vcpu->debt < -credit)
		vcpu->debt = -credit;
	return wrote;
}

/* How fast it writes when it runs: the fastest of late.  Without a CPU it writes
 * nothing, which says nothing. */
static void measure_speed(struct governed *vcpu, double wrote, uint64_t ran_ns)
{
	bool did_run = ran_ns >= RAN_MIN_NS;
	double speed = did_run ? wrote / (double)ran_ns : 0;

	vcpu->speed *= did_run ? SPEED_KEPT : SPEED_KEPT_ASLEEP;
	if (speed > vcpu->speed)
		vcpu->speed = speed;
}

/* For how long it may run before it is looked at again, so that it owes a hold of
 * the usual length then. */
static uint64_t next_slice(const struct governed *vcpu, uint64_t ran_ns,
			   uint64_t hold_max_ns)
{
	uint64_t hold_ns =
		hold_max_ns < GOVERNOR_HOLD_NS ? hold_max_ns : GOVERNOR_HOLD_NS;
	double wanted = pages_in(limit_of(vcpu), hold_ns);

	if (vcpu->debt < 0)
		wanted -= vcpu->debt;
	return clamp(wanted / vcpu->speed,
		     ran_ns >= RAN_MIN_NS ? SLICE_MIN_NS : SLICE_ASLEEP_NS,
		     SLICE_MAX_NS);
}

static void look_at(struct governor *governor, unsigned int index, uint64_t now)
{
	struct governed *vcpu = &governor->vcpus[index];
	uint64_t cpu_ns = machine_vcpu_cpu_ns(governor->machine, index);
	uint64_t writes, slice_ns, ran_ns = cpu_ns - vcpu->cpu_ns;
	uint64_t hold_ns = 0;
	double wrote;

	if (machine_vcpu_writes(governor->machine, index, &writes))
		writes = vcpu->writes;
	wrote = settle(vcpu, writes, now);
	measure_speed(vcpu, wrote, ran_ns);
	slice_ns = next_slice(vcpu, ran_ns, governor->hold_max_ns);
	/* Between two holds it runs, however long it waited for a CPU. */
	if (ran_ns >= RAN_MIN_NS)
		vcpu->cpu_ns = cpu_ns;
	if (vcpu->debt > 0 && ran_ns >= RAN_MIN_NS) {
		hold_ns = clamp(vcpu->debt * (double)NS_PER_SEC /
					(double)limit_of(vcpu),
				0, governor->hold_max_ns);
		machine_hold_vcpu(governor->machine, index, now + hold_ns);
	}
	trace(governor,
	      "vCPU %u: %.0f pages in %lu us, held %lu ns, then runs %lu ns",
	      index, wrote, ran_ns / 1000, hold_ns, slice_ns);
	vcpu->due_ns = now + hold_ns + slice_ns;
}

/* Returns when to look again, UINT64_MAX: when something changed. */
static uint64_t look_at_all(struct governor *governor)
{
	uint64_t next = UINT64_MAX;

	for (unsigned int i = 0; i < governor->cpus; i++) {
		struct governed *vcpu = &governor->vcpus[i];
		uint64_t now = clock_mono_ns();

		if (!vcpu->due_ns)
			continue;
		if (vcpu->due_ns <= now)
			look_at(governor, i, now);
		next = vcpu->due_ns < next ? vcpu->due_ns : next;
	}
	return next;
}

static void *thread_main(void *opaque)
{
	struct governor *governor = opaque;

	/* Late, a vCPU that is to be held runs on, beside the migration. */
	thread_set_urgent(pthread_self(), true);
	lock_acquire(&governor->lock);
	while (!governor->is_ending) {
		uint64_t next = look_at_all(governor);

		if (next == UINT64_MAX)
			lock_wait(&governor->lock, &governor->changed);
		else
			lock_wait_until(&governor->lock, &governor->changed,
					next);
	}
	lock_release(&governor->lock);
	return NULL;
}

struct governor *governor_new(struct machine *machine)
{
	struct governor *governor = calloc(1, sizeof(*governor));

	if (!governor)
		return NULL;
	governor->machine = machine;
	governor->cpus = machine_options(machine)->cpus;
	governor->hold_max_ns = GOVERNOR_HOLD_MAX_NS;
	lock_init(&governor->lock, LOCK_GOVERNOR);
	lock_cond_init(&governor->changed);
	governor->vcpus = calloc(governor->cpus, sizeof(*governor->vcpus));
	if (!governor->vcpus) {
		governor_free(governor);
		return NULL;
	}
	for (unsigned int i = 0; i < governor->cpus; i++) {
		for (int j = 0; j < GOVERNOR_CLIENTS; j++)
			governor->vcpus[i].limit[j] = GOVERNOR_ANY;
	}
	return governor;
}

void governor_free(struct governor *governor)
{
	if (!governor)
		return;
	lock_acquire(&governor->lock);
	governor->is_ending = true;
	pthread_cond_signal(&governor->changed);
	lock_release(&governor->lock);
	if (governor->has_thread)
		pthread_join(governor->thread, NULL);
	for (unsigned int i = 0; governor->has_thread && i < governor->cpus;
	     i++)
		machine_hold_vcpu(governor->machine, i, 0);
	pthread_cond_destroy(&governor->changed);
	lock_fini(&governor->lock);
	free(governor->vcpus);
	free(governor);
}

/* With the lock. */
static int start_thread(struct governor *governor, struct err *err)
{
	int ret;

	if (governor->has_thread)
		return 0;
	ret = pthread_create(&governor->thread, NULL, thread_main, governor);
	if (ret)
		return err_set_errno(err, -ret, "governor thread");
	pthread_setname_np(governor->thread, "governor");
	governor->has_thread = true;
	return 0;
}

/* With the lock: from now on, or no more. */
static void begin_or_end(struct governor *governor, unsigned int index,
			 uint64_t writes)
{
	struct governed *vcpu = &governor->vcpus[index];
	bool is_limited = limit_of(vcpu) != GOVERNOR_ANY;

	if (is_limited && !vcpu->due_ns) {
		vcpu->at_ns = clock_mono_ns();
		vcpu->cpu_ns = machine_vcpu_cpu_ns(governor->machine, index);
		vcpu->writes = writes;
		vcpu->debt = -CREDIT_PAGES;
		vcpu->speed = 0;
		vcpu->due_ns = vcpu->at_ns + SLICE_MIN_NS;
	} else if (!is_limited && vcpu->due_ns) {
		vcpu->due_ns = 0;
		machine_hold_vcpu(governor->machine, index, 0);
	}
}

int governor_set(struct governor *governor, enum governor_client client,
		 unsigned int vcpu, uint64_t pages_per_sec, struct err *err)
{
	uint64_t writes = 0;
	int ret = machine_vcpu_writes(governor->machine, vcpu, &writes);

	if (ret)
		return err_set(
			err, ret,
			"it is not known which vCPU writes: this KVM has "
			"no statistics (KVM_CAP_BINARY_STATS_FD); dirty "
			"rings would tell (--accel kvm,dirty=ring)");
	lock_acquire(&governor->lock);
	ret = start_thread(governor, err);
	if (!ret) {
		governor->vcpus[vcpu].limit[client] =
			pages_per_sec ? pages_per_sec : 1;
		begin_or_end(governor, vcpu, writes);
		pthread_cond_signal(&governor->changed);
	}
	lock_release(&governor->lock);
	return ret;
}

void governor_set_hold_max(struct governor *governor, uint64_t hold_ns)
{
	lock_acquire(&governor->lock);
	governor->hold_max_ns = clamp((double)hold_ns, GOVERNOR_HOLD_MIN_NS,
				      GOVERNOR_HOLD_MAX_NS);
	lock_release(&governor->lock);
}

void governor_clear(struct governor *governor, enum governor_client client)
{
	lock_acquire(&governor->lock);
	for (unsigned int i = 0; i < governor->cpus; i++) {
		governor->vcpus[i].limit[client] = GOVERNOR_ANY;
		begin_or_end(governor, i, 0);
	}
	lock_release(&governor->lock);
}
