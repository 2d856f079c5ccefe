// SPDX-License-Identifier: Apache-2.0
/* A ring of fixed size: whoever puts is in the middle of a switch and cannot fail. */
#include "control/event_queue.h"

#include <assert.h>

#include "base/trace.h"

void event_queue_init(struct event_queue *queue)
{
	lock_init(&queue->lock, LOCK_EVENT);
	queue->head = queue->count = 0;
}

void event_queue_fini(struct event_queue *queue)
{
	lock_fini(&queue->lock);
}

static bool is_droppable(const struct event *event)
{
	return !event->is_machine && event->mig.is_pass;
}

static bool is_end(const struct event *event)
{
	if (event->is_machine)
		return event->machine == MACHINE_EVENT_SHUTDOWN;
	return !event->mig.is_pass && (event->mig.state == MIG_COMPLETED ||
				       event->mig.state == MIG_FAILED ||
				       event->mig.state == MIG_CANCELLED);
}

uint64_t event_queue_put(struct event_queue *queue, const struct event *event)
{
	unsigned int room = is_droppable(event)
				    ? EVENT_QUEUE_MAX - EVENT_QUEUE_RESERVE
				    : EVENT_QUEUE_MAX;
	uint64_t within_ns, now = clock_mono_ns();
	unsigned int at;

	lock_acquire(&queue->lock);
	assert(is_droppable(event) || queue->count < room);
	if (queue->count < room) {
		at = (queue->head + queue->count) % EVENT_QUEUE_MAX;
		queue->events[at] = *event;
		queue->events[at].put_ns = now;
		queue->count++;
	} else {
		trace(control_event_lost, "%u are waiting", queue->count);
	}
	within_ns = queue->events[queue->head].put_ns + EVENT_TELL_WITHIN_NS;
	lock_release(&queue->lock);
	if (is_end(event))
		return now;
	return now + EVENT_TELL_AFTER_NS < within_ns ? now + EVENT_TELL_AFTER_NS
						     : within_ns;
}

bool event_queue_take(struct event_queue *queue, struct event *ret_event)
{
	bool has_event;

	lock_acquire(&queue->lock);
	has_event = queue->count > 0;
	if (has_event) {
		*ret_event = queue->events[queue->head];
		queue->head = (queue->head + 1) % EVENT_QUEUE_MAX;
		queue->count--;
	}
	lock_release(&queue->lock);
	return has_event;
}
