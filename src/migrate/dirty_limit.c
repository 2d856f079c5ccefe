// SPDX-License-Identifier: Apache-2.0
/*
 * The thread lives while a vCPU has a limit.  It has the log while nobody took that
 * from it, and counts in any case.
 */
#include "migrate/dirty_limit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/lock.h"
#include "base/trace.h"
#include "machine/machine.h"
#include "mem/space.h"
#include "migrate/governor.h"
#include "migrate/ram_watch.h"

#define MIB_PAGES ((1u << 20) / RAM_PAGE_SIZE)
#define PERIOD_NS NS_PER_SEC

struct limited {
	uint64_t mib_per_sec; /* 0: none */
	uint64_t current;     /* likewise */
	uint64_t writes;      /* when the period began */
};

struct dirty_limit {
	/* immutable after init */
	struct machine *machine;   /* borrowed */
	struct governor *governor; /* borrowed */
	unsigned int cpus;

	struct lock lock; /* LOCK_DIRTY_LIMIT */
	/* protected by lock */
	pthread_cond_t changed;
	struct limited *vcpus; /* owned */
	unsigned int count;    /* of those with a limit */
	unsigned int takers;   /* of the log */
	bool is_watching;      /* the thread has it */
	bool is_alive;         /* the thread looks at the above again */
	bool has_thread;       /* and was not joined yet */
	pthread_t thread;
};

struct dirty_limit *dirty_limit_new(struct machine *machine,
				    struct governor *governor)
{
	struct dirty_limit *limit = calloc(1, sizeof(*limit));

	if (!limit)
		return NULL;
	limit->machine = machine;
	limit->governor = governor;
	limit->cpus = machine_options(machine)->cpus;
	lock_init(&limit->lock, LOCK_DIRTY_LIMIT);
	lock_cond_init(&limit->changed);
	limit->vcpus = calloc(limit->cpus, sizeof(*limit->vcpus));
	if (limit->vcpus)
		return limit;
	dirty_limit_free(limit);
	return NULL;
}

static void join(struct dirty_limit *limit)
{
	if (limit->has_thread)
		pthread_join(limit->thread, NULL);
	limit->has_thread = false;
}

void dirty_limit_free(struct dirty_limit *limit)
{
	if (!limit)
		return;
	lock_acquire(&limit->lock);
	limit->count = 0;
	pthread_cond_broadcast(&limit->changed);
	lock_release(&limit->lock);
	join(limit);
	pthread_cond_destroy(&limit->changed);
	lock_fini(&limit->lock);
	free(limit->vcpus);
	free(limit);
}

/* With the lock. */
static bool may_watch(const struct dirty_limit *limit)
{
	return limit->count && !limit->takers;
}

/* Whether to go on, without the lock. */
static bool may_go_on(struct dirty_limit *limit)
{
	bool may;

	lock_acquire(&limit->lock);
	may = may_watch(limit);
	lock_release(&limit->lock);
	return may;
}

/* Every page that is dirty, or new, is watched for its next write. */
static int watch_again(struct dirty_limit *limit, struct ram_watch *watch,
		       struct err *err)
{
	uint64_t window[RAM_WATCH_PAGES / 64], first, count;
	struct ram_block *block = NULL;
	int ret = 0;

	ram_watch_sync(watch, false);
	while ((block = ram_block_next(watch->mem, block))) {
		for (first = 0;
		     !ret && may_go_on(limit) &&
		     (count = ram_watch_window(block, &first, RAM_WATCH_PAGES));
		     first += RAM_WATCH_PAGES) {
			ram_watch_take(block, first, count, window);
			ret = ram_watch_again(watch, block, first, count,
					      window, err);
		}
	}
	return ret;
}

/* With the lock: the period that began @since_ns ago is over. */
static void count_writes(struct dirty_limit *limit, uint64_t since_ns)
{
	for (unsigned int i = 0; i < limit->cpus; i++) {
		struct limited *vcpu = &limit->vcpus[i];
		uint64_t writes;

		if (machine_vcpu_writes(limit->machine, i, &writes))
			continue;
		if (since_ns && writes >= vcpu->writes)
			vcpu->current =
				(uint64_t)((unsigned __int128)(writes -
							       vcpu->writes) *
					   NS_PER_SEC / since_ns / MIB_PAGES);
		vcpu->writes = writes;
	}
}

/* With the lock, which is dropped meanwhile: until the end of the period, or until
 * what is done about the log is to change. */
static void wait_period(struct dirty_limit *limit, bool is_watching)
{
	uint64_t start = clock_mono_ns(), now;

	count_writes(limit, 0);
	do {
		lock_wait_until(&limit->lock, &limit->changed,
				start + PERIOD_NS);
		now = clock_mono_ns();
	} while (limit->count && may_watch(limit) == is_watching &&
		 now < start + PERIOD_NS);
	if (now - start >= PERIOD_NS)
		count_writes(limit, now - start);
}

/* With the lock, which is dropped meanwhile: from the log's start to its end. */
static void watch(struct dirty_limit *limit)
{
	struct err err = ERR_INIT;
	struct ram_watch watch;
	int ret;

	limit->is_watching = true;
	lock_release(&limit->lock);
	ret = ram_watch_start(&watch, machine_mem(limit->machine), &err);
	while (!ret && may_go_on(limit)) {
		ret = watch_again(limit, &watch, &err);
		lock_acquire(&limit->lock);
		if (may_watch(limit))
			wait_period(limit, true);
		lock_release(&limit->lock);
	}
	ram_watch_stop(&watch, 0);
	lock_acquire(&limit->lock);
	limit->is_watching = false;
	pthread_cond_broadcast(&limit->changed);
	if (!ret)
		return;
	/* Somebody has the log who did not take it here, or KVM refuses. */
	trace(dirty_limit_failed, "%s", err_msg(&err));
	wait_period(limit, true);
}

static void *thread_main(void *opaque)
{
	struct dirty_limit *limit = opaque;

	lock_acquire(&limit->lock);
	while (limit->count) {
		if (may_watch(limit))
			watch(limit);
		else
			wait_period(limit, false);
	}
	limit->is_alive = false;
	lock_release(&limit->lock);
	return NULL;
}

/* With the lock, so that it ends at once if no limit comes of it. */
static int start_thread(struct dirty_limit *limit, struct err *err)
{
	int ret;

	if (limit->is_alive)
		return 0;
	join(limit); /* an earlier one, which takes no lock any more */
	ret = pthread_create(&limit->thread, NULL, thread_main, limit);
	if (ret)
		return err_set_errno(err, -ret, "dirty limit thread");
	pthread_setname_np(limit->thread, "dirty-limit");
	limit->is_alive = limit->has_thread = true;
	return 0;
}

int dirty_limit_set(struct dirty_limit *limit, unsigned int vcpu,
		    uint64_t mib_per_sec, struct err *err)
{
	struct limited *limited = &limit->vcpus[vcpu];
	int ret = 0;

	if (mib_per_sec > DIRTY_LIMIT_MAX_MIB)
		return err_set(err, -ERANGE,
			       "dirty-rate of %lu MB/s, at most %u",
			       mib_per_sec, DIRTY_LIMIT_MAX_MIB);
	lock_acquire(&limit->lock);
	if (mib_per_sec)
		ret = start_thread(limit, err);
	if (!ret)
		ret = governor_set(limit->governor, GOVERNOR_OPERATOR, vcpu,
				   mib_per_sec ? mib_per_sec * MIB_PAGES
					       : GOVERNOR_ANY,
				   err);
	if (!ret) {
		limit->count += !limited->mib_per_sec && mib_per_sec;
		limit->count -= limited->mib_per_sec && !mib_per_sec;
		limited->mib_per_sec = mib_per_sec;
		trace(dirty_limit, "vCPU %u: %lu MB/s", vcpu, mib_per_sec);
		pthread_cond_broadcast(&limit->changed);
	}
	lock_release(&limit->lock);
	return ret;
}

bool dirty_limit_query(struct dirty_limit *limit, unsigned int vcpu,
		       struct dirty_limit_info *ret_info)
{
	bool is_limited;

	lock_acquire(&limit->lock);
	is_limited = limit->count != 0;
	ret_info->limit = limit->vcpus[vcpu].mib_per_sec;
	ret_info->current = limit->vcpus[vcpu].current;
	lock_release(&limit->lock);
	return is_limited;
}

void dirty_limit_take_log(struct dirty_limit *limit)
{
	lock_acquire(&limit->lock);
	limit->takers++;
	pthread_cond_broadcast(&limit->changed);
	while (limit->is_watching)
		lock_wait(&limit->lock, &limit->changed);
	lock_release(&limit->lock);
}

void dirty_limit_give_log(struct dirty_limit *limit)
{
	lock_acquire(&limit->lock);
	limit->takers--;
	pthread_cond_broadcast(&limit->changed);
	lock_release(&limit->lock);
}
