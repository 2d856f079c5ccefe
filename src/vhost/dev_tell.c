// SPDX-License-Identifier: Apache-2.0
/*
 * What the back end of one device is told, and in which order; called by dev.c and
 * board.c with the device's lock.  Of memory: dev_table.c.  Nothing here waits but
 * vh_dev_settle().
 */
#include <errno.h>
#include <linux/vhost_types.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"
#include "mem/ram.h"
#include "vhost_priv.h"
#include "virtio/vdev.h"

#define LOG_ALL (1ull << VHOST_F_LOG_ALL)

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

static int tell_log(struct vh_dev *dev, const struct vh_log *log,
		    struct err *err)
{
	int ret;

	/* One that cannot: its side knows (vh_dev_arrived()). */
	if (!log || !dev->can_log || dev->told_log == log->number)
		return 0;
	ret = vh_call(dev, set_log, log, err);
	if (ret)
		return ret;
	dev->told_log = log->number;
	vh_count(&dev->side->counts.logs_told, 1);
	return 0;
}

static int tell_features(struct vh_dev *dev, bool is_logging, struct err *err)
{
	uint64_t features = dev->features & dev->backend_features & ~LOG_ALL;
	int ret;

	is_logging = is_logging && dev->can_log;
	features |= is_logging ? LOG_ALL : 0;
	if (dev->is_told_features && dev->told_features == features)
		return 0;
	/* Some let go of rings that others do not have. */
	vh_dev_forget_told(dev);
	ret = vh_call(dev, set_features, features, err);
	if (ret)
		return ret;
	dev->is_logging = is_logging;
	dev->told_features = features;
	return 0;
}

static int tell_prepare(struct vh_dev *dev, uint16_t size, struct err *err)
{
	if (!dev->ops->prepare || dev->told_size == size)
		return 0;
	return vh_call(dev, prepare, size, err);
}

static int tell_size(struct vh_dev *dev, unsigned int index, uint16_t size,
		     struct err *err)
{
	return dev->rings[index].told.size == size
		       ? 0
		       : vh_call(dev, set_vring_num, index, size, err);
}

static int tell_call(struct vh_dev *dev, unsigned int index, int fd,
		     struct err *err)
{
	const struct vh_told *told = &dev->rings[index].told;

	return told->has_call && told->call_fd == fd
		       ? 0
		       : vh_call(dev, set_vring_call, index, fd, err);
}

static int tell_enable(struct vh_dev *dev, unsigned int index, struct err *err)
{
	const struct vh_ring *ring = &dev->rings[index];

	return ring->told.has_enable && ring->told.is_enabled == ring->is_wanted
		       ? 0
		       : vh_call(dev, set_vring_enable, index, ring->is_wanted,
				 err);
}

int vh_dev_tell_fence(struct vh_dev *dev, struct err *err)
{
	return dev->ops->fence ? vh_call(dev, fence, err) : 0;
}

/* ---- ahead ---- */

void vh_dev_forget_told(struct vh_dev *dev)
{
	dev->is_told_features = false;
	dev->told_size = 0;
	for (unsigned int i = 0; i < dev->ring_count; i++)
		dev->rings[i].told = (struct vh_told){ .size = 0 };
}

static int tell_ring_ahead(struct vh_dev *dev, unsigned int index,
			   const struct vdev_queue *queue, int call_fd,
			   struct err *err)
{
	struct vh_ring *ring = &dev->rings[index];
	bool may_enable = !dev->ops->enable_starts;
	int ret = tell_size(dev, index, queue->size, err);

	if (!ret)
		ret = tell_call(dev, index, call_fd, err);
	if (!ret && may_enable)
		ret = tell_enable(dev, index, err);
	ring->told = (struct vh_told){
		.size = queue->size,
		.has_call = true,
		.call_fd = call_fd,
		.has_enable = may_enable,
		.is_enabled = ring->is_wanted,
	};
	return ret;
}

/*
 * Neither base nor addresses: qemu-storage-daemon reads the used index as it is told
 * where the ring is, and guest memory is not here yet.  No kick, without which a ring
 * has not started.
 */
int vh_dev_tell_ahead(struct vh_dev *dev, const struct vh_queues *queues,
		      struct err *err)
{
	const struct vdev_queue *queue = &queues->vdev->queues[queues->first];
	uint16_t size = 0;
	int ret;

	lock_assert_held(&dev->lock);
	dev->deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	dev->features = queues->features;
	for (unsigned int i = 0; i < queues->count; i++) {
		if (queue[i].is_enabled && queue[i].size > size)
			size = queue[i].size;
	}
	ret = tell_features(dev, false, err);
	dev->is_told_features = !ret;
	if (!ret)
		ret = tell_prepare(dev, size, err);
	if (!ret)
		dev->told_size = size;
	for (unsigned int i = 0; i < queues->count && !ret; i++) {
		if (queue[i].is_enabled)
			ret = tell_ring_ahead(
				dev, i, &queue[i],
				vdev_call_fd(queues->vdev, &queue[i]), err);
	}
	return ret;
}

/* ---- to begin ---- */

static int tell_place(struct vh_dev *dev, unsigned int index, bool is_logged,
		      struct err *err)
{
	struct vh_ring *ring = &dev->rings[index];
	int ret;

	ring->addr.is_logged = is_logged && dev->can_log;
	ret = tell_size(dev, index, ring->size, err);
	if (!ret)
		ret = vh_call(dev, set_vring_base, index, ring->next, err);
	if (!ret)
		ret = vh_call(dev, set_vring_addr, index, &ring->addr, err);
	if (!ret)
		ret = tell_call(dev, index, ring->call_fd, err);
	/* One that is not wanted never works enabled. */
	if (!ret && !ring->is_wanted)
		ret = tell_enable(dev, index, err);
	return ret;
}

static int kick_ring(struct vh_dev *dev, unsigned int index, struct err *err)
{
	struct vh_ring *ring = &dev->rings[index];
	int ret =
		vh_call(dev, set_vring_kick, index, ring->queue->kick_fd, err);

	/* From here on it may work. */
	ring->is_live = true;
	ring->is_stopping = false;
	if (!ret && ring->is_wanted)
		ret = tell_enable(dev, index, err);
	/* What became available while nobody listened. */
	if (!ret)
		vdev_kick(dev->vdev, ring->queue);
	return ret;
}

/* Kicks last: what is said before them goes out in one piece where it can. */
static int tell_rings(struct vh_dev *dev, bool is_logged, struct err *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < dev->ring_count && !ret; i++) {
		if (dev->rings[i].is_used)
			ret = tell_place(dev, i, is_logged, err);
	}
	for (unsigned int i = 0; i < dev->ring_count && !ret; i++) {
		if (dev->rings[i].is_used)
			ret = kick_ring(dev, i, err);
	}
	return ret;
}

static uint16_t largest_ring(const struct vh_dev *dev)
{
	uint16_t size = 0;

	for (unsigned int i = 0; i < dev->ring_count; i++) {
		if (dev->rings[i].size > size)
			size = dev->rings[i].size;
	}
	return size;
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
	if (!ret)
		ret = tell_prepare(dev, largest_ring(dev), err);
	if (!ret)
		ret = tell_rings(dev, log != NULL, err);
	if (!ret)
		ret = vh_dev_tell_fence(dev, err);
	vh_dev_forget_told(dev); /* a stop takes some of it back */
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

		ring->addr.is_logged = log && dev->can_log;
		if (ring->is_live)
			ret = vh_call(dev, set_vring_addr, i, &ring->addr, err);
	}
	return ret ? ret : vh_dev_tell_fence(dev, err);
}

int vh_dev_ask_stop(struct vh_dev *dev, uint64_t deadline_ns, struct err *err)
{
	int ret = 0;

	dev->deadline_ns = deadline_ns;
	for (unsigned int i = 0; i < dev->ring_count && !ret; i++) {
		struct vh_ring *ring = &dev->rings[i];

		if (!ring->is_live || ring->is_stopping)
			continue;
		ring->base = VH_BASE_UNKNOWN;
		ret = vh_call(dev, get_vring_base, i, &ring->base, err);
		ring->is_stopping = !ret;
	}
	if (!ret && dev->ops->flush)
		ret = dev->ops->flush(dev, err);
	return ret;
}

/*
 * qemu-storage-daemon 7.2 dies of a kick that comes while it finishes its requests for
 * the end of a connection, and the driver kicks on.  So its rings get a kick that nobody
 * gives.
 */
int vh_dev_hush(struct vh_dev *dev, struct err *err)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int ret = 0;

	if (fd < 0)
		return err_set_errno(err, -errno, "%s: eventfd", dev->name);
	dev->deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	for (unsigned int i = 0; i < dev->ring_count && !ret; i++) {
		if (dev->rings[i].is_live)
			ret = vh_call(dev, set_vring_kick, i, fd, err);
	}
	close(fd);
	return ret ? ret : vh_dev_tell_fence(dev, err);
}

int vh_dev_set_count(struct vh_dev *dev, unsigned int count, struct err *err)
{
	bool was_told = false;
	int ret = 0;

	vh_dev_lock(dev);
	dev->deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	for (unsigned int i = 0; i < dev->ring_count && !ret; i++) {
		struct vh_ring *ring = &dev->rings[i];
		bool was_wanted = ring->is_wanted;

		ring->is_wanted = i < count;
		if (!ring->is_live || ring->is_wanted == was_wanted)
			continue;
		ret = vh_call(dev, set_vring_enable, i, ring->is_wanted, err);
		was_told = true;
	}
	if (!ret && was_told)
		ret = vh_dev_settle(dev, dev->deadline_ns, err);
	if (ret)
		vh_dev_fail(dev, ret, err);
	vh_dev_unlock(dev);
	return ret;
}
