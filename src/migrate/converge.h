/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes a migration converge whose guest writes faster than the link carries away:
 * after a round that brought nothing (throttle.h), the vCPUs that write most get a
 * lower limit (governor.h).
 *
 * The source drives it: one converge_begin(), converge_round() after each decision
 * to go on, and converge_end() with the guest stopped, or when the migration has
 * come to nothing.  The report is for any thread, and stays until the next begins.
 */
#ifndef GODWIT_MIGRATE_CONVERGE_H
#define GODWIT_MIGRATE_CONVERGE_H

#include <stdint.h>

#include "machine/vcpu.h"

struct converge;
struct governor;
struct machine;
struct policy;

/* NULL without memory.  Both outlive it. */
struct converge *converge_new(struct machine *machine,
			      struct governor *governor);
/* NULL is accepted. */
void converge_free(struct converge *converge);

void converge_begin(struct converge *converge);
/* @policy decided to go on with @remaining_bytes, @round_ns after it did so last (0:
 * it is the first time).  @max_percent: how much of their writing vCPUs may be denied
 * (max-cpu-throttle); 0 lets them go. */
void converge_round(struct converge *converge, const struct policy *policy,
		    uint64_t remaining_bytes, uint64_t round_ns,
		    unsigned int max_percent);
/* Nobody is held any more.  May be called again. */
void converge_end(struct converge *converge);

struct converge_report {
	unsigned int percent;      /* of their writing that is denied now */
	unsigned int most_percent; /* and at most, in this migration */
	uint64_t total_ns;         /* all vCPUs' */
	uint64_t longest_ns;       /* of one hold */
};
void converge_report(struct converge *converge,
		     struct converge_report *ret_report);
/* Of one vCPU, in this migration. */
void converge_held(struct converge *converge, unsigned int vcpu,
		   struct vcpu_held *ret_held);

#endif
