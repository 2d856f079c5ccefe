/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An interrupt line, as a device sees it: one GSI and whoever routes it.
 * Embedded by value; a zero line is connected to nothing.
 */
#ifndef GODWIT_DEV_IRQ_H
#define GODWIT_DEV_IRQ_H

struct irq_line {
	/* Called with the device's lock held (rank LOCK_DEVICE), from any
	 * thread; may take locks of a higher rank. */
	void (*set)(void *opaque, unsigned int gsi, int level);
	void *opaque; /* borrowed for as long as the device lives */
	unsigned int gsi;
};

static inline void irq_set(const struct irq_line *line, int level)
{
	if (line->set)
		line->set(line->opaque, line->gsi, level);
}

#endif
