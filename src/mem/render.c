// SPDX-License-Identifier: Apache-2.0
/*
 * From the tree of regions to ranges, for a window of addresses.
 *
 * Called by view.c for each interval that changed.  Ranges come out in order
 * of address and are only ever appended: a container's sub-regions are swept
 * by address, and between two boundaries the topmost of those that lie there
 * is asked first; each hole it leaves goes to the next one below, then to the
 * container itself if it is RAM, ROM or I/O, then to whatever lies below the
 * container.  Priorities hence count among siblings only.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mem_priv.h"

struct render {
	struct range_list *out;
	struct mem_region **scratch; /* owned; stack of candidates */
	size_t used, capacity;
};

/* What may show in a window of one region: the sub-regions that lie there, the
 * topmost first, and the region itself. */
struct layer {
	struct mem_region *region;
	i128 base; /* address of the region's offset 0 */
	bool is_readonly;
	size_t first, count; /* sub-regions, in render.scratch */
	const struct layer *below;
	size_t below_index; /* the next one to ask there */
};

static void render_region(struct render *r, struct mem_region *region,
			  i128 base, i128 lo, i128 hi, bool is_readonly,
			  const struct layer *below, size_t below_index);

/* Fill [lo, hi) from the sub-region @index of @layer downwards. */
static void render_layer(struct render *r, const struct layer *layer,
			 size_t index, i128 lo, i128 hi)
{
	while (layer && index >= layer->count) {
		if (mem_region_is_leaf(layer->region)) {
			struct mem_range range = {
				.gpa = (uint64_t)lo,
				.size = (u128)(hi - lo),
				.region = layer->region,
				.offset = (uint64_t)(lo - layer->base),
				.is_readonly = layer->is_readonly,
			};

			range_list_append(r->out, &range);
			return;
		}
		index = layer->below_index;
		layer = layer->below;
	}
	if (layer) {
		struct mem_region *sub = r->scratch[layer->first + index];

		render_region(r, sub, layer->base + (i128)sub->offset, lo, hi,
			      layer->is_readonly, layer, index + 1);
	}
}

static void scratch_push(void *opaque, struct mem_region *sub)
{
	struct render *r = opaque;

	if (!sub->is_enabled)
		return;
	if (r->used == r->capacity) {
		r->capacity = r->capacity ? 2 * r->capacity : 64;
		r->scratch = mem_must_alloc(r->scratch,
					    r->capacity * sizeof(*r->scratch));
	}
	r->scratch[r->used++] = sub;
}

static bool is_above(const struct mem_region *a, const struct mem_region *b)
{
	if (a->priority != b->priority)
		return a->priority > b->priority;
	return a->sequence > b->sequence;
}

/* Put @sub among the layer's sub-regions, which end the scratch. */
static void layer_enter(struct render *r, struct layer *layer,
			struct mem_region *sub)
{
	size_t i;

	scratch_push(r, sub);
	for (i = r->used - 1; i > layer->first; i--) {
		if (!is_above(sub, r->scratch[i - 1]))
			break;
		r->scratch[i] = r->scratch[i - 1];
	}
	r->scratch[i] = sub;
	layer->count++;
}

static i128 sub_end(const struct layer *layer, const struct mem_region *sub)
{
	return layer->base + (i128)sub->offset + (i128)sub->size;
}

/* Drop the sub-regions that end at or before @at; the next end, or @hi. */
static i128 layer_leave(struct render *r, struct layer *layer, i128 at, i128 hi)
{
	size_t kept = 0;

	for (size_t i = 0; i < layer->count; i++) {
		struct mem_region *sub = r->scratch[layer->first + i];
		i128 end = sub_end(layer, sub);

		if (end <= at)
			continue;
		r->scratch[layer->first + kept++] = sub;
		if (end < hi)
			hi = end;
	}
	layer->count = kept;
	r->used = layer->first + kept;
	return hi;
}

/* Sweep [lo, hi), all of which lies in the layer's region. */
static void render_children(struct render *r, struct layer *layer, i128 lo,
			    i128 hi)
{
	size_t mark = r->used;
	size_t next = mark, end;

	region_index_visit(layer->region, lo - layer->base, hi - layer->base,
			   scratch_push, r);
	end = r->used;
	layer->first = end;
	layer->count = 0;
	while (lo < hi) {
		i128 stop = layer_leave(r, layer, lo, hi);

		for (; next < end; next++) {
			struct mem_region *sub = r->scratch[next];
			i128 start = layer->base + (i128)sub->offset;

			if (start > lo) {
				if (start < stop)
					stop = start;
				break;
			}
			layer_enter(r, layer, sub);
			if (sub_end(layer, sub) < stop)
				stop = sub_end(layer, sub);
		}
		render_layer(r, layer, 0, lo, stop);
		lo = stop;
	}
	r->used = mark;
}

static void render_region(struct render *r, struct mem_region *region,
			  i128 base, i128 lo, i128 hi, bool is_readonly,
			  const struct layer *below, size_t below_index)
{
	i128 end = base + (i128)region->size;
	struct layer layer = {
		.region = region,
		.base = base,
		.is_readonly = is_readonly || region->is_readonly,
		.below = below,
		.below_index = below_index,
	};

	/* the sweep cuts at its start; an alias looks at what comes later */
	assert(lo >= base);
	if (end > hi)
		end = hi;
	if (!region->is_enabled || lo >= end) {
		render_layer(r, below, below_index, lo, hi);
		return;
	}
	if (region->kind == MEM_ALIAS)
		render_region(r, region->target,
			      base - (i128)region->alias_offset, lo, end,
			      layer.is_readonly, below, below_index);
	else if (region->children)
		render_children(r, &layer, lo, end);
	else
		render_layer(r, &layer, 0, lo, end);
	if (end < hi)
		render_layer(r, below, below_index, end, hi);
}

void mem_render(struct mem_region *root, u128 lo, u128 hi,
		struct range_list *out)
{
	struct render r = { .out = out };

	render_region(&r, root, 0, (i128)lo, (i128)hi, false, NULL, 0);
	free(r.scratch);
}

void range_list_append(struct range_list *list, const struct mem_range *range)
{
	struct mem_range *last =
		list->count ? &list->ranges[list->count - 1] : NULL;

	if (last && last->region == range->region &&
	    last->is_readonly == range->is_readonly &&
	    last->gpa + last->size == range->gpa &&
	    last->offset + last->size == range->offset) {
		last->size += range->size;
		return;
	}
	if (list->count == list->capacity) {
		list->capacity = list->capacity ? 2 * list->capacity : 64;
		list->ranges = mem_must_alloc(list->ranges,
					      list->capacity * sizeof(*range));
	}
	list->ranges[list->count++] = *range;
}

void range_list_fini(struct range_list *list)
{
	free(list->ranges);
}
