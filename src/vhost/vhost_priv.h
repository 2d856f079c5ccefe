/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of vhost/ share.
 *
 * Locks.  A side's lock (LOCK_VHOST) covers who there is, table and log; a
 * device's (LOCK_VHOST_DEV) its back end and what that was told.  Whoever works on
 * a device takes the side's lock first, then the device's, and may then let the
 * side's go: so a change of table or log, which holds the side's throughout, finds
 * each device before or behind such work, and a scan waits for no back end.  What a
 * device needs of table and log stays valid while its lock is held, since a change
 * visits each device before it frees the old one.  The end of logging, which may not
 * wait, leaves the log of one that it could not visit to the next start of it.
 *
 * A device's lock may be held for as long as its back end takes to answer, up to
 * VH_REPLY_NS.  Nobody waits for it with the side's (vh_dev_lock_both()), and a stop no
 * longer than it may take.
 */
#ifndef GODWIT_VHOST_VHOST_PRIV_H
#define GODWIT_VHOST_VHOST_PRIV_H

#include <errno.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/lock.h"
#include "mem/listener.h"
#include "vhost/vhost.h"
#include "virtio/vdev.h"

struct event_writer;

/* A back end answers within this, or has failed. */
#define VH_REPLY_NS (5 * NS_PER_SEC)

/* Where nothing but a stop will do (a driver's reset, which asks again and again), and
 * after one that was given up, a back end that has not stopped by then is let go. */
#define VH_STOP_LIMIT_NS (5 * NS_PER_SEC)

/* What does not have to be done now leaves a device alone that is not free by then. */
#define VH_LOOK_NS (2 * NS_PER_MS)

/* So many back ends in a row may end without using a request of a ring that has some. */
#define VH_FUTILE_MAX 5u

/* Of a ring that was not told yet; a base has 16 bits. */
#define VH_BASE_UNKNOWN UINT32_MAX

/* One back-end type of a machine. */
struct vh_side {
	/* immutable after init */
	struct vh_board *board; /* borrowed */
	enum vh_type type;

	struct lock lock; /* LOCK_VHOST */
	/* protected by lock */
	struct list devs;           /* in order of joining */
	struct vh_dev *elected;     /* who scans; NULL: nobody is there */
	struct vh_mem_table *table; /* owned */
	struct vh_log *log;         /* owned; NULL: nobody logs */
	/* owned; nobody logs, but one that was not free may be telling it still */
	struct vh_log *left_log;
	bool is_logging;
	bool was_lost; /* of a device, since the last scan; it may have left */
	uint64_t next_number;   /* of tables and logs */
	char unlogged_name[32]; /* whose back end writes unseen; is_unlogged */
	/* Owned: of eventfds that other processes have; made when the first device
	 * joins, and constant then.  NULL: back ends of this type are none. */
	struct event_writer *writer;

	/* atomic, written with lock: until logging ends, no scan finds all */
	bool is_unlogged;

	struct vh_counts counts; /* atomic */
};

struct vh_board {
	/* immutable after init */
	struct mem *mem;           /* borrowed */
	struct addr_space *memory; /* borrowed */
	bool scan_each;
	struct vh_side sides[VH_TYPE_COUNT];

	struct mem_listener listener;
	bool is_stale; /* protected by the topology lock: RAM came or went */
};

/* What a back end was told of a ring that does not work yet (vh_dev_build()). */
struct vh_told {
	uint16_t size; /* 0: nothing yet */
	bool has_call, has_enable, has_base, has_addr;
	bool is_enabled;
	uint16_t base;
	int call_fd;
	struct vh_vring_addr addr;
};

/* What the back end works on: one virtqueue (split ones only). */
struct vh_ring {
	/* written with both locks, read with either */
	bool is_used;
	uint64_t used_gpa, used_size;

	/* protected by the device's lock */
	struct vdev_queue *queue;     /* borrowed while started */
	struct ram_block *used_block; /* borrowed; of the used ring */
	uint64_t used_offset;
	struct vh_vring_addr addr;
	uint16_t size;
	int call_fd;    /* borrowed while started; -1 */
	uint16_t next;  /* where the back end goes on */
	uint16_t taken; /* not live: how far it had taken requests, at most */
	uint32_t base;  /* what it said when it stopped */
	unsigned int
		futile_lives; /* of back ends, in a row; see VH_FUTILE_MAX */
	bool is_live;         /* it may take requests */
	bool is_stopping;     /* it was asked for its base */
	bool is_wanted;       /* a network device may use fewer than it has */
	struct vh_told told;
};

/* Embedded in what belongs to one back end. */
struct vh_dev {
	/* immutable after vh_dev_join() */
	const struct vh_ops *ops;
	const char *name; /* for messages; borrowed */
	struct vh_side *side;
	unsigned int ring_count;
	struct vh_ring *rings; /* owned */
	/* Requests may be lost and done twice: a network's. */
	bool may_lose;

	/* protected by side->lock */
	struct list link;

	/* atomic */
	bool is_away;   /* there is no back end, for now or for good */
	bool was_lost;  /* it went with its log perhaps incomplete */
	bool was_reset; /* by the driver, and has not been started since */

	struct lock lock;       /* LOCK_VHOST_DEV */
	pthread_cond_t changed; /* is_away */
	/* protected by lock */
	uint64_t backend_features;
	unsigned int regions_max; /* at most VH_REGIONS_MAX where has_slots */
	bool has_slots;           /* it takes regions one by one */
	bool can_log;
	/* It may not finish what it took before it answers a stop, but does so
	 * before it takes another connection. */
	bool is_hasty;
	/* It keeps a record of requests that outlives it. */
	bool has_inflight;
	/* It cannot finish what the one before had taken. */
	bool is_stranger;

	struct vdev *vdev;      /* borrowed while started */
	bool is_started;        /* the rings are to work */
	bool is_held;           /* stopped for a change of the table */
	bool is_parted;         /* let go for one, and not yet back */
	bool is_leaving;        /* away, but for all we know still at work */
	uint64_t stop_asked_ns; /* since when a stop is wanted; 0: it is not */
	uint64_t features;      /* what the driver chose */
	uint64_t told_table, told_log;
	/* What it has; where has_slots. */
	struct vh_region told_regions[VH_REGIONS_MAX];
	unsigned int told_region_count;
	bool is_logging; /* as the back end was told */
	/* It was told ahead, and nothing since; told_size: by prepare(). */
	bool is_told_features;
	uint64_t told_features;
	uint16_t told_size;
	uint64_t deadline_ns;
	uint64_t start_until_ns; /* what a start said is done by then */
};

/* The back end ended or was ended; nothing it said was wrong. */
static inline bool vh_is_vanished(int why)
{
	return why == -ECONNRESET || why == -EPIPE || why == -ENOTCONN;
}

static inline bool vh_dev_is_away(const struct vh_dev *dev)
{
	return __atomic_load_n(&dev->is_away, __ATOMIC_ACQUIRE);
}

/* ---- table.c ---- */

/* What @view shows of RAM that may be written; NULL without memory. */
struct vh_mem_table *vh_table_build(const struct flat_view *view);
bool vh_region_is_same(const struct vh_region *a, const struct vh_region *b);
bool vh_table_is_same(const struct vh_mem_table *a,
		      const struct vh_mem_table *b);
/* @table has all of @old. */
bool vh_table_has_all(const struct vh_mem_table *table,
		      const struct vh_mem_table *old);
/* The region that holds all of [gpa, gpa + size), or NULL. */
const struct vh_region *vh_table_find(const struct vh_mem_table *table,
				      uint64_t gpa, uint64_t size);

/* ---- log.c ---- */

/* Large enough for @table.  -E2BIG, -ENOMEM or what the system said. */
int vh_log_new(const struct vh_mem_table *table, struct vh_log **ret_log,
	       struct err *err);
void vh_log_free(struct vh_log *log); /* NULL is accepted */
bool vh_log_covers(const struct vh_log *log, const struct vh_mem_table *table);
/* Take what the log says of [gpa, gpa + size) and of @table into the blocks' dirty
 * bitmaps. */
void vh_log_scan(struct vh_log *log, const struct vh_mem_table *table,
		 uint64_t gpa, uint64_t size);
void vh_log_scan_all(struct vh_log *log, const struct vh_mem_table *table);

/* ---- board_log.c; with the side's lock ---- */

/* Called when @elected left or may have died, and when nobody was elected. */
void vh_side_elect(struct vh_side *side);
/* One round: by whom it falls to, all sections; by each its used rings. */
void vh_side_scan(struct vh_side *side);
/* @dev leaves, and is on the list still. */
void vh_side_scan_leaving(struct vh_side *side, struct vh_dev *dev);
/* side->log: a new one for @table.  The old one stays the caller's. */
int vh_side_new_log(struct vh_side *side, const struct vh_mem_table *table,
		    struct err *err);
int vh_side_log_start(struct vh_side *side, struct err *err);
/* Wait for what all were asked; those that do not answer by one deadline fail. */
void vh_side_settle(struct vh_side *side);
void vh_side_log_stop(struct vh_side *side);
/* The back end of @dev works, and does not log what it writes. */
void vh_side_cannot_log(struct vh_side *side, const struct vh_dev *dev);

/* ---- board.c ---- */

extern const char *const vh_type_names[VH_TYPE_COUNT];

static inline void vh_count(uint64_t *counter, uint64_t by)
{
	__atomic_fetch_add(counter, by, __ATOMIC_RELAXED);
}

/* A request to its back end. */
#define vh_call(dev, op, ...)                     \
	(vh_count(&(dev)->side->counts.calls, 1), \
	 (dev)->ops->op((dev), __VA_ARGS__))

/* Ring memory and lock; the device's fields of the first group are set but for
 * side and rings.  It has no back end yet (is_away). */
int vh_dev_join(struct vh_dev *dev, struct vh_board *board, enum vh_type type,
		unsigned int rings, struct err *err);
/* Its back end is gone, and so are its rings.  Nothing for one that never
 * joined. */
void vh_dev_leave(struct vh_dev *dev);
/* With both locks: a back end is there that was told nothing yet. */
void vh_dev_arrived(struct vh_dev *dev);

/* Take the side's lock and the device's: 0, or -ETIMEDOUT at @deadline_ns (UINT64_MAX:
 * no limit).  The first is not held while the second is waited for. */
int vh_dev_lock_both(struct vh_dev *dev, uint64_t deadline_ns);
/* Then let the first go. */
int vh_dev_lock_until(struct vh_dev *dev, uint64_t deadline_ns,
		      struct err *err);
void vh_dev_lock(struct vh_dev *dev);
void vh_dev_unlock(struct vh_dev *dev);

/* ---- dev_start.c; for device types, with no lock of these ---- */

/* Which queues of @vdev become rings 0 and up, and what its driver chose. */
struct vh_queues {
	struct vdev *vdev;
	unsigned int first, count;
	uint64_t features;
};

/* The guest will come here with @queues as they are now, or nearly so.  Tell the back
 * end what it can know at @stage:
 *
 *	VDEV_AHEAD    all but where the rings go on and where they are
 *	VDEV_STOPPED  where they go on; nobody waits
 *	VDEV_WHOLE    where they are, which is not waited for; and what changed of all
 *	              the rest, which is
 *
 * A start then tells what is new, if only the kicks.  0, also when the back end ended
 * before VDEV_WHOLE, where that is -ENOTCONN; -ETIMEDOUT, or what it said when it
 * refuses. */
int vh_dev_build(struct vh_dev *dev, const struct vh_queues *queues,
		 enum vdev_stage stage, struct err *err);
/* Ask whether it is at work still; the next build sees the answer, so that many are asked
 * at a time. */
void vh_dev_probe(struct vh_dev *dev);
/* Have @queues worked on.  -EFAULT: a ring is not in RAM; or what the back end said.
 * Without a back end, 0: it will begin when there is one.  All is sent, and what the
 * back end says is seen by vh_dev_start_wait(), so that many begin at a time; or, when it
 * says nothing for half a second, by the device's thread (ops->resume). */
int vh_dev_start(struct vh_dev *dev, const struct vh_queues *queues,
		 struct err *err);
int vh_dev_start_wait(struct vh_dev *dev, struct err *err);
/* The driver reset the device: no request of a record is to be done again.  Any lock. */
void vh_dev_reset(struct vh_dev *dev);

/* ---- dev.c; likewise ---- */

void vh_dev_stop_begin(struct vh_dev *dev);
/* As stop_ask of struct vdev_type. */
void vh_dev_stop_ask(struct vh_dev *dev, uint64_t deadline_ns);
/* As stop of struct vdev_type. */
int vh_dev_stop(struct vh_dev *dev, uint64_t deadline_ns, struct err *err);
/* Rings [0, count) are enabled and the others are not: what comes for those is
 * dropped.  Kept until changed, also before a start. */
int vh_dev_set_count(struct vh_dev *dev, unsigned int count, struct err *err);

/* ---- dev_table.c; with the device's lock ---- */

/* When it is not the one that was told.  -E2BIG; or what the back end said. */
int vh_dev_tell_table(struct vh_dev *dev, const struct vh_mem_table *table,
		      struct err *err);

/* ---- dev_lost.c; with the device's lock ---- */

/* Let go of the back end, as @err says.  Its rings rest. */
void vh_dev_fail(struct vh_dev *dev, int why, const struct err *err);
/* There is no back end any more: the rings rest until there is, or the device
 * breaks, when it could not go on without loss. */
void vh_dev_lost(struct vh_dev *dev, int why, const struct err *reason);
/* A hasty one at work, which was hushed: let go of it and have it come back, which it
 * does when it has finished what it took. */
void vh_dev_part(struct vh_dev *dev);
/* One that was leaving has gone. */
void vh_dev_left(struct vh_dev *dev);
/* One is there again: judge what the one before left, which is known now. */
void vh_dev_returned(struct vh_dev *dev);

/* ---- dev.c and dev_tell.c; with the device's lock ---- */

/* Tell table, log and features, and let the rings work. */
int vh_dev_go(struct vh_dev *dev, const struct vh_mem_table *table,
	      const struct vh_log *log, struct err *err);
/* A back end is there (again): have it work on what is to work, once what the one
 * before was asked to stop has stopped.  -ETIMEDOUT at @deadline_ns: it has not, or the
 * back end has not answered; to be called again. */
int vh_dev_back(struct vh_dev *dev, const struct vh_mem_table *table,
		const struct vh_log *log, uint64_t deadline_ns,
		struct err *err);
/* What vh_dev_build() says; nothing that was told already.  Then that a new one knows
 * nothing of it. */
int vh_dev_tell_ahead(struct vh_dev *dev, const struct vh_queues *queues,
		      struct err *err);
int vh_dev_tell_bases(struct vh_dev *dev, const struct vh_queues *queues,
		      struct err *err);
int vh_dev_tell_places(struct vh_dev *dev, const struct vh_queues *queues,
		       const struct vh_mem_table *table, struct err *err);
void vh_dev_forget_told(struct vh_dev *dev);
/* Nor where its rings are and go on. */
void vh_dev_forget_places(struct vh_dev *dev);
/* Live rings are kicked by nobody any more, and take nothing; once it is settled. */
int vh_dev_hush(struct vh_dev *dev, struct err *err);
/* All that was said is done once it is settled. */
int vh_dev_tell_fence(struct vh_dev *dev, struct err *err);
int vh_dev_settle(struct vh_dev *dev, uint64_t deadline_ns, struct err *err);
bool vh_dev_is_live(const struct vh_dev *dev);
int vh_dev_set_logging(struct vh_dev *dev, const struct vh_log *log,
		       struct err *err);
/* Ask all live rings to stop.  -ETIMEDOUT: some were not asked yet, or it does not know;
 * all is as if this had come later. */
int vh_dev_ask_stop(struct vh_dev *dev, uint64_t deadline_ns, struct err *err);
/* They have, and finished what they took: 0, -ETIMEDOUT at @deadline_ns, or what
 * went wrong. */
int vh_dev_wait_stop(struct vh_dev *dev, uint64_t deadline_ns, struct err *err);

/* ---- dev_place.c; with the device's lock ---- */

/* With the side's lock too: where the rings are by @table.  -EFAULT. */
int vh_dev_place(struct vh_dev *dev, const struct vh_mem_table *table,
		 struct err *err);
/* Where ring @index is when it works on @queue, into @addr but for its is_logged; -EFAULT
 * also when parts that @addr names already (not 0) are elsewhere now. */
int vh_queue_place(const struct vh_dev *dev, unsigned int index,
		   const struct vdev_queue *queue,
		   const struct vh_mem_table *table, struct vh_vring_addr *addr,
		   struct err *err);

#endif
