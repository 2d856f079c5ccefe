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

#include "base/clock.h"
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
	uint64_t put_ns;  /* clock_mono_ns(); set by event_queue_put() */
};

/* Events are told once none came for the first of these, or one waits for the second: a
 * client that is woken in the pause takes its CPU from the guest, for 100 us and more.  At
 * once when a migration or the machine has ended, unless another one follows at once. */
#define EVENT_TELL_AFTER_NS  (5 * NS_PER_MS)
#define EVENT_TELL_WITHIN_NS (20 * NS_PER_MS)

struct event_queue {
	struct lock lock;
	/* protected by lock */
	struct event events[EVENT_QUEUE_MAX];
	unsigned int head, count;
};

void event_queue_init(struct event_queue *queue);
void event_queue_fini(struct event_queue *queue);

/* By any thread, with any lock held.  Returns when all that wait are to be told
 * (clock_mono_ns()), if no other comes. */
uint64_t event_queue_put(struct event_queue *queue, const struct event *event);
/* The oldest one; false without. */
bool event_queue_take(struct event_queue *queue, struct event *ret_event);

#endif
