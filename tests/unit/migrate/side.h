/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One side of a migration in this process: a machine of puppets, the struct mig
 * that moves it, and the events it sends.
 */
#ifndef GODWIT_TEST_MIGRATE_SIDE_H
#define GODWIT_TEST_MIGRATE_SIDE_H

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/err.h"
#include "machine/machine.h"
#include "migrate/migrate.h"
#include "puppet/puppet.h"

/* Nothing here takes a second; whoever waits longer hangs. */
#define SIDE_LIMIT_S 60

struct side {
	struct machine *machine;
	struct mig *mig;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	/* protected by mutex */
	enum mig_state state;
	unsigned int passes;
};

static inline void side_on_machine(void *opaque, enum machine_event event)
{
	(void)opaque;
	(void)event;
}

static inline void side_on_mig(void *opaque, const struct mig_event *event)
{
	struct side *side = opaque;

	pthread_mutex_lock(&side->mutex);
	if (event->is_pass)
		side->passes++;
	else
		side->state = event->state;
	pthread_cond_broadcast(&side->changed);
	pthread_mutex_unlock(&side->mutex);
}

static inline void side_init(struct side *side,
			     const struct machine_options *options)
{
	struct err err = ERR_INIT;

	*side = (struct side){ .state = MIG_NONE };
	pthread_mutex_init(&side->mutex, NULL);
	pthread_cond_init(&side->changed, NULL);
	if (machine_new(options, side_on_machine, side, &side->machine, &err))
		fail_msg("%s", err_msg(&err));
	side->mig = mig_new(side->machine, side_on_mig, side);
	assert_non_null(side->mig);
}

/* With the smallest machine. */
static inline void side_start(struct side *side, unsigned int cpus,
			      bool is_incoming)
{
	struct machine_options options;

	puppet_options(&options, cpus, is_incoming);
	side_init(side, &options);
}

static inline void side_fini(struct side *side)
{
	mig_free(side->mig);
	machine_free(side->machine);
	pthread_cond_destroy(&side->changed);
	pthread_mutex_destroy(&side->mutex);
}

static inline bool side_is_at_end(enum mig_state state)
{
	return state == MIG_COMPLETED || state == MIG_FAILED ||
	       state == MIG_CANCELLED || state == MIG_RUNNING;
}

/* Wait until it has come to @state of its side, or to an end (with
 * MIG_STATE_COUNT: to that alone); says where it is. */
static inline enum mig_state side_wait(struct side *side, enum mig_state state)
{
	struct timespec limit;
	enum mig_state now;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += SIDE_LIMIT_S;
	pthread_mutex_lock(&side->mutex);
	while (side->state < state && !side_is_at_end(side->state)) {
		if (pthread_cond_timedwait(&side->changed, &side->mutex,
					   &limit))
			fail_msg("still %s after %d s", mig_status(side->state),
				 SIDE_LIMIT_S);
	}
	now = side->state;
	pthread_mutex_unlock(&side->mutex);
	return now;
}

static inline enum mig_state side_wait_end(struct side *side)
{
	return side_wait(side, MIG_STATE_COUNT);
}

/* @fd is given away. */
static inline void side_send(struct side *side, int fd)
{
	struct err err = ERR_INIT;

	if (mig_add_fd(side->mig, "peer", fd, &err) ||
	    mig_start(side->mig, "fd:peer", &err))
		fail_msg("%s", err_msg(&err));
}

static inline void side_receive(struct side *side, int fd)
{
	struct err err = ERR_INIT;

	if (mig_add_fd(side->mig, "peer", fd, &err) ||
	    mig_incoming(side->mig, "fd:peer", &err))
		fail_msg("%s", err_msg(&err));
}

static inline const char *side_error(struct side *side, struct mig_info *info)
{
	mig_query(side->mig, info);
	return err_msg(&info->error);
}

#endif
