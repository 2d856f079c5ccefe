// SPDX-License-Identifier: Apache-2.0
/*
 * What becomes of a device's rings when its back end goes, and when one is there again;
 * called by whoever sees it, with the device's lock.
 *
 * A back end that goes by itself leaves rings of which nobody knows what it had
 * taken.  They go on with another one (vh_dev_lost())
 *
 * - when the back end kept a record of its requests that outlives it (inflight), and
 *   the next one knows such records (judge_stranger()), unless it is the next request
 *   of a ring that ends them (count_life()),
 * - when requests may be lost, as a network's,
 * - or when all that the driver made available had been completed;
 *
 * else the device asks for a reset: what is lost silently is lost for good.
 */
#include <errno.h>

#include "base/err.h"
#include "base/trace.h"
#include "vhost/ring.h"
#include "vhost_priv.h"
#include "virtio/vdev.h"

void vh_dev_fail(struct vh_dev *dev, int why, const struct err *err)
{
	struct err unsaid = ERR_INIT;

	lock_assert_held(&dev->lock);
	if (!err) { /* the caller did not want to know */
		err_set_errno(&unsaid, why, "%s: its back end", dev->name);
		err = &unsaid;
	}
	trace(vh_failed, "%s: %s", dev->name, err_msg(err));
	if (!vh_dev_is_away(dev))
		dev->ops->fail(dev, why, err);
	vh_dev_lost(dev, why, err);
}

static bool may_go_on(const struct vh_dev *dev, int why,
		      const struct vh_ring *ring)
{
	if (!vh_is_vanished(why))
		return false;
	if (dev->may_lose || ring_is_idle(ring))
		return true;
	return dev->has_inflight && ring->futile_lives < VH_FUTILE_MAX;
}

/*
 * What a back end makes of a chain of descriptors that breaks the rules is often the end
 * of the connection, and a record gives it the same one again.  One that was asked to
 * stop may have been kept from it, and one that was idle had nothing to take.
 */
static void count_life(struct vh_dev *dev, unsigned int index, struct err *err)
{
	struct vh_ring *ring = &dev->rings[index];

	if (ring_used(ring) != ring->next)
		ring->futile_lives = 0;
	else if (!ring->is_stopping && !ring_is_idle(ring))
		ring->futile_lives++;
	if (ring->futile_lives >= VH_FUTILE_MAX)
		err_set(err, -ECONNRESET,
			"%s: ring %u: its back end ends each time it takes "
			"the next request",
			dev->name, index);
}

void vh_dev_lost(struct vh_dev *dev, int why, const struct err *reason)
{
	bool is_broken = dev->is_started && !vh_is_vanished(why);
	struct err futile = ERR_INIT;

	lock_assert_held(&dev->lock);
	if (dev->is_logging)
		__atomic_store_n(&dev->was_lost, true, __ATOMIC_RELEASE);
	dev->is_logging = dev->is_held = false;
	__atomic_store_n(&dev->is_away, true, __ATOMIC_RELEASE);
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		struct vh_ring *ring = &dev->rings[i];

		if (!ring->is_live)
			continue;
		/* One that answered a stop finishes what it took, and whoever
		 * waits for that judges. */
		if (ring->is_stopping && ring->base != VH_BASE_UNKNOWN &&
		    vh_is_vanished(why)) {
			ring->taken = (uint16_t)ring->base;
			continue;
		}
		if (dev->has_inflight && vh_is_vanished(why))
			count_life(dev, i, &futile);
		if (!may_go_on(dev, why, ring))
			is_broken = true;
		ring_rest(ring, ring_used(ring), ring_avail(ring));
	}
	if (is_broken && dev->is_started) {
		dev->is_started = false;
		vdev_break(dev->vdev, futile.code ? &futile : reason);
	}
	pthread_cond_broadcast(&dev->changed);
}

static void note_taken(struct vh_dev *dev)
{
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		struct vh_ring *ring = &dev->rings[i];

		if (ring->is_used && !ring->is_live)
			ring->taken = ring_avail(ring);
	}
}

/*
 * qemu-storage-daemon 7.2 answers a stop at once, and loses those of its requests
 * that end later.  When its connection ends it finishes them, and only then takes
 * another one.
 */
void vh_dev_part(struct vh_dev *dev)
{
	struct err err = ERR_INIT;

	lock_assert_held(&dev->lock);
	err_set(&err, -ECONNRESET, "%s: let go, to finish its requests",
		dev->name);
	dev->is_parted = true;
	for (unsigned int i = 0; i < dev->ring_count; i++)
		dev->rings[i].is_live = dev->rings[i].is_stopping = false;
	note_taken(dev);
	vh_dev_fail(dev, -ECONNRESET, &err);
}

/* Who had been let go works on nothing any more: all that it took is done, but for a
 * record's requests, or it was killed (judge_stranger()).  Of what it wrote since, the log
 * may be gone. */
static void has_finished(struct vh_dev *dev)
{
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		struct vh_ring *ring = &dev->rings[i];

		if (ring->is_used && !ring->is_live)
			ring_rest(ring, ring_used(ring), ring->taken);
	}
	__atomic_store_n(&dev->was_lost, true, __ATOMIC_RELEASE);
}

void vh_dev_left(struct vh_dev *dev)
{
	lock_assert_held(&dev->lock);
	dev->is_leaving = false;
	note_taken(dev); /* it may have been at work all the time */
	has_finished(dev);
	pthread_cond_broadcast(&dev->changed);
}

static bool has_lost(const struct vh_dev *dev)
{
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		const struct vh_ring *ring = &dev->rings[i];

		if (ring->is_used && ring_used(ring) != ring->taken)
			return true;
	}
	return false;
}

/* What the one before had taken and not finished, nobody will.  Nor is its record good for
 * one that comes later. */
static void judge_stranger(struct vh_dev *dev)
{
	struct err err = ERR_INIT;

	if (dev->ops->drop_record)
		dev->ops->drop_record(dev);
	if (!dev->is_started || !has_lost(dev))
		return;
	for (unsigned int i = 0; i < dev->ring_count; i++)
		dev->rings[i].is_live = dev->rings[i].is_stopping = false;
	dev->is_started = false;
	err_set(&err, -ENODATA,
		"%s: its back end knows nothing of requests that the one "
		"before had taken",
		dev->name);
	vdev_break(dev->vdev, &err);
}

void vh_dev_returned(struct vh_dev *dev)
{
	if (dev->is_parted)
		has_finished(dev);
	dev->is_parted = false;
	if (dev->is_stranger)
		judge_stranger(dev);
	dev->is_stranger = false;
}
