/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State on its way out, as records (docs/spec/stream.md): descriptions, the pre-state
 * and what changed of it while the guest ran on, and the state of the stopped guest.
 *
 * What was sent of the pre-state is kept, so that a change is seen by comparing: whoever
 * changes a register needs to tell nobody.
 */
#ifndef GODWIT_MIGRATE_STATE_SEND_H
#define GODWIT_MIGRATE_STATE_SEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct err;
struct state_registry;

struct state_send {
	struct bytes_writer *sent; /* owned; of each entry of the pre-state */
	size_t count;
	struct bytes_writer now; /* of the entry that is looked at */
};

/* A SCHEMA of each entry. */
void state_send_schemas(struct bytes_writer *out,
			struct state_registry *registry);
/* A STATE of each. */
int state_send_all(struct bytes_writer *out, struct state_registry *registry,
		   struct err *err);
/* A SETUP_STATE of each, or an EARLY_STATE of what may be skipped; nothing of what an
 * accelerator could not save early (!@has_early).  Once. */
int state_send_setup(struct state_send *send, struct bytes_writer *out,
		     struct state_registry *registry, bool has_early,
		     struct err *err);
/* A SETUP_AGAIN of each that is not as it was sent last; *@ret_any: there was one. */
int state_send_changed(struct state_send *send, struct bytes_writer *out,
		       struct state_registry *registry, bool *ret_any,
		       struct err *err);
/* Accepts a zeroed one. */
void state_send_fini(struct state_send *send);

#endif
