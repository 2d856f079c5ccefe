/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 16550A serial port: eight I/O ports, one interrupt line, a character back
 * end.  vCPU threads read and write the ports, the back end's thread brings
 * input.
 *
 * A byte written is transmitted at once, so the transmitter is always empty
 * and its FIFO is never seen to hold anything; baud rate and word length are
 * only remembered.  For the receiver, the four character times of the timeout
 * interrupt are taken as none: data below the trigger level interrupts at
 * once.  OUT2 does not gate the line.  A back end never reports parity or
 * framing errors or breaks; carrier and peer are always there.
 *
 * Source: National Semiconductor, PC16550D data sheet (June 1995), chapter 8.
 */
#ifndef GODWIT_DEV_NS16550_H
#define GODWIT_DEV_NS16550_H

#include <stdint.h>

#include "dev/irq.h"

struct chardev;
struct mem;
struct mem_region;
struct ns16550;
struct state_registry;

#define NS16550_PORTS 8u

/*
 * Puts the device at @port of @io_root, attaches it to @chardev (borrowed
 * until ns16550_free()) and registers its state as @name.  NULL without
 * memory.  Input arrives after ns16550_start().
 */
struct ns16550 *ns16550_new(struct mem *mem, struct mem_region *io_root,
			    uint16_t port, struct irq_line irq,
			    struct chardev *chardev,
			    struct state_registry *registry, const char *name);
/* No vCPU runs.  NULL is accepted. */
void ns16550_free(struct ns16550 *uart);

/* The machine runs, or has stopped: input flows only in between.  When
 * ns16550_stop() returns the registers change no more (the vCPUs having
 * stopped before), so it comes before the state is saved. */
void ns16550_start(struct ns16550 *uart);
void ns16550_stop(struct ns16550 *uart);

#endif
