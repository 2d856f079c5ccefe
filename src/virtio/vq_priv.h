/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of a virtqueue share:
 *
 *	vq.c         start, what is the same for both formats
 *	vq_split.c   virtio 1.2, 2.7
 *	vq_packed.c  virtio 1.2, 2.8
 *	vq_chain.c   from descriptors to segments of host memory
 *	vq_copy.c    from and to segments
 */
#ifndef GODWIT_VIRTIO_VQ_PRIV_H
#define GODWIT_VIRTIO_VQ_PRIV_H

#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "mem/ram.h"
#include "mem/view.h"
#include "virtio/vdev.h"
#include "virtio/vq.h"

/* A descriptor; what @a and @b are differs. */
struct vq_desc {
	struct le64 address;
	struct le32 size;
	struct le16 a; /* split: flags; packed: buffer id */
	struct le16 b; /* split: next; packed: flags */
};

_Static_assert(sizeof(struct vq_desc) == 16, "virtio 1.2, 2.7.5 and 2.8.13");

/* Copied once: the guest may change it at any time. */
static inline struct vq_desc vq_desc_read(const void *at)
{
	struct vq_desc desc;

	memcpy(&desc, at, sizeof(desc));
	/* The compiler may not go back for a field behind this. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	return desc;
}

static inline uint16_t vq_load16(const struct le16 *at)
{
	return le16toh(__atomic_load_n(&at->raw, __ATOMIC_RELAXED));
}

static inline uint16_t vq_load16_acquire(const struct le16 *at)
{
	return le16toh(__atomic_load_n(&at->raw, __ATOMIC_ACQUIRE));
}

static inline void vq_store16(struct le16 *at, uint16_t value)
{
	__atomic_store_n(&at->raw, htole16(value), __ATOMIC_RELAXED);
}

/* A full barrier, too: what was written before is seen before, and what is read
 * behind is read behind. */
static inline void vq_publish16(struct le16 *at, uint16_t value)
{
	__atomic_exchange_n(&at->raw, htole16(value), __ATOMIC_SEQ_CST);
}

/* After the write (D1). */
static inline void vq_ring_dirty(const struct vq_ring *ring, uint64_t at,
				 uint64_t size)
{
	ram_block_mark_dirty(ring->block, ring->offset + at, size);
}

/* @event is among the positions from @old on, before @now (virtio 1.2, 2.7.7.2
 * and 2.7.10; as numbers that wrap at 16 bits). */
static inline bool vq_event_is_due(uint16_t event, uint16_t now, uint16_t old)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/* More descriptors than there are are with the device: the driver has not seen
 * those used that were pushed but not published. */
static inline bool vq_is_overbooked(const struct vq *vq,
				    const struct vq_request *request)
{
	return vq->in_flight + vq->pushed + request->count > vq->queue->size;
}

/* Packed queues: an offset into the ring with the wrap counter in bit 15. */
#define VQ_WRAP 0x8000u

static inline uint16_t vq_offset(uint16_t at)
{
	return at & (uint16_t)~VQ_WRAP;
}

/* @at and @count (at most @size) descriptors on. */
static inline uint16_t vq_advance(uint16_t at, unsigned int count,
				  unsigned int size)
{
	unsigned int offset = vq_offset(at) + count;

	if (offset >= size)
		return (uint16_t)((offset - size) | ((at & VQ_WRAP) ^ VQ_WRAP));
	return (uint16_t)(offset | (at & VQ_WRAP));
}

/* vq.c: have the rings mapped as memory is now; false: they are in no RAM. */
bool vq_rings_mapped(struct vq *vq);

/* ---- vq_chain.c ---- */

/* A request in the making.  Inside rcu_read_lock(). */
struct vq_chain {
	const struct flat_view *view;
	struct vq_request *request;
	unsigned int links; /* descriptors so far, indirect ones too */
	bool has_indirect;  /* negotiated */
};

void vq_chain_begin(struct vq_chain *chain, struct vq *vq,
		    struct vq_request *request);
/* What a descriptor names: 0, -EBADMSG, -EFAULT or -E2BIG. */
int vq_chain_add(struct vq_chain *chain, const struct vq_desc *desc,
		 bool is_writable, struct err *err);

/* An indirect table, somewhere in RAM. */
struct vq_table {
	const uint8_t *host; /* NULL: in several ranges */
	uint64_t gpa;
	uint32_t entries; /* at least 1 */
};

int vq_table_open(const struct vq_chain *chain, const struct vq_desc *desc,
		  struct vq_table *ret_table, struct err *err);
int vq_table_read(const struct vq_chain *chain, const struct vq_table *table,
		  uint32_t index, struct vq_desc *ret_desc, struct err *err);

/* ---- vq_split.c, vq_packed.c: vq.h's functions for one format ---- */

int vq_split_check(const struct vq *vq, struct err *err);
int vq_split_pop(struct vq *vq, struct vq_request *request, struct err *err);
void vq_split_unpop(struct vq *vq);
void vq_split_push(struct vq *vq, const struct vq_request *request,
		   uint32_t written);
/* True when the driver wants to be interrupted. */
bool vq_split_flush(struct vq *vq);
/* Tell the driver to notify (or not); true: there is a request already. */
bool vq_split_arm(struct vq *vq);
void vq_split_disarm(struct vq *vq);

int vq_packed_check(const struct vq *vq, struct err *err);
int vq_packed_pop(struct vq *vq, struct vq_request *request, struct err *err);
void vq_packed_unpop(struct vq *vq, const struct vq_request *request);
void vq_packed_push(struct vq *vq, const struct vq_request *request,
		    uint32_t written);
bool vq_packed_flush(struct vq *vq);
bool vq_packed_arm(struct vq *vq);
void vq_packed_disarm(struct vq *vq);

#endif
