/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of mem/ share.  Everything here is protected by the topology
 * lock unless its group says otherwise.
 *
 * A commit flows like this: region.c notes, for each change of the tree, which
 * addresses of which address spaces it may affect (mem_region_touch());
 * space.c's mem_commit() has view.c build the next view, which has render.c
 * render those addresses only and shares the rest; listener.c compares the
 * replaced parts and tells the listeners.
 */
#ifndef GODWIT_MEM_PRIV_H
#define GODWIT_MEM_PRIV_H

#include <stddef.h>

#include "base/list.h"
#include "base/lock.h"
#include "mem/ram.h"
#include "mem/space.h"

/* Addresses while rendering: an alias may put the start of its target below
 * zero. */
typedef __int128 i128;

#define MEM_STACK_DEPTH 24

/* Where something was begun, for the report of a stale read. */
struct mem_stack {
	void *frames[MEM_STACK_DEPTH];
	int depth;
};

struct mem {
	struct lock topology;
	const void *owner; /* atomic: who holds the lock (mem_is_mine()) */
	unsigned int lock_depth;
	unsigned int depth; /* of nested transactions */

	struct list spaces;
	struct list blocks; /* struct ram_block, in order of creation */
	uint32_t next_block_index;
	uint32_t next_cache_slot; /* of addr_space_new() */
	uint64_t next_sequence;   /* of mem_region_add() */
	uint64_t random;          /* state of the balance of region_index.c */

	struct mem_region *event_changes; /* regions whose eventfds changed */
	struct mem_region *dead;  /* atomic stack: last reference dropped */
	struct mem_region *apart; /* taken apart, freed after the publication */
	bool is_logging;          /* mem_log_global_start() */

	/* atomic */
	uint64_t commits;
	uint64_t stale_reads;
	uint64_t regions; /* that exist and are not taken apart */
	uint64_t renders; /* of one address space in one commit */
	bool is_loading;

	struct mem_stack load_stack; /* written before is_loading */
};

enum mem_region_kind {
	MEM_CONTAINER,
	MEM_RAM,
	MEM_ROM,
	MEM_IO,
	MEM_ALIAS,
};

struct mem_event_list {
	struct mem_eventfd *events; /* owned */
	uint32_t count, capacity;
};

struct mem_region {
	/* immutable after init */
	struct mem *mem;
	char *name; /* owned */
	enum mem_region_kind kind;
	struct ram_block *block;      /* borrowed; RAM and ROM */
	const struct mem_io_ops *ops; /* borrowed; I/O */
	void *dev;                    /* borrowed; I/O */
	struct mem_region *target;    /* a reference; alias */

	uint32_t refs; /* atomic */

	u128 size;
	uint64_t alias_offset;
	bool is_enabled, is_readonly, is_logged;

	/* in a container, which holds a reference */
	struct mem_region *container;
	uint64_t offset;
	int priority;
	uint64_t sequence; /* the later added wins among equals */
	/* node in the container's index (region_index.c) */
	struct mem_region *left, *right;
	uint64_t heap;
	u128 max_end;

	/* what points here */
	struct mem_region *children; /* root of the index */
	struct list aliases;         /* by alias_link */
	struct list spaces;          /* address spaces with this root */
	struct list alias_link;

	/* eventfds as wanted, and as the listeners know them */
	struct mem_event_list events, told_events;
	bool has_event_change;
	struct mem_region *next_event_change;

	struct mem_region *next_dead;
	struct rcu_head rcu;
};

static inline bool mem_region_is_leaf(const struct mem_region *region)
{
	return region->kind == MEM_RAM || region->kind == MEM_ROM ||
	       region->kind == MEM_IO;
}

/* Addresses [lo, hi) of an address space or region. */
struct mem_interval {
	u128 lo, hi;
};

struct addr_space {
	/* immutable after init */
	struct mem *mem;
	char *name;              /* owned */
	struct mem_region *root; /* a reference */

	struct flat_view *view; /* atomic; written under the lock */

	struct mem_interval *dirty; /* owned; where the tree changed */
	size_t dirty_count, dirty_capacity;
	struct mem_stack dirty_stack; /* of the transaction's first change */

	struct list listeners; /* by rising priority */
	struct list link;      /* in mem's spaces */
	struct list root_link; /* in root's spaces */
};

/* The topology lock without a transaction; may be held already. */
void mem_lock(struct mem *mem);
void mem_unlock(struct mem *mem);
/* True in the thread that holds the topology lock. */
bool mem_is_mine(const struct mem *mem);

/* stale.c */
void mem_stack_take(struct mem_stack *stack);
/* Debug builds abort, showing @begun and where this is called from. */
void mem_stale_read(struct addr_space *as, const char *what,
		    const struct mem_stack *begun);

/* realloc where a failure cannot be reported: aborts with a message. */
void *mem_must_alloc(void *old, size_t size);

/* region.c: what the addresses [lo, hi) of @region show may have changed. */
void mem_region_touch(struct mem_region *region, u128 lo, u128 hi);
/* Take apart the regions whose last reference is gone. */
void mem_reap_dead(struct mem *mem);
/* Free those when no reader sees them any more. */
void mem_free_apart(struct mem *mem);

/* region_index.c: the sub-regions of a container by address. */
void region_index_insert(struct mem_region *container, struct mem_region *sub);
void region_index_remove(struct mem_region *container, struct mem_region *sub);
/* Calls @visit for each sub-region that touches [lo, hi) of the container, in
 * order of offset. */
void region_index_visit(const struct mem_region *container, i128 lo, i128 hi,
			void (*visit)(void *opaque, struct mem_region *sub),
			void *opaque);

/* A growing array of ranges; adjacent parts of one region merge on append. */
struct range_list {
	struct mem_range *ranges; /* owned */
	size_t count, capacity;
};

void range_list_append(struct range_list *list, const struct mem_range *range);
void range_list_fini(struct range_list *list);

/* render.c: append what @root shows at addresses [lo, hi). */
void mem_render(struct mem_region *root, u128 lo, u128 hi,
		struct range_list *out);

/* view.c: the next view of @as, not yet published. */
struct view_change {
	struct flat_view *view; /* NULL: nothing differs */
	/* Only the replaced parts, in order of address; a range in both is the
	 * same in both views. */
	struct range_list before, after;
};

struct flat_view *flat_view_new_empty(uint32_t cache_slot);
void view_change_init(struct view_change *change, struct addr_space *as);
void view_change_fini(struct view_change *change);
/* Free @view and what its successor did not take over from it (all of it with
 * @is_last), when no reader uses it any more. */
void flat_view_retire(struct flat_view *view, bool is_last);

/* The published view, without the check for stale reads. */
static inline struct flat_view *addr_space_peek(const struct addr_space *as)
{
	return __atomic_load_n(&as->view, __ATOMIC_ACQUIRE);
}

/* listener.c: tell the listeners of @as, publishing on the way.  True when
 * something differed. */
bool mem_announce(struct addr_space *as, struct view_change *change);

/* ---- ram_pages.c ---- */

/* The number of bits in each summary. */
uint64_t ram_block_groups(const struct ram_block *block);

#endif
