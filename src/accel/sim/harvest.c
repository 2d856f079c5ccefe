// SPDX-License-Identifier: Apache-2.0
/*
 * The user's half of logging, which makes dirty bits of RAM blocks out of bitmap
 * and rings.  Called by the migration through the listener, with the topology
 * lock, and by a vCPU whose ring is full.
 */
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/trace.h"
#include "mem/ram.h"
#include "sim_priv.h"

#define SPIN_NS (50 * NS_PER_US)

/* Pages protected in one go with the second stage's lock. */
#define CLEAR_BATCH 64u

static struct sim_vcpu *vcpu_get(const struct sim *sim, unsigned int index)
{
	return __atomic_load_n(&sim->vcpus[index], __ATOMIC_ACQUIRE);
}

/* Until the vCPU's exits are no more @exits, or it is outside. */
static void wait_exit(struct sim_vcpu *vcpu, uint32_t exits)
{
	uint64_t spin_end_ns = clock_mono_ns() + SPIN_NS;

	while (__atomic_load_n(&vcpu->epoch, __ATOMIC_ACQUIRE) &&
	       __atomic_load_n(&vcpu->exits, __ATOMIC_ACQUIRE) == exits) {
		if (clock_mono_ns() < spin_end_ns)
			__builtin_ia32_pause();
		else
			syscall(SYS_futex, &vcpu->exits, FUTEX_WAIT_PRIVATE,
				exits, NULL, NULL, 0);
	}
}

void sim_flush_all(struct sim *sim)
{
	uint32_t exits[sizeof(uint64_t) * 8];
	const unsigned int step = sizeof(exits) / sizeof(exits[0]);

	/* Ask all, then wait for all; some at a time, of very many. */
	for (unsigned int first = 0; first < sim->cpus; first += step) {
		unsigned int end =
			first + step < sim->cpus ? first + step : sim->cpus;

		for (unsigned int i = first; i < end; i++) {
			struct sim_vcpu *vcpu = vcpu_get(sim, i);

			if (!vcpu)
				continue;
			exits[i - first] =
				__atomic_load_n(&vcpu->exits, __ATOMIC_ACQUIRE);
			/* Pairs with sim_enter(): it is asked, or seen
			 * outside. */
			__atomic_store_n(&vcpu->is_flush_asked, true,
					 __ATOMIC_SEQ_CST);
		}
		for (unsigned int i = first; i < end; i++) {
			struct sim_vcpu *vcpu = vcpu_get(sim, i);

			if (!vcpu)
				continue;
			if (__atomic_load_n(&vcpu->epoch, __ATOMIC_SEQ_CST))
				wait_exit(vcpu, exits[i - first]);
		}
	}
}

/* ---- bitmap ---- */

/* Words of the log that @named leads to, from word @first_word on: a migration clears
 * them page by page.  Returns which were not zero. */
static uint64_t report_words(const struct sim_slot *slot, uint64_t first_word,
			     uint64_t named)
{
	uint64_t first = slot->offset >> RAM_PAGE_SHIFT, kept = 0;

	for (; named; named &= named - 1) {
		unsigned int bit = (unsigned int)__builtin_ctzll(named);
		uint64_t w = first_word + bit;
		uint64_t word =
			__atomic_load_n(&slot->log->bits[w], __ATOMIC_SEQ_CST);

		if (!word)
			continue;
		kept |= 1ull << bit;
		ram_block_mark_word(slot->block, first + w * BITMAP_WORD_BITS,
				    word, true);
	}
	return kept;
}

/* All that is set.  The summary is taken before the words are read, and gets back what
 * leads to one that is not zero: a write meanwhile sets its bit first (log_set()). */
static void report_log(const struct sim_slot *slot)
{
	struct sim_log *log = slot->log;
	uint64_t words = bitmap_words(bitmap_words(log->pages)), any = 0;

	if (!__atomic_exchange_n(&log->is_used, false, __ATOMIC_SEQ_CST))
		return;
	for (uint64_t s = 0; s < words; s++) {
		uint64_t kept =
			report_words(slot, s * BITMAP_WORD_BITS,
				     bitmap_take_word_atomic(log->summary, s));

		if (kept)
			bitmap_or_word_atomic(log->summary, s, kept);
		any |= kept;
	}
	if (any)
		__atomic_store_n(&log->is_used, true, __ATOMIC_RELEASE);
}

/* Only what the summary names, and it is zero then. */
static void take_log(const struct sim_slot *slot)
{
	uint64_t first = slot->offset >> RAM_PAGE_SHIFT;
	struct sim_log *log = slot->log;
	uint64_t words = bitmap_words(bitmap_words(log->pages));

	if (!__atomic_exchange_n(&log->is_used, false, __ATOMIC_ACQ_REL))
		return;
	for (uint64_t s = 0; s < words; s++) {
		uint64_t named = bitmap_take_word_atomic(log->summary, s);

		for (; named; named &= named - 1) {
			uint64_t w = s * BITMAP_WORD_BITS +
				     (uint64_t)__builtin_ctzll(named);

			ram_block_mark_word(
				slot->block, first + w * BITMAP_WORD_BITS,
				bitmap_take_word_atomic(log->bits, w), false);
		}
	}
}

/* ---- rings ---- */

void sim_harvest_ring(struct sim *sim, struct sim_ring *ring)
{
	uint32_t count = sim_ring_collect(ring, sim->harvest, ring->size);
	uint64_t start_ns, repeats = 0;

	if (!count)
		return;
	start_ns = clock_mono_ns();
	sim_ring_reset(sim, ring);
	sim->rings.reset_ns += clock_mono_ns() - start_ns;
	sim->rings.entries += count;
	for (uint32_t i = 0; i < count; i++) { /* D2: only now */
		const struct sim_ring_entry *entry = &sim->harvest[i];
		const struct sim_slot *slot = sim_slot_by_id(sim, entry->slot);

		if (!slot) {
			sim->rings.strays++;
			continue;
		}
		repeats += ram_block_mark_word(
			slot->block,
			(slot->offset >> RAM_PAGE_SHIFT) + entry->offset, 1,
			false);
	}
	__atomic_add_fetch(&ring->repeats, repeats, __ATOMIC_RELAXED);
	trace(sim_ring_reap, "%u entries", count);
}

void sim_harvest_all(struct sim *sim)
{
	for (unsigned int i = 0; sim_has_rings(sim) && i < sim->cpus; i++) {
		struct sim_vcpu *vcpu = vcpu_get(sim, i);

		/* One at a time: a vCPU whose ring is full waits for it. */
		sim_slots_lock(sim);
		if (vcpu)
			sim_harvest_ring(sim, &vcpu->ring);
		sim_slots_unlock(sim);
	}
	sim_slots_lock(sim);
	for (uint32_t i = 0; i < sim->slots->count; i++) {
		const struct sim_slot *slot = sim->slots->slots[i];

		if (slot->is_logged && sim_has_rings(sim))
			take_log(slot);
		else if (slot->is_logged)
			report_log(slot);
	}
	sim_slots_unlock(sim);
}

void sim_log_sync_all(void *opaque, bool is_last)
{
	struct sim *sim = opaque;
	uint64_t start_ns = clock_mono_ns(), flushed_ns;

	sim_flush_all(sim);
	flushed_ns = clock_mono_ns();
	sim_harvest_all(sim);
	trace(sim_log_sync, "%s: flush %lu ns, harvest %lu ns",
	      is_last ? "last" : "live", flushed_ns - start_ns,
	      clock_mono_ns() - flushed_ns);
}

/* ---- clear ---- */

/* Block pages [from, to) that are set in @bits, whose bit 0 is block page
 * @bits_first: the bits go, then the pages are protected (D1). */
static void slot_clear(struct sim *sim, struct sim_slot *slot, uint64_t from,
		       uint64_t to, const uint64_t *bits, uint64_t bits_first)
{
	uint64_t first = slot->offset >> RAM_PAGE_SHIFT;
	uint64_t page = from;

	while ((page = bits_first + bitmap_next_set(bits, page - bits_first,
						    to - bits_first)) < to) {
		s2_lock(&sim->s2);
		for (unsigned int n = 0; n < CLEAR_BATCH && page < to; n++) {
			uint64_t bit = page - first;

			if (bitmap_test(bits, page - bits_first)) {
				__atomic_fetch_and(
					&slot->log
						 ->bits[bit / BITMAP_WORD_BITS],
					~(1ull << bit % BITMAP_WORD_BITS),
					__ATOMIC_SEQ_CST);
				s2_protect_page(&sim->s2,
						slot->gpa +
							(bit << RAM_PAGE_SHIFT),
						sim->options.is_split_eager);
			}
			page++;
		}
		s2_unlock(&sim->s2);
	}
}

int sim_log_clear(void *opaque, struct ram_block *block, uint64_t first,
		  uint64_t count, const uint64_t *bits, struct err *err)
{
	struct sim *sim = opaque;

	(void)err;
	if (sim_has_rings(sim)) /* the reset did it */
		return 0;
	for (uint32_t i = 0; i < sim->slots->count; i++) {
		struct sim_slot *slot = sim->slots->slots[i];
		uint64_t start = slot->offset >> RAM_PAGE_SHIFT;
		uint64_t end = start + (slot->size >> RAM_PAGE_SHIFT);
		uint64_t from = first > start ? first : start;
		uint64_t to = first + count < end ? first + count : end;

		if (slot->block == block && slot->is_logged && from < to)
			slot_clear(sim, slot, from, to, bits, first);
	}
	return 0;
}
