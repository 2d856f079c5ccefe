/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The phases of a pause on one side, which follow one another: what ends one begins
 * the next.  A phase may come more than once.  Owned by the migration's thread.
 */
#ifndef GODWIT_MIGRATE_PHASES_H
#define GODWIT_MIGRATE_PHASES_H

#include <stdint.h>

#include "migrate/migrate.h"

#define PHASE_SPANS_MAX 16 /* of a side; later ones only count in ns[] */

struct phase_span {
	enum mig_phase phase;
	uint64_t begin_ns, end_ns; /* clock_mono_ns() */
};

struct phase_clock {
	uint64_t last_ns;
	uint64_t ns[MIG_PHASE_COUNT]; /* in all */
	struct phase_span spans[PHASE_SPANS_MAX];
	unsigned int span_count;
};

void phase_start(struct phase_clock *clock);
/* All since the last call of either was @phase. */
void phase_end(struct phase_clock *clock, enum mig_phase phase);

#endif
