/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Address spaces, their flat views, transactions and listeners.
 *
 * An address space is a root region and its current flat view: a sorted array
 * of non-overlapping ranges, immutable, published by RCU.  Readers
 * (addr_space_view() between rcu_read_lock() and rcu_read_unlock()) take no
 * lock.  Writers change the tree inside a transaction:
 *
 *	mem_begin(mem);
 *	mem_region_set_offset(bar, where);
 *	mem_commit(mem);
 *
 * Transactions nest; only the outermost commit renders, and only the address
 * spaces whose tree changed.  It then calls the listeners of each such space
 * (begin, region_del from high to low priority, region_add from low to high,
 * eventfd_del, eventfd_add, commit) and publishes the new view before the
 * adds.  A commit that changes nothing calls no listener.  mem_begin() takes
 * the topology lock and mem_commit() releases it, so one thread at a time has
 * a transaction open.
 *
 * Stale reads (DESIGN 2): translating through an address space that the
 * calling thread's own open transaction has changed is a bug, and so is any
 * translation between mem_load_begin() and mem_load_end(), by any thread.
 * Debug builds abort with both stacks, release builds count
 * (mem_stale_reads()) and trace.
 */
#ifndef GODWIT_MEM_SPACE_H
#define GODWIT_MEM_SPACE_H

#include "base/list.h"
#include "mem/region.h"

struct err;
struct addr_space;

/* The memory of one machine. */
struct mem *mem_new(void);
void mem_free(struct mem *mem); /* all spaces and regions are gone by then */

void mem_begin(struct mem *mem);
void mem_commit(struct mem *mem);
/* Topology commits so far that changed something (for the pause's account). */
uint64_t mem_commit_count(const struct mem *mem);

/* Machine state is being loaded: see "stale reads" above. */
void mem_load_begin(struct mem *mem);
void mem_load_end(struct mem *mem);
uint64_t mem_stale_reads(const struct mem *mem);

/* Wait until no reader uses a view that is no longer current. */
void mem_synchronize(struct mem *mem);

/* @root is referenced; @name is copied. */
struct addr_space *addr_space_new(struct mem *mem, const char *name,
				  struct mem_region *root);
void addr_space_free(struct addr_space *as);
const char *addr_space_name(const struct addr_space *as);
struct mem *addr_space_mem(const struct addr_space *as);

/* One range of a flat view. */
struct mem_range {
	uint64_t gpa;              /* first address */
	u128 size;                 /* in bytes, above zero */
	struct mem_region *region; /* RAM, ROM or I/O; never an alias */
	uint64_t offset;           /* of @gpa inside @region */
	bool is_readonly;          /* ROM, or made so on the way down */
};

struct flat_view {
	uint32_t count;
	struct mem_range *ranges; /* sorted by gpa, adjacent parts of one
				     region merged */
};

/* The current view.  Inside rcu_read_lock(); valid until its unlock. */
const struct flat_view *addr_space_view(struct addr_space *as);

/* The range that holds @gpa, or NULL.  Binary search, with a last-hit cache
 * per thread. */
const struct mem_range *flat_view_find(const struct flat_view *view,
				       uint64_t gpa);

/* What a listener is told of. */
struct mem_section {
	struct addr_space *as;
	struct mem_range range;
};

/*
 * Any callback may be NULL.  Each is called with the topology lock held, by
 * the thread that commits or that drives logging, except log_sync, _sync_all
 * and _clear, which are called without it by the one thread that drives a
 * migration.  Callbacks do not change the tree.
 */
struct mem_listener_ops {
	/* Once per changed address space and outermost commit. */
	void (*begin)(void *opaque, struct addr_space *as);
	/* Once per range that is new or changed (offset, region, readonly). */
	void (*region_add)(void *opaque, const struct mem_section *section);
	/* Once per range that is gone or changed; @section is the old one. */
	void (*region_del)(void *opaque, const struct mem_section *section);
	/* Last; @view is the one just published. */
	void (*commit)(void *opaque, struct addr_space *as,
		       const struct flat_view *view);

	/* Dirty logging of one RAM range goes on or off while global logging
	 * is off (mem_region_set_log()). */
	void (*log_start)(void *opaque, const struct mem_section *section);
	void (*log_stop)(void *opaque, const struct mem_section *section);

	/* Once per migration; log_global_start may refuse with a reason, and
	 * those already started are stopped again. */
	int (*log_global_start)(void *opaque, struct err *err);
	void (*log_global_stop)(void *opaque);

	/* Once per round: report writes into the blocks' dirty bitmaps.  A
	 * listener has log_sync (called per RAM range) or log_sync_all (called
	 * once).  @is_last: every vCPU and back end has stopped. */
	void (*log_sync)(void *opaque, const struct mem_section *section,
			 bool is_last);
	void (*log_sync_all)(void *opaque, bool is_last);
	/* Pages [first, first + count) of @block are about to be read for
	 * sending; those set in @bits (bit 0 is page @first; @first is a
	 * multiple of 64) are watched again from here on (invariant D1). */
	void (*log_clear)(void *opaque, struct ram_block *block, uint64_t first,
			  uint64_t count, const uint64_t *bits);

	/* @event's offset is relative to the region. */
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

/* Adds the listener and replays the current view to it (begin, region_add...,
 * eventfd_add..., commit); while logging is on, log_global_start too. */
void mem_listener_add(struct addr_space *as, struct mem_listener *listener,
		      const struct mem_listener_ops *ops, void *opaque,
		      int priority);
/* Replays deletions and forgets the listener. */
void mem_listener_del(struct mem_listener *listener);

/* Log one RAM region outside of migrations (a frame buffer, say). */
void mem_region_set_log(struct mem_region *region, bool is_logged);

/* The dirty sources of all listeners, driven by a migration (mem/dirty.h says
 * what they fill). */
int mem_log_global_start(struct mem *mem, struct err *err);
void mem_log_global_stop(struct mem *mem);
void mem_log_sync(struct mem *mem, bool is_last);
void mem_log_clear(struct mem *mem, struct ram_block *block, uint64_t first,
		   uint64_t count, const uint64_t *bits);

#endif
