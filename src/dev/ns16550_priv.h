/* SPDX-License-Identifier: Apache-2.0 */
/* The UART's registers, for ns16550.c and its tests. */
#ifndef GODWIT_DEV_NS16550_PRIV_H
#define GODWIT_DEV_NS16550_PRIV_H

#include "base/lock.h"
#include "dev/chardev.h"
#include "dev/ns16550.h"
#include "mem/region.h"
#include "state/state.h"

#define NS16550_FIFO 16u

enum ns16550_reg {
	NS16550_DATA, /* RBR and THR; DLL with DLAB */
	NS16550_IER,  /* DLM with DLAB */
	NS16550_IIR,  /* written: FCR */
	NS16550_LCR,
	NS16550_MCR,
	NS16550_LSR,
	NS16550_MSR,
	NS16550_SCR,
};

struct ns16550 {
	/* immutable after init */
	struct irq_line irq;
	struct chardev *chardev;   /* borrowed */
	struct mem_region *region; /* owned reference */
	struct state_entry state;

	/* protected by lock (LOCK_DEVICE) */
	struct lock lock;
	uint8_t ier, lcr, mcr, scr, dll, dlm;
	uint8_t is_fifo;          /* FCR bit 0 */
	uint8_t trigger;          /* FCR bits 7-6: an index */
	uint8_t lsr_errors;       /* LSR bits 4-1 */
	uint8_t msr_deltas;       /* MSR bits 3-0 */
	uint8_t thre_pending;     /* THRE interrupt not yet acknowledged */
	uint8_t rx[NS16550_FIFO]; /* oldest first */
	uint32_t rx_count;
	int level; /* of the line, as last set; derived */
};

extern const struct mem_io_ops ns16550_io_ops;
extern const struct chardev_front_ops ns16550_front_ops;
extern const struct state_desc ns16550_state;

/* Registers as after power-up, nothing connected; undone by _fini. */
void ns16550_init(struct ns16550 *uart, struct irq_line irq,
		  struct chardev *chardev);
void ns16550_fini(struct ns16550 *uart);

#endif
