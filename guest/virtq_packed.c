/* SPDX-License-Identifier: Apache-2.0 */
/* Packed virtqueues (virtio 1.2, 2.8): see virtq.h. */
#include <linux/virtio_ring.h>

#include "guest/cpu.h"
#include "guest/virtq.h"

#define AVAIL (1U << VRING_PACKED_DESC_F_AVAIL)
#define USED  (1U << VRING_PACKED_DESC_F_USED)
#define WRAP  (1U << VRING_PACKED_EVENT_F_WRAP_CTR)

static struct vring_packed_desc *ring_of(const struct virtq *vq)
{
	return vq->desc;
}

/* Flags that make a descriptor available at the driver's position. */
static uint16_t avail_flags(const struct virtq *vq)
{
	return vq->avail_wrap ? AVAIL : USED;
}

static void advance(uint16_t *position, bool *wrap, unsigned int count,
		    unsigned int size)
{
	unsigned int next = *position + count;

	if (next >= size) {
		next -= size;
		*wrap = !*wrap;
	}
	*position = (uint16_t)next;
}

static uint16_t in_flag(unsigned int i, unsigned int out)
{
	return i >= out ? VRING_DESC_F_WRITE : 0;
}

/* One descriptor; the flags go last (2.8.6). */
static void put(const struct virtq *vq, const struct virtq_buffer *buffer,
		uint16_t id)
{
	struct vring_packed_desc *desc = &ring_of(vq)[vq->avail];

	desc->addr = buffer->addr;
	desc->len = buffer->size;
	desc->id = id;
}

static void add_indirect(struct virtq *vq, uint16_t id,
			 const struct virtq_buffer *buffers, unsigned int out,
			 unsigned int count)
{
	struct vring_packed_desc *table =
		(struct vring_packed_desc *)vq->tables +
		(size_t)id * vq->shape.segments;
	struct virtq_buffer all = { (uintptr_t)table,
				    count * (uint32_t)sizeof(*table) };

	for (unsigned int i = 0; i < count; i++)
		table[i] = (struct vring_packed_desc){
			.addr = buffers[i].addr,
			.len = buffers[i].size,
			.flags = in_flag(i, out),
		};
	put(vq, &all, id);
	store_release(ring_of(vq)[vq->avail].flags,
		      (uint16_t)(avail_flags(vq) | VRING_DESC_F_INDIRECT));
	advance(&vq->avail, &vq->avail_wrap, 1, vq->shape.size);
}

/* The first descriptor's flags go last: then the device sees all of them. */
static void add_chain(struct virtq *vq, uint16_t id,
		      const struct virtq_buffer *buffers, unsigned int out,
		      unsigned int count)
{
	uint16_t first = vq->avail, first_flags = 0;

	for (unsigned int i = 0; i < count; i++) {
		uint16_t flags = avail_flags(vq) | in_flag(i, out);

		if (i + 1 < count)
			flags |= VRING_DESC_F_NEXT;
		put(vq, &buffers[i], id);
		if (i)
			ring_of(vq)[vq->avail].flags = flags;
		else
			first_flags = flags;
		advance(&vq->avail, &vq->avail_wrap, 1, vq->shape.size);
	}
	store_release(ring_of(vq)[first].flags, first_flags);
}

static bool packed_add(struct virtq *vq, const struct virtq_buffer *buffers,
		       unsigned int out, unsigned int in, uint16_t token)
{
	unsigned int count = vq->shape.is_indirect ? 1 : out + in;
	uint16_t id = vq->free[--vq->free_at];

	vq->tokens[id] = token;
	vq->counts[id] = (uint16_t)count;
	vq->free_descs -= (uint16_t)count;
	vq->fresh += (uint16_t)count;
	if (vq->shape.is_indirect)
		add_indirect(vq, id, buffers, out, out + in);
	else
		add_chain(vq, id, buffers, out, out + in);
	return true;
}

static bool packed_flush(struct virtq *vq)
{
	const struct vring_packed_desc_event *event = vq->device;
	uint16_t new = vq->avail, old = (uint16_t)(new - vq->fresh);
	uint16_t flags, off_wrap, at;

	vq->fresh = 0;
	/* Partner: the device's barrier between its event and the flags. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	flags = load_acquire(event->flags) & 3;
	off_wrap = read_once(event->off_wrap);
	if (flags != VRING_PACKED_EVENT_FLAG_DESC)
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	at = off_wrap & (uint16_t)~WRAP;
	if ((bool)(off_wrap & WRAP) != vq->avail_wrap)
		at -= vq->shape.size;
	return vring_need_event(at, new, old);
}

static void packed_set_interrupt(struct virtq *vq)
{
	struct vring_packed_desc_event *event = vq->driver;
	uint16_t flags = VRING_PACKED_EVENT_FLAG_DISABLE;

	if (vq->wants_interrupt)
		flags = vq->shape.has_event_idx
				? VRING_PACKED_EVENT_FLAG_DESC
				: VRING_PACKED_EVENT_FLAG_ENABLE;
	write_once(event->off_wrap,
		   (uint16_t)(vq->used | (vq->used_wrap ? WRAP : 0)));
	store_release(event->flags, flags);
}

static bool packed_has_used(const struct virtq *vq)
{
	uint16_t flags = load_acquire(ring_of(vq)[vq->used].flags);
	bool is_avail = flags & AVAIL, is_used = flags & USED;

	return is_avail == is_used && is_used == vq->used_wrap;
}

static enum virtq_event packed_take(struct virtq *vq, uint16_t *ret_token,
				    uint32_t *ret_size)
{
	const struct vring_packed_desc *desc = &ring_of(vq)[vq->used];
	uint16_t id;

	if (!packed_has_used(vq))
		return VIRTQ_NONE;
	id = read_once(desc->id);
	/* Without its length nobody knows where the next one is. */
	if (id >= vq->shape.size || vq->tokens[id] == VIRTQ_TOKENS)
		return VIRTQ_UNKNOWN;
	*ret_token = vq->tokens[id];
	*ret_size = read_once(desc->len);
	vq->tokens[id] = VIRTQ_TOKENS;
	vq->free[vq->free_at++] = id;
	vq->free_descs += vq->counts[id];
	advance(&vq->used, &vq->used_wrap, vq->counts[id], vq->shape.size);
	return VIRTQ_USED;
}

static void packed_offend(struct virtq *vq)
{
	const struct virtq_buffer whole = { (uintptr_t)vq->desc, 1 };

	put(vq, &whole, 0);
	store_release(ring_of(vq)[vq->avail].flags,
		      (uint16_t)(avail_flags(vq) | VRING_DESC_F_INDIRECT));
	advance(&vq->avail, &vq->avail_wrap, 1, vq->shape.size);
	vq->free_descs--;
}

const struct virtq_format virtq_packed = {
	.add = packed_add,
	.flush = packed_flush,
	.take = packed_take,
	.has_used = packed_has_used,
	.set_interrupt = packed_set_interrupt,
	.offend = packed_offend,
};
