/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a pause took: phases, calls, and the line of time that both sides share.  The
 * source accounts for it, by what the destination tells of its part.  Owned by the
 * migration's thread; what it finds goes into mig->info under mig->lock.
 */
#ifndef GODWIT_MIGRATE_PAUSE_H
#define GODWIT_MIGRATE_PAUSE_H

#include <stdint.h>

#include "machine/calls.h"
#include "migrate/phases.h"
#include "migrate/timeline.h"

struct bytes_writer;
struct fmt_report;
struct mig;
struct replies;

struct pause {
	struct phase_clock phases;
	uint64_t begin_ns;
	struct timeline_here moments;
	struct machine_calls calls; /* before it */
};

/* The vCPUs are about to be told to stop. */
void pause_begin(struct pause *pause, struct mig *mig);
/* READY or RUNNING came. */
void pause_take_report(struct mig *mig, const struct fmt_report *report);
/* It is over, well or not, or it is not the source's any more; before a guest that
 * stays is started. */
void pause_end(const struct pause *pause, struct mig *mig,
	       const struct replies *replies);

/* The destination's part, in records. */
void pause_put_calls(struct bytes_writer *w, const struct machine_calls *calls);
void pause_put_times(struct bytes_writer *w,
		     const struct timeline_there *times);

#endif
