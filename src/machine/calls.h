/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls out of this process that grow with a machine's devices and queues, and
 * changes of its topology: what a pause should have none of.
 */
#ifndef GODWIT_MACHINE_CALLS_H
#define GODWIT_MACHINE_CALLS_H

#include <stdint.h>

struct machine;

struct machine_calls {
	uint64_t commits;       /* of the topology, that changed something */
	uint64_t route_commits; /* interrupt routes told to the accelerator */
	uint64_t eventfd_calls; /* irqfds and ioeventfds bound, and unbound */
	uint64_t vhost_calls;   /* into vhost back ends, tables among them */
	uint64_t vhost_tables;  /* memory tables told to them */
};

/* Since the machine was made; any thread. */
void machine_count_calls(struct machine *machine,
			 struct machine_calls *ret_calls);
/* @calls since @before, in place. */
void machine_calls_since(struct machine_calls *calls,
			 const struct machine_calls *before);

#endif
