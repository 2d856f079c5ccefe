/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mutexes with ranks.  A thread may take a lock only while every lock it
 * holds has a lower rank; debug builds (without NDEBUG) abort otherwise, and
 * lock_assert_held() is checked there too.
 */
#ifndef GODWIT_BASE_LOCK_H
#define GODWIT_BASE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* All ranks of the program, outermost first. */
enum lock_rank {
	LOCK_MIGRATE = 1, /* migration state, statistics (migrate/) */
	LOCK_DIRTY_RATE,  /* a measurement of it (migrate/dirty_rate.c) */
	LOCK_DIRTY_LIMIT, /* the operator's limits (migrate/dirty_limit.c) */
	LOCK_CONVERGE,    /* a migration's (migrate/converge.c) */
	LOCK_GOVERNOR,    /* who is held to them (migrate/governor.c) */
	LOCK_RUN_STATE,   /* run state changes (machine/run_state.c) */
	LOCK_VCPU,        /* one vCPU's requests (machine/vcpu.c) */
	LOCK_VDEV,        /* one virtio device (virtio/vdev.h) */
	LOCK_TOPOLOGY,    /* memory trees and listeners (mem/) */
	LOCK_LOG_STOP,    /* memslots to stop logging (accel/kvm/log_stop.c) */
	LOCK_VHOST,       /* memory tables and dirty logs (vhost/) */
	LOCK_VHOST_DEV,   /* one back end (vhost/) */
	LOCK_DEVICE,      /* one device's registers (dev/) */
	LOCK_ROUTES,      /* interrupt routes (accel/) */
	LOCK_EOI,         /* what interrupts wrote (accel/sim/irqs.c) */
	LOCK_SLOTS,       /* memslots and rings (accel/sim) */
	LOCK_MMU,         /* second-stage tables (accel/sim) */
	LOCK_RING,        /* of the dirty rings (accel/kvm/ring.c, vcpu.c) */
	LOCK_IO_THREAD,   /* work handed to one (virtio/io_thread.c) */
	LOCK_EVENT,       /* event queues towards control/ */
	LOCK_EVENTFD,     /* a write of a shared one (base/event.c) */
};

struct lock {
	pthread_mutex_t mutex;
	enum lock_rank rank;
	pthread_t owner; /* valid while is_held; debug builds only */
	bool is_held;
};

void lock_init(struct lock *lock, enum lock_rank rank);
void lock_fini(struct lock *lock);
void lock_acquire(struct lock *lock);
/* False when another thread holds it. */
bool lock_try(struct lock *lock);
/* As lock_acquire(), at most until @deadline_ns (clock_mono_ns() time; UINT64_MAX: no
 * limit): 0, also at a deadline that has passed when nobody holds it, or -ETIMEDOUT. */
int lock_acquire_until(struct lock *lock, uint64_t deadline_ns);
void lock_release(struct lock *lock);

/* Wait on @cond, releasing @lock meanwhile; CLOCK_MONOTONIC deadlines. */
void lock_wait(struct lock *lock, pthread_cond_t *cond);

/* As lock_wait(), at most until @deadline_ns (clock_mono_ns() time): 0, or
 * -ETIMEDOUT. */
int lock_wait_until(struct lock *lock, pthread_cond_t *cond,
		    uint64_t deadline_ns);

/* A condition variable whose deadlines are CLOCK_MONOTONIC. */
void lock_cond_init(pthread_cond_t *cond);

/* Abort (debug builds) unless the calling thread holds @lock. */
void lock_assert_held(const struct lock *lock);

#endif
