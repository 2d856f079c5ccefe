/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reset control register at port 0xcf9.
 *
 * Port 0xcf9 is also the second byte of PCI's configuration address at 0xcf8,
 * and only the width of an access tells them apart.  A machine with a PCI host
 * bridge therefore passes no @io_root, and the bridge hands one-byte accesses
 * of 0xcf9 to pch_reset_read() and pch_reset_write().
 *
 * Source: Intel I/O Controller Hub 9 data sheet (316972), register RST_CNT.
 */
#ifndef GODWIT_DEV_PCH_RESET_H
#define GODWIT_DEV_PCH_RESET_H

#include <stdint.h>

struct mem;
struct mem_region;
struct pch_reset;
struct state_registry;

#define PCH_RESET_PORT 0xcf9u

/* @on_reset: called by a vCPU thread with no lock held; the vCPU may run on.
 * @io_root may be NULL, see above.  NULL without memory. */
struct pch_reset *pch_reset_new(struct mem *mem, struct mem_region *io_root,
				void (*on_reset)(void *opaque), void *opaque,
				struct state_registry *registry,
				const char *name);
/* No vCPU runs.  NULL is accepted. */
void pch_reset_free(struct pch_reset *dev);

uint8_t pch_reset_read(struct pch_reset *dev);
void pch_reset_write(struct pch_reset *dev, uint8_t value);

#endif
