/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A modern virtio device behind PCI (virtio 1.2, 4.1): its registers and queues.
 *
 *	vdev_open()		once: where its registers are
 *	vdev_begin()		reset, and features are agreed on
 *	vdev_queue_start()	for each queue
 *	vdev_ready()		DRIVER_OK
 *
 * and again from vdev_begin() after a reset.  Only CPU 0 does these; a queue
 * belongs to the vCPU that uses it, which also notifies.
 */
#ifndef GODWIT_GUEST_VDEV_H
#define GODWIT_GUEST_VDEV_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/irq.h"
#include "guest/msix.h"
#include "guest/pci.h"
#include "guest/virtq.h"

#define VDEV_VENDOR      0x1af4
#define VDEV_DEVICE_BASE 0x1040 /* plus the type of the device */
#define VDEV_QUEUES_MAX  64
#define VDEV_VECTOR_NONE 0xffff

/* A structure in a BAR that a capability names. */
struct vdev_place {
	uint8_t bar;
	uint32_t offset;
	uint32_t size; /* 0: there is none */
};

struct vdev_queue {
	struct virtq vq;
	void *memory; /* of the largest ring so far */
	size_t memory_size;
	uint16_t index;
	uint16_t notify_offset; /* in units of the device's multiplier */
	uint16_t vector;        /* entry of MSI-X, or VDEV_VECTOR_NONE */
	bool is_broken;         /* a fault was seen; until the next reset */
	struct io_cpu *owner;   /* borrowed; NULL while there is no queue */
	struct irq irq;
};

struct vdev {
	/* immutable after vdev_open() */
	unsigned int index;            /* among the devices of the program */
	struct pci_function *function; /* borrowed */
	struct msix msix;
	struct vdev_place common, notify, device;
	uint32_t notify_multiplier;

	uint64_t features;    /* agreed on */
	uint16_t queue_limit; /* how many the device has */
	struct vdev_queue queues[VDEV_QUEUES_MAX];
};

/* Returns NULL or what is wrong, as a phrase. */
const char *vdev_open(struct vdev *dev, unsigned int index,
		      struct pci_function *f);

/* Takes those of @wanted that the device offers, and VERSION_1 always. */
const char *vdev_begin(struct vdev *dev, uint64_t wanted);

/*
 * Largest size of queue @n that the device takes, 0 when it has no such queue.
 */
uint16_t vdev_queue_size(const struct vdev *dev, unsigned int n);

/* @memory is for a ring of @shape.  @vector: VDEV_VECTOR_NONE or an entry. */
const char *vdev_queue_start(struct vdev *dev, unsigned int n,
			     const struct virtq_shape *shape, void *memory,
			     uint16_t vector);
void vdev_ready(struct vdev *dev);
void vdev_reset(struct vdev *dev);

bool vdev_has(const struct vdev *dev, unsigned int feature);
bool vdev_needs_reset(const struct vdev *dev);
uint8_t vdev_generation(const struct vdev *dev);

/* A field of its configuration, of 1, 2, 4 or 8 bytes; 0 when it ends before. */
uint64_t vdev_config(const struct vdev *dev, unsigned int offset,
		     unsigned int width);

void vdev_notify(const struct vdev *dev, const struct vdev_queue *queue);

#endif
