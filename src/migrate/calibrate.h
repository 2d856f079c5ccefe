/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Costs of a pair of hosts (plan.h) out of migrations between them: what
 * query-migrate told of each.
 *
 * fresh, warm	bytes by time of the rounds, less what syncs, clearing and
 *		scanning are known to take; of migrations that sent 16 MiB and
 *		took 20 ms at least.  What was sent again went at the bandwidth
 *		told at the end.  Where guests with more vCPUs moved slower, that
 *		is the crowd
 * pause	its phases, by a straight line through the numbers of vCPUs; with
 *		one number only, both parts of the cost in proportion.  What the pause is
 *		longer than these is the rest: one or another is late in most
 * fault	where the guest's workload is known: what makes the plan send as many
 *		bytes as the migration did.  So it holds all that slows a writing
 *		guest, waiting for processors that the migration uses too
 * Of several migrations the median counts.  What none of them tells stays as it
 * was.  Pure arithmetic; cli/sim reads the files.
 */
#ifndef GODWIT_MIGRATE_CALIBRATE_H
#define GODWIT_MIGRATE_CALIBRATE_H

#include <stddef.h>

#include "migrate/plan.h"

/* One completed migration, as its source tells it. */
struct calibrate_sample {
	unsigned int cpus; /* 0: not told, the pause says nothing then */
	double total_ns, setup_ns, downtime_ns;
	double touched_bytes, precopy_bytes;
	double bandwidth; /* bytes a second, at the end */
	double rounds;
	double phase_ns[MIG_PHASE_COUNT];
	bool has_guest; /* what it did is known */
	struct plan_guest guest;
};

/* How many costs were changed.  -ENODATA when the samples tell none, -ENOMEM. */
int calibrate(const struct calibrate_sample *samples, size_t count,
	      struct plan_costs *costs, struct err *err);

#endif
