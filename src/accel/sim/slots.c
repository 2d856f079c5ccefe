// SPDX-License-Identifier: Apache-2.0
/*
 * Memslots: the RAM ranges of the machine's flat view, and their logging.
 *
 * Turning logging on costs nothing in bitmap mode: a page is protected when it is
 * cleared, just before it is read.  In ring mode, one write bit for each GiB
 * protects all of a slot.  Turning it off leaves the tables as they are; what was
 * split comes back by itself (collapse.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"
#include "mem/ram.h"
#include "sim_priv.h"

/* Trees that wait for one grace period together. */
#define DETACHED_MAX 64u

struct detached {
	struct {
		uint64_t *table;
		unsigned int level;
	} trees[DETACHED_MAX];
	unsigned int count;
};

static void note_max(uint64_t *max, uint64_t value)
{
	if (value > *max)
		*max = value;
}

void sim_slots_lock(struct sim *sim)
{
	uint64_t start_ns = clock_mono_ns(), now_ns;

	lock_acquire(&sim->slots_lock);
	now_ns = clock_mono_ns();
	note_max(&sim->slots_times.wait_max_ns, now_ns - start_ns);
	sim->slots_times.since_ns = now_ns;
}

static void note_hold(struct sim *sim)
{
	note_max(&sim->slots_times.hold_max_ns,
		 clock_mono_ns() - sim->slots_times.since_ns);
}

void sim_slots_unlock(struct sim *sim)
{
	note_hold(sim);
	lock_release(&sim->slots_lock);
}

void sim_slots_wait(struct sim *sim, pthread_cond_t *cond, uint64_t deadline_ns)
{
	note_hold(sim);
	lock_wait_until(&sim->slots_lock, cond, deadline_ns);
	sim->slots_times.since_ns = clock_mono_ns();
}

struct sim_slot *sim_slot_find(const struct sim *sim, uint64_t gpa)
{
	const struct sim_slot_set *set =
		__atomic_load_n(&sim->slots, __ATOMIC_ACQUIRE);

	for (uint32_t i = 0; i < set->count; i++) {
		struct sim_slot *slot = set->slots[i];

		if (gpa - slot->gpa < slot->size)
			return slot;
	}
	return NULL;
}

struct sim_slot *sim_slot_by_id(const struct sim *sim, uint32_t id)
{
	for (uint32_t i = 0; i < sim->slots->count; i++) {
		if (sim->slots->slots[i]->id == id)
			return sim->slots->slots[i];
	}
	return NULL;
}

struct s2_range sim_slot_range(const struct sim *sim,
			       const struct sim_slot *slot)
{
	return (struct s2_range){
		.gpa = slot->gpa,
		.size = slot->size,
		.host = slot->block->host + slot->offset,
		.max_leaf = sim->max_leaf,
		.is_readonly = slot->is_readonly,
		.is_logged =
			__atomic_load_n(&slot->is_logged, __ATOMIC_ACQUIRE),
	};
}

/* Like the kernel that could not have the slot: the guest's accesses leave for
 * mem/access.h, which finds the memory. */
static void slot_failed(uint64_t gpa)
{
	trace(sim_slot_failed, "gpa 0x%lx: no memory", gpa);
}

/* The slots as they are, but for @without and with @with. */
static struct sim_slot_set *set_copy(const struct sim_slot_set *old,
				     const struct sim_slot *without,
				     struct sim_slot *with)
{
	uint32_t count = old ? old->count : 0;
	struct sim_slot_set *set = calloc(
		1, sizeof(*set) + (count + 1) * sizeof(struct sim_slot *));

	if (!set)
		return NULL;
	for (uint32_t i = 0; i < count; i++) {
		if (old->slots[i] != without)
			set->slots[set->count++] = old->slots[i];
	}
	if (with)
		set->slots[set->count++] = with;
	return set;
}

static void set_publish(struct sim *sim, struct sim_slot_set *set)
{
	struct sim_slot_set *old = sim->slots;

	sim_slots_lock(sim);
	s2_lock(&sim->s2);
	__atomic_store_n(&sim->slots, set, __ATOMIC_RELEASE);
	s2_unlock(&sim->s2);
	sim_slots_unlock(sim);
	sim_wait_epoch(sim);
	free(old);
}

/* ---- logging ---- */

/* All that was touched; a hole that is touched later is found resident. */
static void slot_mark_dirty(const struct sim_slot *slot)
{
	uint64_t at = slot->offset, end = slot->offset + slot->size, start;

	while (ram_block_next_data(slot->block, at, end, &start, &at))
		ram_block_mark_dirty(slot->block, start, at - start);
}

/* In ring mode, which protects all pages at once. */
static int slot_split(struct sim *sim, const struct sim_slot *slot)
{
	uint64_t at = slot->gpa, end = slot->gpa + slot->size;
	int ret = 0;

	while (!ret && at < end) {
		uint64_t next = align_down(at, s2_size(2)) + s2_size(2);

		if (next > end)
			next = end;
		s2_lock(&sim->s2);
		ret = s2_split_range(&sim->s2, at, next - at);
		s2_unlock(&sim->s2);
		at = next;
	}
	return ret;
}

static int slot_log_start(struct sim *sim, struct sim_slot *slot)
{
	struct sim_log *log;

	if (slot->is_logged)
		return 0;
	sim_collapse_cancel(sim, slot);
	log = sim_log_new(slot->size >> RAM_PAGE_SHIFT);
	if (!log || (sim_has_rings(sim) && sim->options.is_split_eager &&
		     slot_split(sim, slot))) {
		sim_log_free(log);
		return -ENOMEM;
	}
	s2_lock(&sim->s2);
	__atomic_store_n(&slot->log, log, __ATOMIC_RELEASE);
	__atomic_store_n(&slot->is_logged, true, __ATOMIC_SEQ_CST);
	if (sim_has_rings(sim))
		s2_protect_range(&sim->s2, slot->gpa, slot->size);
	s2_unlock(&sim->s2);
	return 0;
}

static void slot_log_stop(struct sim *sim, struct sim_slot *slot,
			  uint64_t grace_ns)
{
	struct sim_log *log = slot->log;

	if (!slot->is_logged)
		return;
	s2_lock(&sim->s2);
	__atomic_store_n(&slot->is_logged, false, __ATOMIC_SEQ_CST);
	__atomic_store_n(&slot->log, NULL, __ATOMIC_RELEASE);
	s2_unlock(&sim->s2);
	sim_collapse_add(sim, slot, log, grace_ns);
}

static void sim_log_global_stop(void *opaque, uint64_t grace_ns)
{
	struct sim *sim = opaque;

	sim->is_logging = false;
	for (uint32_t i = 0; i < sim->slots->count; i++) {
		if (!sim->slots->slots[i]->is_region_log)
			slot_log_stop(sim, sim->slots->slots[i], grace_ns);
	}
}

static int sim_log_global_start(void *opaque, struct err *err)
{
	struct sim *sim = opaque;

	sim->is_logging = true;
	for (uint32_t i = 0; i < sim->slots->count; i++) {
		struct sim_slot *slot = sim->slots->slots[i];
		int ret = slot_log_start(sim, slot);

		if (ret) {
			err_set_errno(err, ret,
				      "cannot log writes to memory at 0x%lx",
				      slot->gpa);
			sim_log_global_stop(sim, 0);
			return ret;
		}
	}
	return 0;
}

/* ---- ranges ---- */

/* The page-aligned part of a RAM range that the tables can hold. */
static bool ram_part(const struct mem_range *range, uint64_t *ret_start,
		     uint64_t *ret_end)
{
	u128 end = (u128)range->gpa + range->size;

	if (!mem_region_is_ram(range->region) || end > 1ull << S2_GPA_BITS)
		return false;
	*ret_start = align_up(range->gpa, RAM_PAGE_SIZE);
	*ret_end = align_down((uint64_t)end, RAM_PAGE_SIZE);
	return *ret_start < *ret_end;
}

static void sim_region_add(void *opaque, const struct mem_section *section)
{
	struct sim *sim = opaque;
	const struct mem_range *range = &section->range;
	struct sim_slot_set *set;
	struct sim_slot *slot;
	uint64_t start, end;

	if (!ram_part(range, &start, &end))
		return;
	slot = calloc(1, sizeof(*slot));
	set = slot ? set_copy(sim->slots, NULL, slot) : NULL;
	if (!set) {
		slot_failed(start);
		free(slot);
		return;
	}
	*slot = (struct sim_slot){
		.id = sim->next_slot++,
		.gpa = start,
		.size = end - start,
		.block = mem_region_block(range->region),
		.offset = range->offset + (start - range->gpa),
		.is_readonly = range->is_readonly,
	};
	set_publish(sim, set);
	/* Its pages may be known from a slot that was here before. */
	if (sim->is_logging) {
		if (slot_log_start(sim, slot))
			slot_failed(start);
		slot_mark_dirty(slot);
	}
	trace(sim_slot, "slot %u: gpa 0x%lx size 0x%lx", slot->id, slot->gpa,
	      slot->size);
}

static void free_detached(struct sim *sim, struct detached *detached)
{
	sim_wait_epoch(sim);
	for (unsigned int i = 0; i < detached->count; i++)
		s2_free_tree(&sim->s2, detached->trees[i].table,
			     detached->trees[i].level);
	detached->count = 0;
}

/* No vCPU finds @slot any more: what maps it goes. */
static void slot_unmap(struct sim *sim, const struct sim_slot *slot)
{
	struct detached detached = { .count = 0 };
	uint64_t at = slot->gpa, end = slot->gpa + slot->size;

	while (at < end) {
		unsigned int level = S2_TOP_LEVEL;
		uint64_t *table;

		while (at & (s2_size(level) - 1) || end - at < s2_size(level))
			level--;
		s2_lock(&sim->s2);
		table = s2_detach(&sim->s2, at, level);
		s2_unlock(&sim->s2);
		if (table) {
			detached.trees[detached.count].table = table;
			detached.trees[detached.count++].level = level;
		}
		if (detached.count == DETACHED_MAX)
			free_detached(sim, &detached);
		at += s2_size(level);
	}
	free_detached(sim, &detached);
}

/* D5: vCPUs write until they are seen to have passed, so all of a logged slot
 * becomes dirty, and after that. */
static void slot_del(struct sim *sim, struct sim_slot *slot)
{
	struct sim_slot_set *set = set_copy(sim->slots, slot, NULL);

	sim_collapse_cancel(sim, slot);
	if (!set) { /* it stays, and what it maps with it */
		slot_failed(slot->gpa);
		return;
	}
	set_publish(sim, set);
	slot_unmap(sim, slot);
	if (slot->is_logged)
		slot_mark_dirty(slot);
	sim_log_free(slot->log);
	free(slot);
}

static void sim_region_del(void *opaque, const struct mem_section *section)
{
	struct sim *sim = opaque;
	struct sim_slot *slot;
	uint64_t start, end;

	if (ram_part(&section->range, &start, &end) &&
	    (slot = sim_slot_find(sim, start)))
		slot_del(sim, slot);
}

static void section_set_log(struct sim *sim, const struct mem_section *section,
			    bool is_logged)
{
	struct sim_slot *slot;
	uint64_t start, end;

	if (!ram_part(&section->range, &start, &end) ||
	    !(slot = sim_slot_find(sim, start)))
		return;
	slot->is_region_log = is_logged;
	if (sim->is_logging)
		return;
	if (!is_logged)
		slot_log_stop(sim, slot, 0);
	else if (slot_log_start(sim, slot))
		slot_failed(start);
}

static void sim_log_start(void *opaque, const struct mem_section *section)
{
	section_set_log(opaque, section, true);
}

static void sim_log_stop(void *opaque, const struct mem_section *section)
{
	section_set_log(opaque, section, false);
}

static const struct mem_listener_ops memory_ops = {
	.region_add = sim_region_add,
	.region_del = sim_region_del,
	.log_start = sim_log_start,
	.log_stop = sim_log_stop,
	.log_global_start = sim_log_global_start,
	.log_global_stop = sim_log_global_stop,
	.log_sync_all = sim_log_sync_all,
	.log_clear = sim_log_clear,
};

int sim_slots_init(struct sim *sim, struct err *err)
{
	int ret;

	sim->slots = set_copy(NULL, NULL, NULL);
	if (!sim->slots)
		return err_set(err, -ENOMEM, "no memory for memslots");
	ret = mem_listener_add(sim->memory, &sim->listener, &memory_ops, sim,
			       10);
	if (ret)
		return err_set_errno(err, ret, "listening to memory changes");
	sim->has_listener = true;
	return 0;
}

void sim_slots_fini(struct sim *sim)
{
	if (sim->has_listener)
		mem_listener_del(&sim->listener);
	free(sim->slots);
}
