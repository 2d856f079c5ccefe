// SPDX-License-Identifier: Apache-2.0
/*
 * How long back ends that are at work take to answer, for a source's estimate of the pause;
 * called by the migration's thread while the guest runs.  They are asked what a fence asks,
 * which changes nothing, once for each ring, as a stop asks for bases.
 */
#include <errno.h>

#include "base/err.h"
#include "vhost_priv.h"

static bool is_at_work(const struct vh_dev *dev)
{
	return dev->ops->fence && dev->is_started && !vh_dev_is_away(dev) &&
	       vh_dev_is_live(dev);
}

/* With the device's lock: who has not answered does so later, or is let go then. */
static void judge(struct vh_dev *dev, int ret, const struct err *err)
{
	if (ret == -ETIMEDOUT)
		dev->ops->resume(dev);
	else if (ret)
		vh_dev_fail(dev, ret, err);
}

static int ask(struct vh_dev *dev, uint64_t deadline_ns)
{
	struct err err = ERR_INIT;
	int ret = lock_acquire_until(&dev->lock, deadline_ns);

	if (ret)
		return ret;
	dev->deadline_ns = deadline_ns;
	for (unsigned int i = 0; is_at_work(dev) && i < dev->ring_count && !ret;
	     i++) {
		if (dev->rings[i].is_live)
			ret = vh_dev_tell_fence(dev, &err);
	}
	judge(dev, ret, &err);
	lock_release(&dev->lock);
	return ret;
}

static int await(struct vh_dev *dev, uint64_t deadline_ns)
{
	struct err err = ERR_INIT;
	int ret = lock_acquire_until(&dev->lock, deadline_ns);

	if (ret)
		return ret;
	if (is_at_work(dev))
		ret = vh_dev_settle(dev, deadline_ns, &err);
	judge(dev, ret, &err);
	lock_release(&dev->lock);
	return ret;
}

static int ask_all(struct vh_side *side, uint64_t deadline_ns)
{
	struct vh_dev *dev;
	int ret = 0;

	list_for_each (dev, &side->devs, link)
		ret = ret ? ret : ask(dev, deadline_ns);
	list_for_each (dev, &side->devs, link)
		ret = ret ? ret : await(dev, deadline_ns);
	return ret;
}

int vh_board_time(struct vh_board *board, uint64_t deadline_ns,
		  uint64_t *ret_ns)
{
	uint64_t start = clock_mono_ns();

	for (int i = 0; i < VH_TYPE_COUNT; i++) {
		struct vh_side *side = &board->sides[i];
		/* A change of the table has it while a back end is silent. */
		int ret = lock_acquire_until(&side->lock, deadline_ns);

		if (ret)
			return ret;
		ret = ask_all(side, deadline_ns);
		lock_release(&side->lock);
		if (ret)
			return ret;
	}
	*ret_ns = clock_mono_ns() - start;
	return 0;
}
