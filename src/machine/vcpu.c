// SPDX-License-Identifier: Apache-2.0
/*
 * A pause kicks all vCPUs first and then waits for all; the wait begins with a
 * short spin, since a sleep and a wake-up take longer than most vCPUs to park.
 *
 * A vCPU that is held back waits where a parked one does, and counts as parked: a
 * pause does not wait for it, and work reaches it at once.
 */
#include "machine/vcpu.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/lock.h"
#include "base/thread.h"
#include "base/trace.h"
#include "mem/grace.h"

#define SPIN_NS  (100 * NS_PER_US)
#define YIELD_NS (30 * NS_PER_US)

struct vcpu {
	/* immutable after init */
	struct vcpu_set *set;
	struct accel_vcpu *accel_vcpu;
	pthread_t thread;
	bool has_thread;

	/* protected by set->lock */
	pthread_cond_t wake;
	int thread_id;
	bool is_urgent; /* its thread is; never while it runs the guest */
	bool is_parked;
	bool is_dead;           /* the guest ended here: never runs again */
	uint64_t hold_until_ns; /* it does not run before */
	uint64_t held_since_ns; /* 0: it is not held now */
	struct vcpu_held held;  /* but for the hold under way */
	unsigned int work_done; /* of set->work_seq */
	int work_ret;
	struct err work_err;
};

struct vcpu_set {
	/* immutable after init */
	struct accel *accel;
	unsigned int count;
	struct vcpu *vcpus;
	vcpu_exit_fn *on_exit;
	void *opaque;
	int worked_fd; /* owned eventfd */

	struct lock lock;
	/* protected by lock */
	/* Of their own: somebody may pause all while another waits for work. */
	pthread_cond_t all_parked; /* parked == count */
	pthread_cond_t all_worked; /* work_left == 0 */
	bool is_interrupting;      /* and worked_fd tells of it, too */
	bool want_run;             /* read without it while looking out */
	bool is_ending;
	uint64_t look_until_ns; /* vcpu_set_expect(); 0: not any more */
	bool is_urgent;         /* vcpu_set_urgent() */
	bool is_awaited; /* vcpu_set_pause() sleeps until all are parked */
	bool is_halted;  /* for good: want_run stays false */
	unsigned int parked;
	vcpu_work_fn *work;
	unsigned int work_seq, work_left;

	uint64_t entered_ns; /* atomic: the first one did, after a resume */
};

static void on_kick(int signal)
{
	(void)signal; /* its delivery is all that counts */
}

/* With the lock: one less has work to do. */
static void end_work(struct vcpu_set *set)
{
	if (--set->work_left > 0)
		return;
	pthread_cond_signal(&set->all_worked);
	if (set->is_interrupting)
		eventfd_write(set->worked_fd, 1);
}

/* With the lock, which is dropped meanwhile. */
static void do_work(struct vcpu *vcpu)
{
	struct vcpu_set *set = vcpu->set;

	vcpu->work_done = set->work_seq;
	lock_release(&set->lock);
	err_clear(&vcpu->work_err);
	vcpu->work_ret = set->work(vcpu->accel_vcpu, &vcpu->work_err);
	lock_acquire(&set->lock);
	end_work(set);
}

/* With the lock. */
static void set_urgent(struct vcpu *vcpu, bool is_urgent)
{
	if (vcpu->is_urgent != is_urgent)
		thread_set_urgent(vcpu->thread, is_urgent);
	vcpu->is_urgent = is_urgent;
}

/* The first one wins; nothing that it would be ordered with hangs on it. */
static void note_entry(struct vcpu_set *set)
{
	uint64_t none = 0;

	if (!__atomic_load_n(&set->entered_ns, __ATOMIC_RELAXED))
		__atomic_compare_exchange_n(&set->entered_ns, &none,
					    clock_mono_ns(), false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static void run_guest(struct vcpu *vcpu)
{
	struct vcpu_set *set = vcpu->set;
	struct err err = ERR_INIT;
	enum accel_exit exit;
	bool was_urgent;

	/* Under the lock: a pause that comes later kicks again. */
	vcpu->accel_vcpu->ops->vcpu_unkick(vcpu->accel_vcpu);
	vcpu->is_parked = false;
	__atomic_sub_fetch(&set->parked, 1, __ATOMIC_RELAXED);
	was_urgent = vcpu->is_urgent;
	vcpu->is_urgent = false;
	lock_release(&set->lock);
	/* Without the lock: an ordinary thread that has it may wait for a CPU while
	 * the switch waits for the lock (16 vCPUs on 2 CPUs: 20 ms in one pause
	 * of four).  A kick right now is a slower one. */
	if (was_urgent)
		thread_set_urgent(vcpu->thread, false);

	note_entry(set);
	exit = vcpu->accel_vcpu->ops->vcpu_run(vcpu->accel_vcpu, &err);
	if (exit != ACCEL_EXIT_KICKED)
		set->on_exit(set->opaque, vcpu->accel_vcpu->index, exit, &err);

	lock_acquire(&set->lock);
	vcpu->is_dead = exit != ACCEL_EXIT_KICKED;
	vcpu->is_parked = true;
	/* Atomic for the spin in vcpu_set_pause(), which the lock held for a
	 * signal that nobody waits for would put to sleep. */
	if (__atomic_add_fetch(&set->parked, 1, __ATOMIC_RELEASE) ==
		    set->count &&
	    set->is_awaited)
		pthread_cond_signal(&set->all_parked);
}

/* With the lock. */
static void end_hold(struct vcpu *vcpu)
{
	uint64_t ns = clock_mono_ns() - vcpu->held_since_ns;

	if (!vcpu->held_since_ns)
		return;
	vcpu->held_since_ns = 0;
	vcpu->held.holds++;
	vcpu->held.total_ns += ns;
	if (ns > vcpu->held.longest_ns)
		vcpu->held.longest_ns = ns;
}

/* With the lock, which is dropped meanwhile.  Who is to say that the guest runs may wait
 * for this CPU, and be as urgent.  (Each yield of a thread that is not costs it a slice of
 * what it runs later, before Linux 6.18.) */
static void look_out(struct vcpu_set *set)
{
	uint64_t now = clock_mono_ns(), until_ns = set->look_until_ns;
	uint64_t yield_ns = now + YIELD_NS;

	set->look_until_ns = 0;
	lock_release(&set->lock);
	for (; !__atomic_load_n(&set->want_run, __ATOMIC_RELAXED) &&
	       now < until_ns;
	     now = clock_mono_ns()) {
		if (now < yield_ns) {
			__builtin_ia32_pause();
			continue;
		}
		sched_yield();
		yield_ns = clock_mono_ns() + YIELD_NS;
	}
	lock_acquire(&set->lock);
}

/* Likewise: wait for a turn to run, for work, or for the end. */
static void wait_parked(struct vcpu *vcpu)
{
	struct vcpu_set *set = vcpu->set;

	end_hold(vcpu);
	if (set->look_until_ns && vcpu == &set->vcpus[0])
		look_out(set);
	else
		lock_wait(&set->lock, &vcpu->wake);
}

/* Likewise, with no reason not to run but that it is to be held back; false: it
 * is not, or no longer. */
static bool wait_held(struct vcpu *vcpu)
{
	uint64_t now = clock_mono_ns();

	if (now >= vcpu->hold_until_ns) {
		end_hold(vcpu);
		return false;
	}
	if (!vcpu->held_since_ns)
		vcpu->held_since_ns = now;
	lock_wait_until(&vcpu->set->lock, &vcpu->wake, vcpu->hold_until_ns);
	return true;
}

static void *vcpu_thread(void *opaque)
{
	struct vcpu *vcpu = opaque;
	struct vcpu_set *set = vcpu->set;
	struct err err = ERR_INIT;

	thread_want_low_latency();
	/* Kicked, it does not enter the guest; but what an accelerator makes at
	 * a first run (KVM: a kernel thread a VM, 30 us) is there before the
	 * switch.  A failure shows again at the run that counts. */
	vcpu->accel_vcpu->ops->vcpu_kick(vcpu->accel_vcpu);
	vcpu->accel_vcpu->ops->vcpu_run(vcpu->accel_vcpu, &err);
	if (vcpu->accel_vcpu->ops->vcpu_warm_up)
		vcpu->accel_vcpu->ops->vcpu_warm_up(vcpu->accel_vcpu);
	rcu_read_lock(); /* the first one registers the thread: 8 us */
	rcu_read_unlock();
	lock_acquire(&set->lock);
	vcpu->thread_id = (int)syscall(SYS_gettid);
	while (!set->is_ending) {
		if (vcpu->work_done != set->work_seq)
			do_work(vcpu);
		else if (!set->want_run || vcpu->is_dead)
			wait_parked(vcpu);
		else if (!wait_held(vcpu))
			run_guest(vcpu);
	}
	lock_release(&set->lock);
	return NULL;
}

static int vcpu_start(struct vcpu_set *set, unsigned int index, struct err *err)
{
	struct vcpu *vcpu = &set->vcpus[index];
	char name[16];
	int ret;

	vcpu->set = set;
	vcpu->is_parked = true;
	lock_cond_init(&vcpu->wake);
	ret = set->accel->ops->vcpu_new(set->accel, index, &vcpu->accel_vcpu,
					err);
	if (ret)
		return ret;
	ret = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
	if (ret)
		return err_set_errno(err, -ret, "thread of vCPU %u", index);
	vcpu->has_thread = true;
	snprintf(name, sizeof(name), "vcpu%u", index);
	pthread_setname_np(vcpu->thread, name);
	return 0;
}

int vcpu_set_new(struct accel *accel, unsigned int count, vcpu_exit_fn *on_exit,
		 void *opaque, struct vcpu_set **ret_set, struct err *err)
{
	struct sigaction action = { .sa_handler = on_kick };
	struct vcpu_set *set = calloc(1, sizeof(*set));
	int ret;

	if (!set)
		return err_set(err, -ENOMEM, "no memory for vCPUs");
	lock_init(&set->lock, LOCK_VCPU);
	lock_cond_init(&set->all_parked);
	pthread_cond_init(&set->all_worked, NULL);
	set->worked_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	set->accel = accel;
	set->on_exit = on_exit;
	set->opaque = opaque;
	set->vcpus = calloc(count, sizeof(*set->vcpus));
	if (!set->vcpus || set->worked_fd < 0) {
		vcpu_set_free(set);
		return err_set(err, -ENOMEM, "no memory for %u vCPUs", count);
	}
	/* Without SA_RESTART, so that KVM_RUN returns EINTR. */
	sigaction(ACCEL_KICK_SIGNAL, &action, NULL);
	for (unsigned int i = 0; i < count; i++) {
		set->count = set->parked = i + 1;
		ret = vcpu_start(set, i, err);
		if (ret) {
			vcpu_set_free(set);
			return ret;
		}
	}
	*ret_set = set;
	return 0;
}

void vcpu_set_free(struct vcpu_set *set)
{
	if (!set)
		return;
	vcpu_set_pause(set);
	lock_acquire(&set->lock);
	set->is_ending = true;
	for (unsigned int i = 0; i < set->count; i++)
		pthread_cond_signal(&set->vcpus[i].wake);
	lock_release(&set->lock);
	for (unsigned int i = 0; i < set->count; i++) {
		struct vcpu *vcpu = &set->vcpus[i];

		if (vcpu->has_thread)
			pthread_join(vcpu->thread, NULL);
		if (vcpu->accel_vcpu)
			set->accel->ops->vcpu_free(vcpu->accel_vcpu);
		pthread_cond_destroy(&vcpu->wake);
	}
	pthread_cond_destroy(&set->all_parked);
	pthread_cond_destroy(&set->all_worked);
	if (set->worked_fd >= 0)
		close(set->worked_fd);
	lock_fini(&set->lock);
	free(set->vcpus);
	free(set);
}

struct accel_vcpu *vcpu_set_get(struct vcpu_set *set, unsigned int index)
{
	assert(index < set->count);
	return set->vcpus[index].accel_vcpu;
}

int vcpu_set_thread_id(struct vcpu_set *set, unsigned int index)
{
	int id;

	assert(index < set->count);
	lock_acquire(&set->lock);
	id = set->vcpus[index].thread_id;
	lock_release(&set->lock);
	return id;
}

void vcpu_set_urgent(struct vcpu_set *set, bool is_urgent)
{
	lock_acquire(&set->lock);
	set->is_urgent = is_urgent;
	for (unsigned int i = 0; i < set->count; i++) {
		if (set->vcpus[i].is_parked)
			set_urgent(&set->vcpus[i], is_urgent);
	}
	lock_release(&set->lock);
}

void vcpu_set_expect(struct vcpu_set *set, uint64_t deadline_ns)
{
	lock_acquire(&set->lock);
	set->look_until_ns = deadline_ns;
	lock_release(&set->lock);
	pthread_cond_signal(&set->vcpus[0].wake);
}

void vcpu_set_resume(struct vcpu_set *set)
{
	lock_acquire(&set->lock);
	set->look_until_ns = 0;
	__atomic_store_n(&set->want_run, !set->is_halted, __ATOMIC_RELAXED);
	__atomic_store_n(&set->entered_ns, 0, __ATOMIC_RELAXED);
	lock_release(&set->lock);
	/* Without the lock, which the first takes while the last is woken. */
	for (unsigned int i = 0; i < set->count; i++)
		pthread_cond_signal(&set->vcpus[i].wake);
	trace(vcpus_resume, "%u vCPUs", set->count);
}

uint64_t vcpu_set_await_entry(struct vcpu_set *set, uint64_t deadline_ns)
{
	uint64_t ns;

	while (!(ns = __atomic_load_n(&set->entered_ns, __ATOMIC_RELAXED)) &&
	       clock_mono_ns() < deadline_ns)
		__builtin_ia32_pause();
	return ns;
}

/* With the lock. */
static void kick(struct vcpu *vcpu)
{
	vcpu->accel_vcpu->ops->vcpu_kick(vcpu->accel_vcpu);
	pthread_kill(vcpu->thread, ACCEL_KICK_SIGNAL);
}

/* With the lock. */
static void kick_all(struct vcpu_set *set)
{
	__atomic_store_n(&set->want_run, false, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < set->count; i++) {
		struct vcpu *vcpu = &set->vcpus[i];

		if (vcpu->is_parked)
			continue;
		kick(vcpu);
		/* Not before: urgent and not kicked, it would run its guest in
		 * front of this thread. */
		if (set->is_urgent)
			set_urgent(vcpu, true);
	}
}

void vcpu_set_halt(struct vcpu_set *set)
{
	lock_acquire(&set->lock);
	set->is_halted = true;
	kick_all(set);
	lock_release(&set->lock);
}

static bool are_parked(struct vcpu_set *set)
{
	return __atomic_load_n(&set->parked, __ATOMIC_ACQUIRE) == set->count;
}

/* Does not wait for the lock where all are there already: the last one to park has it for
 * some us more. */
static int await_parked(struct vcpu_set *set, uint64_t deadline_ns,
			struct err *err)
{
	unsigned int late = 0;
	int ret = 0;

	if (are_parked(set))
		return 0;
	lock_acquire(&set->lock);
	set->is_awaited = true;
	while (set->parked < set->count && !ret)
		ret = lock_wait_until(&set->lock, &set->all_parked,
				      deadline_ns);
	set->is_awaited = false;
	if (set->parked == set->count)
		ret = 0;
	while (ret && set->vcpus[late].is_parked)
		late++;
	lock_release(&set->lock);
	return ret ? err_set(err, ret,
			     "vCPU %u does not stop: its device may wait for a back end that does not answer",
			     late)
		   : 0;
}

int vcpu_set_pause_until(struct vcpu_set *set, uint64_t deadline_ns,
			 struct err *err)
{
	uint64_t spin_until_ns = clock_mono_ns() + SPIN_NS;
	int ret;

	lock_acquire(&set->lock);
	kick_all(set);
	lock_release(&set->lock);
	/* A vCPU that is on a CPU parks within this: sooner than a sleep and a
	 * wake-up here would take. */
	while (!are_parked(set) && clock_mono_ns() < spin_until_ns)
		__builtin_ia32_pause();
	ret = await_parked(set, deadline_ns, err);
	if (!ret)
		trace(vcpus_paused, "%u vCPUs", set->count);
	return ret;
}

void vcpu_set_pause(struct vcpu_set *set)
{
	vcpu_set_pause_until(set, UINT64_MAX, NULL);
}

void vcpu_set_hold(struct vcpu_set *set, unsigned int index, uint64_t until_ns)
{
	struct vcpu *vcpu = &set->vcpus[index];

	assert(index < set->count);
	lock_acquire(&set->lock);
	vcpu->hold_until_ns = until_ns;
	if (!vcpu->is_parked && until_ns) {
		kick(vcpu);
	} else if (vcpu->held_since_ns && set->want_run) {
		pthread_cond_signal(&vcpu->wake);
	}
	lock_release(&set->lock);
}

void vcpu_set_held(struct vcpu_set *set, unsigned int index,
		   struct vcpu_held *ret_held)
{
	const struct vcpu *vcpu = &set->vcpus[index];

	assert(index < set->count);
	lock_acquire(&set->lock);
	*ret_held = vcpu->held;
	if (vcpu->held_since_ns)
		ret_held->total_ns += clock_mono_ns() - vcpu->held_since_ns;
	lock_release(&set->lock);
}

void vcpu_set_forget_held(struct vcpu_set *set)
{
	lock_acquire(&set->lock);
	for (unsigned int i = 0; i < set->count; i++) {
		set->vcpus[i].held = (struct vcpu_held){ .holds = 0 };
		if (set->vcpus[i].held_since_ns)
			set->vcpus[i].held_since_ns = clock_mono_ns();
	}
	lock_release(&set->lock);
}

uint64_t vcpu_set_cpu_ns(struct vcpu_set *set, unsigned int index)
{
	clockid_t clock;

	assert(index < set->count);
	if (pthread_getcpuclockid(set->vcpus[index].thread, &clock))
		return 0;
	return clock_read_ns(clock);
}

/* With the lock, until all have done it. */
static int finish_work(struct vcpu_set *set, struct err *err)
{
	int ret = 0;

	while (set->work_left)
		lock_wait(&set->lock, &set->all_worked);
	for (unsigned int i = 0; i < set->count && !ret; i++) {
		ret = set->vcpus[i].work_ret;
		if (ret)
			err_set(err, ret, "%s",
				err_msg(&set->vcpus[i].work_err));
	}
	return ret;
}

static void begin_work(struct vcpu_set *set, vcpu_work_fn *work)
{
	set->work = work;
	set->work_left = set->count;
	set->work_seq++;
}

int vcpu_set_work(struct vcpu_set *set, vcpu_work_fn *work, struct err *err)
{
	int ret;

	lock_acquire(&set->lock);
	assert(set->parked == set->count && !set->want_run);
	begin_work(set, work);
	for (unsigned int i = 1; i < set->count; i++)
		pthread_cond_signal(&set->vcpus[i].wake);
	do_work(&set->vcpus[0]); /* here: saves two wake-ups */
	ret = finish_work(set, err);
	lock_release(&set->lock);
	return ret;
}

/* 0; -ETIMEDOUT; or -ECANCELED: @stop_fd is readable. */
static int await_worked(struct vcpu_set *set, uint64_t deadline_ns, int stop_fd)
{
	struct pollfd fds[] = {
		{ .fd = set->worked_fd, .events = POLLIN },
		{ .fd = stop_fd, .events = POLLIN },
	};
	int ret;

	do {
		uint64_t now = clock_mono_ns();
		uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
		const struct timespec wait = {
			.tv_sec = (time_t)(left / NS_PER_SEC),
			.tv_nsec = (long)(left % NS_PER_SEC),
		};

		ret = ppoll(fds, array_size(fds), &wait, NULL);
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;
	if (fds[0].revents)
		return 0;
	return fds[1].revents ? -ECANCELED : -ETIMEDOUT;
}

/* With the lock: who has not begun does not any more.  The first of these, or count. */
static unsigned int cancel_work(struct vcpu_set *set)
{
	unsigned int first = set->count;

	for (unsigned int i = set->count; i-- > 0;) {
		struct vcpu *vcpu = &set->vcpus[i];

		if (vcpu->work_done == set->work_seq)
			continue;
		vcpu->work_done = set->work_seq;
		vcpu->work_ret = 0;
		end_work(set);
		first = i;
	}
	return first;
}

int vcpu_set_interrupt(struct vcpu_set *set, vcpu_work_fn *work,
		       uint64_t deadline_ns, int stop_fd, struct err *err)
{
	unsigned int late = set->count;
	eventfd_t count;
	int given_up, ret;

	lock_acquire(&set->lock);
	eventfd_read(set->worked_fd, &count); /* of one that was given up */
	set->is_interrupting = true;
	begin_work(set, work);
	for (unsigned int i = 0; i < set->count; i++) {
		struct vcpu *vcpu = &set->vcpus[i];

		if (vcpu->is_parked) {
			pthread_cond_signal(&vcpu->wake);
			continue;
		}
		kick(vcpu);
		if (set->is_urgent) /* as kick_all() */
			set_urgent(vcpu, true);
	}
	lock_release(&set->lock);
	given_up = await_worked(set, deadline_ns, stop_fd);
	lock_acquire(&set->lock);
	if (given_up)
		late = cancel_work(set);
	ret = finish_work(set, err);
	set->is_interrupting = false;
	lock_release(&set->lock);
	if (ret || late == set->count)
		return ret;
	return err_set(err, given_up,
		       "vCPU %u does not leave the guest, or a device", late);
}
