/* SPDX-License-Identifier: Apache-2.0 */
/* What source.c (setup, rounds, ends) and source_switch.c share; all of it is the outgoing
 * thread's. */
#ifndef GODWIT_MIGRATE_SOURCE_PRIV_H
#define GODWIT_MIGRATE_SOURCE_PRIV_H

#include "mig_priv.h"
#include "migrate/pause.h"
#include "migrate/policy.h"
#include "migrate/ram_send.h"
#include "migrate/replies.h"
#include "migrate/state_send.h"
#include "migrate/stream.h"

struct source {
	struct mig *mig;
	struct machine *machine;
	struct channel *channel;
	struct mig_caps caps;
	struct ram_send ram;
	struct state_send ahead;
	struct policy policy;
	uint64_t save_ns;        /* a rehearsed save of all vCPUs; 0: none */
	struct bytes_writer out; /* records on their way */
	struct record reply;
	struct replies replies;
	bool was_running, is_stopped, is_given;
	bool has_cancelled; /* the destination was told */
	struct pause pause;
	/* GO is sent by then, or the guest goes on here */
	uint64_t switch_until_ns;

	/* of the current pass */
	uint64_t last_remaining;
	uint64_t sync_start_ns;
	uint64_t round_ns; /* between the last two of these; 0: there was one */

	bool has_rings;
	struct accel_ring_stats rings; /* as the migration began */

	/* bandwidth limit */
	uint64_t limit, limit_start_ns, limit_start_sent;

	uint64_t hash, hash_pages;
};

/* ---- source.c ---- */

/* Read replies until one of @type; what the channel or the destination says, or -EBADMSG. */
int source_await_reply(struct source *src, uint32_t type, struct err *err);
/* After each record of a pass, with so many @pages sent (ram_send_pass()). */
int source_between_records(void *src, uint64_t pages, struct err *err);
/* For query-migrate. */
void source_update_info(struct source *src, uint64_t remaining_pages);
bool source_is_cancelled(struct source *src);

/* ---- source_switch.c ---- */

/* Stop the guest, send the rest, and give it away.  After an error it is the source's
 * again, and runs if it ran and has its disks, unless src->is_given. */
int source_switch(struct source *src, struct err *err);
/* Tell the destination that the guest stays here, if it still listens. */
void source_send_cancel(struct source *src, const struct err *err);

#endif
