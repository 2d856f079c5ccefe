// SPDX-License-Identifier: Apache-2.0
/*
 * Telling the listeners: what differs after a commit, and dirty logging.
 * Called by space.c's commit and by a migration; see mem/listener.h for the
 * order of calls.
 */
#include "mem/listener.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "mem_priv.h"

#define tell(as, listener, op, ...)                                           \
	list_for_each (listener, &(as)->listeners, link) {                    \
		if ((listener)->ops->op)                                      \
			(listener)->ops->op((listener)->opaque, __VA_ARGS__); \
	}

#define tell_reverse(as, listener, op, ...)                                   \
	list_for_each_reverse(listener, &(as)->listeners, link)               \
	{                                                                     \
		if ((listener)->ops->op)                                      \
			(listener)->ops->op((listener)->opaque, __VA_ARGS__); \
	}

/* An eventfd where it shows in an address space. */
struct shown_event {
	uint64_t gpa;
	struct mem_eventfd event;
	const struct mem_range *range; /* borrowed from the view_change */
};

struct event_diff {
	struct shown_event *events; /* owned */
	size_t count, capacity;
};

static bool event_fits(const struct mem_eventfd *event,
		       const struct mem_range *range)
{
	uint64_t size = event->size ? event->size : 1;

	return event->offset >= range->offset &&
	       event->offset - range->offset + (u128)size <= range->size;
}

static void collect_events(struct event_diff *diff,
			   const struct mem_range *range,
			   const struct mem_event_list *list)
{
	for (uint32_t i = 0; i < list->count; i++) {
		const struct mem_eventfd *event = &list->events[i];

		if (!event_fits(event, range))
			continue;
		if (diff->count == diff->capacity) {
			diff->capacity = 2 * diff->capacity + 16;
			diff->events = mem_must_alloc(
				diff->events,
				diff->capacity * sizeof(*diff->events));
		}
		diff->events[diff->count++] = (struct shown_event){
			.gpa = range->gpa + (event->offset - range->offset),
			.event = *event,
			.range = range,
		};
	}
}

static int compare_u64(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

/* By address first; the offset in the region does not matter. */
static int shown_event_compare(const void *a, const void *b)
{
	const struct shown_event *x = a, *y = b;
	int order = compare_u64(x->gpa, y->gpa);

	if (!order)
		order = compare_u64(x->event.size, y->event.size);
	if (!order)
		order = compare_u64(x->event.has_value, y->event.has_value);
	if (!order && x->event.has_value)
		order = compare_u64(x->event.value, y->event.value);
	if (!order)
		order = (x->event.fd > y->event.fd) -
			(x->event.fd < y->event.fd);
	return order;
}

/* Strike what is in both. */
static void cancel_events(struct event_diff *gone, struct event_diff *come)
{
	size_t i = 0, j = 0, gone_kept = 0, come_kept = 0;

	if (gone->count)
		qsort(gone->events, gone->count, sizeof(*gone->events),
		      shown_event_compare);
	if (come->count)
		qsort(come->events, come->count, sizeof(*come->events),
		      shown_event_compare);
	while (i < gone->count || j < come->count) {
		int order = i == gone->count ? 1
			    : j == come->count
				    ? -1
				    : shown_event_compare(&gone->events[i],
							  &come->events[j]);

		if (order < 0) {
			gone->events[gone_kept++] = gone->events[i++];
		} else if (order > 0) {
			come->events[come_kept++] = come->events[j++];
		} else {
			i++;
			j++;
		}
	}
	gone->count = gone_kept;
	come->count = come_kept;
}

/* How ranges differ: @before is gone, @after has come; both: unchanged. */
struct range_pair {
	const struct mem_range *before, *after;
};

static bool range_is_same(const struct mem_range *a, const struct mem_range *b)
{
	return a->size == b->size && a->region == b->region &&
	       a->offset == b->offset && a->is_readonly == b->is_readonly;
}

/* Step through both lists; false at the end.  At one address that changed,
 * what is gone comes before what has come. */
static bool next_pair(const struct view_change *change, size_t *before,
		      size_t *after, struct range_pair *ret_pair)
{
	const struct mem_range *b = NULL, *a = NULL;

	if (*before < change->before.count)
		b = &change->before.ranges[*before];
	if (*after < change->after.count)
		a = &change->after.ranges[*after];
	if (!a && !b)
		return false;
	if (a && b && a->gpa == b->gpa && !range_is_same(a, b))
		a = NULL; /* next time */
	else if (a && b && a->gpa < b->gpa)
		b = NULL;
	else if (a && b && a->gpa > b->gpa)
		a = NULL;
	*before += b != NULL;
	*after += a != NULL;
	*ret_pair = (struct range_pair){ b, a };
	return true;
}

static void diff_events(const struct view_change *change,
			struct event_diff *gone, struct event_diff *come)
{
	struct range_pair pair;
	size_t b = 0, a = 0;

	while (next_pair(change, &b, &a, &pair)) {
		if (pair.before && pair.after &&
		    !pair.after->region->has_event_change)
			continue;
		if (pair.before)
			collect_events(gone, pair.before,
				       &pair.before->region->told_events);
		if (pair.after)
			collect_events(come, pair.after,
				       &pair.after->region->events);
	}
	cancel_events(gone, come);
}

/* The next range that only the old (or only the new) list has, or NULL. */
static const struct mem_range *next_single(const struct view_change *change,
					   size_t *before, size_t *after,
					   bool is_old)
{
	struct range_pair pair;

	while (next_pair(change, before, after, &pair)) {
		if (pair.before && pair.after)
			continue;
		if (is_old ? pair.before : pair.after)
			return is_old ? pair.before : pair.after;
	}
	return NULL;
}

static void announce_deleted(struct addr_space *as,
			     const struct view_change *change)
{
	const struct mem_range *range;
	struct mem_listener *l;
	size_t b = 0, a = 0;

	while ((range = next_single(change, &b, &a, true))) {
		struct mem_section section = { as, *range };

		tell_reverse(as, l, region_del, &section);
	}
}

static void announce_added(struct addr_space *as,
			   const struct view_change *change)
{
	const struct mem_range *range;
	struct mem_listener *l;
	size_t b = 0, a = 0;

	while ((range = next_single(change, &b, &a, false))) {
		struct mem_section section = { as, *range };

		tell(as, l, region_add, &section);
		if (range->region->is_logged)
			tell(as, l, log_start, &section);
	}
}

static void announce_events(struct addr_space *as,
			    const struct event_diff *gone,
			    const struct event_diff *come)
{
	struct mem_listener *l;

	for (size_t i = 0; i < gone->count; i++) {
		const struct shown_event *e = &gone->events[i];
		struct mem_section section = { as, *e->range };

		tell_reverse(as, l, eventfd_del, &section, &e->event);
	}
	for (size_t i = 0; i < come->count; i++) {
		const struct shown_event *e = &come->events[i];
		struct mem_section section = { as, *e->range };

		tell(as, l, eventfd_add, &section, &e->event);
	}
}

static void publish(struct addr_space *as, struct flat_view *view)
{
	struct flat_view *old = as->view;

	__atomic_store_n(&as->view, view, __ATOMIC_RELEASE);
	flat_view_retire(old, false);
}

bool mem_announce(struct addr_space *as, struct view_change *change)
{
	struct event_diff gone = { 0 }, come = { 0 };
	struct mem_listener *l;
	bool is_changed;

	diff_events(change, &gone, &come);
	is_changed = change->view || gone.count || come.count;
	if (is_changed) {
		tell(as, l, begin, as);
		announce_deleted(as, change);
		if (change->view)
			publish(as, change->view);
		announce_added(as, change);
		announce_events(as, &gone, &come);
		tell(as, l, commit, as, as->view);
	}
	free(gone.events);
	free(come.events);
	return is_changed;
}

/* Call eventfd_add or _del of one listener for all that it knows. */
static void replay_events(struct mem_listener *listener,
			  void (*call)(void *opaque,
				       const struct mem_section *section,
				       const struct mem_eventfd *event))
{
	struct mem_section section = { .as = listener->as };
	const struct mem_range *range;

	if (!call)
		return;
	flat_view_for_each(range, section.as->view)
	{
		const struct mem_event_list *list = &range->region->told_events;

		section.range = *range;
		for (uint32_t i = 0; i < list->count; i++) {
			if (event_fits(&list->events[i], range))
				call(listener->opaque, &section,
				     &list->events[i]);
		}
	}
}

static void replay_ranges(
	struct mem_listener *listener,
	void (*call)(void *opaque, const struct mem_section *section),
	void (*call_logged)(void *opaque, const struct mem_section *section))
{
	struct mem_section section = { .as = listener->as };
	const struct mem_range *range;

	flat_view_for_each(range, section.as->view)
	{
		section.range = *range;
		if (call)
			call(listener->opaque, &section);
		if (call_logged && range->region->is_logged)
			call_logged(listener->opaque, &section);
	}
}

static void listener_link(struct addr_space *as, struct mem_listener *listener)
{
	struct mem_listener *other;

	list_for_each (other, &as->listeners, link) {
		if (other->priority > listener->priority)
			break;
	}
	list_add_before(&other->link, &listener->link);
}

int mem_listener_add(struct addr_space *as, struct mem_listener *listener,
		     const struct mem_listener_ops *ops, void *opaque,
		     int priority)
{
	int ret = 0;

	*listener = (struct mem_listener){
		.ops = ops,
		.opaque = opaque,
		.priority = priority,
		.as = as,
	};
	list_init(&listener->link);
	mem_lock(as->mem);
	if (as->mem->is_logging && ops->log_global_start)
		ret = ops->log_global_start(opaque, NULL);
	if (ret == 0) {
		listener_link(as, listener);
		if (ops->begin)
			ops->begin(opaque, as);
		replay_ranges(listener, ops->region_add, ops->log_start);
		replay_events(listener, ops->eventfd_add);
		if (ops->commit)
			ops->commit(opaque, as, as->view);
	}
	mem_unlock(as->mem);
	return ret;
}

void mem_listener_del(struct mem_listener *listener)
{
	const struct mem_listener_ops *ops = listener->ops;
	struct mem *mem = listener->as->mem;

	mem_lock(mem);
	if (mem->is_logging && ops->log_global_stop)
		ops->log_global_stop(listener->opaque, 0);
	replay_events(listener, ops->eventfd_del);
	replay_ranges(listener, ops->region_del, NULL);
	list_del(&listener->link);
	mem_unlock(mem);
}

/* Call log_start or log_stop for each range that shows @region. */
static void set_log_in_space(struct addr_space *as,
			     const struct mem_region *region)
{
	struct mem_section section = { .as = as };
	const struct mem_range *range;
	struct mem_listener *l;

	flat_view_for_each(range, as->view)
	{
		if (range->region != region)
			continue;
		section.range = *range;
		if (region->is_logged) {
			tell(as, l, log_start, &section);
		} else {
			tell_reverse(as, l, log_stop, &section);
		}
	}
}

void mem_region_set_log(struct mem_region *region, bool is_logged)
{
	struct addr_space *as;

	mem_lock(region->mem);
	if (region->is_logged != is_logged) {
		region->is_logged = is_logged;
		list_for_each (as, &region->mem->spaces, link)
			set_log_in_space(as, region);
	}
	mem_unlock(region->mem);
}

/* Stop all listeners that come before @last (all of them for NULL), in the
 * reverse order of their start. */
static void log_stop_before(struct mem *mem, const struct mem_listener *last,
			    uint64_t grace_ns)
{
	struct addr_space *as;
	struct mem_listener *l;
	bool was_started = last == NULL;

	list_for_each_reverse(as, &mem->spaces, link)
	{
		list_for_each_reverse(l, &as->listeners, link)
		{
			if (was_started && l->ops->log_global_stop)
				l->ops->log_global_stop(l->opaque, grace_ns);
			if (l == last)
				was_started = true;
		}
	}
}

static int log_start_all(struct mem *mem, struct err *err)
{
	struct addr_space *as;
	struct mem_listener *l;
	int ret;

	list_for_each (as, &mem->spaces, link) {
		list_for_each (l, &as->listeners, link) {
			if (!l->ops->log_global_start)
				continue;
			ret = l->ops->log_global_start(l->opaque, err);
			if (ret) {
				log_stop_before(mem, l, 0);
				return ret;
			}
		}
	}
	return 0;
}

int mem_log_global_start(struct mem *mem, struct err *err)
{
	int ret;

	mem_lock(mem);
	if (mem->is_logging)
		ret = err_set(err, -EBUSY, "dirty logging is on already");
	else
		ret = log_start_all(mem, err);
	if (ret == 0)
		mem->is_logging = true;
	mem_unlock(mem);
	return ret;
}

void mem_log_global_stop(struct mem *mem, uint64_t grace_ns)
{
	mem_lock(mem);
	if (mem->is_logging) {
		mem->is_logging = false;
		log_stop_before(mem, NULL, grace_ns);
	}
	mem_unlock(mem);
}

static void sync_ranges(struct mem_listener *listener, bool is_last)
{
	struct mem_section section = { .as = listener->as };
	const struct mem_range *range;

	flat_view_for_each(range, section.as->view)
	{
		if (!mem_region_is_ram(range->region))
			continue;
		section.range = *range;
		listener->ops->log_sync(listener->opaque, &section, is_last);
	}
}

void mem_log_sync(struct mem *mem, bool is_last)
{
	struct addr_space *as;
	struct mem_listener *l;

	mem_lock(mem);
	list_for_each (as, &mem->spaces, link) {
		list_for_each (l, &as->listeners, link) {
			if (l->ops->log_sync_all)
				l->ops->log_sync_all(l->opaque, is_last);
			else if (l->ops->log_sync)
				sync_ranges(l, is_last);
		}
	}
	mem_unlock(mem);
}

int mem_log_clear(struct mem *mem, struct ram_block *block, uint64_t first,
		  uint64_t count, const uint64_t *bits, struct err *err)
{
	struct addr_space *as;
	struct mem_listener *l;
	int ret = 0;

	assert(first % 64 == 0);
	mem_lock(mem);
	list_for_each (as, &mem->spaces, link) {
		list_for_each (l, &as->listeners, link) {
			if (!ret && l->ops->log_clear)
				ret = l->ops->log_clear(l->opaque, block, first,
							count, bits, err);
		}
	}
	mem_unlock(mem);
	return ret;
}
