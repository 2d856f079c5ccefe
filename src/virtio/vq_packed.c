// SPDX-License-Identifier: Apache-2.0
/*
 * Packed virtqueues (virtio 1.2, 2.8): one ring of descriptors, in which driver and
 * device overwrite what the other one is done with.  Whose a descriptor is say two
 * of its flags, compared with a wrap counter that each side inverts whenever it
 * comes past the end of the ring.
 */
#include <errno.h>
#include <linux/virtio_ring.h>

#include "base/err.h"
#include "vq_priv.h"

#define FLAG_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define FLAG_USED  (1u << VRING_PACKED_DESC_F_USED)

/* 2.8.14 */
struct packed_event {
	struct le16 at; /* offset and wrap counter */
	struct le16 flags;
};

static struct vq_desc *packed_desc(const struct vq *vq, uint16_t at)
{
	return (struct vq_desc *)vq->desc.host + vq_offset(at);
}

static struct packed_event *driver_event(const struct vq *vq)
{
	return (struct packed_event *)vq->driver.host;
}

static struct packed_event *device_event(const struct vq *vq)
{
	return (struct packed_event *)vq->device.host;
}

/* 2.8.1: made available in this round of the ring. */
static bool is_available(uint16_t flags, uint16_t at)
{
	bool wrap = at & VQ_WRAP;

	return !!(flags & FLAG_AVAIL) == wrap && !!(flags & FLAG_USED) != wrap;
}

static bool look(const struct vq *vq, uint16_t at)
{
	/* Pairs with the driver's barrier before it writes the flags of a
	 * chain's first descriptor, which it does last. */
	return is_available(vq_load16_acquire(&packed_desc(vq, at)->b), at);
}

int vq_packed_check(const struct vq *vq, struct err *err)
{
	const struct vdev_queue *queue = vq->queue;

	if (vq_offset(queue->next_avail) >= queue->size)
		return err_set(err, -EBADMSG,
			       "descriptor %u is next in a queue of %u",
			       vq_offset(queue->next_avail), queue->size);
	if (queue->next_avail != queue->next_used)
		return err_set(err, -EBADMSG,
			       "0x%04x is next to be taken and 0x%04x to be "
			       "completed: requests between are lost",
			       queue->next_avail, queue->next_used);
	return 0;
}

static int add_indirect(struct vq_chain *chain, const struct vq_desc *desc,
			struct err *err)
{
	struct vq_table table;
	int ret;

	if (chain->request->count > 1 ||
	    (le16_get(desc->b) & VRING_DESC_F_NEXT))
		return err_set(err, -EBADMSG,
			       "an indirect table in a chain of descriptors");
	ret = vq_table_open(chain, desc, &table, err);
	/* The table's order is the chain's (2.8.7). */
	for (uint32_t i = 0; ret == 0 && i < table.entries; i++) {
		struct vq_desc entry;
		uint16_t flags;

		ret = vq_table_read(chain, &table, i, &entry, err);
		if (ret)
			break;
		flags = le16_get(entry.b);
		if (flags & VRING_DESC_F_INDIRECT)
			return err_set(err, -EBADMSG,
				       "an indirect table in an indirect "
				       "table");
		ret = vq_chain_add(chain, &entry, flags & VRING_DESC_F_WRITE,
				   err);
	}
	return ret;
}

static int add_chain(const struct vq *vq, struct vq_chain *chain,
		     struct err *err)
{
	struct vq_request *request = chain->request;
	unsigned int size = vq->queue->size;
	uint16_t at = vq->queue->next_avail, flags;
	int ret;

	do {
		struct vq_desc desc;

		if (request->count == size)
			return err_set(err, -EBADMSG,
				       "a chain that is longer than its queue "
				       "of %u",
				       size);
		desc = vq_desc_read(packed_desc(vq, at));
		request->count++;
		request->id = le16_get(desc.a); /* of the last one (2.8.6) */
		flags = le16_get(desc.b);
		if (flags & VRING_DESC_F_INDIRECT)
			return add_indirect(chain, &desc, err);
		ret = vq_chain_add(chain, &desc, flags & VRING_DESC_F_WRITE,
				   err);
		at = vq_advance(at, 1, size);
	} while (ret == 0 && (flags & VRING_DESC_F_NEXT));
	return ret;
}

int vq_packed_pop(struct vq *vq, struct vq_request *request, struct err *err)
{
	struct vdev_queue *queue = vq->queue;
	struct vq_chain chain;
	int ret;

	if (!look(vq, queue->next_avail))
		return 0;
	rcu_read_lock();
	vq_chain_begin(&chain, vq, request);
	ret = add_chain(vq, &chain, err);
	rcu_read_unlock();
	if (ret == 0 && vq_is_overbooked(vq, request))
		ret = err_set(err, -EBADMSG,
			      "descriptors that are in flight are available "
			      "again");
	if (ret)
		return ret;
	queue->next_avail =
		vq_advance(queue->next_avail, request->count, queue->size);
	vq->unpopped -=
		vq->unpopped < request->count ? vq->unpopped : request->count;
	if (vq->unpopped == 0)
		vq->avail_idx = queue->next_avail;
	return 1;
}

void vq_packed_unpop(struct vq *vq, const struct vq_request *request)
{
	struct vdev_queue *queue = vq->queue;

	vq->unpopped += request->count;
	/* A whole round less these, and the wrap counter as it was before. */
	queue->next_avail =
		vq_advance(queue->next_avail ^ VQ_WRAP,
			   queue->size - request->count, queue->size);
}

void vq_packed_push(struct vq *vq, const struct vq_request *request,
		    uint32_t written)
{
	struct vdev_queue *queue = vq->queue;
	uint16_t at = queue->next_used;
	uint16_t flags = at & VQ_WRAP ? FLAG_AVAIL | FLAG_USED : 0;
	struct vq_desc *desc;

	if (written)
		flags |= VRING_DESC_F_WRITE;
	queue->next_used = vq_advance(at, request->count, queue->size);
	if (vq->pushed == 0) {
		vq->first_used = at;
		vq->first_flags = flags;
	}
	vq->pushed += request->count;
	if (!vq_rings_mapped(vq))
		return;
	desc = packed_desc(vq, at);
	desc->size = le32_of(written);
	desc->a = le16_of(request->id);
	/* The driver looks behind the first only when that is used, so that one
	 * is published last and with it all others. */
	if (at != vq->first_used)
		vq_store16(&desc->b, flags);
}

/* The descriptors of @count from @at on. */
static void mark_used(const struct vq *vq, uint16_t at, unsigned int count)
{
	unsigned int first = vq_offset(at), size = vq->queue->size;

	if (first + count > size) {
		first = 0;
		count = size;
	}
	vq_ring_dirty(&vq->desc, sizeof(struct vq_desc) * first,
		      sizeof(struct vq_desc) * count);
}

/* Position @at as a number on the scale of @now's round. */
static uint16_t unwrapped(uint16_t at, uint16_t now, unsigned int size)
{
	if ((at ^ now) & VQ_WRAP)
		return (uint16_t)(vq_offset(at) - size);
	return vq_offset(at);
}

static bool wants_call(const struct vq *vq)
{
	const struct packed_event *event = driver_event(vq);
	uint16_t now = vq->queue->next_used;
	unsigned int size = vq->queue->size;
	/* Pairs with the driver's barrier between its writes of both. */
	uint16_t flags = vq_load16_acquire(&event->flags) & 3;

	if (flags == VRING_PACKED_EVENT_FLAG_DESC && vq->has_event_idx)
		return vq_event_is_due(
			unwrapped(vq_load16(&event->at), now, size),
			vq_offset(now), unwrapped(vq->called_at, now, size));
	return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
}

bool vq_packed_flush(struct vq *vq)
{
	bool is_wanted;
	unsigned int count = vq->pushed;

	vq->pushed = 0;
	if (!vq_rings_mapped(vq))
		return false;
	/* Pairs with the driver's barriers: behind its read of these flags, and
	 * between asking for an interrupt and its last look at them. */
	vq_publish16(&packed_desc(vq, vq->first_used)->b, vq->first_flags);
	mark_used(vq, vq->first_used, count);
	is_wanted = wants_call(vq);
	vq->called_at = vq->queue->next_used;
	return is_wanted;
}

bool vq_packed_arm(struct vq *vq)
{
	struct packed_event *event = device_event(vq);
	uint16_t flags = VRING_PACKED_EVENT_FLAG_ENABLE;

	if (vq->has_event_idx) {
		vq_store16(&event->at, vq->avail_idx);
		flags = VRING_PACKED_EVENT_FLAG_DESC;
	}
	/* Pairs with the driver's barriers: between its reads of both, and between
	 * making descriptors available and its look at whether to notify. */
	vq_publish16(&event->flags, flags);
	vq_ring_dirty(&vq->device, 0, sizeof(*event));
	return look(vq, vq->avail_idx);
}

void vq_packed_disarm(struct vq *vq)
{
	struct packed_event *event = device_event(vq);

	/* An event that is left behind says it already. */
	if (vq->has_event_idx)
		return;
	vq_store16(&event->flags, VRING_PACKED_EVENT_FLAG_DISABLE);
	vq_ring_dirty(&vq->device, 0, sizeof(*event));
}
