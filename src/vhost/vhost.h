/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost: back ends outside of this process, in the kernel (kernel.c) and in
 * other processes (user.c), behind one table of operations.
 *
 *	board.c   per machine and back-end type: the memory table, the dirty log,
 *	          who scans it
 *	dev.c     one device of queues: start, stop, both with log on and off
 *	kernel.c  the ops over /dev/vhost-net
 *	user.c    the ops over a socket
 *
 * What all devices of a type share is computed and set once:
 *
 * - The memory table is built when the topology changed; a device is told only
 *   of a table that differs from the one it has.
 * - One dirty log a type.  In each round one elected device scans it over all
 *   memory sections, and each device its own used rings.  Election is stable: a
 *   device that joins never takes it over, one that leaves or dies hands it on to
 *   the one that joined next.
 *
 * vhost=each (x-vhost-scan) has every device scan all sections, as was usual once;
 * for comparison only.
 *
 * Source: linux/vhost.h; QEMU's vhost-user specification, of which the message
 * formats and numbers are facts.
 */
#ifndef GODWIT_VHOST_VHOST_H
#define GODWIT_VHOST_VHOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct addr_space;
struct err;
struct mem;
struct vdev;
struct vh_board;
struct vh_dev;

/* Some back ends take eight regions at most: -E2BIG beyond what they take. */
#define VH_REGIONS_MAX 64u

struct vh_region {
	uint64_t gpa, size;
	uint64_t hva;    /* in this process */
	int fd;          /* borrowed memfd of the RAM block */
	uint64_t offset; /* of @hva in @fd */
};

/* Immutable once built; replaced, never changed. */
struct vh_mem_table {
	uint64_t number; /* rises with each table of a type */
	unsigned int count;
	struct vh_region regions[VH_REGIONS_MAX]; /* ascending by gpa */
};

/* A bit for each page of guest-physical memory. */
struct vh_log {
	uint64_t *words; /* atomic: the back ends set bits */
	uint64_t size;   /* bytes */
	int fd;          /* memfd that @words are mapped from */
};

struct vh_vring_addr {
	uint64_t desc, avail, used; /* hva */
	uint64_t used_gpa;          /* where writes to @used are logged */
	bool is_logged;
};

/*
 * The requests that both kinds know.  0, or -errno: the device cannot go on with
 * this back end.  Each call waits for the back end at most until dev->deadline_ns.
 * An fd is borrowed; -1: none.
 */
struct vh_ops {
	const char *type; /* "kernel", "user": one board half each */
	unsigned int regions_max;
	int (*get_features)(struct vh_dev *dev, uint64_t *ret_features,
			    struct err *err);
	int (*set_features)(struct vh_dev *dev, uint64_t features,
			    struct err *err);
	int (*set_mem_table)(struct vh_dev *dev,
			     const struct vh_mem_table *table, struct err *err);
	int (*set_log)(struct vh_dev *dev, const struct vh_log *log,
		       struct err *err);
	int (*set_vring_num)(struct vh_dev *dev, unsigned int index,
			     unsigned int size, struct err *err);
	int (*set_vring_base)(struct vh_dev *dev, unsigned int index,
			      uint32_t base, struct err *err);
	/* Stops the ring. */
	int (*get_vring_base)(struct vh_dev *dev, unsigned int index,
			      uint32_t *ret_base, struct err *err);
	int (*set_vring_addr)(struct vh_dev *dev, unsigned int index,
			      const struct vh_vring_addr *addr,
			      struct err *err);
	int (*set_vring_kick)(struct vh_dev *dev, unsigned int index, int fd,
			      struct err *err);
	int (*set_vring_call)(struct vh_dev *dev, unsigned int index, int fd,
			      struct err *err);
	int (*set_vring_enable)(struct vh_dev *dev, unsigned int index,
				bool is_enabled, struct err *err);
};

/* Counted for tests and benches; any thread. */
struct vh_counts {
	uint64_t tables_built, tables_told; /* memory tables */
	uint64_t logs_told;
	uint64_t scans;      /* of all sections */
	uint64_t ring_scans; /* of a device's used rings */
	uint64_t scan_ns;    /* both */
	uint64_t calls;      /* into back ends */
};

/* One a machine; listens to @memory.  @scan_each: see above. */
int vh_board_new(struct mem *mem, struct addr_space *memory, bool scan_each,
		 struct vh_board **ret_board, struct err *err);
void vh_board_free(struct vh_board *board); /* without devices */
void vh_board_counts(struct vh_board *board, const char *type,
		     struct vh_counts *ret_counts);

#endif
