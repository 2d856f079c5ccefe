/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flat views: what an address space shows, as a sorted sequence of ranges that
 * do not overlap.  A view never changes once published; the next one shares
 * with it all that stayed the same (mem/view.c).
 *
 * Readers take no lock:
 *
 *	rcu_read_lock();
 *	range = flat_view_find(addr_space_view(as), gpa);
 *	...
 *	rcu_read_unlock();
 *
 * Any thread may; none has to be registered (mem/grace.h).
 */
#ifndef GODWIT_MEM_VIEW_H
#define GODWIT_MEM_VIEW_H

#include <stdint.h>

#include "mem/grace.h"
#include "mem/region.h"

struct addr_space;
struct flat_view;

/* One range of a flat view. */
struct mem_range {
	uint64_t gpa;              /* first address */
	u128 size;                 /* in bytes, above zero */
	struct mem_region *region; /* RAM, ROM or I/O; never an alias */
	uint64_t offset;           /* of @gpa inside @region */
	bool is_readonly;          /* ROM, or made so on the way down */
};

/* The current view.  Inside rcu_read_lock(), valid until its unlock; or with
 * the topology lock held, valid until the next commit.  Checked for stale
 * reads (mem/space.h). */
const struct flat_view *addr_space_view(struct addr_space *as);

/* The range that holds @gpa, or NULL.  Binary search, with a last-hit cache
 * per thread. */
const struct mem_range *flat_view_find(const struct flat_view *view,
				       uint64_t gpa);

/* The first range that ends above @gpa: the one that holds it or the next one;
 * NULL when there is none. */
const struct mem_range *flat_view_find_from(const struct flat_view *view,
					    uint64_t gpa);

/* Number of ranges. */
uint32_t flat_view_count(const struct flat_view *view);

/* The range after @range (which is one of @view) in order of address, the
 * first for NULL; NULL at the end.  Adjacent parts of one region with one
 * readonly flag are always one range. */
const struct mem_range *flat_view_next(const struct flat_view *view,
				       const struct mem_range *range);

#define flat_view_for_each(pos, view)                         \
	for (pos = flat_view_next((view), NULL); pos != NULL; \
	     pos = flat_view_next((view), pos))

#endif
