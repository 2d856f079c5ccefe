/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much of a guest's writing may go on when rounds no longer shrink: as much
 * as the pause that was promised allows, and no less.  Writing is counted in pages
 * that become dirty a second: what reads, or writes one page over and over, is not
 * in the way of a migration.
 * Pure arithmetic, beside policy.h, by whose estimate it goes; a migration
 * (converge.c) and its prediction (plan.c) are both told by it.
 */
#ifndef GODWIT_MIGRATE_THROTTLE_H
#define GODWIT_MIGRATE_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

struct policy;

/* No guest is held back further. */
#define THROTTLE_SHARE_MIN 0.01

/*
 * After policy_decide() said to go on with @remaining_bytes left, of a round in
 * which the writers had @share (0 to 1) of the rate that they had unhindered: their
 * share from now on.  It is lower only when the estimate is above the limit and did
 * not fall, and then in proportion to what is too much, by a tenth to a half at a
 * time.  Where the fixed costs alone are above the limit (is_out_of_reach), holding
 * back does not help, and is not done: 1, whatever it was.
 */
double throttle_share(const struct policy *policy, double share,
		      uint64_t remaining_bytes);

/*
 * Whether it would bring anything if vCPUs wrote less, after a round that brought
 * nothing: it sent @sent_bytes (0: not known) and left @remaining_bytes, of which
 * vCPUs made @vcpu_bytes dirty.  Without these the rest would fit, or would have
 * shrunk by a tenth.  If not, it is others who write too much: devices.
 */
bool throttle_helps(const struct policy *policy, uint64_t sent_bytes,
		    uint64_t remaining_bytes, uint64_t vcpu_bytes);

/*
 * The rate that none of @count vCPUs may pass so that all of them together, with
 * @rates unhindered, have @share of that: those that write most are held back, in
 * proportion to what they are above it, and those below it are not.
 */
double throttle_cap(const double *rates, unsigned int count, double share);

#endif
