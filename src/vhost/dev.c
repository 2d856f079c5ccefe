// SPDX-License-Identifier: Apache-2.0
/*
 * One device of rings: stop, and going on with a back end that is there again.  What it
 * is told is dev_tell.c's, how it begins dev_start.c's, and what becomes of the rings
 * when it goes by itself dev_lost.c's.
 *
 *	     vh_dev_start()                    kick
 *	rest ---------------> table, log, features, rings -----> live
 *	     <--- drained --- base <--- get_vring_base <--------
 *
 * One that was let go because it does not answer has the guest's memory still, and may
 * write to it and to the rings when it wakes up.  Until it has ended its side of the
 * connection it is leaving: there is no other one, and the device has not stopped.
 *
 * Only split rings: where a packed one is to go on is known to its back end alone.
 */
#include <errno.h>

#include "base/err.h"
#include "vhost/ring.h"
#include "vhost_priv.h"
#include "virtio/vdev.h"

bool vh_dev_is_live(const struct vh_dev *dev)
{
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		if (dev->rings[i].is_live)
			return true;
	}
	return false;
}

/* ---- waiting ---- */

/*
 * Until @count_left() is 0 for all live rings; -EBADMSG where no back end can get there.
 * Nothing tells of a used index that moves: the driver may have asked for no interrupts,
 * and some back ends have let go of the call eventfd by then.  So look again, ever more
 * rarely.
 */
static int wait_rings(struct vh_dev *dev, uint64_t deadline_ns,
		      int (*count_left)(const struct vh_ring *ring),
		      struct err *err)
{
	uint64_t pause_ns = 20 * NS_PER_US, now;
	unsigned int i = 0;

	while (i < dev->ring_count) {
		const struct vh_ring *ring = &dev->rings[i];
		int left = ring->is_live ? count_left(ring) : 0;

		if (left < 0)
			return err_set(err, left,
				       "%s: ring %u: its indices have more "
				       "requests under way than its size, %u",
				       dev->name, i, ring->size);
		if (!left) {
			i++;
			continue;
		}
		now = clock_mono_ns();
		if (now >= deadline_ns)
			return err_set(err, -ETIMEDOUT,
				       "%s: ring %u: requests that its back "
				       "end does not finish",
				       dev->name, i);
		lock_wait_until(&dev->lock, &dev->changed,
				deadline_ns - now < pause_ns ? deadline_ns
							     : now + pause_ns);
		if (pause_ns < NS_PER_MS)
			pause_ns *= 2;
	}
	return 0;
}

static int count_taken(const struct vh_ring *ring)
{
	return ring->is_stopping ? ring_left_before(ring, (uint16_t)ring->base)
				 : 0;
}

int vh_dev_wait_stop(struct vh_dev *dev, uint64_t deadline_ns, struct err *err)
{
	int ret = vh_dev_settle(dev, deadline_ns, err);

	if (ret)
		return ret;
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		if (dev->rings[i].is_stopping &&
		    dev->rings[i].base == VH_BASE_UNKNOWN)
			return err_set(err, -ENOTCONN,
				       "%s: its back end went while it stopped",
				       dev->name);
	}
	/* It should have finished them before it answered. */
	if (!dev->may_lose)
		ret = wait_rings(dev, deadline_ns, count_taken, err);
	if (ret)
		return ret;
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		struct vh_ring *ring = &dev->rings[i];

		if (ring->is_live && ring->is_stopping)
			ring_rest(ring, (uint16_t)ring->base,
				  (uint16_t)ring->base);
	}
	return 0;
}

/* ---- stop, and going on ---- */

/* Of a hasty one.  What is made available behind the question is not waited for. */
static int count_unasked(const struct vh_ring *ring)
{
	return ring->is_stopping ? 0 : ring_left(ring);
}

static int stop_live(struct vh_dev *dev, uint64_t deadline_ns, struct err *err)
{
	int ret = 0;

	if (dev->is_hasty)
		ret = wait_rings(dev, deadline_ns, count_unasked, err);
	if (!ret)
		ret = vh_dev_ask_stop(dev, deadline_ns, err);
	if (!ret)
		ret = vh_dev_wait_stop(dev, deadline_ns, err);
	return ret;
}

static bool was_asked_to_stop(const struct vh_dev *dev)
{
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		if (dev->rings[i].is_live && dev->rings[i].is_stopping)
			return true;
	}
	return false;
}

int vh_dev_back(struct vh_dev *dev, const struct vh_mem_table *table,
		const struct vh_log *log, uint64_t deadline_ns, struct err *err)
{
	int ret = 0;

	vh_dev_returned(dev);
	if (!dev->is_started)
		return vh_dev_tell_table(dev, table, err);
	/* Of a stop that was given up, or that the last back end answered: all of
	 * them, since those that were stop. */
	if (was_asked_to_stop(dev))
		ret = stop_live(dev, deadline_ns, err);
	if (!ret && !vh_dev_is_live(dev)) {
		ret = vh_dev_go(dev, table, log, err);
		if (ret == -ETIMEDOUT) /* half told, it is of no use */
			ret = -ECONNRESET;
	}
	/* It was not free when logging ended. */
	if (!ret && !log && dev->is_logging)
		ret = vh_dev_set_logging(dev, NULL, err);
	if (!ret)
		ret = vh_dev_settle(dev, deadline_ns, err);
	if (!ret)
		dev->stop_asked_ns = 0;
	return ret;
}

/* Once it may be asked, which a hasty one may that has nothing to do. */
static void stop_soon(struct vh_dev *dev, uint64_t deadline_ns)
{
	struct err err = ERR_INIT;
	int ret = 0;

	if (!dev->is_started || vh_dev_is_away(dev))
		return;
	if (dev->is_hasty)
		ret = wait_rings(dev, deadline_ns, count_unasked, &err);
	/* It may have gone while it was waited for. */
	if (!ret && dev->is_started && !vh_dev_is_away(dev))
		ret = vh_dev_ask_stop(dev, deadline_ns, &err);
	if (ret && ret != -ETIMEDOUT)
		vh_dev_fail(dev, ret, &err);
}

/* One that is busy is asked by vh_dev_stop(), and holds up no other. */
void vh_dev_stop_begin(struct vh_dev *dev)
{
	if (vh_dev_lock_until(dev, clock_mono_ns() + VH_LOOK_NS, NULL))
		return;
	stop_soon(dev, 0);
	vh_dev_unlock(dev);
}

void vh_dev_stop_ask(struct vh_dev *dev, uint64_t deadline_ns)
{
	if (vh_dev_lock_until(dev, clock_mono_ns() + VH_LOOK_NS, NULL))
		return;
	stop_soon(dev, deadline_ns);
	vh_dev_unlock(dev);
}

/* Without a back end: whether its rings are as after a stop, or as near to it as they
 * @must be. */
static bool is_at_rest(const struct vh_dev *dev, bool must)
{
	if (dev->is_parted || dev->is_leaving)
		return false;
	if (must)
		return true;
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		const struct vh_ring *ring = &dev->rings[i];

		/* What nobody can finish is as good as finished. */
		if (ring->is_used && !dev->may_lose && ring_left(ring) > 0)
			return false;
	}
	return true;
}

/* Until the rings rest: 0; -ETIMEDOUT; or the device broke meanwhile. */
static int stop_rings(struct vh_dev *dev, uint64_t deadline_ns, bool must_stop,
		      struct err *err)
{
	while (dev->is_started || dev->is_leaving) {
		int ret = 0;

		err_clear(err);
		if (vh_dev_is_live(dev))
			ret = stop_live(dev, deadline_ns, err);
		else if (!vh_dev_is_away(dev) || is_at_rest(dev, must_stop))
			return 0;
		else
			ret = lock_wait_until(&dev->lock, &dev->changed,
					      deadline_ns);
		if (ret == -ETIMEDOUT)
			return err_set(err, ret,
				       "%s: its back end did not stop",
				       dev->name);
		if (ret)
			vh_dev_fail(dev, ret, err);
	}
	return 0;
}

static void give_queues(struct vh_dev *dev)
{
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		struct vh_ring *ring = &dev->rings[i];

		if (!ring->queue)
			continue;
		ring->queue->next_avail = ring->queue->next_used = ring->next;
		ring->queue = NULL;
	}
	dev->is_started = dev->is_held = false;
	dev->vdev = NULL;
	dev->stop_asked_ns = 0;
}

/* A stop that must succeed in the end: the driver resets the device.  Who stops it may
 * look at dev->vdev without the lock: nobody else starts or stops it. */
static bool is_forced(const struct vh_dev *dev, uint64_t deadline_ns)
{
	return deadline_ns == UINT64_MAX ||
	       (dev->vdev && dev->vdev->is_resetting);
}

int vh_dev_stop(struct vh_dev *dev, uint64_t deadline_ns, struct err *err)
{
	bool must_stop = is_forced(dev, deadline_ns);
	struct err local = ERR_INIT;
	uint64_t limit;
	int ret;

	/* One that answers at once is never busy for long. */
	ret = vh_dev_lock_until(
		dev, dev->ops->resume ? deadline_ns : UINT64_MAX, err);
	if (ret) {
		if (!must_stop) /* it may have been asked already */
			dev->ops->resume(dev);
		return ret;
	}
	if (!dev->stop_asked_ns)
		dev->stop_asked_ns = clock_mono_ns();
	limit = dev->stop_asked_ns + VH_STOP_LIMIT_NS;
	ret = stop_rings(dev, deadline_ns < limit ? deadline_ns : limit,
			 must_stop, &local);
	if (ret && must_stop && clock_mono_ns() >= limit) {
		dev->is_started = false; /* the driver gives up on it anyway */
		vh_dev_fail(dev, ret, &local);
		ret = 0;
	}
	if (!ret)
		give_queues(dev);
	else if (!must_stop && dev->ops->resume)
		dev->ops->resume(dev);
	vh_dev_unlock(dev);
	return ret ? err_set(err, ret, "%s", err_msg(&local)) : 0;
}
