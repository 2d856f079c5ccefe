/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dirty rings: what vCPUs wrote, one ring of (memslot, page) a vCPU, written by
 * the kernel and read here.  Source: Documentation/virt/kvm/api.rst, 8.29.
 *
 * An entry's flags go round:
 *
 *	           kernel: the page was written
 *	  invalid ------------------------------> dirty
 *	     ^                                      | kv_ring: copied
 *	     |   kernel: KVM_RESET_DIRTY_RINGS      v
 *	     +----------------------------------- reset
 *	         the page is write-protected again
 *
 * kvm.c makes and ends the rings, vcpu.c maps each vCPU's and comes here when one
 * is full, slots.c tells of memslots and asks for what was written.
 */
#ifndef GODWIT_ACCEL_KVM_RING_H
#define GODWIT_ACCEL_KVM_RING_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

struct accel_options;
struct accel_ring_stats;
struct err;
struct kv;
struct kv_ring;
struct kv_slot;
struct kv_vcpu;

/* One vCPU's ring; owned by whoever has the turn (ring.c). */
struct kv_vcpu_ring {
	struct kvm_dirty_gfn *entries; /* mapping shared with the kernel */
	uint64_t collected;            /* ever, so the next is this; read by any
					  thread */
	uint64_t reaped;               /* of these, at the reaper's last look */
	uint64_t repeats;              /* of these, what named a page that was
					  dirty already; read by any thread */
};

/* Before the first memslot and vCPU.  kv->ring stays NULL when @options ask for
 * the bitmap, or would take it and the kernel has no rings.  -ENOTSUP, -ERANGE:
 * the message says what to ask for. */
int kv_ring_init(struct kv *kv, const struct accel_options *options,
		 struct err *err);
/* After the last vCPU. */
void kv_ring_fini(struct kv *kv);

/* The following are nothing without rings (kv->ring NULL). */

/* Map a new vCPU's ring; let it go again. */
int kv_ring_vcpu_add(struct kv_vcpu *vcpu, struct err *err);
void kv_ring_vcpu_del(struct kv_vcpu *vcpu);
/* The vCPU left the guest because its ring is full: make room.  On its own
 * thread.  0, or -errno when it cannot run on. */
int kv_ring_full(struct kv_vcpu *vcpu, struct err *err);

/* With the topology lock: */
/* Before KVM knows the slot, since its first entry may come at once; and after KVM
 * has let go of it: when it was logged, all entries that name it are harvested
 * before its number can name another (D5). */
void kv_ring_slot_add(struct kv *kv, struct kv_slot *slot);
void kv_ring_slot_del(struct kv *kv, struct kv_slot *slot);
/* Global logging begins: entries will come, and a thread reaps them; -errno: no
 * thread.  And ends, when at most one turn is waited for. */
int kv_ring_start(struct kv *kv, struct err *err);
void kv_ring_stop(struct kv *kv);
/* All that was written before the call is in the blocks' dirty bitmaps after it.
 * @is_last: vCPUs have stopped; nothing is protected again, so that after it
 * logging is of no use before a next start. */
void kv_ring_sync(struct kv *kv, bool is_last);

/* Any thread: how many pages vCPU @vcpu made dirty, by its ring: all entries that
 * it ever got, but for those of pages that turned out to be dirty already as they
 * were published.  Less, for a moment, while some are collected; what its
 * processor's own log holds is not there yet. */
uint64_t kv_ring_writes(const struct kv_vcpu *vcpu);
void kv_ring_stats(struct kv *kv, struct accel_ring_stats *ret_stats);

#endif
