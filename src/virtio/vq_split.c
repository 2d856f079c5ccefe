// SPDX-License-Identifier: Apache-2.0
/*
 * Split virtqueues (virtio 1.2, 2.7): a table of descriptors, a ring of chains that
 * the driver makes available and a ring of those that the device has used.  Both
 * rings' indices run over 16 bits and wrap; the element is the index modulo the
 * queue's size.
 */
#include <errno.h>
#include <linux/virtio_ring.h>

#include "base/err.h"
#include "vq_priv.h"

/* 2.7.6: the event index that follows the ring is its element @size. */
struct split_avail {
	struct le16 flags, idx;
	struct le16 ring[];
};

struct split_used_elem {
	struct le32 id, written;
};

/* 2.7.8 */
struct split_used {
	struct le16 flags, idx;
	struct split_used_elem ring[];
};

static struct split_avail *split_avail(const struct vq *vq)
{
	return (struct split_avail *)vq->driver.host;
}

static struct split_used *split_used(const struct vq *vq)
{
	return (struct split_used *)vq->device.host;
}

/* Read the driver's index: true when it went on. */
static bool look(struct vq *vq)
{
	uint16_t seen = vq->avail_idx;

	/* Pairs with the driver's barrier between its writes to ring and table
	 * and that to the index. */
	vq->avail_idx = vq_load16_acquire(&split_avail(vq)->idx);
	return vq->avail_idx != seen;
}

/* More than the ring holds was made available. */
static int check_jump(uint16_t avail_idx, const struct vdev_queue *queue,
		      struct err *err)
{
	uint16_t count = (uint16_t)(avail_idx - queue->next_avail);

	if (count > queue->size)
		return err_set(err, -EBADMSG,
			       "available index %u is %u behind %u, at most %u "
			       "fit",
			       avail_idx, count, queue->next_avail,
			       queue->size);
	return 0;
}

int vq_split_check(const struct vq *vq, struct err *err)
{
	const struct vdev_queue *queue = vq->queue;

	if (queue->next_avail != queue->next_used)
		return err_set(err, -EBADMSG,
			       "%u requests taken and %u completed: those "
			       "between are lost",
			       queue->next_avail, queue->next_used);
	return check_jump(vq_load16(&split_avail(vq)->idx), queue, err);
}

static int add_indirect(struct vq_chain *chain, const struct vq_desc *desc,
			struct err *err)
{
	struct vq_table table;
	uint32_t at = 0;
	int ret;

	if (le16_get(desc->a) & VRING_DESC_F_NEXT)
		return err_set(err, -EBADMSG,
			       "a chain that goes on behind an indirect table");
	ret = vq_table_open(chain, desc, &table, err);
	/* A loop within the table ends as the chain becomes too long. */
	while (ret == 0) {
		struct vq_desc entry;
		uint16_t flags;

		if (at >= table.entries)
			return err_set(err, -EBADMSG,
				       "descriptor %u of an indirect table of "
				       "%u",
				       at, table.entries);
		ret = vq_table_read(chain, &table, at, &entry, err);
		if (ret)
			return ret;
		flags = le16_get(entry.a);
		if (flags & VRING_DESC_F_INDIRECT)
			return err_set(err, -EBADMSG,
				       "an indirect table in an indirect "
				       "table");
		ret = vq_chain_add(chain, &entry, flags & VRING_DESC_F_WRITE,
				   err);
		if (!(flags & VRING_DESC_F_NEXT))
			break;
		at = le16_get(entry.b);
	}
	return ret;
}

static int add_chain(const struct vq *vq, struct vq_chain *chain, uint16_t at,
		     struct err *err)
{
	const struct vq_desc *table = (const struct vq_desc *)vq->desc.host;
	unsigned int size = vq->queue->size;
	int ret = 0;

	while (ret == 0) {
		struct vq_desc desc;
		uint16_t flags;

		if (at >= size)
			return err_set(err, -EBADMSG,
				       "descriptor %u of a queue of %u", at,
				       size);
		if (chain->request->count == size)
			return err_set(err, -EBADMSG,
				       "a chain that is longer than its queue "
				       "of %u",
				       size);
		chain->request->count++;
		desc = vq_desc_read(&table[at]);
		flags = le16_get(desc.a);
		if (flags & VRING_DESC_F_INDIRECT)
			return add_indirect(chain, &desc, err);
		ret = vq_chain_add(chain, &desc, flags & VRING_DESC_F_WRITE,
				   err);
		if (!(flags & VRING_DESC_F_NEXT))
			break;
		at = le16_get(desc.b);
	}
	return ret;
}

int vq_split_pop(struct vq *vq, struct vq_request *request, struct err *err)
{
	struct vdev_queue *queue = vq->queue;
	struct vq_chain chain;
	int ret;

	if (vq->avail_idx == queue->next_avail && !look(vq))
		return 0;
	ret = check_jump(vq->avail_idx, queue, err);
	if (ret) {
		vq->avail_idx = queue->next_avail;
		return ret;
	}
	request->id = vq_load16(
		&split_avail(vq)->ring[queue->next_avail & (queue->size - 1)]);
	rcu_read_lock();
	vq_chain_begin(&chain, vq, request);
	ret = add_chain(vq, &chain, request->id, err);
	rcu_read_unlock();
	if (ret == 0 && vq_is_overbooked(vq, request))
		ret = err_set(err, -EBADMSG,
			      "descriptors that are in flight are available "
			      "again");
	if (ret)
		return ret;
	queue->next_avail++;
	return 1;
}

void vq_split_unpop(struct vq *vq)
{
	vq->queue->next_avail--;
}

void vq_split_push(struct vq *vq, const struct vq_request *request,
		   uint32_t written)
{
	struct vdev_queue *queue = vq->queue;
	uint16_t at = (uint16_t)(queue->next_used + vq->pushed);
	struct split_used_elem *elem;

	vq->pushed++;
	if (!vq_rings_mapped(vq))
		return;
	elem = &split_used(vq)->ring[at & (queue->size - 1)];
	elem->id = le32_of(request->id);
	elem->written = le32_of(written);
}

/* The @count elements from index @first on, and the index. */
static void mark_used(const struct vq *vq, uint16_t first, unsigned int count)
{
	unsigned int size = vq->queue->size;
	unsigned int at = first & (size - 1);
	uint64_t start = offsetof(struct split_used, ring[at]);
	uint64_t end = offsetof(struct split_used, ring[at + count]);

	/* Most rings are small, and one mark is enough for a page. */
	if (end <= RAM_PAGE_SIZE || at + count > size)
		start = 0;
	if (at + count > size)
		end = offsetof(struct split_used, ring[size]);
	if (start)
		vq_ring_dirty(&vq->device, 0, sizeof(struct split_used));
	vq_ring_dirty(&vq->device, start, end - start);
}

static bool wants_call(const struct vq *vq)
{
	const struct split_avail *avail = split_avail(vq);

	if (vq->has_event_idx)
		return vq_event_is_due(vq_load16(&avail->ring[vq->queue->size]),
				       vq->queue->next_used, vq->called_at);
	return !(vq_load16(&avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
}

bool vq_split_flush(struct vq *vq)
{
	struct vdev_queue *queue = vq->queue;
	uint16_t first = queue->next_used;
	unsigned int count = vq->pushed;
	bool is_wanted;

	vq->pushed = 0;
	queue->next_used = (uint16_t)(first + count);
	if (!vq_rings_mapped(vq))
		return false;
	/* Pairs with the driver's barriers: between its reads of the index and of
	 * the elements, and between asking for an interrupt and its last look at
	 * the index, of which one sees what the other wrote. */
	vq_publish16(&split_used(vq)->idx, queue->next_used);
	mark_used(vq, first, count);
	is_wanted = wants_call(vq);
	vq->called_at = queue->next_used;
	return is_wanted;
}

static void put_flags(const struct vq *vq, uint16_t flags)
{
	vq_publish16(&split_used(vq)->flags, flags);
	vq_ring_dirty(&vq->device, offsetof(struct split_used, flags), 2);
}

static void put_event(const struct vq *vq, uint16_t event)
{
	unsigned int size = vq->queue->size;

	vq_publish16((struct le16 *)&split_used(vq)->ring[size], event);
	vq_ring_dirty(&vq->device, offsetof(struct split_used, ring[size]), 2);
}

bool vq_split_arm(struct vq *vq)
{
	/* Pairs with the driver's barrier between its write of the index and its
	 * look at whether to notify. */
	if (vq->has_event_idx)
		put_event(vq, vq->avail_idx);
	else
		put_flags(vq, 0);
	return look(vq);
}

void vq_split_disarm(struct vq *vq)
{
	/* An event index that is left behind says it already. */
	if (!vq->has_event_idx)
		put_flags(vq, VRING_USED_F_NO_NOTIFY);
}
