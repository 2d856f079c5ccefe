// SPDX-License-Identifier: Apache-2.0
/*
 * Harvesting dirty rings, in this order (D2): collect entries and flag them, have
 * the kernel reset the rings, which protects those pages again, then publish them
 * in the blocks' dirty bitmaps.  Published earlier, a page could be sent and then
 * written again without a fault, and so without an entry.
 *
 * Turns.  Four come here: a vCPU whose ring is full, the reaper, a sync, and a
 * change of memory.  Collecting to publishing is one turn, of at most RING_BATCH
 * entries (0.2 ms), and turns go first come, first served, so that no vCPU waits
 * for a whole sync.  It must be one thread's at a time: KVM_RESET_DIRTY_RINGS
 * resets the entries of all rings and flushes TLBs only at its end, so the call
 * of a second thread would find nothing to do and return before the pages that
 * this one is to publish are protected.
 */
#include "ring.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/thread.h"
#include "base/trace.h"
#include "kvm_priv.h"
#include "mem/ram.h"

/* Linux 6.2; on x86 no kernel has it so far. */
#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

#define RING_ENTRIES_DEFAULT 4096u
#define RING_BATCH           4096u /* a reset takes 40 ns an entry */

/* A reset stops early for what no thread can block: a stop signal, the freezer, a
 * debugger (Linux 6.17).  That is over the next time. */
#define RESET_TRIES 100

/* The reaper's pause is what half a ring takes to fill, but no less than this:
 * below it, making room is better left to the vCPUs. */
#define REAP_MIN_NS (1 * NS_PER_MS)

struct kv_ring {
	/* immutable after init */
	struct kv *kv;
	uint32_t entries; /* of each ring, a power of two */
	bool has_backup_bitmap;

	struct lock lock;
	/* protected by lock */
	pthread_cond_t turn_over, reaper_wake;
	uint64_t turns_taken, turns_over;
	pthread_t reaper;
	bool is_active;  /* global logging is on, and there is a reaper */
	bool is_dirtied; /* entries came since the reaper last found none */
	bool is_hurried; /* a ring was full: look at once */

	/* owned by whoever has the turn */
	struct kv_slot **slots; /* by number */
	struct kv_vcpu **vcpus; /* by index */
	struct {
		uint32_t slot, vcpu;
		uint64_t offset; /* in pages */
	} batch[RING_BATCH];
	uint32_t batch_used;
	uint64_t unreset; /* collected; the kernel has not seen to them yet */
	/* atomic: some could not be reset, their pages are unknown; and a slot's
	 * is_doubtful was set */
	bool is_lossy, has_doubts;
	struct accel_ring_stats stats; /* read by any thread */
};

static uint64_t us_since(uint64_t start_ns)
{
	return (clock_mono_ns() - start_ns) / NS_PER_US;
}

static void turn_take(struct kv_ring *ring)
{
	uint64_t turn;

	lock_acquire(&ring->lock);
	turn = ring->turns_taken++;
	while (ring->turns_over != turn)
		lock_wait(&ring->lock, &ring->turn_over);
	lock_release(&ring->lock);
}

static void turn_give(struct kv_ring *ring)
{
	lock_acquire(&ring->lock);
	ring->turns_over++;
	if (ring->turns_taken != ring->turns_over)
		pthread_cond_broadcast(&ring->turn_over);
	lock_release(&ring->lock);
}

/* Only the holder of the turn writes. */
static void count(uint64_t *counter, uint64_t more)
{
	__atomic_store_n(counter, *counter + more, __ATOMIC_RELAXED);
}

/* ---- one turn ---- */

static struct kvm_dirty_gfn *
entry_at(const struct kv_ring *ring, const struct kv_vcpu *vcpu, uint64_t index)
{
	return &vcpu->ring.entries[index & (ring->entries - 1)];
}

static bool is_dirty(const struct kvm_dirty_gfn *entry)
{
	/* Pairs with the kernel's release of slot and offset. */
	return (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) &
		KVM_DIRTY_GFN_F_MASK) == KVM_DIRTY_GFN_F_DIRTY;
}

/* Move entries of @vcpu's ring into the batch, in order, @most of them and as far
 * as it has room. */
static uint32_t collect(struct kv_ring *ring, struct kv_vcpu *vcpu,
			uint32_t most)
{
	struct kv_vcpu_ring *from = &vcpu->ring;
	uint64_t start = clock_mono_ns();
	uint32_t taken = 0;

	while (taken < most && ring->batch_used < RING_BATCH) {
		struct kvm_dirty_gfn *entry =
			entry_at(ring, vcpu, from->collected);

		if (!is_dirty(entry))
			break;
		ring->batch[ring->batch_used].slot = entry->slot;
		ring->batch[ring->batch_used].vcpu = vcpu->vcpu.index;
		ring->batch[ring->batch_used].offset = entry->offset;
		ring->batch_used++;
		/* Pairs with the kernel's acquire in the reset, after which it
		 * writes the entry again. */
		__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET,
				 __ATOMIC_RELEASE);
		count(&from->collected, 1);
		taken++;
	}
	if (!taken)
		return 0;
	ring->unreset += taken;
	count(&ring->stats.entries, taken);
	trace(kvm_ring_reap, "vCPU %u: %u entries, %lu us", vcpu->vcpu.index,
	      taken, us_since(start));
	return taken;
}

/* With no signal pending: one stops the reset (Linux 6.17), and entries that were
 * gathered until then to be protected together are forgotten by the kernel, although
 * they count as reset.  Writes to their pages would be in no log: doubt(), but for
 * one that comes behind the last entry, which does not show. */
static int reset_undisturbed(struct kv_ring *ring)
{
	sigset_t all, before;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = ioctl(ring->kv->vm_fd, KVM_RESET_DIRTY_RINGS, 0);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ret;
}

static void doubt_slot(struct kv_ring *ring, uint32_t id)
{
	struct kv_slot *slot = id < ring->kv->slot_max ? ring->slots[id] : NULL;

	if (slot)
		__atomic_store_n(&slot->is_doubtful, true, __ATOMIC_RELAXED);
}

/* A reset stopped in the middle of up to 64 pages of some memslot: of one that is in
 * the batch, or of any, where a last sync left others to be reset. */
static void doubt(struct kv_ring *ring, bool is_any)
{
	for (uint32_t i = 0; i < ring->batch_used; i++)
		doubt_slot(ring, ring->batch[i].slot);
	for (uint32_t id = 0; is_any && id < ring->kv->slot_max; id++)
		doubt_slot(ring, id);
	/* Pairs with the acquire in settle_doubts(). */
	__atomic_store_n(&ring->has_doubts, true, __ATOMIC_RELEASE);
}

/* All that was ever collected is write-protected when this returns 0, but what is in
 * doubt. */
static int reset(struct kv_ring *ring)
{
	uint64_t start = clock_mono_ns(), before = ring->unreset;
	int ret = 0;

	for (int i = 0; ring->unreset && i < RESET_TRIES; i++) {
		ret = reset_undisturbed(ring);
		if (ret < 0 && errno != EINTR)
			break;
		if (ret > 0 && (uint64_t)ret < ring->unreset) {
			trace(kvm_ring_reset_stopped, "%d of %lu entries", ret,
			      ring->unreset);
			doubt(ring, before > ring->batch_used);
		}
		if (ret > 0)
			ring->unreset -= (uint64_t)ret < ring->unreset
						 ? (uint64_t)ret
						 : ring->unreset;
	}
	if (before == 0)
		return 0;
	count(&ring->stats.reset_ns, clock_mono_ns() - start);
	if (ring->unreset) {
		ret = ret < 0 ? -errno : -EIO;
		trace(kvm_ring_reset_failed, "%lu of %lu entries: %s",
		      ring->unreset, before, strerror(-ret));
		return ret;
	}
	trace(kvm_ring_reset, "%lu entries, %lu us", before, us_since(start));
	return 0;
}

/* The page that an entry names; false for none of ours: a slot that is gone, or
 * numbers that the kernel should not have written. */
static bool entry_page(const struct kv_ring *ring, uint32_t id, uint64_t offset,
		       struct ram_block **ret_block, uint64_t *ret_page)
{
	const struct kv_slot *slot =
		id < ring->kv->slot_max ? ring->slots[id] : NULL;

	if (!slot || offset >= slot->size >> RAM_PAGE_SHIFT)
		return false;
	*ret_block = slot->block;
	*ret_page = (slot->offset >> RAM_PAGE_SHIFT) + offset;
	return true;
}

/* Entries of one vCPU in a row whose pages are in one word of a dirty bitmap. */
struct run {
	struct ram_block *block;
	uint64_t word, bits;
	uint32_t vcpu, entries;
};

static void publish_run(struct kv_ring *ring, const struct run *run)
{
	struct kv_vcpu_ring *from;
	uint32_t fresh = (uint32_t)__builtin_popcountll(run->bits);

	if (!run->entries)
		return;
	from = &ring->vcpus[run->vcpu]->ring;
	fresh -= ram_block_mark_word(run->block, run->word * BITMAP_WORD_BITS,
				     run->bits, true);
	count(&from->repeats, run->entries - fresh);
}

/* Empty the batch into the dirty bitmaps. */
static void publish(struct kv_ring *ring)
{
	struct run run = { .entries = 0 };

	for (uint32_t i = 0; i < ring->batch_used; i++) {
		uint32_t vcpu = ring->batch[i].vcpu;
		struct ram_block *block;
		uint64_t page;

		if (!entry_page(ring, ring->batch[i].slot,
				ring->batch[i].offset, &block, &page)) {
			count(&ring->stats.strays, 1);
			trace(kvm_ring_stray, "slot 0x%x, page 0x%lx",
			      ring->batch[i].slot, ring->batch[i].offset);
			continue;
		}
		if (block != run.block || page / BITMAP_WORD_BITS != run.word ||
		    vcpu != run.vcpu) {
			publish_run(ring, &run);
			run = (struct run){ .block = block,
					    .word = page / BITMAP_WORD_BITS,
					    .vcpu = vcpu };
		}
		run.bits |= 1ull << page % BITMAP_WORD_BITS;
		run.entries++;
	}
	publish_run(ring, &run);
	ring->batch_used = 0;
}

/* With what was collected.  -errno: it was not reset, see is_lossy. */
static int reset_and_publish(struct kv_ring *ring)
{
	int ret = reset(ring);

	if (!ret) {
		publish(ring);
		return 0;
	}
	__atomic_store_n(&ring->is_lossy, true, __ATOMIC_RELAXED);
	ring->batch_used = 0;
	return ret;
}

/* All rings in a row, in as many turns as that takes: each until it was seen empty or
 * gave as much as it holds, so that all that it had when the walk began is taken,
 * and one that fills as fast as it is emptied keeps nobody waiting for the next. */
struct walk {
	unsigned int vcpu;
	uint32_t taken; /* of its entries */
};

static bool walk_is_over(const struct kv_ring *ring, const struct walk *walk)
{
	return walk->vcpu >= ring->kv->cpus;
}

/* One batch, in this turn.  Returns how many entries it was; -errno as
 * reset_and_publish(). */
static int walk_on(struct kv_ring *ring, struct walk *walk)
{
	uint32_t taken;
	int ret;

	while (!walk_is_over(ring, walk)) {
		struct kv_vcpu *vcpu = ring->vcpus[walk->vcpu];

		if (vcpu)
			walk->taken += collect(ring, vcpu,
					       ring->entries - walk->taken);
		if (ring->batch_used == RING_BATCH &&
		    walk->taken < ring->entries)
			break; /* it may have more */
		walk->vcpu++;
		walk->taken = 0;
	}
	taken = ring->batch_used;
	ret = reset_and_publish(ring);
	return ret ? ret : (int)taken;
}

/* Returns how many entries there were. */
static uint64_t harvest_all(struct kv_ring *ring)
{
	struct walk walk = { .vcpu = 0 };
	uint64_t total = 0;
	int taken = 0;

	while (taken >= 0 && !walk_is_over(ring, &walk)) {
		turn_take(ring);
		taken = walk_on(ring, &walk);
		turn_give(ring);
		total += taken > 0 ? (uint64_t)taken : 0;
	}
	return total;
}

/* ---- the reaper ---- */

/* With the lock. */
static void reaper_call(struct kv_ring *ring, bool is_hurried)
{
	if (!ring->is_active || (ring->is_dirtied && !is_hurried))
		return;
	ring->is_dirtied = true;
	ring->is_hurried = is_hurried;
	pthread_cond_signal(&ring->reaper_wake);
}

static bool vcpu_is_running(const struct kv_ring *ring)
{
	for (unsigned int i = 0; i < ring->kv->cpus; i++) {
		if (ring->vcpus[i] && kv_vcpu_run_seq(ring->vcpus[i]) & 1)
			return true;
	}
	return false;
}

static bool reaper_is_wanted(struct kv_ring *ring)
{
	bool is_wanted;

	lock_acquire(&ring->lock);
	is_wanted = ring->is_active;
	lock_release(&ring->lock);
	return is_wanted;
}

/* Harvest while vCPUs run: what those leave that have stopped is the sync's, and
 * nothing keeps it waiting then.  Bounded, as an urgent thread has to be: vCPUs may
 * fill their rings as fast as they are emptied here.  Returns when to look again, in
 * ns from now; 0: when something is written again. */
static uint64_t reap(struct kv_ring *ring, uint64_t since_ns)
{
	struct walk walk = { .vcpu = 0 };
	uint64_t most = 0, rate;
	int taken = 0;

	while (taken >= 0 && !walk_is_over(ring, &walk) &&
	       reaper_is_wanted(ring)) {
		turn_take(ring);
		taken = vcpu_is_running(ring) ? walk_on(ring, &walk) : -EAGAIN;
		turn_give(ring);
	}

	turn_take(ring);
	for (unsigned int i = 0; i < ring->kv->cpus; i++) {
		struct kv_vcpu *vcpu = ring->vcpus[i];
		uint64_t came;

		if (!vcpu)
			continue;
		came = vcpu->ring.collected - vcpu->ring.reaped;
		vcpu->ring.reaped = vcpu->ring.collected;
		if (came > most)
			most = came;
	}
	turn_give(ring);
	if (!most)
		return 0;
	rate = most * NS_PER_SEC / (since_ns + 1) + 1;
	since_ns = ring->entries / 2 * NS_PER_SEC / rate;
	return since_ns < REAP_MIN_NS ? REAP_MIN_NS : since_ns;
}

static void *reaper_thread(void *opaque)
{
	struct kv_ring *ring = opaque;
	uint64_t last_ns = clock_mono_ns(), pause_ns = REAP_MIN_NS, now;

	/* The last sync, with the guest stopped, may wait for its turn to end:
	 * nobody but an urgent thread may get in between. */
	thread_set_urgent(pthread_self(), true);
	lock_acquire(&ring->lock);
	while (ring->is_active) {
		if (!ring->is_dirtied) {
			lock_wait(&ring->lock, &ring->reaper_wake);
			last_ns = clock_mono_ns();
			pause_ns = REAP_MIN_NS;
			continue;
		}
		if (ring->is_hurried)
			pause_ns = REAP_MIN_NS;
		now = clock_mono_ns();
		if (now < last_ns + pause_ns) {
			lock_wait_until(&ring->lock, &ring->reaper_wake,
					last_ns + pause_ns);
			continue;
		}
		ring->is_hurried = ring->is_dirtied = false;
		lock_release(&ring->lock);
		pause_ns = reap(ring, now - last_ns);
		last_ns = now;
		trace(kvm_ring_reaper, "next in %lu us", pause_ns / 1000);
		lock_acquire(&ring->lock);
		ring->is_dirtied |= pause_ns != 0;
	}
	lock_release(&ring->lock);
	return NULL;
}

/* ---- called from beside ---- */

int kv_ring_full(struct kv_vcpu *vcpu, struct err *err)
{
	struct kv_ring *ring = vcpu->kv->ring;
	uint64_t start = clock_mono_ns();
	uint32_t taken;
	int ret;

	turn_take(ring);
	taken = collect(ring, vcpu, RING_BATCH);
	ret = reset_and_publish(ring);
	count(&ring->stats.full_exits, 1);
	turn_give(ring);
	trace(kvm_ring_full, "vCPU %u: %u entries, %lu us", vcpu->vcpu.index,
	      taken, us_since(start));
	lock_acquire(&ring->lock);
	reaper_call(ring, true);
	lock_release(&ring->lock);
	return ret ? err_set_errno(err, ret, "vCPU %u: KVM_RESET_DIRTY_RINGS",
				   vcpu->vcpu.index)
		   : 0;
}

/* Without a reset: nothing runs, and what was collected stays counted as unreset
 * for the next harvest. */
static void harvest_last(struct kv_ring *ring)
{
	turn_take(ring);
	for (unsigned int i = 0; i < ring->kv->cpus; i++) {
		while (ring->vcpus[i] &&
		       collect(ring, ring->vcpus[i], RING_BATCH))
			publish(ring);
	}
	turn_give(ring);
}

/* Nothing is known of a slot in doubt: all of it is unsent, and it is watched again
 * before its first page is read, as at the start (slots.c). */
static void settle_doubts(struct kv *kv)
{
	struct kv_slot *slot;

	if (!__atomic_exchange_n(&kv->ring->has_doubts, false,
				 __ATOMIC_ACQUIRE))
		return;
	list_for_each (slot, &kv->slots, link) {
		if (!slot->is_watched ||
		    !__atomic_load_n(&slot->is_doubtful, __ATOMIC_RELAXED))
			continue;
		kv_slot_mark_dirty(slot);
		slot->is_watched = false;
	}
}

void kv_ring_sync(struct kv *kv, bool is_last)
{
	struct kv_ring *ring = kv->ring;
	struct kv_slot *slot;
	bool is_watched = false, is_lossy;

	list_for_each (slot, &kv->slots, link) {
		is_watched = slot->is_watched;
		if (is_watched)
			break;
	}
	if (!is_watched) {
		/* What a last sync left, and what was written since where
		 * logging stayed on: protected before any page is read. */
		harvest_all(ring);
		return;
	}
	if (is_last) {
		harvest_last(ring);
	} else {
		/* Page-modification logs are emptied into the ring only when
		 * their vCPU leaves the guest. */
		kv_vcpus_flush(kv);
		if (harvest_all(ring)) {
			lock_acquire(&ring->lock);
			reaper_call(ring, false);
			lock_release(&ring->lock);
		}
	}
	settle_doubts(kv);
	is_lossy = __atomic_load_n(&ring->is_lossy, __ATOMIC_RELAXED);
	if (!is_lossy && !(is_last && ring->has_backup_bitmap))
		return; /* in the same time for any number of memslots */
	list_for_each (slot, &kv->slots, link) {
		if (slot->is_watched && is_lossy)
			kv_slot_mark_dirty(slot);
		else if (slot->is_watched)
			kv_bitmap_harvest(kv, slot);
	}
}

void kv_ring_slot_add(struct kv *kv, struct kv_slot *slot)
{
	if (!kv->ring)
		return;
	turn_take(kv->ring);
	kv->ring->slots[slot->id] = slot;
	turn_give(kv->ring);
}

/* KVM waited for all that used the slot when it took it away: no entry for it
 * comes any more. */
void kv_ring_slot_del(struct kv *kv, struct kv_slot *slot)
{
	if (!kv->ring)
		return;
	if (slot->is_logged && kv->vm_fd >= 0)
		harvest_all(kv->ring);
	turn_take(kv->ring);
	kv->ring->slots[slot->id] = NULL;
	turn_give(kv->ring);
}

int kv_ring_start(struct kv *kv, struct err *err)
{
	struct kv_ring *ring = kv->ring;
	int ret = 0;

	if (!ring)
		return 0;
	__atomic_store_n(&ring->is_lossy, false, __ATOMIC_RELAXED);
	lock_acquire(&ring->lock);
	ret = pthread_create(&ring->reaper, NULL, reaper_thread, ring);
	ring->is_active = ret == 0;
	ring->is_dirtied = ring->is_hurried = false;
	if (ret == 0)
		pthread_setname_np(ring->reaper, "reaper");
	lock_release(&ring->lock);
	return ret ? err_set_errno(err, -ret, "the reaper's thread") : 0;
}

void kv_ring_stop(struct kv *kv)
{
	struct kv_ring *ring = kv->ring;
	bool was_active;

	if (!ring)
		return;
	lock_acquire(&ring->lock);
	was_active = ring->is_active;
	ring->is_active = false;
	pthread_cond_signal(&ring->reaper_wake);
	lock_release(&ring->lock);
	if (was_active)
		pthread_join(ring->reaper, NULL);
}

/* The dirty ones are a run, of which the first is the next to be collected. */
uint64_t kv_ring_writes(const struct kv_vcpu *vcpu)
{
	const struct kv_ring *ring = vcpu->kv->ring;
	uint64_t first =
		__atomic_load_n(&vcpu->ring.collected, __ATOMIC_RELAXED);
	uint64_t low = first, high = first + ring->entries, repeats;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (is_dirty(entry_at(ring, vcpu, middle)))
			low = middle + 1;
		else
			high = middle;
	}
	/* Read last: of more entries than those, if anything. */
	repeats = __atomic_load_n(&vcpu->ring.repeats, __ATOMIC_RELAXED);
	return low > repeats ? low - repeats : 0;
}

void kv_ring_stats(struct kv *kv, struct accel_ring_stats *ret_stats)
{
	const struct accel_ring_stats *from = &kv->ring->stats;

	*ret_stats = (struct accel_ring_stats){
		.full_exits =
			__atomic_load_n(&from->full_exits, __ATOMIC_RELAXED),
		.entries = __atomic_load_n(&from->entries, __ATOMIC_RELAXED),
		.strays = __atomic_load_n(&from->strays, __ATOMIC_RELAXED),
		.reset_ns = __atomic_load_n(&from->reset_ns, __ATOMIC_RELAXED),
	};
}

/* ---- making and ending ---- */

int kv_ring_vcpu_add(struct kv_vcpu *vcpu, struct err *err)
{
	struct kv_ring *ring = vcpu->kv->ring;
	void *entries;

	if (!ring)
		return 0;
	entries = mmap(NULL, ring->entries * sizeof(struct kvm_dirty_gfn),
		       PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd,
		       KVM_DIRTY_LOG_PAGE_OFFSET * sysconf(_SC_PAGESIZE));
	if (entries == MAP_FAILED)
		return err_set_errno(err, -errno, "dirty ring of vCPU %u",
				     vcpu->vcpu.index);
	vcpu->ring.entries = entries;
	turn_take(ring);
	ring->vcpus[vcpu->vcpu.index] = vcpu;
	turn_give(ring);
	return 0;
}

void kv_ring_vcpu_del(struct kv_vcpu *vcpu)
{
	struct kv_ring *ring = vcpu->kv->ring;

	if (!vcpu->ring.entries)
		return;
	turn_take(ring);
	ring->vcpus[vcpu->vcpu.index] = NULL;
	turn_give(ring);
	munmap(vcpu->ring.entries,
	       ring->entries * sizeof(struct kvm_dirty_gfn));
}

/* KVM_CAP_DIRTY_LOG_RING is the older name, of the same thing on x86. */
static int enable_rings(struct kv *kv, uint32_t entries, bool *ret_has_bitmap,
			struct err *err)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
		.args = { entries * sizeof(struct kvm_dirty_gfn) },
	};
	struct kvm_enable_cap bitmap = {
		.cap = KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
	};
	uint32_t least =
		(uint32_t)sysconf(_SC_PAGESIZE) / sizeof(struct kvm_dirty_gfn);
	int max = ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, cap.cap);

	if (max <= 0) {
		cap.cap = KVM_CAP_DIRTY_LOG_RING;
		max = ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, cap.cap);
	}
	if (max <= 0)
		return err_set(
			err, -ENOTSUP,
			"this kernel's KVM has no dirty ring; use dirty=bitmap, "
			"or dirty=ring-or-bitmap for whichever there is");
	if (cap.args[0] > (uint64_t)max || entries < least)
		return err_set(err, -ERANGE,
			       "ring-entries=%u; this KVM takes %u to %zu",
			       entries, least,
			       (size_t)max / sizeof(struct kvm_dirty_gfn));
	if (ioctl(kv->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		return err_set_errno(
			err, -errno,
			"KVM refuses ring-entries=%u, which may be too few for "
			"this processor's own log; use 1024 or more",
			entries);
	*ret_has_bitmap =
		ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, bitmap.cap) > 0 &&
		ioctl(kv->vm_fd, KVM_ENABLE_CAP, &bitmap) == 0;
	return 0;
}

int kv_ring_init(struct kv *kv, const struct accel_options *options,
		 struct err *err)
{
	uint32_t entries = options->ring_entries ? options->ring_entries
						 : RING_ENTRIES_DEFAULT;
	struct err reason = ERR_INIT;
	struct kv_ring *ring;
	bool has_bitmap = false;
	int ret;

	if (options->dirty == ACCEL_DIRTY_BITMAP)
		return 0;
	ret = enable_rings(kv, entries, &has_bitmap, &reason);
	if (ret == -ENOTSUP && options->dirty == ACCEL_DIRTY_RING_OR_BITMAP) {
		trace(kvm_no_ring, "%s", err_msg(&reason));
		return 0;
	}
	if (ret)
		return err_set(err, ret, "%s", err_msg(&reason));
	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return err_set(err, -ENOMEM, "no memory for dirty rings");
	ring->kv = kv;
	ring->entries = entries;
	ring->has_backup_bitmap = has_bitmap;
	lock_init(&ring->lock, LOCK_RING);
	pthread_cond_init(&ring->turn_over, NULL);
	lock_cond_init(&ring->reaper_wake);
	kv->ring = ring;
	ring->slots = calloc(kv->slot_max, sizeof(struct kv_slot *));
	ring->vcpus = calloc(kv->cpus, sizeof(struct kv_vcpu *));
	if (!ring->slots || !ring->vcpus)
		return err_set(err, -ENOMEM, "no memory for dirty rings");
	return 0;
}

void kv_ring_fini(struct kv *kv)
{
	struct kv_ring *ring = kv->ring;

	if (!ring)
		return;
	kv_ring_stop(kv);
	pthread_cond_destroy(&ring->reaper_wake);
	pthread_cond_destroy(&ring->turn_over);
	lock_fini(&ring->lock);
	free(ring->slots);
	free(ring->vcpus);
	free(ring);
	kv->ring = NULL;
}
