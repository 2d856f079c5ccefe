// SPDX-License-Identifier: Apache-2.0
/*
 * Flat views: lookup, and the making of the next one.
 *
 * A view is an array of slots, each the first address and a pointer to a chunk
 * of up to CHUNK_RANGES ranges.  Chunks are immutable once published and are
 * shared with the next view, except those that hold or touch addresses where
 * the tree changed; so a commit copies the slots (16 bytes for 64 ranges) and
 * a few chunks.  A chunk belongs to the latest view that shows it: a view that
 * has been superseded owns only the chunks that its successor replaced, and is
 * freed together with them.
 *
 * Called by space.c for each commit, and by all readers.
 */
#include "mem/view.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "mem_priv.h"

#define CHUNK_RANGES 64
/* A chunk with fewer is joined with its successor when it changes. */
#define CHUNK_LOW 24

#define CACHE_SLOTS 4

#ifdef GRACE_IS_TRACED
char grace_tag;
#endif

struct view_chunk {
	struct view_chunk *next_replaced; /* for whoever frees it */
	uint32_t count;
	struct mem_range ranges[]; /* and one of size 0 at the end */
};

struct view_slot {
	uint64_t first; /* address */
	struct view_chunk *chunk;
};

struct flat_view {
	uint32_t count; /* of ranges */
	uint32_t slot_count;
	uint32_t cache_slot;         /* which of a thread's last hits */
	uint64_t born_ns;            /* tells views at one address apart */
	struct view_chunk *replaced; /* owned; by the successor */
	struct rcu_head rcu;
	struct view_slot slots[];
};

/* The last range that this thread found.  @view may be freed and another view
 * be born at its address, but not in the same nanosecond. */
struct last_hit {
	const struct flat_view *view;
	uint64_t born_ns;
	const struct mem_range *range;
};

static _Thread_local struct last_hit last_hits[CACHE_SLOTS];

/* The number of slots that start below (or at, with @or_at) @gpa. */
static uint32_t slots_below(const struct flat_view *view, uint64_t gpa,
			    bool or_at)
{
	uint32_t low = 0, high = view->slot_count;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		uint64_t first = view->slots[mid].first;

		if (first < gpa || (or_at && first == gpa))
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static bool range_holds(const struct mem_range *range, uint64_t gpa)
{
	return gpa >= range->gpa && gpa - range->gpa < range->size;
}

/* The last range that starts at or below @gpa, or NULL. */
static const struct mem_range *range_before(const struct flat_view *view,
					    uint64_t gpa)
{
	uint32_t slot = slots_below(view, gpa, true);
	const struct view_chunk *chunk;
	uint32_t low = 1, high;

	if (slot == 0)
		return NULL;
	chunk = view->slots[slot - 1].chunk;
	high = chunk->count;
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (chunk->ranges[mid].gpa <= gpa)
			low = mid + 1;
		else
			high = mid;
	}
	return &chunk->ranges[low - 1];
}

const struct mem_range *flat_view_find(const struct flat_view *view,
				       uint64_t gpa)
{
	struct last_hit *hit = &last_hits[view->cache_slot];
	const struct mem_range *range;

	if (hit->view == view && hit->born_ns == view->born_ns &&
	    range_holds(hit->range, gpa))
		return hit->range;
	range = range_before(view, gpa);
	if (!range || !range_holds(range, gpa))
		return NULL;
	hit->view = view;
	hit->born_ns = view->born_ns;
	hit->range = range;
	return range;
}

const struct mem_range *flat_view_find_from(const struct flat_view *view,
					    uint64_t gpa)
{
	const struct mem_range *range = range_before(view, gpa);

	if (range && range_holds(range, gpa))
		return range;
	return flat_view_next(view, range);
}

uint32_t flat_view_count(const struct flat_view *view)
{
	return view->count;
}

const struct mem_range *flat_view_next(const struct flat_view *view,
				       const struct mem_range *range)
{
	uint32_t slot = 0;

	if (range && range[1].size)
		return range + 1;
	if (range)
		slot = slots_below(view, range->gpa, true);
	return slot < view->slot_count ? view->slots[slot].chunk->ranges : NULL;
}

static struct flat_view *view_alloc(uint32_t slot_count, uint32_t cache_slot)
{
	struct flat_view *view = mem_must_alloc(
		NULL, sizeof(*view) + slot_count * sizeof(view->slots[0]));

	view->count = 0;
	view->slot_count = 0;
	view->cache_slot = cache_slot % CACHE_SLOTS;
	view->born_ns = clock_mono_ns();
	view->replaced = NULL;
	return view;
}

struct flat_view *flat_view_new_empty(uint32_t cache_slot)
{
	return view_alloc(0, cache_slot);
}

static struct view_chunk *chunk_new(const struct mem_range *ranges,
				    uint32_t count)
{
	struct view_chunk *chunk = mem_must_alloc(
		NULL, sizeof(*chunk) + (count + 1) * sizeof(*ranges));

	chunk->count = count;
	memcpy(chunk->ranges, ranges, count * sizeof(*ranges));
	memset(&chunk->ranges[count], 0, sizeof(*ranges));
	return chunk;
}

static void view_free_rcu(struct rcu_head *head)
{
	struct flat_view *view = container_of(head, struct flat_view, rcu);
	struct view_chunk *chunk, *next;

	grace_acquire();
	for (chunk = view->replaced; chunk; chunk = next) {
		next = chunk->next_replaced;
		free(chunk);
	}
	free(view);
}

static void view_replace_chunk(struct flat_view *view, uint32_t slot)
{
	struct view_chunk *chunk = view->slots[slot].chunk;

	chunk->next_replaced = view->replaced;
	view->replaced = chunk;
}

void flat_view_retire(struct flat_view *view, bool is_last)
{
	for (uint32_t i = 0; is_last && i < view->slot_count; i++)
		view_replace_chunk(view, i);
	grace_release();
	call_rcu(&view->rcu, view_free_rcu);
}

/* The next view in the making. */
struct build {
	struct addr_space *as;
	struct flat_view *old;
	struct view_change *change;
	struct view_slot *slots; /* owned */
	uint32_t slot_count, slot_capacity;
	uint32_t taken; /* slots of @old dealt with */
	uint32_t count; /* of ranges */
	bool has_difference;
};

/* A run: slots [first, end) of the old view, and the intervals that touch
 * ranges there. */
struct run {
	uint32_t first, end;
	const struct mem_interval *intervals;
	size_t interval_count;
};

static void build_slot(struct build *b, uint64_t first,
		       struct view_chunk *chunk)
{
	if (b->slot_count == b->slot_capacity) {
		b->slot_capacity =
			2 * b->slot_capacity + b->old->slot_count + 8;
		b->slots = mem_must_alloc(b->slots,
					  b->slot_capacity * sizeof(*b->slots));
	}
	b->slots[b->slot_count++] = (struct view_slot){ first, chunk };
}

/* Share the old view's slots up to @end. */
static void build_share(struct build *b, uint32_t end)
{
	for (; b->taken < end; b->taken++)
		build_slot(b, b->old->slots[b->taken].first,
			   b->old->slots[b->taken].chunk);
}

/* Appends [lo, hi) of @range. */
static void append_part(struct range_list *list, const struct mem_range *range,
			u128 lo, u128 hi)
{
	struct mem_range part = *range;

	if (lo > range->gpa) {
		part.offset += (uint64_t)(lo - range->gpa);
		part.gpa = (uint64_t)lo;
	} else {
		lo = range->gpa;
	}
	if (hi > range->gpa + range->size)
		hi = range->gpa + range->size;
	if (lo < hi) {
		part.size = hi - lo;
		range_list_append(list, &part);
	}
}

/* Write the run's ranges to before and after. */
static void run_render(struct build *b, const struct run *run)
{
	struct range_list *before = &b->change->before;
	struct range_list *after = &b->change->after;
	size_t at = before->count;
	u128 kept = 0; /* addresses below are in @after */

	for (uint32_t i = run->first; i < run->end; i++) {
		const struct view_chunk *chunk = b->old->slots[i].chunk;

		for (uint32_t j = 0; j < chunk->count; j++)
			range_list_append(before, &chunk->ranges[j]);
	}
	for (size_t i = 0; i < run->interval_count; i++) {
		u128 lo = run->intervals[i].lo, hi = run->intervals[i].hi;

		for (; at < before->count; at++) {
			const struct mem_range *range = &before->ranges[at];

			append_part(after, range, kept, lo);
			if (range->gpa + range->size > hi)
				break;
		}
		mem_render(b->as->root, lo, hi, after);
		kept = hi;
	}
	for (; at < before->count; at++)
		append_part(after, &before->ranges[at], kept, MEM_SIZE_2_64);
}

static bool range_is_same(const struct mem_range *a, const struct mem_range *b)
{
	return a->gpa == b->gpa && a->size == b->size &&
	       a->region == b->region && a->offset == b->offset &&
	       a->is_readonly == b->is_readonly;
}

static bool ranges_are_same(const struct mem_range *a,
			    const struct mem_range *b, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (!range_is_same(&a[i], &b[i]))
			return false;
	}
	return true;
}

static void build_run(struct build *b, const struct run *run)
{
	struct range_list *after = &b->change->after;
	size_t old_start = b->change->before.count;
	size_t new_start = after->count;
	size_t old_count, new_count, chunks;

	build_share(b, run->first);
	run_render(b, run);
	old_count = b->change->before.count - old_start;
	new_count = after->count - new_start;
	if (old_count == new_count &&
	    (!old_count || /* then there may be no arrays yet */
	     ranges_are_same(b->change->before.ranges + old_start,
			     after->ranges + new_start, old_count))) {
		build_share(b, run->end);
		return;
	}
	b->has_difference = true;
	b->count += (uint32_t)new_count - (uint32_t)old_count;
	for (; b->taken < run->end; b->taken++)
		view_replace_chunk(b->old, b->taken);
	/* as equal as can be */
	chunks = (new_count + CHUNK_RANGES - 1) / CHUNK_RANGES;
	for (; chunks; chunks--) {
		size_t count = (after->count - new_start) / chunks;

		build_slot(
			b, after->ranges[new_start].gpa,
			chunk_new(after->ranges + new_start, (uint32_t)count));
		new_start += count;
	}
}

/* The slot of the last range that starts below @lo: it may reach beyond @lo,
 * or merge with what is rendered there. */
static uint32_t first_slot(const struct flat_view *view, u128 lo)
{
	uint32_t below = slots_below(view, (uint64_t)lo, false);

	return below ? below - 1 : 0;
}

/* Past the slot of the last range that starts at or below @hi. */
static uint32_t end_slot(const struct flat_view *view, u128 hi)
{
	return hi > UINT64_MAX ? view->slot_count
			       : slots_below(view, (uint64_t)hi, true);
}

/* The run of the first of @count intervals. */
static struct run run_plan(const struct flat_view *view,
			   const struct mem_interval *intervals, size_t count)
{
	struct run run = {
		.first = first_slot(view, intervals[0].lo),
		.end = end_slot(view, intervals[0].hi),
		.intervals = intervals,
		.interval_count = 1,
	};
	uint32_t i, ranges;

	for (;;) {
		for (ranges = 0, i = run.first;
		     i < run.end && ranges < CHUNK_LOW; i++)
			ranges += view->slots[i].chunk->count;
		if (ranges < CHUNK_LOW && run.end < view->slot_count)
			run.end++;
		else if (run.interval_count < count &&
			 (run.end == view->slot_count ||
			  first_slot(view, intervals[run.interval_count].lo) <
				  run.end)) {
			i = end_slot(view, intervals[run.interval_count++].hi);
			if (i > run.end)
				run.end = i;
		} else
			return run;
	}
}

static int interval_compare(const void *a, const void *b)
{
	const struct mem_interval *x = a, *y = b;

	return (x->lo > y->lo) - (x->lo < y->lo);
}

/* Sort the intervals and join those that overlap or touch. */
static void intervals_tidy(struct addr_space *as)
{
	struct mem_interval *list = as->dirty;
	size_t kept = 0;

	qsort(list, as->dirty_count, sizeof(*list), interval_compare);
	for (size_t i = 1; i < as->dirty_count; i++) {
		if (list[i].lo > list[kept].hi)
			list[++kept] = list[i];
		else if (list[i].hi > list[kept].hi)
			list[kept].hi = list[i].hi;
	}
	as->dirty_count = kept + 1;
}

void view_change_init(struct view_change *change, struct addr_space *as)
{
	struct build b = { .as = as, .old = as->view, .change = change };

	assert(as->dirty_count > 0);
	memset(change, 0, sizeof(*change));
	b.count = b.old->count;
	intervals_tidy(as);
	for (size_t i = 0; i < as->dirty_count;) {
		struct run run =
			run_plan(b.old, &as->dirty[i], as->dirty_count - i);

		build_run(&b, &run);
		i += run.interval_count;
	}
	build_share(&b, b.old->slot_count);
	if (b.has_difference) {
		change->view = view_alloc(b.slot_count, b.old->cache_slot);
		change->view->count = b.count;
		change->view->slot_count = b.slot_count;
		if (b.slot_count)
			memcpy(change->view->slots, b.slots,
			       b.slot_count * sizeof(*b.slots));
	}
	free(b.slots);
	as->dirty_count = 0;
}

void view_change_fini(struct view_change *change)
{
	range_list_fini(&change->before);
	range_list_fini(&change->after);
}
