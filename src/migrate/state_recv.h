/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State that arrives: whose it is, and when it is loaded.  Called by destination.c, on
 * its thread.
 *
 * The pre-state of devices is loaded and built as it comes, the state of the stopped
 * guest at once when all of it is there.  Two other ways are kept for comparison
 * (x-switch): they load the devices' pre-state only in the pause, in the transaction of
 * the rest (MIG_SWITCH_BATCHED), or each entry of both in one of its own
 * (MIG_SWITCH_NAIVE).
 */
#ifndef GODWIT_MIGRATE_STATE_RECV_H
#define GODWIT_MIGRATE_STATE_RECV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "migrate/migrate.h"

struct err;
struct machine;
struct mem;
struct said_state;

struct state_recv {
	/* immutable after init */
	struct machine *machine; /* borrowed */
	struct mem *mem;         /* borrowed */
	enum mig_switch how;

	struct bytes_writer ahead; /* held pre-state, and its heads */
	struct bytes_writer rest;  /* held state, likewise */
	unsigned int left;         /* entries whose state is still to come */
	uint64_t commits;          /* of the topology, by the load */

	/* Of what could not be loaded. */
	uint32_t blamed_type;
	uint64_t blamed_number;
};

void state_recv_init(struct state_recv *recv, struct machine *machine,
		     enum mig_switch how);
void state_recv_fini(struct state_recv *recv);

/* SETUP_STATE, EARLY_STATE, SETUP_AGAIN and STATE, in record @number. */
int state_recv_setup(struct state_recv *recv, const struct said_state *state,
		     uint64_t number, struct err *err);
int state_recv_early(struct state_recv *recv, const struct said_state *state,
		     uint64_t number, struct err *err);
int state_recv_again(struct state_recv *recv, const struct said_state *state,
		     uint64_t number, struct err *err);
int state_recv_rest(struct state_recv *recv, const struct said_state *state,
		    uint64_t number, struct err *err);

/* No SETUP_STATE is missing, and the devices' are built; no STATE is missing. */
int state_recv_setup_end(struct state_recv *recv, struct err *err);
int state_recv_end(struct state_recv *recv, struct err *err);

/* All fields, and then what of back ends and of the kernel's needs no RAM.  Devices activate after it.
 * Blames what is wrong with a record. */
int state_recv_load(struct state_recv *recv, struct err *err);
int state_recv_activate(struct state_recv *recv, struct err *err);

#endif
