/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The records of a destination, as docs/spec/stream.md has them: the source
 * hands each reply here first and gets it back checked, as a destination does
 * with records.h.  Whether a reply is the one that is waited for, and fits what
 * was sent, only the source can judge.
 */
#ifndef GODWIT_MIGRATE_REPLIES_H
#define GODWIT_MIGRATE_REPLIES_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/calls.h"
#include "migrate/timeline.h"

struct err;
struct record;

/* How far they came; zero before the first. */
struct replies {
	bool is_built;        /* BUILT arrived */
	bool has_costs;       /* and so did COSTS: */
	uint64_t switch_ns;   /* a stop, a save and a load, over there */
	uint64_t state_bytes; /* in all bodies of STATE */
	bool is_ready;        /* READY arrived */
	bool has_calls;       /* and so did CALLS: */
	struct machine_calls calls;
	bool has_times; /* and so did TIMES: */
	struct timeline_there times;
	unsigned int skipped; /* unknown optional records */
};

/* Unknown optional records of one destination: not so many that they keep a
 * stopped guest waiting. */
#define REPLIES_SKIPPED_MAX 64

/* Check @reply, which is not FAILED.  -EBADMSG; the message does not name the
 * record (record_blame()). */
int replies_take(struct replies *replies, const struct record *reply,
		 struct err *err);

#endif
