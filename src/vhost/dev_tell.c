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
#include "base/event.h"
#include "mem/ram.h"
#include "vhost_priv.h"
#include "virtio/vdev.h"

#define LOG_ALL (1ull << VHOST_F_LOG_ALL)

/* Where to begin in fewer rings than this goes with their addresses: a message of its own,
 * and the wake-up for it, cost more than the back end gains by beginning earlier. */
#define FLUSH_RINGS 8

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
	struct vh_told *told = &dev->rings[index].told;

	if (told->size == size)
		return 0;
	told->size = size;
	told->has_addr = false;
	return vh_call(dev, set_vring_num, index, size, err);
}

static int tell_call(struct vh_dev *dev, unsigned int index, int fd,
		     struct err *err)
{
	struct vh_told *told = &dev->rings[index].told;

	if (told->has_call && told->call_fd == fd)
		return 0;
	told->has_call = true;
	told->call_fd = fd;
	return vh_call(dev, set_vring_call, index, fd, err);
}

static int tell_enable(struct vh_dev *dev, unsigned int index, struct err *err)
{
	struct vh_ring *ring = &dev->rings[index];

	if (ring->told.has_enable && ring->told.is_enabled == ring->is_wanted)
		return 0;
	ring->told.has_enable = true;
	ring->told.is_enabled = ring->is_wanted;
	return vh_call(dev, set_vring_enable, index, ring->is_wanted, err);
}

/* Addresses always come behind it: some compare it then with the used index. */
static int tell_base(struct vh_dev *dev, unsigned int index, uint16_t base,
		     struct err *err)
{
	struct vh_told *told = &dev->rings[index].told;
	int ret;

	if (told->has_base && told->base == base)
		return 0;
	ret = vh_call(dev, set_vring_base, index, base, err);
	told->has_base = !ret; /* -ETIMEDOUT: it is told later */
	told->base = base;
	told->has_addr = false;
	return ret;
}

static bool is_same_addr(const struct vh_vring_addr *a,
			 const struct vh_vring_addr *b)
{
	return a->desc == b->desc && a->avail == b->avail &&
	       a->used == b->used && a->used_gpa == b->used_gpa &&
	       a->is_logged == b->is_logged;
}

static int tell_addr(struct vh_dev *dev, unsigned int index,
		     const struct vh_vring_addr *addr, struct err *err)
{
	struct vh_told *told = &dev->rings[index].told;
	int ret;

	if (told->has_addr && is_same_addr(&told->addr, addr))
		return 0;
	ret = vh_call(dev, set_vring_addr, index, addr, err);
	told->has_addr = !ret;
	told->addr = *addr;
	return ret;
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

void vh_dev_forget_places(struct vh_dev *dev)
{
	for (unsigned int i = 0; i < dev->ring_count; i++)
		dev->rings[i].told.has_base = dev->rings[i].told.has_addr =
			false;
}

static int tell_ring_ahead(struct vh_dev *dev, unsigned int index,
			   const struct vdev_queue *queue, int call_fd,
			   struct err *err)
{
	int ret = tell_size(dev, index, queue->size, err);

	if (!ret)
		ret = tell_call(dev, index, call_fd, err);
	if (!ret && !dev->ops->enable_starts)
		ret = tell_enable(dev, index, err);
	return ret;
}

/* No kick, without which a ring has not started. */
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

/* Who was not built ahead is told all at once, later. */
int vh_dev_tell_bases(struct vh_dev *dev, const struct vh_queues *queues,
		      struct err *err)
{
	const struct vdev_queue *queue = &queues->vdev->queues[queues->first];
	int ret = 0;

	lock_assert_held(&dev->lock);
	dev->deadline_ns = clock_mono_ns(); /* what has no room now waits */
	for (unsigned int i = 0; i < queues->count && !ret; i++) {
		if (queue[i].is_enabled && dev->rings[i].told.size)
			ret = tell_base(dev, i, queue[i].next_avail, err);
	}
	if (!ret && dev->ops->flush && queues->count >= FLUSH_RINGS)
		ret = dev->ops->flush(dev, err);
	if (ret == -ETIMEDOUT) {
		err_clear(err);
		ret = 0;
	}
	return ret;
}

/*
 * Guest memory is here: some back ends (qemu-storage-daemon, DPDK) read the used index as
 * they are told where the ring is.  One that is not in RAM breaks the device as it
 * starts, and is no reason for the guest to stay where it was.
 */
int vh_dev_tell_places(struct vh_dev *dev, const struct vh_queues *queues,
		       const struct vh_mem_table *table, struct err *err)
{
	const struct vdev_queue *queue = &queues->vdev->queues[queues->first];
	int ret = 0;

	lock_assert_held(&dev->lock);
	if (dev->told_table != table->number)
		return 0; /* first that */
	for (unsigned int i = 0; i < queues->count && !ret; i++) {
		struct vh_vring_addr addr = { .desc = 0 };

		if (!queue[i].is_enabled ||
		    vh_queue_place(dev, i, &queue[i], table, &addr, NULL))
			continue;
		ret = tell_base(dev, i, queue[i].next_avail, err);
		if (!ret)
			ret = tell_addr(dev, i, &addr, err);
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
		ret = tell_base(dev, index, ring->next, err);
	if (!ret)
		ret = tell_addr(dev, index, &ring->addr, err);
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
	return ret;
}

/* What became available while nobody listened.  Also where nothing did: the back end
 * before may have told the driver that it need not kick. */
static void kick_all(const struct vh_dev *dev)
{
	int fds[VDEV_QUEUES_MAX];
	unsigned int count = 0;

	for (unsigned int i = 0; i < dev->ring_count; i++) {
		if (dev->rings[i].is_used)
			fds[count++] = dev->rings[i].queue->kick_fd;
	}
	event_write_all(dev->vdev->writer, fds, count);
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
	if (!ret)
		kick_all(dev);
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
