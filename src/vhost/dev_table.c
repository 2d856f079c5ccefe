// SPDX-License-Identifier: Apache-2.0
/*
 * What the back end of one device is told of memory; called by board.c, dev.c and
 * dev_tell.c with the device's lock.
 *
 * Most take a whole table.  One that has slots takes regions one by one, and is told
 * only of those that came and went:
 *
 * - What went is taken away before what comes is added: a slot is free before it is
 *   needed, and regions never overlap.  Requests in flight may be in what goes, so all
 *   devices are held then (board.c).
 * - A region that stays is not mentioned, and so is there at any moment.  Where nothing
 *   goes, rings work on meanwhile.
 */
#include <errno.h>

#include "base/err.h"
#include "vhost_priv.h"

static bool is_among(const struct vh_region *regions, unsigned int count,
		     const struct vh_region *region)
{
	for (unsigned int i = 0; i < count; i++) {
		if (vh_region_is_same(&regions[i], region))
			return true;
	}
	return false;
}

static int tell_gone(struct vh_dev *dev, const struct vh_mem_table *table,
		     struct err *err)
{
	unsigned int i = 0;
	int ret;

	while (i < dev->told_region_count) {
		struct vh_region *region = &dev->told_regions[i];

		if (is_among(table->regions, table->count, region)) {
			i++;
			continue;
		}
		ret = vh_call(dev, remove_region, region, err);
		if (ret)
			return ret;
		vh_count(&dev->side->counts.regions_removed, 1);
		*region = dev->told_regions[--dev->told_region_count];
	}
	return 0;
}

static int tell_new(struct vh_dev *dev, const struct vh_mem_table *table,
		    struct err *err)
{
	int ret;

	for (unsigned int i = 0; i < table->count; i++) {
		const struct vh_region *region = &table->regions[i];

		if (is_among(dev->told_regions, dev->told_region_count, region))
			continue;
		ret = vh_call(dev, add_region, region, err);
		if (ret)
			return ret;
		vh_count(&dev->side->counts.regions_added, 1);
		dev->told_regions[dev->told_region_count++] = *region;
	}
	return 0;
}

static int tell(struct vh_dev *dev, const struct vh_mem_table *table,
		struct err *err)
{
	int ret;

	if (!dev->has_slots)
		return vh_call(dev, set_mem_table, table, err);
	ret = tell_gone(dev, table, err);
	return ret ? ret : tell_new(dev, table, err);
}

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
	ret = tell(dev, table, err);
	if (ret)
		return ret;
	/* By these, some look at rings as they are told where those are. */
	vh_dev_forget_places(dev);
	dev->told_table = table->number;
	vh_count(&dev->side->counts.tables_told, 1);
	return 0;
}
