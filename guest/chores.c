/* SPDX-License-Identifier: Apache-2.0 */
/* Times of CPU 0's chores: see chores.h. */
#include "guest/chores.h"

#include <stdbool.h>

static bool is_due(uint64_t *when, uint64_t now, uint64_t period)
{
	if (now < *when)
		return false;
	*when += period;
	if (*when <= now) /* no burst after a pause */
		*when = now + period;
	return true;
}

static void plan(struct chores *c)
{
	c->next = c->tick < c->poll ? c->tick : c->poll;
	if (c->report < c->next)
		c->next = c->report;
	if (c->end < c->next)
		c->next = c->end;
}

void chores_start(struct chores *c, uint64_t start,
		  const struct chore_periods *periods)
{
	*c = (struct chores){
		.periods = *periods,
		.tick = periods->tick ? start : UINT64_MAX,
		.poll = periods->poll ? start : UINT64_MAX,
		.report =
			periods->report ? start + periods->report : UINT64_MAX,
		.end = periods->end ? start + periods->end : UINT64_MAX,
	};
	plan(c);
}

unsigned int chores_due(struct chores *c, uint64_t now)
{
	unsigned int due = 0;

	if (is_due(&c->tick, now, c->periods.tick))
		due |= CHORE_TICK;
	if (is_due(&c->poll, now, c->periods.poll))
		due |= CHORE_POLL;
	if (is_due(&c->report, now, c->periods.report))
		due |= CHORE_REPORT;
	if (now >= c->end)
		due |= CHORE_END;
	plan(c);
	return due;
}
