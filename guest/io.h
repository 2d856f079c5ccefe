/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame of the programs that drive devices (`blk`, `net`): start, main loop
 * of each vCPU, commands, watching devices, and orders that stop all vCPUs.
 *
 * CPU 0 sets up devices and queues, and each vCPU then works on its own
 * queues.  When devices are to be changed, CPU 0 gives an order:
 *
 *	RUN ---> DRAIN ---> RUN		own requests end first
 *	RUN ---> STOP  ---> RUN		nobody touches a device
 *	DRAIN -> STOP			a device needs a reset
 *
 * and acts when all vCPUs have followed.  Nothing waits anywhere else, so that a
 * device which stands still is always noticed.
 */
#ifndef GODWIT_GUEST_IO_H
#define GODWIT_GUEST_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/churn.h"
#include "guest/gauge.h"
#include "guest/io_config.h"
#include "guest/latency.h"
#include "guest/layout.h"
#include "guest/pace.h"
#include "guest/pci.h"
#include "guest/ram.h"
#include "guest/serial.h"
#include "guest/spare.h"
#include "guest/vdev.h"

#define IO_DEVICES_MAX     16
#define IO_ERROR_LINES_MAX 16

enum io_order {
	IO_RUN,
	IO_DRAIN,
	IO_STOP
};

struct io_cpu {
	/* immutable after publication */
	uint64_t index;
	struct io *io;
	uint32_t apic_id;

	/* written by the vCPU, read by CPU 0 */
	struct gauge gauge;
	uint64_t ops, bytes, errors;
	uint64_t interrupts; /* that were asked for and came */
	uint32_t orders;     /* the last one followed */
	uint32_t checks;     /* done */
	struct latency latency;

	/* owned by the vCPU */
	uint64_t checks_begun;
	uint8_t next_vector; /* owned by CPU 0, which programs MSI-X */

	uint32_t ring[GAUGE_RING] __attribute__((aligned(PAGE_SIZE)));
};

_Static_assert(sizeof(struct io_cpu) <= VCPU_SIZE, "layout.h: VCPU_SIZE");

struct io_program {
	const char *name;
	unsigned int device_type; /* virtio 1.2, 5 */

	/* As config_parse(); into the struct whose begin is @io->config. */
	const char *(*parse)(struct io *io, const char *cmdline);

	/* CPU 0, once: memory and queues of all devices; then they are ready. */
	void (*setup)(struct io *io);

	/* Takes what is done and, if @may_start, begins more. */
	void (*work)(struct io_cpu *cpu, uint64_t now, bool may_start);

	/*
	 * Nothing of this vCPU is in flight that a reset would lose, @ticks
	 * after the order to end it.
	 */
	bool (*is_idle)(const struct io_cpu *cpu, uint64_t ticks);

	/* Begin to check all that was written; whether that is done. */
	void (*check)(struct io_cpu *cpu);
	bool (*is_checked)(const struct io_cpu *cpu);

	/*
	 * CPU 0, all others stopped: resets a device and sets it up again, its
	 * rings no larger than @ring; requests in flight are begun again.
	 */
	void (*restart)(struct io *io, struct vdev *dev, unsigned int ring);

	/* CPU 0, now and then: has @dev changed by itself?  Or NULL. */
	void (*look)(struct io *io, struct vdev *dev);

	/* Members of "@report". */
	void (*report)(const struct io *io, struct line *line);
};

/* Each program has one. */
extern const struct io_program io_program;

struct io {
	/* immutable after publication */
	struct io_config *config;
	struct ram ram;
	uint64_t memory, memory_end; /* what io_take() has left */
	uint64_t tsc_khz;

	/* owned by CPU 0, but for the queues */
	struct pci pci;
	struct vdev devices[IO_DEVICES_MAX];
	unsigned int device_count;
	uint32_t broken; /* mask of devices that need a reset; atomic */
	uint64_t resets_done;
	uint64_t next_watch; /* TSC */
	struct churn churn;
	struct spare spare;

	/* set by CPU 0 */
	uint64_t start; /* TSC */
	uint32_t is_published;
	uint32_t is_going;
	uint32_t resets;      /* how often gauges were to be cleared */
	uint32_t checks;      /* how many were asked for */
	uint32_t orders;      /* their number << 2 | enum io_order */
	uint64_t order_given; /* TSC; written before @orders */
	bool is_reporting, is_finishing; /* after the check that goes on */
	uint64_t check_end;              /* TSC: then it takes too long */

	/* set by each vCPU */
	uint8_t has_arrived[MAX_VCPUS];
	uint32_t error_lines; /* atomic */
};

static inline struct io_cpu *io_cpu_of(uint64_t index)
{
	return (struct io_cpu *)(VCPUS_BASE + index * VCPU_SIZE);
}

/* RAM, page-aligned and zeroed; ends the program when there is no more. */
void *io_take(struct io *io, uint64_t bytes);

/* CPU 0: see above.  It is given at once, and followed later. */
void io_give_order(struct io *io, enum io_order order);

/*
 * Counts an error of @cpu and begins its line, "@error KIND dev=N"; false when
 * there were enough of them.  io_error_end() ends it.
 */
bool io_error_begin(struct io_cpu *cpu, struct line *line, const char *kind,
		    uint64_t device);
void io_error_end(struct line *line);

/* The device has broken a rule, or says so itself: CPU 0 will reset it. */
void io_break(struct io *io, const struct vdev *dev);

/* Ends the program when @wrong, about device @dev, is not NULL. */
void io_require(const char *wrong);

/* Features that the options ask for, to be added to those of the program. */
uint64_t io_ring_features(const struct io *io);

/*
 * CPU 0: starts queue @n of @dev, to be used by @owner, with at most @ring
 * entries and @segments buffers a request.
 */
struct vdev_queue *io_start_queue(struct io *io, struct vdev *dev,
				  unsigned int n, struct io_cpu *owner,
				  unsigned int ring, unsigned int segments);

/* Adds what was asked for since the last time: notifies if that is needed. */
static inline void io_flush(const struct vdev *dev, struct vdev_queue *queue)
{
	if (virtq_flush(&queue->vq))
		vdev_notify(dev, queue);
}

/* A rate of its own for one of @sharers. */
void io_pace(const struct io *io, struct pace *pace, uint64_t sharers);

#endif
