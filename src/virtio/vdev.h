/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio device: what all types have, between the transport in front
 * (virtio/pci.h) and the type behind.
 *
 * The driver's side is registers: status, features, queues; struct vdev has them
 * and saves them.  A type says what it is in a struct vdev_type, and its work is
 * between start and stop:
 *
 *	            DRIVER_OK, machine runs            start()
 *	  stopped -------------------------------> working
 *	          <-------------------------------
 *	            machine stops, device reset        stop_begin(), stop()
 *
 * While it works, queues belong to the type's back end (its own thread, the
 * kernel, another process); while stopped, to nobody, and what is to be known of
 * them (next_avail, next_used) is in struct vdev_queue.  A back end waits for
 * kick_fd, which exists for as long as the device, and writes call_fd to
 * interrupt.
 *
 * A driver that breaks the rules gets DEVICE_NEEDS_RESET (vdev_break()), and the
 * queues rest until it resets the device; nothing else of the machine notices.
 *
 * Locks.  dev->lock (LOCK_VDEV) is held for every register access and by all ops
 * below but for config reads that say otherwise; it comes before the topology
 * lock, so ops may open transactions.  A back end's thread never takes it, since
 * stop() waits for that thread with it held.
 *
 * Source: virtio 1.2, chapters 2 and 3.
 */
#ifndef GODWIT_VIRTIO_VDEV_H
#define GODWIT_VIRTIO_VDEV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/lock.h"
#include "state/state.h"

#define VDEV_QUEUES_MAX     129u /* 64 pairs and one for control */
#define VDEV_QUEUE_SIZE_MAX 1024u
#define VDEV_CONFIG_MAX     256u

struct addr_space;
struct mem;
struct msix;
struct pci_bus;
struct vdev;
struct vdev_pci;
struct vh_board;

struct vdev_queue {
	/* immutable after init */
	uint16_t size_max; /* a power of two */
	int kick_fd;       /* owned eventfd: the driver notified */

	/* registers; protected by dev->lock, constant while working */
	uint16_t size;   /* at most size_max; a power of two, but for packed */
	uint16_t vector; /* MSIX_NO_VECTOR: none */
	uint8_t is_enabled;
	uint64_t desc, driver, device; /* gpa: descriptors; available ring or
					  driver events; used ring or device
					  events */

	/* Where to go on; the back end's while working.  As vhost has it: packed
	 * queues keep the wrap counter in bit 15. */
	uint16_t next_avail, next_used;
};

/* What is constant about a type.  Optional ones may be NULL. */
struct vdev_type {
	const char *name;   /* "virtio-blk" */
	uint16_t id;        /* virtio 1.2, chapter 5 */
	uint32_t pci_class; /* 24 bits */

	/* The driver's choice of dev->offered is in dev->features; refuse it
	 * with -EINVAL.  Optional. */
	int (*accept)(struct vdev *dev);
	/* The driver reads dev->config: bring it up to date.  Optional. */
	void (*config_read)(struct vdev *dev);
	/* The driver wrote [offset, offset + size) of a copy, @bytes: take what
	 * is allowed into dev->config.  Optional: it is read-only. */
	void (*config_write)(struct vdev *dev, uint32_t offset, uint32_t size,
			     const uint8_t *bytes);

	/* Work on all enabled queues.  A failure is the device's: it is broken
	 * with that reason. */
	int (*start)(struct vdev *dev, struct err *err);
	/* Several devices stop at a time: first all begin, then each is waited
	 * for.  Optional. */
	void (*stop_begin)(struct vdev *dev);
	/* When this returned 0 the back end touches no guest memory any more,
	 * every request it took is completed in the used ring, and next_avail
	 * and next_used are right.  -ETIMEDOUT at @deadline_ns (clock_mono_ns()):
	 * it still works, and a migration fails for it; UINT64_MAX: no
	 * limit. */
	int (*stop)(struct vdev *dev, uint64_t deadline_ns, struct err *err);
	/* The driver resets it (it is stopped): fields of the type's own. */
	void (*reset)(struct vdev *dev);

	/* What only the copy of the guest that runs may hold: a disk's lock.
	 * Optional.  Taken before the first start and, in a migration, by the
	 * destination before READY; dropped by the source before that, and taken
	 * back when the move fails. */
	int (*claim)(struct vdev *dev, struct err *err);
	void (*disclaim)(struct vdev *dev);
	/* The guest runs here since a moment, and came from elsewhere: tell the
	 * network.  Optional. */
	void (*arrived)(struct vdev *dev);

	void (*free)(struct vdev *dev); /* calls vdev_fini() last */
};

/* Embedded first in a type's own struct. */
struct vdev {
	/* immutable after init */
	const struct vdev_type *type;
	char name[16];             /* "disk0" */
	struct addr_space *memory; /* borrowed: where rings and buffers are */
	uint64_t offered;          /* features; vdev adds the common ones */
	unsigned int queue_count;
	struct vdev_queue *queues; /* owned */
	uint32_t config_size;
	struct vdev_pci *pci; /* owned: the transport */

	struct lock lock; /* LOCK_VDEV */
	/* protected by lock; constant while working */
	uint8_t status;
	uint64_t features; /* the driver's choice */
	uint8_t config[VDEV_CONFIG_MAX];
	bool is_running; /* the machine is */
	bool is_working; /* between start() and stop() */

	/* atomic */
	bool is_broken;      /* DEVICE_NEEDS_RESET */
	uint32_t generation; /* of config; also in the saved state */

	struct state_entry state;
};

/* Where a device is built. */
struct vdev_site {
	struct mem *mem;
	struct addr_space *memory;
	struct pci_bus *bus;
	struct state_registry *state;
	struct vh_board *vhost; /* vhost/vhost.h */
	const char *name;
	bool is_incoming; /* its guest, and so its disk, is another's still */
};

/* Fields of @dev, a PCI function and its saved state (@name); @queue_sizes has a
 * queue's size_max each.  Undone by vdev_fini(), which accepts a zeroed one. */
int vdev_init(struct vdev *dev, const struct vdev_type *type,
	      const struct vdev_site *site, uint64_t offered,
	      uint32_t config_size, unsigned int queue_count,
	      const uint16_t *queue_sizes, struct err *err);
void vdev_fini(struct vdev *dev);

static inline bool vdev_has(const struct vdev *dev, unsigned int feature)
{
	return dev->features >> feature & 1;
}

/* The eventfd that interrupts for @queue, or for a change of config; -1: the
 * driver wants none.  Borrowed; constant while working. */
int vdev_call_fd(const struct vdev *dev, const struct vdev_queue *queue);
/* Interrupt for @queue; the back end looked whether the driver wants it. */
void vdev_call(const struct vdev *dev, const struct vdev_queue *queue);

/* dev->config changed by itself: a new generation, and an interrupt.  Any
 * thread. */
void vdev_config_changed(struct vdev *dev);

/* The driver, or a back end that cannot be helped, broke the device: set
 * DEVICE_NEEDS_RESET, tell the driver, trace the reason.  Any thread, any lock.
 * The caller stops working on the queues by itself. */
void vdev_break(struct vdev *dev, const struct err *reason);

/* ---- for the machine; with no vCPU in the device ---- */

/* The machine runs, or not.  Starts a device that the driver has set up. */
void vdev_run(struct vdev *dev);
void vdev_pause_begin(struct vdev *dev);
int vdev_pause(struct vdev *dev, uint64_t deadline_ns, struct err *err);

/* ---- for the transport; with dev->lock ---- */

/* The driver writes the status register: the whole state machine of virtio 1.2,
 * 3.1 is behind this. */
void vdev_set_status(struct vdev *dev, uint8_t status);
uint8_t vdev_status(const struct vdev *dev);
/* FLR, or 0 written to status. */
void vdev_reset(struct vdev *dev);

#endif
