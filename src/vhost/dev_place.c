// SPDX-License-Identifier: Apache-2.0
/*
 * Where the rings of one device are; called by board.c, dev_start.c and dev_tell.c with
 * the device's lock.
 */
#include <errno.h>

#include "base/err.h"
#include "vhost_priv.h"

static int place_part(const struct vh_dev *dev, unsigned int index,
		      const struct vh_mem_table *table, uint64_t gpa,
		      uint64_t size, uint64_t *hva, struct err *err)
{
	const struct vh_region *region = vh_table_find(table, gpa, size);
	uint64_t now = region ? region->hva + (gpa - region->gpa) : 0;

	if (!region)
		return err_set(err, -EFAULT,
			       "%s: ring %u: 0x%lx+%lu is not in RAM",
			       dev->name, index, gpa, size);
	if (*hva && *hva != now)
		return err_set(err, -EFAULT,
			       "%s: ring %u: memory at 0x%lx was replaced",
			       dev->name, index, gpa);
	*hva = now;
	return 0;
}

/* virtio 1.2, 2.7: sizes with the event indices behind both rings. */
static uint64_t used_size(const struct vdev_queue *queue)
{
	return 6 + 8ull * queue->size;
}

int vh_queue_place(const struct vh_dev *dev, unsigned int index,
		   const struct vdev_queue *queue,
		   const struct vh_mem_table *table, struct vh_vring_addr *addr,
		   struct err *err)
{
	int ret = place_part(dev, index, table, queue->desc,
			     16ull * queue->size, &addr->desc, err);

	if (!ret)
		ret = place_part(dev, index, table, queue->driver,
				 6 + 2ull * queue->size, &addr->avail, err);
	if (!ret)
		ret = place_part(dev, index, table, queue->device,
				 used_size(queue), &addr->used, err);
	addr->used_gpa = queue->device;
	return ret;
}

static int place_ring(struct vh_dev *dev, unsigned int index,
		      const struct vh_mem_table *table, struct err *err)
{
	struct vh_ring *ring = &dev->rings[index];
	const struct vdev_queue *queue = ring->queue;
	const struct vh_region *region;
	int ret = vh_queue_place(dev, index, queue, table, &ring->addr, err);

	if (ret)
		return ret;
	region = vh_table_find(table, queue->device, used_size(queue));
	ring->used_block = region->block;
	ring->used_offset = region->offset + (queue->device - region->gpa);
	ring->used_gpa = queue->device;
	ring->used_size = used_size(queue);
	return 0;
}

int vh_dev_place(struct vh_dev *dev, const struct vh_mem_table *table,
		 struct err *err)
{
	int ret = 0;

	lock_assert_held(&dev->side->lock);
	lock_assert_held(&dev->lock);
	for (unsigned int i = 0; i < dev->ring_count && !ret; i++) {
		if (dev->rings[i].is_used)
			ret = place_ring(dev, i, table, err);
	}
	return ret;
}
