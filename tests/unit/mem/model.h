/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A second, naive description of a tree of regions, changed in step with the
 * real one, and a resolver that asks it for one address at a time.  Nothing
 * here uses what src/mem computes.
 *
 * To stay free of cycles, a node shows only nodes of a lower index, as a
 * sub-region or as the target of an alias.
 */
#ifndef GODWIT_TEST_MEM_MODEL_H
#define GODWIT_TEST_MEM_MODEL_H

#include <stdio.h>
#include <stdlib.h>

#include "mem/ram.h"
#include "mem/space.h"

typedef __int128 i128;

enum node_kind {
	NODE_CONTAINER,
	NODE_RAM,
	NODE_ROM,
	NODE_IO,
	NODE_ALIAS,
};

#define NODE_EVENTS 3

struct node {
	enum node_kind kind;
	struct mem_region *region; /* a reference */
	u128 size;
	bool is_enabled, is_readonly;
	int parent; /* -1: none */
	uint64_t offset;
	int priority;
	uint64_t order; /* of adding */
	int target;     /* alias */
	uint64_t alias_offset;
	struct mem_eventfd events[NODE_EVENTS];
	int event_count;
	int *subs; /* owned; sub-regions, the topmost first */
	int sub_count;
};

struct model {
	struct mem *mem;
	struct ram_block *blocks[2]; /* borrowed */
	struct node *nodes;          /* the root is the last */
	int count;
	bool is_wide; /* many regions side by side, little on top */
	uint64_t next_order;
	uint64_t random;
};

/* What an address shows; node < 0: nothing. */
struct shown {
	int node;
	uint64_t offset;
	bool is_readonly;
};

static uint64_t model_random(struct model *m)
{
	uint64_t z = m->random += 0x9e3779b97f4a7c15ull; /* splitmix64 */

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static int model_below(struct model *m, int limit)
{
	return (int)(model_random(m) % (uint64_t)limit);
}

static bool model_chance(struct model *m, int percent)
{
	return model_below(m, 100) < percent;
}

/* Small numbers on a grid, so that regions meet; the top; anything. */
static uint64_t model_offset(struct model *m)
{
	if (m->is_wide)
		return (uint64_t)model_below(m, 32 * m->count) * 0x800;
	switch (model_below(m, 20)) {
	case 0:
		return (uint64_t)0 - (uint64_t)model_below(m, 40) * 0x800 - 1;
	case 1:
		return (uint64_t)0 - (uint64_t)(1 + model_below(m, 40)) * 0x800;
	case 2:
		return model_random(m) >> model_below(m, 64);
	default:
		return (uint64_t)model_below(m, 8 + 4 * m->count) * 0x800;
	}
}

/* Mostly where a target has something to show. */
static uint64_t model_alias_offset(struct model *m)
{
	if (model_chance(m, 70))
		return (uint64_t)model_below(m, 16) * 0x400;
	return model_offset(m);
}

/* Containers are large, so that much shows; of the others one in a tree hides
 * nearly everything. */
static u128 model_size(struct model *m, enum node_kind kind)
{
	if (m->is_wide || (!(kind == NODE_CONTAINER && model_chance(m, 60)) &&
			   model_below(m, m->count) != 0))
		return (u128)(1 + model_below(m, 16)) * 0x400;
	switch (model_below(m, 3)) {
	case 0:
		return MEM_SIZE_2_64;
	case 1:
		return MEM_SIZE_2_64 - (u128)model_below(m, 0x10000);
	default:
		return (u128)(model_random(m) >> model_below(m, 64)) + 1;
	}
}

static struct shown model_resolve(const struct model *m, int index, i128 at,
				  bool is_readonly)
{
	const struct node *n = &m->nodes[index];

	if (!n->is_enabled || at < 0 || at >= (i128)n->size)
		return (struct shown){ .node = -1 };
	is_readonly |= n->is_readonly;
	if (n->kind == NODE_ALIAS)
		return model_resolve(m, n->target, at + (i128)n->alias_offset,
				     is_readonly);
	for (int i = 0; i < n->sub_count; i++) {
		const struct node *sub = &m->nodes[n->subs[i]];
		struct shown shown = model_resolve(
			m, n->subs[i], at - (i128)sub->offset, is_readonly);

		if (shown.node >= 0)
			return shown;
	}
	if (n->kind == NODE_CONTAINER)
		return (struct shown){ .node = -1 };
	return (struct shown){ index, (uint64_t)at, is_readonly };
}

struct addresses {
	uint64_t *at; /* owned */
	size_t count, capacity;
};

static void addresses_add(struct addresses *list, i128 at)
{
	if (at < 0 || at > (i128)UINT64_MAX)
		return;
	if (list->count == list->capacity) {
		list->capacity = 2 * list->capacity + 256;
		list->at =
			realloc(list->at, list->capacity * sizeof(*list->at));
	}
	list->at[list->count++] = (uint64_t)at;
}

/* All places where something may begin or end, and their neighbours. */
static void model_boundaries(const struct model *m, int index, i128 base,
			     struct addresses *list)
{
	const struct node *n = &m->nodes[index];

	for (int d = -1; d <= 1; d++) {
		addresses_add(list, base + d);
		addresses_add(list, base + (i128)n->size + d);
	}
	if (n->kind == NODE_ALIAS)
		model_boundaries(m, n->target, base - (i128)n->alias_offset,
				 list);
	for (int i = 0; i < n->sub_count; i++)
		model_boundaries(m, n->subs[i],
				 base + (i128)m->nodes[n->subs[i]].offset,
				 list);
}

static int node_of_region(const struct model *m,
			  const struct mem_region *region)
{
	for (int i = 0; i < m->count; i++) {
		if (m->nodes[i].region == region)
			return i;
	}
	return -1;
}

static void model_detach(struct model *m, int index)
{
	struct node *n = &m->nodes[index];
	struct node *parent = &m->nodes[n->parent];
	int kept = 0;

	for (int i = 0; i < parent->sub_count; i++) {
		if (parent->subs[i] != index)
			parent->subs[kept++] = parent->subs[i];
	}
	parent->sub_count = kept;
	n->parent = -1;
	mem_region_del(n->region);
}

static void model_attach(struct model *m, int index)
{
	struct node *n = &m->nodes[index], *parent;
	int to = index + 1 + model_below(m, m->count - index - 1);
	int i;

	/* half of all go to the root, which any address space shows */
	if (model_chance(m, m->is_wide ? 90 : 50) ||
	    m->nodes[to].kind == NODE_ALIAS)
		to = m->count - 1;
	parent = &m->nodes[to];
	n->parent = to;
	n->offset = model_offset(m);
	n->priority = model_below(m, 4) - 1;
	n->order = m->next_order++;
	parent->subs = realloc(parent->subs, (size_t)(parent->sub_count + 1) *
						     sizeof(*parent->subs));
	/* the later added before its equals */
	for (i = parent->sub_count; i > 0; i--) {
		if (m->nodes[parent->subs[i - 1]].priority > n->priority)
			break;
		parent->subs[i] = parent->subs[i - 1];
	}
	parent->subs[i] = index;
	parent->sub_count++;
	mem_region_add(parent->region, n->offset, n->region, n->priority);
}

static void node_new_region(struct model *m, int index)
{
	static const struct mem_io_ops ops;
	struct node *n = &m->nodes[index];
	struct ram_block *block = m->blocks[model_below(m, 2)];
	char name[16];

	snprintf(name, sizeof(name), "n%d", index);
	switch (n->kind) {
	case NODE_CONTAINER:
		n->region = mem_region_new_container(m->mem, name, n->size);
		break;
	case NODE_RAM:
		n->region = mem_region_new_ram(m->mem, name, block);
		n->size = block->size;
		break;
	case NODE_ROM:
		n->region = mem_region_new_rom(m->mem, name, block);
		n->size = block->size;
		n->is_readonly = true;
		break;
	case NODE_IO:
		n->region =
			mem_region_new_io(m->mem, name, n->size, &ops, NULL);
		break;
	case NODE_ALIAS:
		n->target = model_below(m, index);
		n->alias_offset = model_alias_offset(m);
		n->region = mem_region_new_alias(m->mem, name,
						 m->nodes[n->target].region,
						 n->alias_offset, n->size);
		break;
	}
}

static void model_init(struct model *m, struct mem *mem,
		       struct ram_block *block_a, struct ram_block *block_b,
		       int count, bool is_wide, uint64_t seed)
{
	static const enum node_kind kinds[] = {
		NODE_CONTAINER, NODE_CONTAINER, NODE_RAM,   NODE_ROM,
		NODE_IO,        NODE_IO,        NODE_ALIAS, NODE_ALIAS,
	};

	*m = (struct model){
		.mem = mem,
		.blocks = { block_a, block_b },
		.count = count,
		.is_wide = is_wide,
		.random = seed,
	};
	m->nodes = calloc((size_t)count, sizeof(*m->nodes));
	for (int i = 0; i < count; i++) {
		struct node *n = &m->nodes[i];

		n->kind = kinds[model_below(m, 8)];
		n->is_enabled = true;
		n->parent = -1;
		if (i == 0 && n->kind == NODE_ALIAS)
			n->kind = NODE_IO;
		if (i == count - 1)
			n->kind = NODE_CONTAINER;
		n->size =
			i == count - 1 ? MEM_SIZE_2_64 : model_size(m, n->kind);
		node_new_region(m, i);
	}
}

static void model_fini(struct model *m)
{
	for (int i = 0; i < m->count; i++) {
		mem_region_put(m->nodes[i].region);
		free(m->nodes[i].subs);
	}
	free(m->nodes);
}

static bool event_is_known(const struct node *n, const struct mem_eventfd *e)
{
	for (int i = 0; i < n->event_count; i++) {
		if (n->events[i].offset == e->offset &&
		    n->events[i].size == e->size && n->events[i].fd == e->fd)
			return true;
	}
	return false;
}

static void model_change_events(struct model *m, struct node *n)
{
	struct mem_eventfd e = {
		.offset = (uint64_t)model_below(m, 8) * 0x200,
		.size = 1u << model_below(m, 4),
		.fd = model_below(m, 3),
	};

	e.offset %= (uint64_t)(n->size > 0x1000 ? 0x1000 : n->size);
	if (n->event_count == NODE_EVENTS ||
	    (n->event_count && model_chance(m, 30))) {
		int i = model_below(m, n->event_count);

		mem_region_del_eventfd(n->region, &n->events[i]);
		n->events[i] = n->events[--n->event_count];
	} else if (!event_is_known(n, &e)) {
		if (model_chance(m, 50)) {
			e.has_value = true;
			e.value = (uint64_t)model_below(m, 4);
		}
		n->events[n->event_count++] = e;
		mem_region_add_eventfd(n->region, &e);
	}
}

/* One random change of the tree. */
static void model_change(struct model *m)
{
	int index = model_below(m, m->count - 1);
	struct node *n = &m->nodes[index];

	switch (model_below(m, 8)) {
	case 0:
		n->is_enabled = !n->is_enabled || model_chance(m, 60);
		mem_region_set_enabled(n->region, n->is_enabled);
		break;
	case 1:
		n->size = model_size(m, n->kind);
		if ((n->kind == NODE_RAM || n->kind == NODE_ROM) &&
		    n->size > m->blocks[0]->size)
			n->size = m->blocks[0]->size;
		mem_region_set_size(n->region, n->size);
		break;
	case 2:
		n->is_readonly = model_chance(m, 30);
		mem_region_set_readonly(n->region, n->is_readonly);
		break;
	case 3:
		if (n->kind == NODE_ALIAS) {
			n->alias_offset = model_alias_offset(m);
			mem_region_set_alias_offset(n->region, n->alias_offset);
		}
		break;
	case 4:
		if (n->kind == NODE_IO)
			model_change_events(m, n);
		break;
	case 5:
		if (n->parent >= 0 && model_chance(m, 50))
			model_detach(m, index);
		break;
	default:
		if (n->parent < 0) {
			model_attach(m, index);
		} else {
			n->offset = model_offset(m);
			mem_region_set_offset(n->region, n->offset);
		}
		break;
	}
}

#endif
