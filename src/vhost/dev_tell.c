// SPDX-License-Identifier: Apache-2.0
/*
 * What the back end of one device is told, and in which order; called by dev.c and
 * board.c with the device's lock.  Nothing here waits but vh_dev_settle().
 */
#include <errno.h>
#include <linux/vhost_types.h>
#include <sys/eventfd.h>

#include "base/err.h"
#include "mem/ram.h"
#include "vhost_priv.h"
#include "virtio/vdev.h"

#define LOG_ALL (1ull << VHOST_F_LOG_ALL)

#define call(dev, op, ...)                        \
	(vh_count(&(dev)->side->counts.calls, 1), \
	 (dev)->ops->op((dev), __VA_ARGS__))

/* ---- where rings are ---- */

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
static int place_ring(struct vh_dev *dev, unsigned int index,
		      const struct vh_mem_table *table, struct err *err)
{
	struct vh_ring *ring = &dev->rings[index];
	const struct vdev_queue *queue = ring->queue;
	const struct vh_region *region;
	uint64_t used_size = 6 + 8ull * ring->size;
	int ret;

	ret = place_part(dev, index, table, queue->desc, 16ull * ring->size,
			 &ring->addr.desc, err);
	if (!ret)
		ret = place_part(dev, index, table, queue->driver,
				 6 + 2ull * ring->size, &ring->addr.avail, err);
	if (!ret)
		ret = place_part(dev, index, table, queue->device, used_size,
				 &ring->addr.used, err);
	if (ret)
		return ret;
	region = vh_table_find(table, queue->device, used_size);
	ring->used_block = region->block;
	ring->used_offset = region->offset + (queue->device - region->gpa);
	ring->used_gpa = ring->addr.used_gpa = queue->device;
	ring->used_size = used_size;
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

/* ---- what the back end is told ---- */

int vh_dev_tell_table(struct vh_dev *dev, const struct vh_mem_table *table,
		      struct err *err)
{
	int ret;

	if (dev->told_table == table->number)
		return 0;
	if (table->is_full || table->count > dev->regions_max)
		return err_set(err, -E2BIG,
			       "%s: %u%s pieces of RAM, its back end takes %u",
			       dev->name, table->count,
			       table->is_full ? " and more" : "",
			       dev->regions_max);
	dev->deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	ret = call(dev, set_mem_table, table, err);
	if (ret)
		return ret;
	dev->told_table = table->number;
	vh_count(&dev->side->counts.tables_told, 1);
	return 0;
}

static int tell_log(struct vh_dev *dev, const struct vh_log *log,
		    struct err *err)
{
	int ret;

	if (!log || dev->told_log == log->number)
		return 0;
	if (!dev->can_log)
		return err_set(err, -ENOTSUP,
			       "%s: its back end cannot log what it writes",
			       dev->name);
	ret = call(dev, set_log, log, err);
	if (ret)
		return ret;
	dev->told_log = log->number;
	vh_count(&dev->side->counts.logs_told, 1);
	return 0;
}

static int tell_features(struct vh_dev *dev, bool is_logging, struct err *err)
{
	uint64_t features = dev->features & dev->backend_features & ~LOG_ALL;
	int ret = call(dev, set_features, features | (is_logging ? LOG_ALL : 0),
		       err);

	if (!ret)
		dev->is_logging = is_logging;
	return ret;
}

static int tell_ring(struct vh_dev *dev, unsigned int index, bool is_logged,
		     struct err *err)
{
	struct vh_ring *ring = &dev->rings[index];
	int ret;

	ring->addr.is_logged = is_logged;
	ret = call(dev, set_vring_num, index, ring->size, err);
	if (!ret)
		ret = call(dev, set_vring_base, index, ring->next, err);
	if (!ret)
		ret = call(dev, set_vring_addr, index, &ring->addr, err);
	if (!ret)
		ret = call(dev, set_vring_call, index, ring->call_fd, err);
	if (!ret)
		ret = call(dev, set_vring_kick, index, ring->queue->kick_fd,
			   err);
	/* From here on it may work. */
	ring->is_live = true;
	ring->is_stopping = false;
	return ret;
}

static int tell_rings(struct vh_dev *dev, bool is_logged, struct err *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < dev->ring_count && !ret; i++) {
		struct vh_ring *ring = &dev->rings[i];

		if (!ring->is_used)
			continue;
		ret = tell_ring(dev, i, is_logged, err);
		if (!ret)
			ret = call(dev, set_vring_enable, i, ring->is_wanted,
				   err);
		/* What became available while nobody listened. */
		if (!ret)
			eventfd_write(ring->queue->kick_fd, 1);
	}
	return ret;
}

int vh_dev_go(struct vh_dev *dev, const struct vh_mem_table *table,
	      const struct vh_log *log, struct err *err)
{
	int ret;

	lock_assert_held(&dev->lock);
	dev->deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	ret = vh_dev_tell_table(dev, table, err);
	if (!ret)
		ret = tell_log(dev, log, err);
	if (!ret)
		ret = tell_features(dev, log != NULL, err);
	if (!ret && dev->ops->prepare)
		ret = call(dev, prepare, err);
	if (!ret)
		ret = tell_rings(dev, log != NULL, err);
	return ret;
}

int vh_dev_settle(struct vh_dev *dev, uint64_t deadline_ns, struct err *err)
{
	lock_assert_held(&dev->lock);
	if (!dev->ops->settle || vh_dev_is_away(dev))
		return 0;
	dev->deadline_ns = deadline_ns;
	return dev->ops->settle(dev, err);
}

int vh_dev_set_logging(struct vh_dev *dev, const struct vh_log *log,
		       struct err *err)
{
	int ret;

	dev->deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	ret = tell_log(dev, log, err);
	if (!ret)
		ret = tell_features(dev, log != NULL, err);
	for (unsigned int i = 0; i < dev->ring_count && !ret; i++) {
		struct vh_ring *ring = &dev->rings[i];

		ring->addr.is_logged = log != NULL;
		if (ring->is_live)
			ret = call(dev, set_vring_addr, i, &ring->addr, err);
	}
	return ret;
}

int vh_dev_ask_stop(struct vh_dev *dev, struct err *err)
{
	int ret = 0;

	dev->deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	for (unsigned int i = 0; i < dev->ring_count && !ret; i++) {
		struct vh_ring *ring = &dev->rings[i];

		if (!ring->is_live || ring->is_stopping)
			continue;
		ring->base = VH_BASE_UNKNOWN;
		ring->is_stopping = true;
		ret = call(dev, get_vring_base, i, &ring->base, err);
	}
	return ret;
}

int vh_dev_set_count(struct vh_dev *dev, unsigned int count, struct err *err)
{
	int ret = 0;

	vh_dev_lock(dev);
	dev->deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	for (unsigned int i = 0; i < dev->ring_count && !ret; i++) {
		struct vh_ring *ring = &dev->rings[i];
		bool was_wanted = ring->is_wanted;

		ring->is_wanted = i < count;
		if (ring->is_live && ring->is_wanted != was_wanted)
			ret = call(dev, set_vring_enable, i, ring->is_wanted,
				   err);
	}
	if (!ret)
		ret = vh_dev_settle(dev, dev->deadline_ns, err);
	if (ret)
		vh_dev_fail(dev, ret, err);
	vh_dev_unlock(dev);
	return ret;
}
