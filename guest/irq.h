/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Do interrupts arrive?  Now and then a queue asks for one and looks whether it
 * comes after the next used buffer.  With msix=on it is a bit in the APIC of the
 * vCPU, which nothing clears: one look for each vector that is programmed.
 * With msix=masked it is a pending bit of the function, as often as one likes.
 */
#ifndef GODWIT_GUEST_IRQ_H
#define GODWIT_GUEST_IRQ_H

#include <stdbool.h>
#include <stdint.h>

struct io;
struct io_cpu;
struct vdev;
struct vdev_queue;

enum irq_state {
	IRQ_REST,   /* until the next look */
	IRQ_WANTED, /* asked for one; nothing used since */
	IRQ_DUE,    /* it must come now */
	IRQ_OFF,    /* no vector, or its only look is over */
};

struct irq {
	enum irq_state state;
	uint8_t vector; /* of the APIC */
	uint64_t when;  /* TSC: of the next look, or when it is missed */
};

/* CPU 0: a new vector for the queue, which no vCPU uses meanwhile. */
void irq_program(struct io *io, struct vdev *dev, struct vdev_queue *queue,
		 struct io_cpu *owner);

/* The queue's vCPU, each time that it has taken @used buffers (also none). */
void irq_look(struct io_cpu *cpu, struct vdev *dev, struct vdev_queue *queue,
	      uint64_t now, unsigned int used);

#endif
