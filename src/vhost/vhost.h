/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost: back ends outside of this process, in the kernel (kernel.c) and in
 * other processes (user.c), behind one table of operations.
 *
 *	board.c   per machine and back-end type: who there is, the memory table, the
 *	          dirty log, who scans it
 *	table.c   memory tables
 *	log.c     dirty logs and their scan
 *	dev.c, dev_start.c   one device of rings: stop and start, with log on and off
 *	dev_lost.c   likewise, without its back end
 *	ring.c    what a ring's indices say
 *	dev_tell.c   what its back end is told, and when
 *	dev_table.c, dev_place.c  likewise, of memory, and where rings are in it
 *	kernel.c  the ops over /dev/vhost-net
 *	user.c    the ops over a socket (conn.c, conn_in.c, user_msg.h)
 *	user_blk.c, net.c   device types
 *
 * What all devices of a type share is computed and set once:
 *
 * - The memory table is built when the topology changed; a device is told only
 *   of a table that differs from the one it has, and where its back end has slots, only
 *   of the difference.
 * - One dirty log a type.  In each round one elected device scans it over all
 *   memory sections, and each device its own used rings.  Election is stable: a
 *   device that joins never takes it over, one that leaves or dies hands it on to
 *   the one that joined next.
 *
 * x-vhost-scan=each has every device scan all sections, as was usual once; for
 * comparison only.
 *
 * Source: linux/vhost.h; the vhost-user specification, of which message formats
 * and numbers are facts.
 */
#ifndef GODWIT_VHOST_VHOST_H
#define GODWIT_VHOST_VHOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct addr_space;
struct err;
struct mem;
struct ram_block;
struct vdev;
struct vdev_site;
struct vh_board;
struct vh_dev;

/* Some back ends take eight regions at most: -E2BIG beyond what they take. */
#define VH_REGIONS_MAX 64u

struct vh_region {
	uint64_t gpa, size;
	uint64_t hva;            /* in this process */
	struct ram_block *block; /* borrowed while the topology shows it */
	uint64_t offset;         /* of @hva in @block and its memfd */
};

/* Immutable once built; replaced, never changed. */
struct vh_mem_table {
	uint64_t number; /* rises with each table of a type */
	bool is_full;    /* there is more than has room here */
	unsigned int count;
	struct vh_region regions[VH_REGIONS_MAX]; /* ascending by gpa */
};

/* A bit for each page of guest-physical memory. */
struct vh_log {
	uint64_t number; /* rises with each log of a type */
	uint64_t *words; /* atomic: the back ends set bits */
	uint64_t size;   /* bytes */
	int fd;          /* owned memfd that @words are mapped from */
};

struct vh_vring_addr {
	uint64_t desc, avail, used; /* hva */
	uint64_t used_gpa;          /* where writes to @used are logged */
	bool is_logged;
};

/*
 * The requests that both kinds know, each called with the device's lock.  0, or
 * -errno: the device cannot go on with this back end.  A call may return before
 * the back end has done it; settle() waits, at most until dev->deadline_ns.  An fd
 * is borrowed during the call; -1: none.
 */
struct vh_ops {
	int (*set_features)(struct vh_dev *dev, uint64_t features,
			    struct err *err);
	int (*set_mem_table)(struct vh_dev *dev,
			     const struct vh_mem_table *table, struct err *err);
	/* Of a back end that has slots, instead: a region more, one less. */
	int (*add_region)(struct vh_dev *dev, const struct vh_region *region,
			  struct err *err);
	int (*remove_region)(struct vh_dev *dev, const struct vh_region *region,
			     struct err *err);
	int (*set_log)(struct vh_dev *dev, const struct vh_log *log,
		       struct err *err);
	/* Features and memory are set, rings follow, none of more than @size.
	 * Optional. */
	int (*prepare)(struct vh_dev *dev, uint16_t size, struct err *err);
	int (*set_vring_num)(struct vh_dev *dev, unsigned int index,
			     unsigned int size, struct err *err);
	int (*set_vring_base)(struct vh_dev *dev, unsigned int index,
			      uint32_t base, struct err *err);
	int (*set_vring_addr)(struct vh_dev *dev, unsigned int index,
			      const struct vh_vring_addr *addr,
			      struct err *err);
	int (*set_vring_kick)(struct vh_dev *dev, unsigned int index, int fd,
			      struct err *err);
	int (*set_vring_call)(struct vh_dev *dev, unsigned int index, int fd,
			      struct err *err);
	/* A ring that is not enabled is served without effect. */
	int (*set_vring_enable)(struct vh_dev *dev, unsigned int index,
				bool is_enabled, struct err *err);
	/* An enabled ring works, kicked or not: it cannot be enabled ahead. */
	bool enable_starts;
	/* When this is settled, bases, addresses and kicks have been taken, which are
	 * not answered one by one.  NULL: they are. */
	int (*fence)(struct vh_dev *dev, struct err *err);
	/* Stops the ring.  *@ret_base is set at the latest by settle(), and stays
	 * borrowed until then. */
	int (*get_vring_base)(struct vh_dev *dev, unsigned int index,
			      uint32_t *ret_base, struct err *err);
	/* Send what is kept back, to go out in one piece.  NULL: nothing is. */
	int (*flush)(struct vh_dev *dev, struct err *err);
	/* All of that is done: 0; -ETIMEDOUT, and it may be called again; or what
	 * went wrong.  NULL: it always is. */
	int (*settle)(struct vh_dev *dev, struct err *err);
	/* The device cannot go on: let go of the back end.  Does not wait for it: it may
	 * be leaving (dev->is_leaving) when this returns. */
	void (*fail)(struct vh_dev *dev, int why, const struct err *reason);
	/* Wait until one that is leaving has gone, at most until @deadline_ns.  NULL:
	 * none ever is. */
	void (*wait_left)(struct vh_dev *dev, uint64_t deadline_ns);
	/* A stop was given up, or a start's reply is not waited for: it is to go on working,
	 * when the back end has answered.  With any lock.  NULL: it answers at once. */
	void (*resume)(struct vh_dev *dev);
	/* The driver reset the device: a record of requests is worthless.  Optional. */
	void (*drop_record)(struct vh_dev *dev);
};

enum vh_type {
	VH_KERNEL,
	VH_USER,
	VH_TYPE_COUNT
};

/* Counted for tests and benches; any thread. */
struct vh_counts {
	uint64_t tables_built, tables_told; /* memory tables */
	/* Of tables that were told slot by slot. */
	uint64_t regions_added, regions_removed;
	uint64_t logs_told;
	uint64_t scans;      /* of all sections */
	uint64_t ring_scans; /* of a device's used rings */
	uint64_t scan_ns;    /* both */
	uint64_t calls;      /* into back ends */
};

/* One a machine; listens to @memory.  @scan_each: see above. */
int vh_board_new(struct mem *mem, struct addr_space *memory, bool scan_each,
		 struct vh_board **ret_board, struct err *err);
void vh_board_free(struct vh_board *board); /* without devices; NULL too */
void vh_board_counts(struct vh_board *board, enum vh_type type,
		     struct vh_counts *ret_counts);

/* How long all back ends at work take, at a time, to answer a question for each ring.  With
 * no lock.  -ETIMEDOUT at @deadline_ns (clock_mono_ns()), or what is wrong with one. */
int vh_board_time(struct vh_board *board, uint64_t deadline_ns,
		  uint64_t *ret_ns);

/* --disk vhost-user=SOCK[,queues=N] */
int vh_user_blk_new(const struct vdev_site *site, const char *text,
		    struct vdev **ret_dev, struct err *err);
/* --net tap=IF,vhost=on[,queues=N][,mac=M] and --net
 * vhost-user=SOCK[,queues=N][,mac=M] */
int vh_net_new(const struct vdev_site *site, const char *text,
	       struct vdev **ret_dev, struct err *err);

#endif
