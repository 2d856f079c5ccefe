/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio device: what all types have, between the transport in front
 * (virtio/pci.h) and the type behind.
 *
 * The driver's side is registers: status, features, queues; struct vdev has them
 * and saves them.  A type says what it is in a struct vdev_type, and its work is
 * between start and stop:
 *
 *	            DRIVER_OK, machine runs,           start()
 *	            bus mastering is on
 *	  stopped -------------------------------> working
 *	          <-------------------------------
 *	            machine stops, device reset,       stop_begin(), stop()
 *	            bus mastering is off
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
 * lock, so ops may open transactions; many are called in a vCPU's access, inside an
 * RCU read section.  A back end's thread never takes it, since stop() waits for that
 * thread with it held, and it never waits for RCU readers.
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
struct event_writer;
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
	bool is_resetting; /* the driver's reset of it alone waits for stop() */
	uint64_t desc, driver, device; /* gpa: descriptors; available ring or
					  driver events; used ring or device
					  events */

	/* Where to go on; the back end's while working.  As vhost has it: packed
	 * queues keep the wrap counter in bit 15. */
	uint16_t next_avail, next_used;
};

/* How far a guest is that comes from elsewhere. */
enum vdev_stage {
	VDEV_AHEAD,   /* it runs there: registers as they are now */
	VDEV_STOPPED, /* registers and indices are here, guest memory is not */
	VDEV_WHOLE,   /* all of it is here */
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

	/* The guest is to come here from elsewhere, with DRIVER_OK: have ready for
	 * start what can be at @stage.  Ahead, any number of times; at each of the
	 * others once, and in the pause: who is asked then is not waited for, but
	 * what failed until VDEV_WHOLE is told by that.  A failure fails the
	 * guest's move.  Optional. */
	int (*build)(struct vdev *dev, enum vdev_stage stage, struct err *err);
	/* Ask its back end whether it is there still.  The last build sees what it
	 * answers, and other work is done meanwhile.  Optional. */
	void (*probe)(struct vdev *dev);
	/* Work on all enabled queues.  A failure is the device's: it is broken
	 * with that reason. */
	int (*start)(struct vdev *dev, struct err *err);
	/* Several devices start at a time: where start() only asked a back end, this
	 * waits for its answer.  A failure as there.  Optional. */
	int (*start_wait)(struct vdev *dev, struct err *err);
	/* Several devices stop at a time: first all begin, then each is waited
	 * for.  Optional. */
	void (*stop_begin)(struct vdev *dev);
	/* In between, of all too: a back end that cannot be asked to stop before it
	 * has done what it took is asked as soon as it has.  Optional. */
	void (*stop_ask)(struct vdev *dev, uint64_t deadline_ns);
	/* When this returned 0 the back end touches no guest memory any more,
	 * every request it took is completed in the used ring, and next_avail
	 * and next_used are right.  -ETIMEDOUT at @deadline_ns (clock_mono_ns()):
	 * it works on as if it had not been asked to stop, and a migration fails
	 * for it, or a reset asks again later; UINT64_MAX: no limit. */
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

	/* config as it was where the guest came from: config_size hostile bytes.
	 * Take what may differ, refuse the rest with -EBADMSG.  Optional: none of
	 * it may differ. */
	int (*config_load)(struct vdev *dev, const uint8_t *bytes,
			   struct err *err);
};

/* Embedded first in a type's own struct. */
struct vdev {
	/* immutable after init */
	const struct vdev_type *type;
	char name[16];             /* "disk0" */
	struct mem *mem;           /* borrowed */
	struct addr_space *memory; /* borrowed: where rings and buffers are */
	/* Features; vdev_init() adds the common ones.  A type whose back end can
	 * do less takes some away behind it. */
	uint64_t offered;
	unsigned int queue_count;
	struct vdev_queue *queues; /* owned */
	uint32_t config_size;
	struct vdev_pci *pci; /* owned: the transport */
	struct event_writer
		*writer; /* borrowed; NULL: vdev_share() was not called */

	struct lock lock; /* LOCK_VDEV */
	/* protected by lock; constant while working */
	uint8_t status;
	uint64_t features; /* the driver's choice */
	uint8_t config[VDEV_CONFIG_MAX];
	bool is_running;   /* the machine is */
	bool is_working;   /* between start() and stop() */
	bool is_starting;  /* and start_wait() is due */
	bool is_resetting; /* the driver's reset waits for stop() */

	/* atomic */
	uint8_t is_broken;   /* DEVICE_NEEDS_RESET */
	uint32_t generation; /* of config; also in the saved state */

	struct vdev_saved *saved; /* owned: what save and load go through */
	struct state_entry state;
};

/* Where a device is built. */
struct vdev_site {
	struct mem *mem;
	struct addr_space *memory;
	struct pci_bus *bus;
	struct state_registry *state, *setup_state; /* the latter may be NULL */
	struct vh_board *vhost;                     /* vhost/vhost.h */
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
/* Before that, of a device whose back end may not stop: as for a reset, until
 * @deadline_ns, after which it is the caller's to see that it does no more. */
void vdev_end(struct vdev *dev, uint64_t deadline_ns);

/* Its back end is another process, which has its eventfds and may do to them what it
 * likes (base/event.h).  Before it works; @writer is borrowed while the device lives. */
void vdev_share(struct vdev *dev, struct event_writer *writer);

static inline bool vdev_has(const struct vdev *dev, unsigned int feature)
{
	return dev->features >> feature & 1;
}

/* The eventfd that interrupts for @queue, or for a change of config; -1: the
 * driver wants none.  Borrowed; constant while working. */
int vdev_call_fd(const struct vdev *dev, const struct vdev_queue *queue);
/* As if the driver had notified @queue.  Any thread, any lock. */
void vdev_kick(const struct vdev *dev, const struct vdev_queue *queue);
/* Interrupt for @queue; the back end looked whether the driver wants it. */
void vdev_call(const struct vdev *dev, const struct vdev_queue *queue);

/* dev->config changed by itself: a new generation, and an interrupt.  Any
 * thread. */
void vdev_config_changed(struct vdev *dev);
/* The first half: with the lock under which a driver's read finds what changed, or it may
 * read one half of the old and one of the new without noticing.  The second. */
void vdev_config_raise(struct vdev *dev);
void vdev_config_call(struct vdev *dev);

/* The driver, or a back end that cannot be helped, broke the device: set
 * DEVICE_NEEDS_RESET, tell the driver, trace the reason.  Any thread, any lock.
 * The caller stops working on the queues by itself. */
void vdev_break(struct vdev *dev, const struct err *reason);

/* ---- for the machine; with no vCPU in the device ---- */

/* The machine runs.  Starts a device that the driver has set up; with a begin for
 * each before, several do so at a time. */
void vdev_run_begin(struct vdev *dev);
void vdev_run(struct vdev *dev);
/* It was built, and is activated soon. */
void vdev_probe(struct vdev *dev);
/* It was built: ask its back end once for each queue, and see the answers.  Several are
 * rehearsed at a time with a begin for each before. */
void vdev_rehearse_begin(struct vdev *dev);
int vdev_rehearse(struct vdev *dev, struct err *err);
/* The guest is elsewhere, and the fields for @stage are here: build, if there is
 * something to build.  VDEV_WHOLE is told by activation. */
int vdev_prepare(struct vdev *dev, enum vdev_stage stage, struct err *err);
/* The guest came here from elsewhere, a moment ago.  It gets an interrupt for each
 * queue and for its configuration: one that a back end caused at the source may have
 * come behind the saving of the vCPU it was for.  A driver that finds nothing to do
 * does nothing. */
void vdev_arrived(struct vdev *dev);
/* Each begin has its pause, even when another device's has failed meanwhile.
 * -ETIMEDOUT: it works on; vdev_run() says that the machine does, too. */
void vdev_pause_begin(struct vdev *dev);
void vdev_pause_ask(struct vdev *dev, uint64_t deadline_ns);
int vdev_pause(struct vdev *dev, uint64_t deadline_ns, struct err *err);

/* ---- for the transport; with dev->lock ---- */

/* The driver writes the status register, and reads it: the whole state machine of
 * virtio 1.2, 3.1 is behind this (vdev_status.c). */
void vdev_set_status(struct vdev *dev, uint8_t status);
uint8_t vdev_status(struct vdev *dev);
/* FLR, or 0 written to status.  A back end that does not stop at once is asked again
 * whenever the driver reads the status, which is not 0 before that. */
void vdev_reset(struct vdev *dev);

/* Bus mastering was turned on or off, or neither.  Off, the queues rest: what was under
 * way is completed, what comes is taken when it is on again, and so are interrupts
 * (MSI-X).  Status and queues stay as they are, also across a migration. */
void vdev_master_changed(struct vdev *dev);
/* A back end has not stopped for that, or for a reset, in time, and works on.  It is
 * asked again here. */
bool vdev_is_pending(struct vdev *dev);

/* Bits 32 * @half to 32 * @half + 31 of the driver's choice, while that is
 * possible; others have no effect. */
void vdev_set_features(struct vdev *dev, uint32_t half, uint32_t bits);

/* The registers of @queue may change: it is not enabled. */
bool vdev_queue_is_open(const struct vdev *dev, const struct vdev_queue *queue);
/* Check its registers and have it worked on; what makes no sense breaks the
 * device.  So does a back end that works on others and does not stop for this in 500 ms:
 * a driver cannot be told to ask again. */
void vdev_queue_enable(struct vdev *dev, struct vdev_queue *queue);
/* VIRTIO_F_RING_RESET: this queue as after a reset, the others work on.  A back end that
 * does not stop at once works on, with this queue too, which stays enabled: it is asked
 * again below, and any other stop that succeeds is also the end of this. */
void vdev_queue_reset(struct vdev *dev, struct vdev_queue *queue);
/* The driver reads whether that is under way still. */
bool vdev_queue_is_resetting(struct vdev *dev, struct vdev_queue *queue);

/* Bytes of configuration space; what is outside of it reads as 0. */
void vdev_config_get(struct vdev *dev, uint64_t offset, uint32_t size,
		     uint8_t *bytes);
void vdev_config_set(struct vdev *dev, uint64_t offset, uint32_t size,
		     const uint8_t *bytes);

#endif
