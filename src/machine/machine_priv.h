/* SPDX-License-Identifier: Apache-2.0 */
/*
 * struct machine, shared by its files:
 *
 *	machine.c    building, booting, ends
 *	run.c        run state, and the steps of a switch
 *	reclaim.c    a guest that goes on when its disks are free
 *	run_state.c  which run state may follow which
 */
#ifndef GODWIT_MACHINE_MACHINE_PRIV_H
#define GODWIT_MACHINE_MACHINE_PRIV_H

#include "base/err.h"
#include "base/lock.h"
#include "machine/machine.h"
#include "state/state.h"

struct machine {
	/* immutable after init */
	struct machine_options options; /* its strings are borrowed until
					   machine_new() returns */
	machine_event_fn *on_event;
	void *opaque;
	struct mem *mem;
	struct mem_region *root, *ports_root, *ram_low, *ram_high;
	struct ram_block *ram;
	struct addr_space *memory, *ports;
	struct accel *accel;
	struct vcpu_set *vcpus;
	struct state_registry setup_state, state;
	struct chardev *serial_chardev;
	struct ns16550 *serial;
	struct mc146818 *rtc;
	struct i8042 *i8042;
	struct pch_reset *pch_reset;
	struct debug_exit *debug_exit;
	struct acpi_pm *acpi_pm;
	struct pci_bus *pci;     /* NULL without devices */
	struct devices *devices; /* NULL: none */

	struct lock lock; /* LOCK_RUN_STATE; held while vCPUs are moved */
	/* written with lock, read with it or atomically: whoever only asks does not wait
	 * for back ends */
	enum run_state run_state;
	/* protected by lock (reclaim.c) */
	bool is_owed; /* paused, it goes on as soon as it can be claimed */
	bool is_ending, has_reclaimer;
	pthread_t reclaimer;
	pthread_cond_t owed;

	/* atomic: set once by whoever is first, -1 before */
	int cause;
	uint32_t cause_code;
	/* written before the event of it is queued, which orders the two */
	struct err cause_err;
};

/* ---- with the lock ---- */

/* vCPUs and back ends go, if this copy of the guest may have what only one may; else what
 * devices_claim() said. */
int machine_go(struct machine *machine, struct err *err);
/* Have a machine that is paused do so as soon as it can; whatever ends that. */
void machine_reclaim_begin(struct machine *machine);
void machine_reclaim_end(struct machine *machine);

/* Without it: for good, as the machine ends. */
void machine_reclaim_join(struct machine *machine);

#endif
