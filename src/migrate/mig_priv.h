/* SPDX-License-Identifier: Apache-2.0 */
/*
 * struct mig, shared by its files:
 *
 *	mig.c          parameters, queries, threads, the state setter
 *	states.c       the two state machines
 *	fail.c         breaks a migration at an arc, for tests
 *	source.c       the outgoing migration; its switch is source_switch.c
 *	destination.c  the incoming one
 *
 * The threads report by mig_set_state() and, under mig->lock, in mig->info.
 */
#ifndef GODWIT_MIGRATE_MIG_PRIV_H
#define GODWIT_MIGRATE_MIG_PRIV_H

#include <pthread.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/lock.h"
#include "migrate/channel.h"
#include "migrate/converge.h"
#include "migrate/dirty_limit.h"
#include "migrate/dirty_rate.h"
#include "migrate/fail.h"
#include "migrate/format.h"
#include "migrate/governor.h"
#include "migrate/migrate.h"

/* Room for the state of a machine of @cpus. */
#define STATE_ROOM(cpus) ((16u << 10) + (cpus) * (8u << 10))

/* For READY and GO, which come within this (channel.spin_ns). */
#define MIG_SPIN_NS (300 * NS_PER_US)

/* Bytes of RAM like those of a pause.  Both sides are as urgent with them as they are
 * then, and nobody notices who waits for so few. */
#define MIG_SMALL_PASS (1u << 20)

struct mig_fd {
	char name[64];
	int fd; /* owned */
	struct list link;
};

struct mig {
	/* immutable after init */
	struct machine *machine; /* borrowed, outlives the mig */
	mig_event_fn *on_event;
	void *opaque;
	int stop_fd; /* owned eventfd: readable = the thread gives up */
	struct dirty_rate *rate;   /* owned; a migration ends its measurement */
	struct governor *governor; /* owned; holds vCPUs to the limits of: */
	struct dirty_limit *limit; /* owned */
	struct converge *converge; /* owned */

	struct lock lock; /* LOCK_MIGRATE */
	/* protected by lock */
	struct mig_params params;
	struct mig_caps caps;
	struct mig_info info;
	struct list fds;
	bool is_active;     /* a thread is at work */
	bool has_thread;    /* and not joined yet */
	bool is_ending;     /* mig_free() waits for the thread */
	struct fail fail;   /* what to break, once */
	struct fail broken; /* its arc was taken: the thread breaks it now */
	pthread_t thread;
	uint64_t start_ns;

	/* owned by the thread while is_active */
	struct channel_listener listener;
	struct channel channel;
	char uri[sizeof(((struct mig_info *)0)->uri)];
};

/* An arc of the state machine, checked against the table in states.c; breaks
 * what is to be broken at it.  -ECANCELED once the migration is being
 * cancelled. */
int mig_set_state(struct mig *mig, enum mig_state to, struct err *err);

/* The thread, without the lock: the same for an arc that another thread may
 * have taken. */
int mig_break(struct mig *mig, struct err *err);

/* The thread's last state, with the reason when it failed; from here on another
 * migration may start, and whoever starts it waits for this thread with the lock,
 * which it must not take any more.  A failure of a cancelled one counts as
 * cancelled. */
void mig_finish(struct mig *mig, enum mig_state to, const struct err *err);

/* The thread, behind mig_finish(), until the guest that arrived has begun: memory that
 * is given back (the thread's stack for one) interrupts each of its vCPUs for 60 us. */
void mig_linger(struct mig *mig);

/* Look up and take a descriptor of QMP getfd (a channel_fd_fn). */
int mig_take_fd(void *mig, const char *name);

/* The threads' functions; each ends with mig_finish(). */
void source_run(struct mig *mig, struct err *err);
void destination_run(struct mig *mig, struct err *err);

#endif
