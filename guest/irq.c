/* SPDX-License-Identifier: Apache-2.0 */
/* Looks for interrupts: see irq.h. */
#include "guest/irq.h"

#include <stddef.h>

#include "guest/cpu.h"
#include "guest/io.h"
#include "guest/tsc.h"

#define VECTOR_FIRST 0x30
#define VECTOR_END   0xf0
#define REST_US      100000
#define MISSED_US    2000000

void irq_program(struct io *io, struct vdev *dev, struct vdev_queue *queue,
		 struct io_cpu *owner)
{
	struct irq *irq = &queue->irq;

	irq->state = IRQ_OFF;
	if (queue->vector == VDEV_VECTOR_NONE)
		return;
	/* All have been seen: only a new APIC could tell one from another. */
	if (io->config->msix == MSIX_ON && owner->next_vector == VECTOR_END)
		return;
	if (owner->next_vector < VECTOR_FIRST)
		owner->next_vector = VECTOR_FIRST;
	irq->vector = owner->next_vector;
	if (io->config->msix == MSIX_ON)
		owner->next_vector++;
	msix_program(&dev->msix, queue->vector, owner->apic_id, irq->vector);
	if (io->config->msix == MSIX_ON)
		msix_mask(&dev->msix, queue->vector, false);
	irq->state = IRQ_REST;
	irq->when = 0;
}

static bool has_come(const struct io *io, const struct vdev *dev,
		     const struct vdev_queue *queue)
{
	if (io->config->msix == MSIX_ON)
		return apic_has_request(queue->irq.vector);
	return msix_is_pending(&dev->msix, queue->vector);
}

/* Unmasking sends what is pending, and there is nothing pending any more. */
static void release_pending(struct io_cpu *cpu, const struct vdev *dev,
			    const struct vdev_queue *queue)
{
	struct line line;

	msix_mask(&dev->msix, queue->vector, false);
	if (msix_is_pending(&dev->msix, queue->vector) &&
	    io_error_begin(cpu, &line, "irq-kept", dev->index)) {
		line_decimal(&line, " queue=", queue->index);
		io_error_end(&line);
	}
	msix_mask(&dev->msix, queue->vector, true);
}

static void ask(struct vdev_queue *queue)
{
	virtq_want_interrupt(&queue->vq, true);
	/* What is used already causes none, or one too early. */
	if (virtq_has_used(&queue->vq)) {
		virtq_want_interrupt(&queue->vq, false);
		return;
	}
	queue->irq.state = IRQ_WANTED;
}

static void end_look(struct io_cpu *cpu, const struct vdev *dev,
		     struct vdev_queue *queue, uint64_t now, bool has_arrived)
{
	const struct io *io = cpu->io;
	struct line line;

	virtq_want_interrupt(&queue->vq, false);
	queue->irq.when = now + tsc_of_us(io->tsc_khz, REST_US);
	queue->irq.state = io->config->msix == MSIX_MASKED ? IRQ_REST : IRQ_OFF;
	if (has_arrived) {
		write_once(cpu->interrupts, cpu->interrupts + 1);
		if (io->config->msix == MSIX_MASKED)
			release_pending(cpu, dev, queue);
	} else if (io_error_begin(cpu, &line, "irq-lost", dev->index)) {
		line_decimal(&line, " queue=", queue->index);
		line_decimal(&line, " vector=", queue->irq.vector);
		io_error_end(&line);
	}
}

void irq_look(struct io_cpu *cpu, struct vdev *dev, struct vdev_queue *queue,
	      uint64_t now, unsigned int used)
{
	struct irq *irq = &queue->irq;

	switch (irq->state) {
	case IRQ_REST:
		if (now >= irq->when)
			ask(queue);
		break;
	case IRQ_WANTED:
		if (!used)
			break;
		irq->state = IRQ_DUE;
		irq->when = now + tsc_of_us(cpu->io->tsc_khz, MISSED_US);
		break;
	case IRQ_DUE:
		if (has_come(cpu->io, dev, queue))
			end_look(cpu, dev, queue, now, true);
		else if (now >= irq->when)
			end_look(cpu, dev, queue, now, false);
		break;
	case IRQ_OFF:
		break;
	}
}
