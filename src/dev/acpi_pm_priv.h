/* SPDX-License-Identifier: Apache-2.0 */
/* The registers of ACPI's fixed hardware, for acpi_pm.c and its tests. */
#ifndef GODWIT_DEV_ACPI_PM_PRIV_H
#define GODWIT_DEV_ACPI_PM_PRIV_H

#include "base/lock.h"
#include "dev/acpi_pm.h"
#include "mem/region.h"
#include "state/state.h"

#define ACPI_PM_HZ 3579545ull

/* The host's two clocks at one moment. */
struct acpi_pm_time {
	uint64_t mono_ns, real_ns;
};

struct acpi_pm {
	/* immutable after init */
	struct mem_region *region; /* owned reference */
	struct irq_line sci;
	void (*on_power_off)(void *opaque);
	void *opaque; /* borrowed */
	struct acpi_pm_time (*now)(
		void *source); /* the host's, but for tests */
	void *source;
	struct state_entry state;

	/* protected by lock (LOCK_DEVICE) */
	struct lock lock;
	uint16_t status, enable, control;
	uint64_t zero_ns; /* monotonic time at which the timer was 0 */
	/* only between saving and activating */
	uint64_t passed_ns;   /* since the timer was 0 */
	uint64_t realtime_ns; /* of the host then */
};

extern const struct mem_io_ops acpi_pm_io_ops;
extern const struct state_desc acpi_pm_state;

void acpi_pm_init(struct acpi_pm *dev, struct irq_line sci,
		  void (*on_power_off)(void *opaque), void *opaque);
void acpi_pm_fini(struct acpi_pm *dev);

#endif
