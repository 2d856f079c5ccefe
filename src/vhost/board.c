// SPDX-License-Identifier: Apache-2.0
/*
 * What the back ends of one type share: memory table and dirty log, and the listener
 * that keeps them.  Called by the memory core (commits, logging, sync) with the
 * topology lock, and by device types (join, leave).
 *
 * A change of the table.  Requests in flight hold addresses by the old table, and
 * their writes are logged by it.  So all devices of the type are held: they stop and
 * finish what they took; the log is scanned by the old table (D5); a larger log is
 * made where the new one needs it; all are told, and go on.
 *
 * Where the table only grows and the log is large enough, nothing of that changes: a
 * back end that takes regions one by one works on, and nothing has to be scanned.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/event.h"
#include "base/trace.h"
#include "mem/space.h"
#include "vhost_priv.h"

const char *const vh_type_names[] = { "kernel", "user" };

#define load(pointer) __atomic_load_n(pointer, __ATOMIC_RELAXED)

static void board_log_sync_all(void *opaque, bool is_last)
{
	struct vh_board *board = opaque;

	(void)is_last;
	for (int i = 0; i < VH_TYPE_COUNT; i++) {
		struct vh_side *side = &board->sides[i];

		lock_acquire(&side->lock);
		if (side->is_logging)
			vh_side_scan(side);
		lock_release(&side->lock);
	}
}

/* There is nothing to be watched again, but for back ends that nobody can watch. */
static int board_log_clear(void *opaque, struct ram_block *block,
			   uint64_t first, uint64_t count, const uint64_t *bits,
			   struct err *err)
{
	struct vh_board *board = opaque;
	int ret = 0;

	(void)block;
	(void)first;
	(void)count;
	(void)bits;
	for (int i = 0; i < VH_TYPE_COUNT && !ret; i++) {
		struct vh_side *side = &board->sides[i];

		if (!__atomic_load_n(&side->is_unlogged, __ATOMIC_ACQUIRE))
			continue;
		lock_acquire(&side->lock);
		if (side->is_unlogged)
			ret = err_set(err, -ENOTSUP,
				      "%s: its back end came back and cannot "
				      "log what it writes",
				      side->unlogged_name);
		lock_release(&side->lock);
	}
	return ret;
}

static void board_log_global_stop(void *opaque, uint64_t grace_ns)
{
	struct vh_board *board = opaque;

	(void)grace_ns;
	for (int i = 0; i < VH_TYPE_COUNT; i++) {
		lock_acquire(&board->sides[i].lock);
		vh_side_log_stop(&board->sides[i]);
		lock_release(&board->sides[i].lock);
	}
}

static int board_log_global_start(void *opaque, struct err *err)
{
	struct vh_board *board = opaque;
	int ret = 0;

	for (int i = 0; i < VH_TYPE_COUNT && !ret; i++) {
		lock_acquire(&board->sides[i].lock);
		ret = vh_side_log_start(&board->sides[i], err);
		lock_release(&board->sides[i].lock);
	}
	if (ret)
		board_log_global_stop(board, 0);
	return ret;
}

/* ---- the memory table ---- */

/* All that @dev has stays as it is in @growth, and there is room for more. */
static bool may_work_on(const struct vh_dev *dev,
			const struct vh_mem_table *growth)
{
	return growth && dev->has_slots && !growth->is_full &&
	       growth->count <= dev->regions_max;
}

static void ask_hold(struct vh_dev *dev, const struct vh_mem_table *growth)
{
	struct err err = ERR_INIT;
	int ret = 0;

	lock_acquire(&dev->lock);
	if (vh_dev_is_live(dev) && !may_work_on(dev, growth)) {
		dev->is_held = true;
		ret = dev->is_hasty
			      ? vh_dev_hush(dev, &err)
			      : vh_dev_ask_stop(dev,
						clock_mono_ns() + VH_REPLY_NS,
						&err);
	}
	if (ret)
		vh_dev_fail(dev, ret, &err);
	lock_release(&dev->lock);
}

static void await_hold(struct vh_dev *dev, uint64_t deadline_ns)
{
	struct err err = ERR_INIT;
	int ret = 0;

	lock_acquire(&dev->lock);
	if (dev->is_held && dev->is_hasty) {
		/* It goes also when it does not answer. */
		vh_dev_settle(dev, deadline_ns, NULL);
		vh_dev_part(dev);
	} else if (dev->is_held) {
		ret = vh_dev_wait_stop(dev, deadline_ns, &err);
	}
	if (ret)
		vh_dev_fail(dev, ret, &err);
	lock_release(&dev->lock);
}

static void await_parted(struct vh_dev *dev, uint64_t deadline_ns)
{
	lock_acquire(&dev->lock);
	if (dev->is_parted && dev->is_leaving && dev->ops->wait_left)
		dev->ops->wait_left(dev, deadline_ns);
	lock_release(&dev->lock);
}

static int tell_one(struct vh_side *side, struct vh_dev *dev, struct err *err)
{
	int ret;

	ret = dev->is_started ? vh_dev_place(dev, side->table, err) : 0;
	if (!ret && dev->is_held)
		ret = vh_dev_go(dev, side->table, side->log, err);
	else if (!ret && !vh_dev_is_away(dev))
		ret = vh_dev_tell_table(dev, side->table, err);
	/* One that works on has more RAM than it had: before a request is there. */
	if (!ret && !dev->is_held && vh_dev_is_live(dev))
		ret = vh_dev_tell_fence(dev, err);
	dev->is_held = false;
	return ret;
}

/* All are asked before any is waited for, and all have one deadline: those of a process
 * that has stopped cost no more than one. */
static void hold_all(struct vh_side *side, const struct vh_mem_table *growth)
{
	uint64_t deadline_ns;
	struct vh_dev *dev;

	list_for_each (dev, &side->devs, link)
		ask_hold(dev, growth);
	deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	list_for_each (dev, &side->devs, link)
		await_hold(dev, deadline_ns);
	deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	list_for_each (dev, &side->devs, link)
		await_parted(dev, deadline_ns);
}

static void release_one(struct vh_side *side, struct vh_dev *dev)
{
	struct err err = ERR_INIT;
	int ret;

	lock_acquire(&dev->lock);
	ret = tell_one(side, dev, &err);
	if (ret)
		vh_dev_fail(dev, ret, &err);
	lock_release(&dev->lock);
}

static void release_all(struct vh_side *side)
{
	struct vh_dev *dev;

	list_for_each (dev, &side->devs, link)
		release_one(side, dev);
	vh_side_settle(side);
}

/* A log that @table needs and cannot have: its devices go, and with them what they
 * could write unseen. */
static void grow_log(struct vh_side *side, const struct vh_mem_table *table)
{
	struct vh_log *old = side->log;
	struct err err = ERR_INIT;
	struct vh_dev *dev;
	int ret;

	if (!old || vh_log_covers(old, table))
		return;
	ret = vh_side_new_log(side, table, &err);
	if (!ret) {
		vh_log_free(old);
		return;
	}
	list_for_each (dev, &side->devs, link) {
		lock_acquire(&dev->lock);
		vh_dev_fail(dev, ret, &err);
		lock_release(&dev->lock);
	}
}

static bool is_growth(const struct vh_side *side,
		      const struct vh_mem_table *table)
{
	return vh_table_has_all(table, side->table) &&
	       (!side->log || vh_log_covers(side->log, table));
}

static void side_commit(struct vh_side *side, const struct flat_view *view)
{
	struct vh_mem_table *table = vh_table_build(view), *old = side->table;
	bool is_growing;

	if (!table) /* as mem/ without memory for a view */
		abort();
	if (vh_table_is_same(table, old)) {
		free(table);
		return;
	}
	table->number = ++side->next_number;
	vh_count(&side->counts.tables_built, 1);
	trace(vh_table, "%s: number %lu, %u regions", vh_type_names[side->type],
	      table->number, table->count);
	is_growing = is_growth(side, table);
	hold_all(side, is_growing ? table : NULL);
	if (side->is_logging && !is_growing)
		vh_side_scan(side);
	grow_log(side, table);
	side->table = table;
	release_all(side);
	free(old);
}

static void note_ram(void *opaque, const struct mem_section *section)
{
	struct vh_board *board = opaque;

	if (mem_region_is_ram(section->range.region))
		board->is_stale = true;
}

static void board_commit(void *opaque, struct addr_space *as,
			 const struct flat_view *view)
{
	struct vh_board *board = opaque;

	(void)as;
	if (!board->is_stale)
		return;
	board->is_stale = false;
	for (int i = 0; i < VH_TYPE_COUNT; i++) {
		lock_acquire(&board->sides[i].lock);
		side_commit(&board->sides[i], view);
		lock_release(&board->sides[i].lock);
	}
}

static const struct mem_listener_ops board_listener_ops = {
	.region_add = note_ram,
	.region_del = note_ram,
	.commit = board_commit,
	.log_global_start = board_log_global_start,
	.log_global_stop = board_log_global_stop,
	.log_sync_all = board_log_sync_all,
	.log_clear = board_log_clear,
};

/* ---- who there is ---- */

int vh_dev_join(struct vh_dev *dev, struct vh_board *board, enum vh_type type,
		unsigned int rings, struct err *err)
{
	struct vh_side *side = &board->sides[type];
	int ret = 0;

	assert(rings <= VDEV_QUEUES_MAX);
	dev->rings = calloc(rings, sizeof(*dev->rings));
	if (!dev->rings)
		return err_set(err, -ENOMEM, "%s: %u rings", dev->name, rings);
	dev->ring_count = rings;
	for (unsigned int i = 0; i < rings; i++)
		dev->rings[i].is_wanted = true;
	lock_init(&dev->lock, LOCK_VHOST_DEV);
	lock_cond_init(&dev->changed);
	dev->is_away = true;
	dev->side = side;
	lock_acquire(&side->lock);
	if (type == VH_USER && !side->writer)
		ret = event_writer_new(&side->writer, err);
	if (!ret && side->is_logging && !side->log)
		ret = vh_side_new_log(side, side->table, err);
	list_add_tail(&side->devs, &dev->link);
	lock_release(&side->lock);
	if (ret)
		vh_dev_leave(dev);
	return ret;
}

void vh_dev_leave(struct vh_dev *dev)
{
	struct vh_side *side = dev->side;

	if (!side)
		return;
	lock_acquire(&side->lock);
	if (side->is_logging)
		vh_side_scan_leaving(side, dev);
	list_del(&dev->link);
	if (side->elected == dev)
		side->elected = NULL;
	vh_side_elect(side);
	lock_release(&side->lock);
	pthread_cond_destroy(&dev->changed);
	lock_fini(&dev->lock);
	free(dev->rings);
	dev->rings = NULL;
	dev->side = NULL;
}

void vh_dev_arrived(struct vh_dev *dev)
{
	struct vh_side *side = dev->side;

	lock_assert_held(&side->lock);
	lock_assert_held(&dev->lock);
	/* It joins anew: whoever scans meanwhile goes on. */
	list_del(&dev->link);
	list_add_tail(&side->devs, &dev->link);
	dev->told_table = dev->told_log = 0;
	dev->told_region_count = 0;
	vh_dev_forget_told(dev);
	dev->is_logging = false;
	__atomic_store_n(&dev->is_away, false, __ATOMIC_RELEASE);
	if (side->is_logging && !dev->can_log)
		vh_side_cannot_log(side, dev);
	pthread_cond_broadcast(&dev->changed);
	vh_side_elect(side);
}

int vh_dev_lock_both(struct vh_dev *dev, uint64_t deadline_ns)
{
	for (;;) {
		if (lock_acquire_until(&dev->side->lock, deadline_ns))
			return -ETIMEDOUT;
		if (lock_try(&dev->lock))
			return 0;
		lock_release(&dev->side->lock);
		/* Until it is free; it may not be when it is tried. */
		if (lock_acquire_until(&dev->lock, deadline_ns))
			return -ETIMEDOUT;
		lock_release(&dev->lock);
	}
}

int vh_dev_lock_until(struct vh_dev *dev, uint64_t deadline_ns, struct err *err)
{
	int ret = vh_dev_lock_both(dev, deadline_ns);

	if (ret)
		return err_set(err, ret,
			       "%s: its back end does not answer what it was "
			       "asked before",
			       dev->name);
	lock_release(&dev->side->lock);
	return 0;
}

void vh_dev_lock(struct vh_dev *dev)
{
	vh_dev_lock_until(dev, UINT64_MAX, NULL);
}

void vh_dev_unlock(struct vh_dev *dev)
{
	lock_release(&dev->lock);
}

/* ---- the board ---- */

int vh_board_new(struct mem *mem, struct addr_space *memory, bool scan_each,
		 struct vh_board **ret_board, struct err *err)
{
	struct vh_board *board = calloc(1, sizeof(*board));
	int ret = 0;

	if (!board)
		return err_set(err, -ENOMEM, "vhost");
	board->mem = mem;
	board->memory = memory;
	board->scan_each = scan_each;
	for (int i = 0; i < VH_TYPE_COUNT; i++) {
		struct vh_side *side = &board->sides[i];

		side->board = board;
		side->type = (enum vh_type)i;
		lock_init(&side->lock, LOCK_VHOST);
		list_init(&side->devs);
		side->table = vh_table_build(NULL); /* empty */
		if (!side->table)
			ret = err_set(err, -ENOMEM, "vhost");
	}
	if (!ret)
		ret = mem_listener_add(memory, &board->listener,
				       &board_listener_ops, board, 10);
	if (ret) {
		board->memory = NULL;
		vh_board_free(board);
		return ret;
	}
	*ret_board = board;
	return 0;
}

void vh_board_free(struct vh_board *board)
{
	if (!board)
		return;
	if (board->memory)
		mem_listener_del(&board->listener);
	for (int i = 0; i < VH_TYPE_COUNT; i++) {
		struct vh_side *side = &board->sides[i];

		assert(list_is_empty(&side->devs));
		vh_log_free(side->log);
		vh_log_free(side->left_log);
		free(side->table);
		event_writer_free(side->writer);
		lock_fini(&side->lock);
	}
	free(board);
}

void vh_board_counts(struct vh_board *board, enum vh_type type,
		     struct vh_counts *ret_counts)
{
	const struct vh_counts *counts = &board->sides[type].counts;

	*ret_counts = (struct vh_counts){
		.tables_built = load(&counts->tables_built),
		.tables_told = load(&counts->tables_told),
		.regions_added = load(&counts->regions_added),
		.regions_removed = load(&counts->regions_removed),
		.logs_told = load(&counts->logs_told),
		.scans = load(&counts->scans),
		.ring_scans = load(&counts->ring_scans),
		.scan_ns = load(&counts->scan_ns),
		.calls = load(&counts->calls),
	};
}
