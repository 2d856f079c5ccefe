/* SPDX-License-Identifier: Apache-2.0 */
/* What CPU 0 does beside its work: which of it is due when. */
#ifndef GODWIT_GUEST_CHORES_H
#define GODWIT_GUEST_CHORES_H

#include <stdint.h>

#define CHORE_BYTES_MAX 16 /* read from COM1 at one poll */

enum chore {
	CHORE_TICK = 1,
	CHORE_POLL = 2,
	CHORE_REPORT = 4,
	CHORE_END = 8,
};

/* TSC ticks; 0 = never. */
struct chore_periods {
	uint64_t tick, poll, report, end;
};

struct chores {
	struct chore_periods periods;
	uint64_t tick, poll, report, end; /* TSC; UINT64_MAX for never */
	uint64_t next;                    /* the earliest of them */
};

void chores_start(struct chores *c, uint64_t start,
		  const struct chore_periods *periods);

/* To be called when @now is @c->next or later.  Returns a set of enum chore. */
unsigned int chores_due(struct chores *c, uint64_t now);

#endif
