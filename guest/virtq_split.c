/* SPDX-License-Identifier: Apache-2.0 */
/* Split virtqueues (virtio 1.2, 2.7): see virtq.h. */
#include <linux/virtio_ring.h>

#include "guest/cpu.h"
#include "guest/virtq.h"

static struct vring_desc *desc_of(const struct virtq *vq)
{
	return vq->desc;
}

static struct vring_avail *avail_of(const struct virtq *vq)
{
	return vq->driver;
}

static struct vring_used *used_of(const struct virtq *vq)
{
	return vq->device;
}

static void fill(struct vring_desc *desc, const struct virtq_buffer *buffer,
		 bool is_in, uint16_t flags)
{
	desc->addr = buffer->addr;
	desc->len = buffer->size;
	desc->flags = flags | (is_in ? VRING_DESC_F_WRITE : 0);
}

/* A table of descriptors behind the one at @head. */
static void add_indirect(struct virtq *vq, uint16_t head,
			 const struct virtq_buffer *buffers, unsigned int out,
			 unsigned int count)
{
	struct vring_desc *table = (struct vring_desc *)vq->tables +
				   (size_t)head * vq->shape.segments;

	for (unsigned int i = 0; i < count; i++) {
		bool is_last = i + 1 == count;

		fill(&table[i], &buffers[i], i >= out,
		     is_last ? 0 : VRING_DESC_F_NEXT);
		table[i].next = (uint16_t)(i + 1);
	}
	desc_of(vq)[head] = (struct vring_desc){
		.addr = (uintptr_t)table,
		.len = count * (uint32_t)sizeof(*table),
		.flags = VRING_DESC_F_INDIRECT,
	};
	vq->free_at = vq->free[head];
	vq->free_descs--;
	vq->counts[head] = 1;
}

static void add_chain(struct virtq *vq, uint16_t head,
		      const struct virtq_buffer *buffers, unsigned int out,
		      unsigned int count)
{
	uint16_t at = head;

	for (unsigned int i = 0; i < count; i++) {
		struct vring_desc *desc = &desc_of(vq)[at];
		bool is_last = i + 1 == count;

		fill(desc, &buffers[i], i >= out,
		     is_last ? 0 : VRING_DESC_F_NEXT);
		at = vq->free[at];
		desc->next = at;
	}
	vq->free_at = at;
	vq->free_descs -= (uint16_t)count;
	vq->counts[head] = (uint16_t)count;
}

static bool split_add(struct virtq *vq, const struct virtq_buffer *buffers,
		      unsigned int out, unsigned int in, uint16_t token)
{
	uint16_t head = vq->free_at;

	if (vq->shape.is_indirect)
		add_indirect(vq, head, buffers, out, out + in);
	else
		add_chain(vq, head, buffers, out, out + in);
	vq->tokens[head] = token;
	avail_of(vq)->ring[vq->avail % vq->shape.size] = head;
	vq->avail++;
	vq->fresh++;
	return true;
}

static uint16_t *used_event(const struct virtq *vq)
{
	return &avail_of(vq)->ring[vq->shape.size];
}

static uint16_t *avail_event(const struct virtq *vq)
{
	return (uint16_t *)&used_of(vq)->ring[vq->shape.size];
}

static bool split_flush(struct virtq *vq)
{
	uint16_t old = (uint16_t)(vq->avail - vq->fresh);

	vq->fresh = 0;
	store_release(avail_of(vq)->idx, vq->avail);
	/* Partner: the device's barrier between its event and the index. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (vq->shape.has_event_idx)
		return vring_need_event(read_once(*avail_event(vq)), vq->avail,
					old);
	return !(read_once(used_of(vq)->flags) & VRING_USED_F_NO_NOTIFY);
}

/*
 * With event_idx, an index that the device has passed asks for nothing until
 * it comes round; it has to be kept behind.
 */
static void split_set_interrupt(struct virtq *vq)
{
	if (vq->shape.has_event_idx)
		write_once(*used_event(vq),
			   (uint16_t)(vq->used - !vq->wants_interrupt));
	else
		write_once(avail_of(vq)->flags,
			   (uint16_t)(vq->wants_interrupt
					      ? 0
					      : VRING_AVAIL_F_NO_INTERRUPT));
}

static void free_chain(struct virtq *vq, uint16_t head)
{
	uint16_t last = head;

	for (unsigned int i = 1; i < vq->counts[head]; i++)
		last = vq->free[last];
	vq->free[last] = vq->free_at;
	vq->free_at = head;
	vq->free_descs += vq->counts[head];
	vq->tokens[head] = VIRTQ_TOKENS;
}

static bool split_has_used(const struct virtq *vq)
{
	return load_acquire(used_of(vq)->idx) != vq->used;
}

static enum virtq_event split_take(struct virtq *vq, uint16_t *ret_token,
				   uint32_t *ret_size)
{
	uint16_t index = load_acquire(used_of(vq)->idx);
	struct vring_used_elem element;

	if (index == vq->used)
		return VIRTQ_NONE;
	if ((uint16_t)(index - vq->used) > vq->shape.size)
		return VIRTQ_JUMPED;
	element = used_of(vq)->ring[vq->used % vq->shape.size];
	vq->used++;
	if (vq->shape.has_event_idx && !vq->wants_interrupt)
		split_set_interrupt(vq);
	if (element.id >= vq->shape.size ||
	    vq->tokens[element.id] == VIRTQ_TOKENS)
		return VIRTQ_UNKNOWN;
	*ret_token = vq->tokens[element.id];
	*ret_size = element.len;
	free_chain(vq, (uint16_t)element.id);
	return VIRTQ_USED;
}

/* The descriptor is the device's until the reset, like any. */
static void split_offend(struct virtq *vq)
{
	uint16_t head = vq->free_at;

	desc_of(vq)[head] = (struct vring_desc){
		.addr = (uintptr_t)vq->desc,
		.len = 1,
		.flags = VRING_DESC_F_INDIRECT,
	};
	vq->free_at = vq->free[head];
	vq->free_descs--;
	avail_of(vq)->ring[vq->avail % vq->shape.size] = head;
	vq->avail++;
}

const struct virtq_format virtq_split = {
	.add = split_add,
	.flush = split_flush,
	.take = split_take,
	.has_used = split_has_used,
	.set_interrupt = split_set_interrupt,
	.offend = split_offend,
};
