// SPDX-License-Identifier: Apache-2.0
/*
 * The tree of regions: construction, references, and changes.  Each change
 * says which addresses it may affect (mem_region_touch()), before it, after it
 * or both, since a commit looks nowhere else.
 */
#include "mem/region.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mem/ram.h"
#include "mem_priv.h"

static struct mem_region *region_new(struct mem *mem, const char *name,
				     enum mem_region_kind kind, u128 size)
{
	struct mem_region *region = calloc(1, sizeof(*region));

	assert(size > 0 && size <= MEM_SIZE_2_64);
	if (!region)
		return NULL;
	region->name = strdup(name);
	if (!region->name) {
		free(region);
		return NULL;
	}
	region->mem = mem;
	region->kind = kind;
	region->size = size;
	region->refs = 1;
	region->is_enabled = true;
	list_init(&region->aliases);
	list_init(&region->spaces);
	list_init(&region->alias_link);
	__atomic_add_fetch(&mem->regions, 1, __ATOMIC_RELAXED);
	return region;
}

struct mem_region *mem_region_new_container(struct mem *mem, const char *name,
					    u128 size)
{
	return region_new(mem, name, MEM_CONTAINER, size);
}

struct mem_region *mem_region_new_ram(struct mem *mem, const char *name,
				      struct ram_block *block)
{
	struct mem_region *region = region_new(mem, name, MEM_RAM, block->size);

	if (region)
		region->block = block;
	return region;
}

struct mem_region *mem_region_new_rom(struct mem *mem, const char *name,
				      struct ram_block *block)
{
	struct mem_region *region = region_new(mem, name, MEM_ROM, block->size);

	if (region) {
		region->block = block;
		region->is_readonly = true;
	}
	return region;
}

struct mem_region *mem_region_new_io(struct mem *mem, const char *name,
				     u128 size, const struct mem_io_ops *ops,
				     void *dev)
{
	struct mem_region *region = region_new(mem, name, MEM_IO, size);

	if (region) {
		region->ops = ops;
		region->dev = dev;
	}
	return region;
}

struct mem_region *mem_region_new_alias(struct mem *mem, const char *name,
					struct mem_region *target,
					uint64_t offset, u128 size)
{
	struct mem_region *region = region_new(mem, name, MEM_ALIAS, size);

	if (!region)
		return NULL;
	region->target = mem_region_get(target);
	region->alias_offset = offset;
	mem_lock(mem);
	list_add_tail(&target->aliases, &region->alias_link);
	mem_unlock(mem);
	return region;
}

struct mem_region *mem_region_get(struct mem_region *region)
{
	__atomic_add_fetch(&region->refs, 1, __ATOMIC_RELAXED);
	return region;
}

/* A dead region may still be in the published view, so it is only put on a
 * stack here; no lock is needed and any thread may do it. */
void mem_region_put(struct mem_region *region)
{
	struct mem *mem;

	/* acq_rel: what others did with the region is over */
	if (!region ||
	    __atomic_sub_fetch(&region->refs, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	mem = region->mem;
	region->next_dead = __atomic_load_n(&mem->dead, __ATOMIC_RELAXED);
	/* pairs with the exchange in mem_reap_dead() */
	while (!__atomic_compare_exchange_n(&mem->dead, &region->next_dead,
					    region, true, __ATOMIC_RELEASE,
					    __ATOMIC_RELAXED))
		;
}

static void region_orphan_children(struct mem_region *region)
{
	struct mem_region *sub;

	while ((sub = region->children)) {
		region_index_remove(region, sub);
		sub->container = NULL;
		mem_region_put(sub);
	}
}

void mem_reap_dead(struct mem *mem)
{
	struct mem_region *region, *next;

	while ((region = __atomic_exchange_n(&mem->dead, NULL,
					     __ATOMIC_ACQUIRE))) {
		for (; region; region = next) {
			next = region->next_dead;
			region_orphan_children(region);
			list_del(&region->alias_link);
			mem_region_put(region->target);
			region->next_dead = mem->apart;
			mem->apart = region;
			__atomic_sub_fetch(&mem->regions, 1, __ATOMIC_RELAXED);
		}
	}
}

static void region_free_rcu(struct rcu_head *head)
{
	struct mem_region *region = container_of(head, struct mem_region, rcu);

	grace_acquire();
	free(region->events.events);
	free(region->told_events.events);
	free(region->name);
	free(region);
}

void mem_free_apart(struct mem *mem)
{
	struct mem_region *region, *next;

	for (region = mem->apart; region; region = next) {
		next = region->next_dead;
		grace_release();
		call_rcu(&region->rcu, region_free_rcu);
	}
	mem->apart = NULL;
}

static void space_touch(struct addr_space *as, u128 lo, u128 hi)
{
	struct mem_interval *last =
		as->dirty_count ? &as->dirty[as->dirty_count - 1] : NULL;

	if (hi > MEM_SIZE_2_64)
		hi = MEM_SIZE_2_64;
	if (lo >= hi || (last && lo >= last->lo && hi <= last->hi))
		return;
	if (as->dirty_count == 0)
		mem_stack_take(&as->dirty_stack);
	if (as->dirty_count == as->dirty_capacity) {
		as->dirty_capacity = 2 * as->dirty_capacity + 16;
		as->dirty = mem_must_alloc(as->dirty,
					   as->dirty_capacity * sizeof(*last));
	}
	as->dirty[as->dirty_count++] = (struct mem_interval){ lo, hi };
}

/* Up through containers and aliases to the roots.  What is disabled, or in no
 * address space, shows nowhere: it is touched as a whole when that changes. */
void mem_region_touch(struct mem_region *region, u128 lo, u128 hi)
{
	struct mem_region *alias;
	struct addr_space *as;

	if (hi > region->size)
		hi = region->size;
	if (!region->is_enabled || lo >= hi)
		return;
	list_for_each (as, &region->spaces, root_link)
		space_touch(as, lo, hi);
	list_for_each (alias, &region->aliases, alias_link) {
		u128 start = alias->alias_offset;
		u128 end = start + alias->size;

		if (lo < end && hi > start)
			mem_region_touch(alias, lo > start ? lo - start : 0,
					 (hi < end ? hi : end) - start);
	}
	if (region->container)
		mem_region_touch(region->container, region->offset + lo,
				 region->offset + hi);
}

static void touch_all(struct mem_region *region)
{
	mem_region_touch(region, 0, region->size);
}

/* Is @region @below itself, or does it show it by way of sub-regions and
 * aliases? */
__attribute__((unused)) /* without assertions */
static bool
region_shows(const struct mem_region *region, const struct mem_region *below)
{
	const struct mem_region *alias;

	if (region == below)
		return true;
	list_for_each (alias, &below->aliases, alias_link) {
		if (region_shows(region, alias))
			return true;
	}
	return below->container && region_shows(region, below->container);
}

void mem_region_add(struct mem_region *container, uint64_t offset,
		    struct mem_region *sub, int priority)
{
	struct mem *mem = container->mem;

	mem_begin(mem);
	mem_reap_dead(mem); /* one of them may contain @sub */
	assert(sub->mem == mem && !sub->container);
	assert(container->kind != MEM_ALIAS);
	assert(!region_shows(sub, container));
	sub->container = container;
	sub->offset = offset;
	sub->priority = priority;
	sub->sequence = mem->next_sequence++;
	mem_region_get(sub);
	region_index_insert(container, sub);
	touch_all(sub);
	mem_commit(mem);
}

void mem_region_del(struct mem_region *sub)
{
	struct mem *mem = sub->mem;

	mem_begin(mem);
	assert(sub->container);
	touch_all(sub);
	region_index_remove(sub->container, sub);
	sub->container = NULL;
	mem_region_put(sub);
	mem_commit(mem);
}

void mem_region_set_enabled(struct mem_region *region, bool is_enabled)
{
	mem_begin(region->mem);
	if (region->is_enabled != is_enabled) {
		region->is_enabled = true;
		touch_all(region);
		region->is_enabled = is_enabled;
	}
	mem_commit(region->mem);
}

static void region_place(struct mem_region *region, uint64_t offset, u128 size)
{
	if (region->container)
		region_index_remove(region->container, region);
	region->offset = offset;
	region->size = size;
	if (region->container)
		region_index_insert(region->container, region);
}

void mem_region_set_offset(struct mem_region *region, uint64_t offset)
{
	mem_begin(region->mem);
	if (region->offset != offset) {
		touch_all(region);
		region_place(region, offset, region->size);
		touch_all(region);
	}
	mem_commit(region->mem);
}

void mem_region_set_size(struct mem_region *region, u128 size)
{
	u128 old;

	assert(size > 0 && size <= MEM_SIZE_2_64);
	assert(!region->block || size <= region->block->size);
	mem_begin(region->mem);
	old = region->size;
	if (size < old)
		mem_region_touch(region, size, old);
	region_place(region, region->offset, size);
	if (size > old)
		mem_region_touch(region, old, size);
	mem_commit(region->mem);
}

void mem_region_set_readonly(struct mem_region *region, bool is_readonly)
{
	mem_begin(region->mem);
	if (region->is_readonly != is_readonly) {
		region->is_readonly = is_readonly;
		touch_all(region);
	}
	mem_commit(region->mem);
}

void mem_region_set_alias_offset(struct mem_region *region, uint64_t offset)
{
	assert(region->kind == MEM_ALIAS);
	mem_begin(region->mem);
	if (region->alias_offset != offset) {
		region->alias_offset = offset;
		touch_all(region);
	}
	mem_commit(region->mem);
}

static bool event_is_same(const struct mem_eventfd *a,
			  const struct mem_eventfd *b)
{
	return a->offset == b->offset && a->size == b->size && a->fd == b->fd &&
	       a->has_value == b->has_value &&
	       (!a->has_value || a->value == b->value);
}

static int event_find(const struct mem_event_list *list,
		      const struct mem_eventfd *event)
{
	for (uint32_t i = 0; i < list->count; i++) {
		if (event_is_same(&list->events[i], event))
			return (int)i;
	}
	return -1;
}

/* To be compared with told_events wherever it shows at the event's place. */
static void region_touch_event(struct mem_region *region,
			       const struct mem_eventfd *event)
{
	mem_region_touch(region, event->offset, (u128)event->offset + 1);
	if (region->has_event_change)
		return;
	region->has_event_change = true;
	region->next_event_change = region->mem->event_changes;
	region->mem->event_changes = mem_region_get(region);
}

int mem_region_add_eventfd(struct mem_region *region,
			   const struct mem_eventfd *event)
{
	struct mem_event_list *list = &region->events;
	struct mem_eventfd *events;
	int ret = 0;

	assert(region->kind == MEM_IO);
	mem_begin(region->mem);
	if (event_find(list, event) >= 0) {
		ret = -EEXIST;
		goto out;
	}
	if (list->count == list->capacity) {
		uint32_t capacity = 2 * list->capacity + 4;

		events = realloc(list->events, capacity * sizeof(*events));
		if (!events) {
			ret = -ENOMEM;
			goto out;
		}
		list->events = events;
		list->capacity = capacity;
	}
	list->events[list->count++] = *event;
	region_touch_event(region, event);
out:
	mem_commit(region->mem);
	return ret;
}

void mem_region_del_eventfd(struct mem_region *region,
			    const struct mem_eventfd *event)
{
	struct mem_event_list *list = &region->events;
	int i;

	mem_begin(region->mem);
	i = event_find(list, event);
	if (i >= 0) {
		list->events[i] = list->events[--list->count];
		region_touch_event(region, event);
	}
	mem_commit(region->mem);
}

const char *mem_region_name(const struct mem_region *region)
{
	return region->name;
}

u128 mem_region_size(const struct mem_region *region)
{
	return region->size;
}

bool mem_region_is_ram(const struct mem_region *region)
{
	return region->block != NULL;
}

struct ram_block *mem_region_block(const struct mem_region *region)
{
	return region->block;
}
