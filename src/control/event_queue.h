/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the machine and the migration report, on its way to the loop's thread.
 *
 * Any thread puts; the loop takes.  Passes of a migration follow each other
 * without end and are dropped when the loop falls behind.  Nothing else ever
 * is: only the loop's thread starts a migration or runs a command, it takes
 * all events after each command, and what one migration and one command cause
 * is bounded by their state machines to far less than EVENT_QUEUE_RESERVE.
 */
#ifndef GODWIT_CONTROL_EVENT_QUEUE_H
#define GODWIT_CONTROL_EVENT_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "machine/machine.h"
#include "migrate/migrate.h"

#define EVENT_QUEUE_MAX     256u
#define EVENT_QUEUE_RESERVE 64u /* entries that passes may not take */

struct event {
	bool is_machine; /* which of the next two it is */
	enum machine_event machine;
	struct mig_event mig;
	uint64_t real_ns; /* when it happened */
};

struct event_queue {
	struct lock lock;
	/* protected by lock */
	struct event events[EVENT_QUEUE_MAX];
	unsigned int head, count;
	uint64_t first_ns; /* clock_mono_ns() of the oldest of them */
};

void event_queue_init(struct event_queue *queue);
void event_queue_fini(struct event_queue *queue);

/* By any thread, with any lock held.  Returns since when the oldest one waits
 * (clock_mono_ns()). */
uint64_t event_queue_put(struct event_queue *queue, const struct event *event);
/* The oldest one; false without. */
bool event_queue_take(struct event_queue *queue, struct event *ret_event);

#endif
