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
 * dozen.  When nothing is left at all, the guest is stopped even if the limit is
 * below the fixed costs: no round can better that.
 * Pure arithmetic; tested without a machine.
 */
#ifndef GODWIT_MIGRATE_POLICY_H
#define GODWIT_MIGRATE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

struct policy {
	uint64_t limit_ns;
	uint64_t bandwidth;   /* bytes a second while busy, smoothed */
	uint64_t fixed_ns;    /* stop, save, load, start, and their messages */
	uint64_t rtt_ns;      /* shortest round trip seen */
	uint64_t sync_ns;     /* of the last sync */
	uint64_t estimate_ns; /* of the pause, were it now */
	uint64_t best_ns;     /* lowest estimate so far */
	unsigned int idle_rounds; /* since the estimate last fell by a tenth */
	unsigned int fitting_rounds; /* with an estimate within the limit */
	uint64_t fitting_idle_ns;    /* those of them that brought nothing */
};

struct policy_round {
	uint64_t remaining_bytes;     /* after the sync */
	uint64_t sent_bytes, busy_ns; /* of the pass before it */
	uint64_t rtt_ns; /* from its end to the destination's answer; 0: none */
	uint64_t sync_ns;
};

void policy_init(struct policy *policy, uint64_t limit_ns);

/* True: stop the guest now. */
bool policy_decide(struct policy *policy, const struct policy_round *round);

#endif
