/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listeners: whoever mirrors an address space somewhere else (memslots, vhost
 * memory tables, ioeventfds) or knows of writes to its RAM (dirty sources).
 *
 * Every callback runs with the topology lock held, in the thread that commits,
 * adds or removes the listener, or drives logging.  A callback does not change
 * the tree or the listeners, and does not wait for a grace period.
 *
 * Order of one commit, per changed address space:
 *
 *	begin                        low to high priority
 *	region_del,  each range:     high to low
 *	(the new view is published)
 *	region_add,  each range:     low to high
 *	eventfd_del, each eventfd:   high to low
 *	eventfd_add, each eventfd:   low to high
 *	commit                       low to high
 *
 * Ranges and eventfds come in order of address.  A range that moved, or whose
 * size, region, offset or readonly flag changed, is deleted and added; ranges
 * that stayed are not mentioned.
 */
#ifndef GODWIT_MEM_LISTENER_H
#define GODWIT_MEM_LISTENER_H

#include "base/list.h"
#include "mem/region.h"
#include "mem/view.h"

struct err;
struct addr_space;

/* What a listener is told of; valid during the call. */
struct mem_section {
	struct addr_space *as;
	struct mem_range range;
};

/* Any callback may be NULL. */
struct mem_listener_ops {
	/* Once per changed address space and outermost commit. */
	void (*begin)(void *opaque, struct addr_space *as);
	/* Once per range that is new or changed. */
	void (*region_add)(void *opaque, const struct mem_section *section);
	/* Once per range that is gone or changed; @section is the old one.
	 * It ends logging of that range too. */
	void (*region_del)(void *opaque, const struct mem_section *section);
	/* Last; @view is the one just published, so that nobody needs a call
	 * for each range that stayed. */
	void (*commit)(void *opaque, struct addr_space *as,
		       const struct flat_view *view);

	/* Dirty logging of one range goes on or off (mem_region_set_log()):
	 * after the region_add of a range that is logged, and for each range
	 * that shows the region when the flag changes.  Independent of global
	 * logging: a range is logged while either wants it. */
	void (*log_start)(void *opaque, const struct mem_section *section);
	void (*log_stop)(void *opaque, const struct mem_section *section);

	/* Once per migration; log_global_start may refuse with a reason, and
	 * those already started are stopped again.  Both return at once: what
	 * takes long waits, in a start for the first log_clear of the memory
	 * concerned, in a stop for at least @grace_ns, on the listener's own
	 * thread, which the next start calls off. */
	int (*log_global_start)(void *opaque, struct err *err);
	void (*log_global_stop)(void *opaque, uint64_t grace_ns);

	/* Once per round: report writes into the blocks' dirty bitmaps.  A
	 * listener has log_sync (called per RAM or ROM range) or log_sync_all
	 * (called once).  @is_last: every vCPU and back end has stopped. */
	void (*log_sync)(void *opaque, const struct mem_section *section,
			 bool is_last);
	void (*log_sync_all)(void *opaque, bool is_last);
	/* Pages [first, first + count) of @block are about to be read for
	 * sending; those set in @bits (bit 0 is page @first; @first is a
	 * multiple of 64) are watched again from here on (invariant D1): 0, or
	 * why they cannot be. */
	int (*log_clear)(void *opaque, struct ram_block *block, uint64_t first,
			 uint64_t count, const uint64_t *bits, struct err *err);

	/* @event's offset is relative to the region, and the whole of the
	 * event lies in @section. */
	void (*eventfd_add)(void *opaque, const struct mem_section *section,
			    const struct mem_eventfd *event);
	void (*eventfd_del)(void *opaque, const struct mem_section *section,
			    const struct mem_eventfd *event);
};

/* Embedded in its owner; fields are set by mem_listener_add(). */
struct mem_listener {
	const struct mem_listener_ops *ops;
	void *opaque;
	int priority;
	struct addr_space *as;
	struct list link;
};

/* Adds the listener, behind those of its priority, and replays the published
 * view to it (begin, region_add and log_start..., eventfd_add..., commit);
 * while global logging is on, log_global_start too, before the replay.  0, or
 * what log_global_start said (nothing is added then). */
int mem_listener_add(struct addr_space *as, struct mem_listener *listener,
		     const struct mem_listener_ops *ops, void *opaque,
		     int priority);
/* Calls log_global_stop while global logging is on, replays the deletions
 * (eventfd_del..., region_del...; no begin or commit), and forgets the
 * listener. */
void mem_listener_del(struct mem_listener *listener);

/* Log one RAM region outside of migrations (a frame buffer, say). */
void mem_region_set_log(struct mem_region *region, bool is_logged);

/*
 * The dirty sources of all listeners of all address spaces, driven by the one
 * thread of a migration.  Each takes the topology lock for its duration, so
 * that no listener or range appears or goes meanwhile.
 */

/* 0; -EBUSY when global logging is on already; or what a listener said. */
int mem_log_global_start(struct mem *mem, struct err *err);
/* Nothing when it is off. */
void mem_log_global_stop(struct mem *mem, uint64_t grace_ns);
void mem_log_sync(struct mem *mem, bool is_last);
/* 0, or what the first listener that failed said. */
int mem_log_clear(struct mem *mem, struct ram_block *block, uint64_t first,
		  uint64_t count, const uint64_t *bits, struct err *err);

#endif
