/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps work to a rate.  What a pause made late is caught up for a short while
 * only, so that the work lost stays lost and can be seen.
 */
#ifndef GODWIT_GUEST_PACE_H
#define GODWIT_GUEST_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct pace {
	uint64_t step;              /* between two, << 8; 0 = no limit */
	uint64_t max_backlog, next; /* << 8 */
};

/* Whether one is due at @elapsed ticks since the start; it counts as begun. */
static inline bool pace_takes(struct pace *pace, uint64_t elapsed)
{
	if (!pace->step)
		return true;
	elapsed <<= 8;
	if (elapsed < pace->next)
		return false;
	pace->next += pace->step;
	if (pace->next + pace->max_backlog < elapsed)
		pace->next = elapsed;
	return true;
}

#endif
