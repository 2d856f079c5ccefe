/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An MC146818 real-time clock with 128 bytes of CMOS RAM, behind an index and
 * a data port.
 *
 * Time is the host's CLOCK_REALTIME, in UTC, plus the offset that the guest
 * brought about by setting the clock; the offset is what is saved, so that a
 * moved clock goes on without having missed the move.  Setting it works in
 * whole seconds: the fraction stays the host's.
 *
 * Not there: the periodic, alarm and update-ended interrupts, and their flags
 * in register C, which reads 0.  The bits that enable them are remembered.
 *
 * Source: Motorola MC146818 data sheet (1984); the century in byte 0x32 is
 * where ACPI's FADT says it is.
 */
#ifndef GODWIT_DEV_MC146818_H
#define GODWIT_DEV_MC146818_H

#include <stdint.h>

struct mc146818;
struct mem;
struct mem_region;
struct state_registry;

#define MC146818_PORTS   2u /* index, data */
#define MC146818_CENTURY 0x32u

/* At @port (0x70) of @io_root, with its state registered as @name.  NULL
 * without memory. */
struct mc146818 *mc146818_new(struct mem *mem, struct mem_region *io_root,
			      uint16_t port, struct state_registry *registry,
			      const char *name);
/* No vCPU runs.  NULL is accepted. */
void mc146818_free(struct mc146818 *rtc);

#endif
