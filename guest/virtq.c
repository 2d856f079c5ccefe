/* SPDX-License-Identifier: Apache-2.0 */
/* What split and packed queues have in common: see virtq.h. */
#include "guest/virtq.h"

#include <linux/virtio_ring.h>

#define PAGE 4096

/* Where each part of the memory of a ring begins. */
struct parts {
	size_t driver, device, tables, tokens, counts, free, end;
};

static size_t align(size_t at, size_t to)
{
	return (at + to - 1) & ~(to - 1);
}

static struct parts lay_out(const struct virtq_shape *shape)
{
	size_t size = shape->size;
	struct parts p;

	_Static_assert(sizeof(struct vring_desc) ==
			       sizeof(struct vring_packed_desc),
		       "one size for both formats");
	p.driver = size * sizeof(struct vring_desc);
	p.device = align(p.driver + (size + 3) * sizeof(uint16_t), 64);
	p.tables =
		align(p.device + 6 + size * sizeof(struct vring_used_elem), 64);
	p.tokens = p.tables;
	if (shape->is_indirect)
		p.tokens += size * shape->segments * sizeof(struct vring_desc);
	p.counts = p.tokens + size * sizeof(uint16_t);
	p.free = p.counts + size * sizeof(uint16_t);
	p.end = align(p.free + size * sizeof(uint16_t), PAGE);
	return p;
}

size_t virtq_bytes(const struct virtq_shape *shape)
{
	return lay_out(shape).end;
}

void virtq_init(struct virtq *vq, const struct virtq_shape *shape, void *memory)
{
	struct parts p = lay_out(shape);
	char *base = memory;

	for (size_t i = 0; i < p.end / sizeof(uint64_t); i++)
		((uint64_t *)memory)[i] = 0;
	*vq = (struct virtq){
		.shape = *shape,
		.desc = base,
		.driver = base + p.driver,
		.device = base + p.device,
		.tables = base + p.tables,
		.tokens = (uint16_t *)(base + p.tokens),
		.counts = (uint16_t *)(base + p.counts),
		.free = (uint16_t *)(base + p.free),
		.free_at = shape->is_packed ? shape->size : 0,
		.free_descs = shape->size,
		.avail_wrap = true,
		.used_wrap = true,
	};
	for (unsigned int i = 0; i < shape->size; i++) {
		vq->tokens[i] = VIRTQ_TOKENS;
		vq->free[i] = (uint16_t)(shape->is_packed ? i : i + 1);
	}
	virtq_want_interrupt(vq, false);
}

static const struct virtq_format *format_of(const struct virtq *vq)
{
	return vq->shape.is_packed ? &virtq_packed : &virtq_split;
}

bool virtq_add(struct virtq *vq, const struct virtq_buffer *buffers,
	       unsigned int out, unsigned int in, uint16_t token)
{
	unsigned int needed = vq->shape.is_indirect ? 1 : out + in;

	if (needed > vq->free_descs || out + in > vq->shape.segments)
		return false;
	return format_of(vq)->add(vq, buffers, out, in, token);
}

bool virtq_flush(struct virtq *vq)
{
	return vq->fresh && format_of(vq)->flush(vq);
}

enum virtq_event virtq_take(struct virtq *vq, uint16_t *ret_token,
			    uint32_t *ret_size)
{
	return format_of(vq)->take(vq, ret_token, ret_size);
}

bool virtq_has_used(const struct virtq *vq)
{
	return format_of(vq)->has_used(vq);
}

void virtq_want_interrupt(struct virtq *vq, bool wants)
{
	vq->wants_interrupt = wants;
	format_of(vq)->set_interrupt(vq);
	/* Partner: the device's barrier between used buffers and this. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void virtq_offend(struct virtq *vq)
{
	format_of(vq)->offend(vq);
	vq->fresh++;
	virtq_flush(vq);
}
