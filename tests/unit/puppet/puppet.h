/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An accelerator for tests: whole machines, and whole migrations, in one
 * process and without /dev/kvm.
 *
 * Its vCPUs are loops in C.  Each owns a part of guest memory and rewrites
 * pages of it at random; what it wrote where is in a ledger, in guest memory
 * as well, and how far it got is in its registers, which are saved and loaded.
 * Before it writes a page it checks the page against the ledger, and the ledger
 * against the registers: a page that is lost, stale or not ours is counted.
 *
 * Saving a vCPU writes a page of memory, which nothing else touches: as late as
 * an accelerator may.
 *
 * Its dirty log works as KVM's with manual protect: a sync shows the bits and
 * leaves them, a clear takes them away.
 */
#ifndef GODWIT_TEST_PUPPET_H
#define GODWIT_TEST_PUPPET_H

#include <stdbool.h>
#include <stdint.h>

#include "accel/accel.h"

/* For machine_options.accel.type. */
extern const struct accel_type puppet_type;

struct addr_space;
struct machine;
struct machine_options;

#define PUPPET_CPUS_MAX 4u
/* Each vCPU's part of memory, from PUPPET_START on. */
#define PUPPET_START    (8ull << 20)
#define PUPPET_PAGES    16u
#define PUPPET_FEATURES 16u

/* What vCPUs did, all together; atomic. */
struct puppet_tally {
	uint64_t runs;   /* times a vCPU entered its guest */
	uint64_t writes; /* pages written */
	uint64_t losses; /* pages that were not as the guest left them */
};

/* Of all puppets of the process. */
extern struct puppet_tally puppet_tally;

/* Atomic: vCPU @puppet_stuck - 1 of every puppet heeds no kick, as one inside a device that
 * does not answer; 0: none. */
extern unsigned int puppet_stuck;

/* What a guest of @machine would reach by IN and OUT. */
struct addr_space *puppet_ports(struct machine *machine);

/* In the place of a vCPU's number. */
#define PUPPET_DEVICES PUPPET_CPUS_MAX

/* As a device of @machine would whose writes are in the dirty log. */
void puppet_device_write(struct machine *machine);
/* How often vCPU @number was saved, or devices wrote, by @machine's memory. */
uint64_t puppet_last_word(struct machine *machine, unsigned int number);

/* The smallest machine, of @cpus; nothing of it is borrowed. */
void puppet_options(struct machine_options *options, unsigned int cpus,
		    bool is_incoming);

#endif
