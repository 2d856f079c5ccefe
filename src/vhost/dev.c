// SPDX-License-Identifier: Apache-2.0
/*
 * One device of rings: stop, and what becomes of the rings when the back end goes by
 * itself.  What it is told is dev_tell.c's, and how it begins dev_start.c's.
 *
 *	     vh_dev_start()                    kick
 *	rest ---------------> table, log, features, rings -----> live
 *	     <--- drained --- base <--- get_vring_base <--------
 *
 * A back end that goes by itself leaves rings of which nobody knows what it had
 * taken.  They go on with another one (vh_dev_lost())
 *
 * - when the back end kept a record of its requests that outlives it (inflight), and
 *   the next one knows such records (judge_stranger()),
 * - when requests may be lost, as a network's,
 * - or when all that the driver made available had been completed;
 *
 * else the device asks for a reset: what is lost silently is lost for good.
 *
 * One that was let go because it does not answer has the guest's memory still, and may
 * write to it and to the rings when it wakes up.  Until it has ended its side of the
 * connection it is leaving: there is no other one, and the device has not stopped.
 *
 * Only split rings: where a packed one is to go on is known to its back end alone.
 */
#include <errno.h>

#include "base/err.h"
#include "base/trace.h"
#include "mem/ram.h"
#include "vhost_priv.h"
#include "virtio/vdev.h"

/* ---- rings ---- */

static uint16_t index_at(uint64_t hva)
{
	return __atomic_load_n((const uint16_t *)(uintptr_t)hva,
			       __ATOMIC_ACQUIRE);
}

static uint16_t ring_used(const struct vh_ring *ring)
{
	return index_at(ring->addr.used + 2);
}

static uint16_t ring_avail(const struct vh_ring *ring)
{
	return index_at(ring->addr.avail + 2);
}

static bool is_idle(const struct vh_ring *ring)
{
	return ring_used(ring) == ring_avail(ring);
}

bool vh_dev_is_live(const struct vh_dev *dev)
{
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		if (dev->rings[i].is_live)
			return true;
	}
	return false;
}

/* Nothing is taken from it any more.  Index fields that the back end writes last of
 * all may miss in the log; they are in these pages. */
static void ring_rest(struct vh_ring *ring, uint16_t next, uint16_t taken)
{
	ring->is_live = ring->is_stopping = false;
	ring->next = next;
	ring->taken = taken;
	ram_block_mark_dirty(ring->used_block, ring->used_offset,
			     ring->used_size);
}

/* ---- waiting ---- */

/*
 * Until @is_done() of all live rings.  Nothing tells of a used index that moves: the
 * driver may have asked for no interrupts, and some back ends have let go of the
 * call eventfd by then.  So look again, ever more rarely.
 */
static int wait_rings(struct vh_dev *dev, uint64_t deadline_ns,
		      bool (*is_done)(const struct vh_ring *ring),
		      struct err *err)
{
	uint64_t pause_ns = 20 * NS_PER_US, now;
	unsigned int i = 0;

	while (i < dev->ring_count) {
		if (!dev->rings[i].is_live || is_done(&dev->rings[i])) {
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

static bool is_drained(const struct vh_ring *ring)
{
	return !ring->is_stopping || ring_used(ring) == (uint16_t)ring->base;
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
		ret = wait_rings(dev, deadline_ns, is_drained, err);
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

/* ---- the back end goes ---- */

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
	return dev->has_inflight || dev->may_lose || is_idle(ring);
}

void vh_dev_lost(struct vh_dev *dev, int why, const struct err *reason)
{
	bool is_broken = dev->is_started && !vh_is_vanished(why);

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
		if (!may_go_on(dev, why, ring))
			is_broken = true;
		ring_rest(ring, ring_used(ring), ring_avail(ring));
	}
	if (is_broken && dev->is_started) {
		dev->is_started = false;
		vdev_break(dev->vdev, reason);
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
 * record's requests, or it was killed (judge_stranger()).  Of what it wrote since, the log may be gone. */
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

/* ---- stop, and going on ---- */

/* Of a hasty one.  What is made available behind the question is not waited for. */
static bool may_be_asked(const struct vh_ring *ring)
{
	return ring->is_stopping || is_idle(ring);
}

static int stop_live(struct vh_dev *dev, uint64_t deadline_ns, struct err *err)
{
	int ret = 0;

	if (dev->is_hasty)
		ret = wait_rings(dev, deadline_ns, may_be_asked, err);
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

	if (dev->is_parted)
		has_finished(dev);
	dev->is_parted = false;
	if (dev->is_stranger)
		judge_stranger(dev);
	dev->is_stranger = false;
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
		ret = wait_rings(dev, deadline_ns, may_be_asked, &err);
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

		if (ring->is_used && !dev->may_lose && !is_idle(ring))
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
