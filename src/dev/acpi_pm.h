/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI's fixed hardware: power button, sleep control and power-management
 * timer, in ACPI mode from the start (there is no SMI command port).
 *
 *	+0  PM1 status   16 bits, a 1 written clears; only the power button sets
 *	+2  PM1 enable   16 bits
 *	+4  PM1 control  16 bits; sleep type S5 with the enable bit powers off
 *	+8  timer        32 bits, 3.579545 MHz
 *
 * Status and enable together drive the system control interrupt, a level.  The
 * timer does not interrupt: nobody enables that, and reading it suffices.
 *
 * Guests measure other clocks against the timer, so it has to pass the time of
 * a move as they do: it is saved with the host's realtime and goes on by the
 * realtime that passed, or from where it was if that stepped back.
 *
 * Source: ACPI 6.3, 4.8 "ACPI Register Model".
 */
#ifndef GODWIT_DEV_ACPI_PM_H
#define GODWIT_DEV_ACPI_PM_H

#include <stdint.h>

#include "dev/irq.h"

struct acpi_pm;
struct mem;
struct mem_region;
struct state_registry;

#define ACPI_PM_EVENT     0u
#define ACPI_PM_CONTROL   4u
#define ACPI_PM_TIMER     8u
#define ACPI_PM_PORTS     12u
#define ACPI_PM_SLEEP_OFF 5u /* sleep type S5, as dsdt.asl says */

/* At @port of @io_root.  @on_power_off: called by a vCPU thread with no lock
 * held; the vCPU may run on.  NULL without memory. */
struct acpi_pm *acpi_pm_new(struct mem *mem, struct mem_region *io_root,
			    uint16_t port, struct irq_line sci,
			    void (*on_power_off)(void *opaque), void *opaque,
			    struct state_registry *registry, const char *name);
/* No vCPU runs.  NULL is accepted. */
void acpi_pm_free(struct acpi_pm *dev);

/* Any thread. */
void acpi_pm_press_power_button(struct acpi_pm *dev);

#endif
