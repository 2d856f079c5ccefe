/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When to stop the guest: at the minimum of what is left, not at the first
 * round that fits the limit.
 *
 * After each sync the policy is told what is left and how the last round went;
 * it estimates the pause as fixed costs plus the time to send the rest.  While
 * the estimate is above the limit, rounds go on.  Below it, they go on as long
 * as the next one promises less: rounds shrink while the link is faster than
 * the guest, and no longer once the rest is small beside the fixed costs, three
 * rounds or five seconds of them brought nothing, and in any case after two
 * dozen, or when nothing is left at all.
 *
 * The fixed costs are what no round makes less.  Most of them were measured in
 * this migration: what the destination told in COSTS (machine_rehearse()), or what the
 * source saw of the same where that is more, the round trip, the cheapest sync, and the state's way over the link at the
 * bandwidth seen.  Where they alone are above the limit, it is out of reach,
 * and rounds go on until it is raised or the migration cancelled: a limit is a
 * promise to whoever uses the guest.  A guest that is paused has no pause to
 * limit.
 *
 * With @divides_only it is the estimator that others have, to compare with: the guest
 * is stopped at the first round whose rest fits the limit by the bandwidth alone.
 *
 * Pure arithmetic; tested without a machine.
 */
#ifndef GODWIT_MIGRATE_POLICY_H
#define GODWIT_MIGRATE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

/* A pass of fewer bytes says nothing about the bandwidth. */
#define POLICY_SAMPLE_MIN (256u << 10)

struct policy {
	uint64_t limit_ns;
	bool divides_only;
	uint64_t bandwidth;   /* bytes a second while busy, smoothed */
	uint64_t switch_ns;   /* of COSTS, or seen here; a guess before */
	uint64_t state_bytes; /* likewise; 0 before */
	uint64_t rtt_ns;      /* of a message and its answer; 0 before */
	uint64_t least_sync_ns;
	uint64_t fixed_ns;        /* all of these; no pause is shorter */
	uint64_t estimate_ns;     /* of the pause, were it now */
	bool is_out_of_reach;     /* the limit, by the fixed costs alone */
	uint64_t best_ns;         /* lowest estimate so far */
	unsigned int idle_rounds; /* since the estimate last fell by a tenth */
	unsigned int fitting_rounds; /* with an estimate within the limit */
	uint64_t fitting_idle_ns;    /* those of them that brought nothing */
};

struct policy_round {
	uint64_t remaining_bytes;     /* after the sync */
	uint64_t sent_bytes, busy_ns; /* of the pass before it */
	uint64_t sync_ns;
	bool is_paused; /* the guest, by its operator */
};

void policy_init(struct policy *policy, uint64_t limit_ns);

/* What COSTS said, or the source measured, and the shortest round trip. */
void policy_set_costs(struct policy *policy, uint64_t switch_ns,
		      uint64_t state_bytes);
void policy_set_rtt(struct policy *policy, uint64_t rtt_ns);

/* True: stop the guest now. */
bool policy_decide(struct policy *policy, const struct policy_round *round);

#endif
