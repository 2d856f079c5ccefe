/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps vCPUs within a rate of pages made dirty, by holding them back for a
 * moment (vcpu_set_hold()) whenever they are past it.
 *
 * What counts is what a vCPU makes dirty (accel_ops.vcpu_writes), so one that only
 * reads is never held, and one that writes little seldom.  The pages of a vCPU are
 * a debt, which falls at the rate that it may have; in debt, it is held until it is
 * out of it, but not for longer than GOVERNOR_HOLD_MAX_NS at a time: then it runs
 * for a moment, however deep in debt.  In between it runs for as long as it takes
 * to be in debt again, which for heavy writers is well below a millisecond; a dirty
 * ring is not full that soon, so that a thread watches in either mode, and no
 * vCPU is held in its ring's exit.
 *
 * Two ask for limits: the operator (dirty_limit.h) and a migration (converge.h).
 * The lower one holds.  Nothing is counted unless dirty logging is on.
 */
#ifndef GODWIT_MIGRATE_GOVERNOR_H
#define GODWIT_MIGRATE_GOVERNOR_H

#include <stdint.h>

struct err;
struct governor;
struct machine;

/* As long as a hold usually is; and at most, if a vCPU writes so much between two
 * that this is not enough. */
#define GOVERNOR_HOLD_NS     1000000ull
#define GOVERNOR_HOLD_MAX_NS 2000000ull
/* No shorter ones are asked for: between two of them a vCPU runs for some 50 us, so
 * that it could not be denied much. */
#define GOVERNOR_HOLD_MIN_NS 200000ull

enum governor_client {
	GOVERNOR_OPERATOR,
	GOVERNOR_MIGRATION,
	GOVERNOR_CLIENTS
};

/* No limit. */
#define GOVERNOR_ANY UINT64_MAX

/* NULL without memory.  @machine outlives it. */
struct governor *governor_new(struct machine *machine);
/* Lets all go.  NULL is accepted. */
void governor_free(struct governor *governor);

/* The following are for any thread. */

/* How many pages a second vCPU @vcpu may make dirty; 0 counts as 1, and
 * GOVERNOR_ANY lets it go.  -ENOTSUP where
 * it is not known who writes; -EAGAIN for want of a thread. */
int governor_set(struct governor *governor, enum governor_client client,
		 unsigned int vcpu, uint64_t pages_per_sec, struct err *err);
/* From now on no hold is longer than @hold_ns, which counts as what is nearest to it of
 * GOVERNOR_HOLD_MIN_NS to GOVERNOR_HOLD_MAX_NS, the latter at first. */
void governor_set_hold_max(struct governor *governor, uint64_t hold_ns);
/* None of @client's any more: who was held only for it runs on. */
void governor_clear(struct governor *governor, enum governor_client client);

#endif
