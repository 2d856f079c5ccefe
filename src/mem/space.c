// SPDX-License-Identifier: Apache-2.0
/*
 * A machine's memory, its transactions and address spaces.  See mem/space.h
 * for the rules and mem_priv.h for how a commit flows.
 */
#include "mem/space.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/trace.h"
#include "mem_priv.h"

/* Its address is the thread's name. */
static _Thread_local char thread_token;

struct mem *mem_new(void)
{
	struct mem *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return NULL;
	lock_init(&mem->topology, LOCK_TOPOLOGY);
	list_init(&mem->spaces);
	list_init(&mem->blocks);
	mem->random = 0x9e3779b97f4a7c15ull; /* any but zero */
	return mem;
}

void mem_free(struct mem *mem)
{
	if (!mem)
		return;
	mem_begin(mem);
	mem_commit(mem);
	assert(list_is_empty(&mem->spaces));
	assert(list_is_empty(&mem->blocks));
	assert(__atomic_load_n(&mem->regions, __ATOMIC_RELAXED) == 0);
	lock_fini(&mem->topology);
	free(mem);
}

bool mem_is_mine(const struct mem *mem)
{
	return __atomic_load_n(&mem->owner, __ATOMIC_RELAXED) == &thread_token;
}

void mem_lock(struct mem *mem)
{
	if (!mem_is_mine(mem)) {
		lock_acquire(&mem->topology);
		__atomic_store_n(&mem->owner, &thread_token, __ATOMIC_RELAXED);
	}
	mem->lock_depth++;
}

void mem_unlock(struct mem *mem)
{
	assert(mem_is_mine(mem) && mem->lock_depth > 0);
	if (--mem->lock_depth == 0) {
		__atomic_store_n(&mem->owner, NULL, __ATOMIC_RELAXED);
		lock_release(&mem->topology);
	}
}

void mem_begin(struct mem *mem)
{
	mem_lock(mem);
	mem->depth++;
}

/* What the listeners were told of is what the regions want. */
static void settle_eventfds(struct mem *mem)
{
	struct mem_region *region;

	while ((region = mem->event_changes)) {
		const struct mem_event_list *want = &region->events;
		struct mem_event_list *told = &region->told_events;
		size_t size = want->count * sizeof(*want->events);

		mem->event_changes = region->next_event_change;
		region->has_event_change = false;
		if (size) {
			told->events = mem_must_alloc(told->events, size);
			memcpy(told->events, want->events, size);
		}
		told->count = want->count;
		mem_region_put(region);
	}
}

static bool space_update(struct addr_space *as)
{
	struct view_change change;
	bool is_changed;

	__atomic_add_fetch(&as->mem->renders, 1, __ATOMIC_RELAXED);
	view_change_init(&change, as);
	is_changed = mem_announce(as, &change);
	trace(mem_commit, "%s: %zu ranges became %zu, %u in all", as->name,
	      change.before.count, change.after.count,
	      flat_view_count(as->view));
	view_change_fini(&change);
	return is_changed;
}

void mem_commit(struct mem *mem)
{
	struct addr_space *as;
	bool is_changed = false;

	assert(mem_is_mine(mem) && mem->depth > 0);
	if (mem->depth == 1) {
		list_for_each (as, &mem->spaces, link) {
			if (as->dirty_count)
				is_changed |= space_update(as);
		}
		settle_eventfds(mem);
		mem_reap_dead(mem);
		mem_free_apart(mem);
		if (is_changed)
			/* behind the new views: mem_commit_count() */
			__atomic_add_fetch(&mem->commits, 1, __ATOMIC_RELEASE);
	}
	mem->depth--;
	mem_unlock(mem);
}

uint64_t mem_commit_count(const struct mem *mem)
{
	return __atomic_load_n(&mem->commits, __ATOMIC_ACQUIRE);
}

void mem_load_begin(struct mem *mem)
{
	mem_stack_take(&mem->load_stack);
	__atomic_store_n(&mem->is_loading, true, __ATOMIC_RELEASE);
}

void mem_load_end(struct mem *mem)
{
	__atomic_store_n(&mem->is_loading, false, __ATOMIC_RELEASE);
}

uint64_t mem_stale_reads(const struct mem *mem)
{
	return __atomic_load_n(&mem->stale_reads, __ATOMIC_RELAXED);
}

void mem_synchronize(struct mem *mem)
{
	assert(!mem_is_mine(mem) && !rcu_read_ongoing());
	(void)mem;
	synchronize_rcu();
	grace_acquire();
}

struct addr_space *addr_space_new(struct mem *mem, const char *name,
				  struct mem_region *root)
{
	struct addr_space *as = calloc(1, sizeof(*as));

	if (!as)
		return NULL;
	as->name = strdup(name);
	if (!as->name) {
		free(as);
		return NULL;
	}
	as->mem = mem;
	list_init(&as->listeners);
	mem_begin(mem);
	as->view = flat_view_new_empty(mem->next_cache_slot++);
	as->root = mem_region_get(root);
	list_add_tail(&root->spaces, &as->root_link);
	list_add_tail(&mem->spaces, &as->link);
	mem_region_touch(root, 0, root->size);
	mem_commit(mem);
	return as;
}

void addr_space_free(struct addr_space *as)
{
	struct mem *mem;

	if (!as)
		return;
	mem = as->mem;
	mem_begin(mem);
	assert(list_is_empty(&as->listeners));
	list_del(&as->link);
	list_del(&as->root_link);
	flat_view_retire(as->view, true);
	mem_region_put(as->root);
	mem_commit(mem);
	free(as->dirty);
	free(as->name);
	free(as);
}

const char *addr_space_name(const struct addr_space *as)
{
	return as->name;
}

const struct flat_view *addr_space_view(struct addr_space *as)
{
	struct mem *mem = as->mem;

	if (__builtin_expect(mem_is_mine(mem) && as->dirty_count, 0))
		mem_stale_read(as,
			       "this thread changed it and has not "
			       "committed yet",
			       &as->dirty_stack);
	if (__builtin_expect(
		    __atomic_load_n(&mem->is_loading, __ATOMIC_ACQUIRE), 0))
		mem_stale_read(as, "machine state is being loaded",
			       &mem->load_stack);
	return addr_space_peek(as);
}
