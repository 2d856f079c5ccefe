// SPDX-License-Identifier: Apache-2.0
/*
 * How a device's rings begin to work; called by device types, with no lock of these.
 *
 * Those of a guest that comes from elsewhere are built first: the back end is told what
 * it can know before the guest's memory is there, and whether that works is known
 * before the guest stops over there.  What it is told in the pause is on its way to it
 * while the rest of the guest is: it works on that beside others, and begins with the
 * kick alone.
 *
 *	build, build, ..., probe | build, build   | start, start_wait
 *	 its guest runs there    | is stopped     | GO
 *	 AHEAD   AHEAD           | STOPPED  WHOLE |
 */
#include <errno.h>

#include "base/err.h"
#include "vhost_priv.h"
#include "virtio/vdev.h"

/* Who lets a machine go has its run state meanwhile, and `stop` waits for that.  A back end
 * that is silent for longer is waited for by its device's thread. */
#define START_LOOK_NS (500 * NS_PER_MS)

static void take_queues(struct vh_dev *dev, const struct vh_queues *queues)
{
	struct vdev *vdev = queues->vdev;

	for (unsigned int i = 0; i < dev->ring_count; i++) {
		struct vh_ring *ring = &dev->rings[i];
		struct vdev_queue *queue = NULL;

		if (i < queues->count &&
		    vdev->queues[queues->first + i].is_enabled)
			queue = &vdev->queues[queues->first + i];
		*ring = (struct vh_ring){
			.is_wanted = ring->is_wanted,
			.told = ring->told,
			.is_used = queue != NULL,
			.queue = queue,
			.size = queue ? queue->size : 0,
			.next = queue ? queue->next_avail : 0,
			.taken = queue ? queue->next_avail : 0,
			.call_fd = queue ? vdev_call_fd(vdev, queue) : -1,
		};
	}
	dev->vdev = vdev;
	dev->features = queues->features;
	dev->stop_asked_ns = 0;
	dev->is_parted = false;
	if (!__atomic_exchange_n(&dev->was_reset, false, __ATOMIC_ACQ_REL))
		return;
	dev->told_size = 0; /* with the record that there was */
	vh_dev_forget_places(dev);
	if (dev->ops->drop_record)
		dev->ops->drop_record(dev);
}

/* The driver's rings are not where they can be worked on. */
static void forget_queues(struct vh_dev *dev)
{
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		dev->rings[i].is_used = false;
		dev->rings[i].queue = NULL;
	}
}

/* Answers are due to what has been asked ahead and may have changed; where rings are is
 * behind these. */
static int tell_stage(struct vh_dev *dev, const struct vh_queues *queues,
		      const struct vh_mem_table *table, enum vdev_stage stage,
		      struct err *err)
{
	int ret;

	if (stage == VDEV_STOPPED)
		return vh_dev_tell_bases(dev, queues, err);
	ret = vh_dev_tell_ahead(dev, queues, err);
	if (!ret && stage == VDEV_WHOLE)
		ret = vh_dev_tell_places(dev, queues, table, err);
	return ret ? ret : vh_dev_settle(dev, dev->deadline_ns, err);
}

int vh_dev_build(struct vh_dev *dev, const struct vh_queues *queues,
		 enum vdev_stage stage, struct err *err)
{
	const struct vh_mem_table *table;
	int ret = 0;

	vh_dev_lock_both(dev, UINT64_MAX);
	table = dev->side->table;
	lock_release(&dev->side->lock);
	if (!vh_dev_is_away(dev)) {
		ret = tell_stage(dev, queues, table, stage, err);
		if (ret)
			vh_dev_fail(dev, ret, err);
	}
	if (vh_is_vanished(ret)) {
		err_clear(err);
		ret = 0;
	}
	if (!ret && stage == VDEV_WHOLE && vh_dev_is_away(dev))
		ret = err_set(err, -ENOTCONN, "%s: its back end has gone",
			      dev->name);
	vh_dev_unlock(dev);
	return ret;
}

void vh_dev_probe(struct vh_dev *dev)
{
	struct err err = ERR_INIT;
	int ret;

	vh_dev_lock(dev);
	if (!vh_dev_is_away(dev)) {
		dev->deadline_ns = clock_mono_ns() + VH_REPLY_NS;
		ret = vh_dev_tell_fence(dev, &err);
		if (ret)
			vh_dev_fail(dev, ret, &err);
	}
	vh_dev_unlock(dev);
}

/* What the back end said, or did not say, of a start. */
static int judge_start(struct vh_dev *dev, int ret, struct err *err)
{
	/* Nothing is lost yet: the next back end begins anew. */
	dev->is_started = !ret || vh_is_vanished(ret);
	if (ret)
		vh_dev_fail(dev, ret, err);
	if (ret && dev->is_started) {
		err_clear(err);
		ret = 0;
	}
	return ret;
}

int vh_dev_start(struct vh_dev *dev, const struct vh_queues *queues,
		 struct err *err)
{
	const struct vh_mem_table *table;
	const struct vh_log *log;
	int ret;

	vh_dev_lock_both(dev, UINT64_MAX);
	dev->start_until_ns = clock_mono_ns() +
			      (dev->ops->resume ? START_LOOK_NS : VH_REPLY_NS);
	take_queues(dev, queues);
	table = dev->side->table;
	log = dev->side->is_logging ? dev->side->log : NULL;
	ret = vh_dev_place(dev, table, err);
	if (ret)
		forget_queues(dev);
	lock_release(&dev->side->lock);
	dev->is_started = !ret;
	if (!ret && !vh_dev_is_away(dev))
		ret = judge_start(dev, vh_dev_go(dev, table, log, err), err);
	lock_release(&dev->lock);
	return ret;
}

void vh_dev_reset(struct vh_dev *dev)
{
	__atomic_store_n(&dev->was_reset, true, __ATOMIC_RELEASE);
}

/* Several that are silent have been so since they began, which was at a time. */
int vh_dev_start_wait(struct vh_dev *dev, struct err *err)
{
	int ret = 0;

	vh_dev_lock(dev);
	if (dev->is_started && !vh_dev_is_away(dev)) {
		ret = vh_dev_settle(dev, dev->start_until_ns, err);
		if (ret == -ETIMEDOUT && dev->ops->resume) {
			err_clear(err);
			dev->ops->resume(dev);
			ret = 0;
		} else {
			ret = judge_start(dev, ret, err);
		}
	}
	vh_dev_unlock(dev);
	return ret;
}
