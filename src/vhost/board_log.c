// SPDX-License-Identifier: Apache-2.0
/*
 * The dirty log of a back-end type: on, off, and who scans it; called by board.c with
 * the side's lock.
 *
 * On: log, then features, then rings; a device's writes are logged when the call that
 * began it returns (D1).  A device that starts while logging is on is told the log
 * before its rings work.  A stopped device stays on the list, so that the last sync,
 * after all have stopped (D3), is a scan like the others.
 */
#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "base/trace.h"
#include "mem/ram.h"
#include "vhost_priv.h"

/* ---- election ---- */

void vh_side_elect(struct vh_side *side)
{
	struct vh_dev *dev;

	if (side->elected && !vh_dev_is_away(side->elected))
		return;
	side->elected = NULL;
	list_for_each (dev, &side->devs, link) {
		if (!vh_dev_is_away(dev)) {
			side->elected = dev;
			trace(vh_elected, "%s: %s", vh_type_names[side->type],
			      dev->name);
			return;
		}
	}
}

/* ---- scans ---- */

static void scan_all(struct vh_side *side)
{
	vh_log_scan_all(side->log, side->table);
	vh_count(&side->counts.scans, 1);
}

static void scan_rings(struct vh_side *side, const struct vh_dev *dev)
{
	for (unsigned int i = 0; i < dev->ring_count; i++) {
		const struct vh_ring *ring = &dev->rings[i];

		if (ring->is_used)
			vh_log_scan(side->log, side->table, ring->used_gpa,
				    ring->used_size);
	}
}

/* All that the migration watches may have been written: also what is in the table no
 * more, and may still be mapped by a back end that was told of it.  With the topology
 * lock, by which blocks stay. */
static void mark_all(struct vh_side *side)
{
	struct ram_block *block = NULL;

	while ((block = ram_block_next(side->board->mem, block))) {
		for (uint64_t first = 0; first < block->pages; first += 64)
			ram_block_mark_word(block, first, ~0ull, true);
	}
}

/* A back end that died may have written what it did not log any more. */
static void note_lost(struct vh_side *side, struct vh_dev *dev)
{
	/* A look first: a locked instruction for each device is what a scan of
	 * an idle guest would cost. */
	if (!__atomic_load_n(&dev->was_lost, __ATOMIC_ACQUIRE) ||
	    !__atomic_exchange_n(&dev->was_lost, false, __ATOMIC_ACQ_REL))
		return;
	trace(vh_lost_log, "%s: all memory is taken for dirty", dev->name);
	side->was_lost = true;
}

void vh_side_scan(struct vh_side *side)
{
	uint64_t start = clock_mono_ns();
	unsigned int ring_scans = 0;
	bool is_scanned = false;
	struct vh_dev *dev;

	list_for_each (dev, &side->devs, link) {
		note_lost(side, dev);
		vh_side_elect(side);
		if (!side->log)
			continue;
		/* One is elected anew when the first one dies behind its turn. */
		if (side->board->scan_each ||
		    (dev == side->elected && !is_scanned)) {
			scan_all(side);
			is_scanned = true;
		}
		scan_rings(side, dev);
		ring_scans++;
	}
	/* Who was elected died after its turn came, or nobody is left. */
	if (side->log && !is_scanned)
		scan_all(side);
	/* Of one that is not logged: so that there is something to be sent, which
	 * fails (board_log_clear()), or all of it when no more is written. */
	if (side->is_unlogged || side->was_lost)
		mark_all(side);
	side->was_lost = false;
	vh_count(&side->counts.ring_scans, ring_scans);
	vh_count(&side->counts.scan_ns, clock_mono_ns() - start);
}

void vh_side_scan_leaving(struct vh_side *side, struct vh_dev *dev)
{
	note_lost(side, dev); /* the next scan knows */
	if (!side->log)
		return;
	scan_rings(side, dev);
	vh_count(&side->counts.ring_scans, 1);
	/* Nobody will be left who would scan what it wrote. */
	if (dev->link.next == &side->devs && dev->link.prev == &side->devs)
		scan_all(side);
}

/* ---- logging on and off ---- */

int vh_side_new_log(struct vh_side *side, const struct vh_mem_table *table,
		    struct err *err)
{
	struct vh_log *log;
	int ret = vh_log_new(table, &log, err);

	if (ret)
		return ret;
	log->number = ++side->next_number;
	side->log = log;
	return 0;
}

void vh_side_settle(struct vh_side *side)
{
	uint64_t deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	struct err err = ERR_INIT;
	struct vh_dev *dev;
	int ret;

	list_for_each (dev, &side->devs, link) {
		lock_acquire(&dev->lock);
		ret = vh_dev_settle(dev, deadline_ns, &err);
		if (ret)
			vh_dev_fail(dev, ret, &err);
		lock_release(&dev->lock);
		err_clear(&err);
	}
}

void vh_side_cannot_log(struct vh_side *side, const struct vh_dev *dev)
{
	lock_assert_held(&side->lock);
	snprintf(side->unlogged_name, sizeof(side->unlogged_name), "%s",
		 dev->name);
	__atomic_store_n(&side->is_unlogged, true, __ATOMIC_RELEASE);
	trace(vh_unlogged, "%s", dev->name);
}

/* All live devices are told @log before any is waited for.  To log no more (NULL) none
 * is waited for: nothing depends on it, and one that is silent must not hold up whoever
 * ends a migration.  What it says is read before the next thing that it is asked. */
static void tell_logging(struct vh_side *side, const struct vh_log *log)
{
	struct err err = ERR_INIT;
	struct vh_dev *dev;
	int ret;

	list_for_each (dev, &side->devs, link) {
		lock_acquire(&dev->lock);
		if (vh_dev_is_live(dev)) {
			ret = vh_dev_set_logging(dev, log, &err);
			if (ret)
				vh_dev_fail(dev, ret, &err);
		}
		lock_release(&dev->lock);
		err_clear(&err);
	}
	if (log)
		vh_side_settle(side);
}

static int check_can_log(struct vh_side *side, struct err *err)
{
	struct vh_dev *dev;
	bool can_log = true;

	list_for_each (dev, &side->devs, link) {
		lock_acquire(&dev->lock);
		if (!vh_dev_is_away(dev) && !dev->can_log)
			can_log = false;
		lock_release(&dev->lock);
		if (!can_log)
			return err_set(err, -ENOTSUP,
				       "%s: its back end cannot log what it "
				       "writes",
				       dev->name);
	}
	return 0;
}

int vh_side_log_start(struct vh_side *side, struct err *err)
{
	struct vh_dev *dev;
	int ret;

	/* A log is shared by whoever joins later, too. */
	ret = check_can_log(side, err);
	if (!ret && !list_is_empty(&side->devs))
		ret = vh_side_new_log(side, side->table, err);
	if (ret)
		return ret;
	side->is_logging = true;
	/* Nothing is sent yet, so what was lost before now does not matter. */
	side->was_lost = false;
	list_for_each (dev, &side->devs, link)
		__atomic_store_n(&dev->was_lost, false, __ATOMIC_RELEASE);
	vh_side_elect(side);
	tell_logging(side, side->log);
	trace(vh_log_start, "%s: %lu bytes", vh_type_names[side->type],
	      side->log ? side->log->size : 0);
	return 0;
}

void vh_side_log_stop(struct vh_side *side)
{
	if (!side->is_logging)
		return;
	side->is_logging = false;
	__atomic_store_n(&side->is_unlogged, false, __ATOMIC_RELEASE);
	tell_logging(side, NULL);
	vh_log_free(side->log);
	side->log = NULL;
	trace(vh_log_stop, "%s", vh_type_names[side->type]);
}
