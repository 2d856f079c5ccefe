// SPDX-License-Identifier: Apache-2.0
/*
 * What KVM's kernel half does with the pages that were written: each vCPU's log
 * buffer, its ring with the flag protocol, reset by slot, offset and mask, and the
 * bitmap, which in ring mode takes what no vCPU wrote.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "mem/ram.h"
#include "sim_priv.h"

/* Pages protected in one go with the second stage's lock. */
#define RESET_BATCH 64u

int sim_ring_init(struct sim_ring *ring, uint32_t size)
{
	ring->entries = calloc(size, sizeof(*ring->entries));
	ring->size = size;
	return ring->entries ? 0 : -ENOMEM;
}

void sim_ring_fini(struct sim_ring *ring)
{
	free(ring->entries);
}

static struct sim_ring_entry *entry_at(const struct sim_ring *ring,
				       uint32_t index)
{
	return &ring->entries[index & (ring->size - 1)];
}

bool sim_ring_is_full(const struct sim_ring *ring)
{
	/* Acquire: entries that are free were reset. */
	uint32_t used = ring->dirty_index -
			__atomic_load_n(&ring->reset_index, __ATOMIC_ACQUIRE);

	return ring->entries && used >= ring->size - SIM_RING_RESERVE;
}

static void ring_push(struct sim_ring *ring, uint32_t slot, uint64_t offset)
{
	struct sim_ring_entry *entry = entry_at(ring, ring->dirty_index++);

	/* The vCPU leaves the guest while the reserve is free. */
	assert(!__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE));
	entry->slot = slot;
	entry->offset = offset;
	/* Pairs with sim_ring_collect(). */
	__atomic_store_n(&entry->flags, SIM_RING_DIRTY, __ATOMIC_RELEASE);
}

struct sim_log *sim_log_new(uint64_t pages)
{
	struct sim_log *log = calloc(1, sizeof(*log));

	if (!log)
		return NULL;
	log->pages = pages;
	log->bits = bitmap_new(pages);
	log->summary = bitmap_new(bitmap_words(pages));
	if (!log->bits || !log->summary) {
		sim_log_free(log);
		return NULL;
	}
	return log;
}

void sim_log_free(struct sim_log *log)
{
	if (!log)
		return;
	bitmap_free(log->bits, log->pages);
	bitmap_free(log->summary, bitmap_words(log->pages));
	free(log);
}

/* The bit first, then what leads to it: who takes the summary finds it. */
static void log_set(struct sim_slot *slot, uint64_t page)
{
	struct sim_log *log = __atomic_load_n(&slot->log, __ATOMIC_ACQUIRE);
	uint64_t word = page / BITMAP_WORD_BITS;

	if (!log)
		return;
	bitmap_or_word_atomic(log->bits, word, 1ull << page % BITMAP_WORD_BITS);
	bitmap_or_word_atomic(log->summary, word / BITMAP_WORD_BITS,
			      1ull << word % BITMAP_WORD_BITS);
	__atomic_store_n(&log->is_used, true, __ATOMIC_RELEASE);
}

void sim_log_write(struct sim_vcpu *vcpu, uint64_t gfn)
{
	vcpu->buffer[vcpu->buffered++] = gfn;
	__atomic_add_fetch(&vcpu->logged, 1, __ATOMIC_RELAXED);
	if (vcpu->buffered == SIM_BUFFER_ENTRIES)
		sim_log_flush(vcpu);
}

void sim_log_flush(struct sim_vcpu *vcpu)
{
	struct sim *sim = vcpu->sim;

	for (uint32_t i = 0; i < vcpu->buffered; i++) {
		uint64_t gpa = vcpu->buffer[i] << RAM_PAGE_SHIFT;
		struct sim_slot *slot = sim_slot_find(sim, gpa);
		uint64_t page;

		if (!slot ||
		    !__atomic_load_n(&slot->is_logged, __ATOMIC_ACQUIRE))
			continue;
		page = (gpa - slot->gpa) >> RAM_PAGE_SHIFT;
		if (sim_has_rings(sim))
			ring_push(&vcpu->ring, slot->id, page);
		else
			log_set(slot, page);
	}
	vcpu->buffered = 0;
}

uint32_t sim_ring_collect(struct sim_ring *ring, struct sim_ring_entry *to,
			  uint32_t room)
{
	uint32_t count = 0;

	while (count < room) {
		struct sim_ring_entry *entry =
			entry_at(ring, ring->fetch_index);

		if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) !=
		    SIM_RING_DIRTY)
			break;
		to[count++] = *entry;
		__atomic_store_n(&entry->flags, SIM_RING_RESET,
				 __ATOMIC_RELEASE);
		ring->fetch_index++;
	}
	return count;
}

/* Pages of one slot that are protected together. */
struct batch {
	uint32_t slot;
	uint64_t offset;
	uint64_t mask; /* bit n: page @offset + n */
};

static void batch_protect(struct sim *sim, struct batch *batch)
{
	struct sim_slot *slot = sim_slot_by_id(sim, batch->slot);

	if (!batch->mask || !slot)
		return;
	s2_lock(&sim->s2);
	for (uint64_t mask = batch->mask; mask; mask &= mask - 1)
		s2_protect_page(&sim->s2,
				slot->gpa + ((batch->offset +
					      (uint64_t)__builtin_ctzll(mask))
					     << RAM_PAGE_SHIFT),
				sim->options.is_split_eager);
	s2_unlock(&sim->s2);
}

/* True when the page goes with the batch, which may move down for it. */
static bool batch_take(struct batch *batch, uint32_t slot, uint64_t offset)
{
	int64_t delta = (int64_t)(offset - batch->offset);

	if (!batch->mask || batch->slot != slot || delta >= RESET_BATCH ||
	    delta <= -(int64_t)RESET_BATCH)
		return false;
	if (delta >= 0) {
		batch->mask |= 1ull << delta;
		return true;
	}
	if (batch->mask >> (RESET_BATCH + delta))
		return false;
	batch->mask = batch->mask << -delta | 1;
	batch->offset = offset;
	return true;
}

uint32_t sim_ring_reset(struct sim *sim, struct sim_ring *ring)
{
	struct batch batch = { .mask = 0 };
	uint32_t count = 0, index = ring->reset_index;

	for (;; index++, count++) {
		struct sim_ring_entry *entry = entry_at(ring, index);
		uint32_t slot;
		uint64_t offset;

		if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) &
		      SIM_RING_RESET))
			break;
		slot = entry->slot;
		offset = entry->offset;
		__atomic_store_n(&entry->flags, 0, __ATOMIC_RELEASE);
		if (batch_take(&batch, slot, offset))
			continue;
		batch_protect(sim, &batch);
		batch = (struct batch){ slot, offset, 1 };
	}
	batch_protect(sim, &batch);
	/* Pairs with sim_ring_is_full(). */
	__atomic_store_n(&ring->reset_index, index, __ATOMIC_RELEASE);
	return count;
}

/* Memory is read by a migration while it is written: no race that a sanitizer
 * should know of. */
__attribute__((no_sanitize("thread"), noinline)) static void
copy_aside(volatile uint8_t *to, const uint8_t *from, size_t size)
{
	for (size_t i = 0; i < size; i++)
		to[i] = from[i];
}

/* One page at most. */
static int write_piece(struct sim *sim, uint64_t gpa, const void *from,
		       size_t size)
{
	struct sim_slot *slot = sim_slot_find(sim, gpa);

	if (!slot || slot->is_readonly)
		return -EFAULT;
	copy_aside(slot->block->host + slot->offset + (gpa - slot->gpa), from,
		   size);
	/* After the write (D1). */
	if (slot->is_logged)
		log_set(slot, (gpa - slot->gpa) >> RAM_PAGE_SHIFT);
	return 0;
}

int sim_write_aside(struct sim *sim, uint64_t gpa, const void *from,
		    size_t size)
{
	const uint8_t *at = from;
	int ret = 0;

	while (!ret && size) {
		size_t piece = RAM_PAGE_SIZE - gpa % RAM_PAGE_SIZE;

		if (piece > size)
			piece = size;
		s2_lock(&sim->s2);
		ret = write_piece(sim, gpa, at, piece);
		s2_unlock(&sim->s2);
		gpa += piece;
		at += piece;
		size -= piece;
	}
	return ret;
}
