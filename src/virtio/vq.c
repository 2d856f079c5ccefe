// SPDX-License-Identifier: Apache-2.0
/*
 * What both formats of a virtqueue have in common: where the rings are, what is in
 * flight, dirty pages, and when to interrupt.  Called by the back end that works on
 * the queue.
 *
 * The rings are translated once and again after each topology commit, by its
 * count; a request's buffers each time, in vq_chain.c.  A mapping that a commit has
 * just outdated is of RAM still.
 */
#include "virtio/vq.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "base/err.h"
#include "mem/access.h"
#include "mem/space.h"
#include "vq_priv.h"

/* One part of a queue as the virtio specification lays it out. */
struct part {
	const char *name;
	uint64_t gpa;
	size_t size;
	unsigned int align;
	bool for_write;
};

static int map_part(struct addr_space *memory, const struct part *part,
		    struct vq_ring *ret_ring, struct err *err)
{
	ret_ring->host = mem_map(memory, part->gpa, part->size, part->for_write,
				 &ret_ring->block, &ret_ring->offset);
	if (!ret_ring->host)
		return err_set(err, -EFAULT,
			       "%s of %zu bytes at 0x%lx: not in one range of "
			       "%sRAM",
			       part->name, part->size, part->gpa,
			       part->for_write ? "writable " : "");
	if (ret_ring->offset % part->align)
		return err_set(err, -EFAULT,
			       "%s at 0x%lx: not a multiple of %u", part->name,
			       part->gpa, part->align);
	return 0;
}

int vq_rings_map(const struct vdev *dev, const struct vdev_queue *queue,
		 struct vq_ring *ret_desc, struct vq_ring *ret_driver,
		 struct vq_ring *ret_device, struct err *err)
{
	bool is_packed = vdev_has(dev, VIRTIO_F_RING_PACKED);
	unsigned int size = queue->size;
	/* 2.7 and 2.8; a split queue's two events are always counted in */
	const struct part desc = { "descriptors", queue->desc, 16ul * size, 16,
				   is_packed };
	const struct part driver = {
		is_packed ? "driver events" : "available ring", queue->driver,
		is_packed ? 4 : 6 + 2ul * size, is_packed ? 4 : 2, false
	};
	const struct part device = { is_packed ? "device events" : "used ring",
				     queue->device,
				     is_packed ? 4 : 6 + 8ul * size, 4, true };
	int ret;

	rcu_read_lock();
	ret = map_part(dev->memory, &desc, ret_desc, err);
	if (ret == 0)
		ret = map_part(dev->memory, &driver, ret_driver, err);
	if (ret == 0)
		ret = map_part(dev->memory, &device, ret_device, err);
	rcu_read_unlock();
	return ret;
}

static int map_rings(struct vq *vq, struct err *err)
{
	int ret;

	/* first: a commit meanwhile has it done again */
	vq->mapped_at = mem_commit_count(vq->dev->mem);
	ret = vq_rings_map(vq->dev, vq->queue, &vq->desc, &vq->driver,
			   &vq->device, err);
	vq->is_mapped = ret == 0;
	return ret;
}

/* The guest can put other things than RAM where its rings were. */
static int refresh_rings(struct vq *vq, struct err *err)
{
	if (vq->is_mapped && vq->mapped_at == mem_commit_count(vq->dev->mem))
		return 0;
	return map_rings(vq, err);
}

bool vq_rings_mapped(struct vq *vq)
{
	return refresh_rings(vq, NULL) == 0;
}

int vq_start(struct vq *vq, struct vdev *dev, unsigned int index,
	     struct err *err)
{
	struct vdev_queue *queue = &dev->queues[index];
	int ret;

	assert(index < dev->queue_count);
	*vq = (struct vq){
		.dev = dev,
		.queue = queue,
		.is_packed = vdev_has(dev, VIRTIO_F_RING_PACKED),
		.has_event_idx = vdev_has(dev, VIRTIO_RING_F_EVENT_IDX),
		.has_indirect = vdev_has(dev, VIRTIO_RING_F_INDIRECT_DESC),
		.avail_idx = queue->next_avail,
		.called_at = queue->next_used,
	};
	ret = map_rings(vq, err);
	if (ret == 0)
		ret = vq->is_packed ? vq_packed_check(vq, err)
				    : vq_split_check(vq, err);
	if (ret) {
		err_prefix(err, "queue %u", index);
		return ret;
	}
	vq_want_kicks(vq);
	return 0;
}

static int pop(struct vq *vq, struct vq_request *request, struct err *err)
{
	int ret = refresh_rings(vq, err);

	if (ret)
		return ret;
	ret = vq->is_packed ? vq_packed_pop(vq, request, err)
			    : vq_split_pop(vq, request, err);
	if (ret > 0)
		vq->in_flight += request->count;
	return ret;
}

int vq_pop(struct vq *vq, struct vq_request *request, struct err *err)
{
	int ret = pop(vq, request, err);

	if (ret == 0 && vq->wants_kicks && vq->has_event_idx &&
	    vq->event_at != vq->avail_idx && vq_want_kicks(vq))
		ret = pop(vq, request, err);
	if (ret < 0)
		err_prefix(err, "queue %u",
			   (unsigned int)(vq->queue - vq->dev->queues));
	return ret;
}

void vq_unpop(struct vq *vq, const struct vq_request *request)
{
	assert(vq->in_flight >= request->count);
	vq->in_flight -= request->count;
	if (vq->is_packed)
		vq_packed_unpop(vq, request);
	else
		vq_split_unpop(vq);
}

static void mark_written(const struct vq_request *request, uint64_t written)
{
	const struct vq_segment *segment =
		request->segments + request->readable;

	assert(written <= request->writable_size);
	for (; written; segment++) {
		uint64_t piece = segment->size;

		if (piece > written)
			piece = written;
		ram_block_mark_dirty(segment->block, segment->offset, piece);
		written -= piece;
	}
}

void vq_push(struct vq *vq, const struct vq_request *request, uint32_t written)
{
	assert(vq->in_flight >= request->count);
	vq->in_flight -= request->count;
	mark_written(request, written);
	if (vq->is_packed)
		vq_packed_push(vq, request, written);
	else
		vq_split_push(vq, request, written);
}

void vq_flush(struct vq *vq)
{
	bool is_wanted;

	if (vq->pushed == 0)
		return;
	is_wanted = vq->is_packed ? vq_packed_flush(vq) : vq_split_flush(vq);
	/* Who worked on it before may have come as far as the ring, but no
	 * further. */
	if (is_wanted || !vq->has_called)
		vdev_call(vq->dev, vq->queue);
	vq->has_called = true;
}

bool vq_want_kicks(struct vq *vq)
{
	vq->wants_kicks = true;
	vq->event_at = vq->avail_idx;
	if (!vq_rings_mapped(vq))
		return true; /* vq_pop() says why */
	return vq->is_packed ? vq_packed_arm(vq) : vq_split_arm(vq);
}

void vq_ignore_kicks(struct vq *vq)
{
	if (!vq->wants_kicks)
		return;
	vq->wants_kicks = false;
	if (!vq_rings_mapped(vq))
		return;
	if (vq->is_packed)
		vq_packed_disarm(vq);
	else
		vq_split_disarm(vq);
}
