/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a vCPU can tell about pauses from inside: the longest gaps between two
 * looks at the TSC, and how many pages it stamped in each interval of time.
 *
 * Owned by one vCPU.  CPU 0 reads the gauges of all for a report, without a
 * lock: a figure may be one loop round old, never more.
 */
#ifndef GODWIT_GUEST_GAUGE_H
#define GODWIT_GUEST_GAUGE_H

#include <stdint.h>

#define GAUGE_GAPS 8
#define GAUGE_RING 1024 /* intervals remembered; 4 KiB */

struct gap {
	uint64_t length; /* TSC ticks */
	uint64_t start;  /* TSC */
};

struct gauge {
	uint64_t last;               /* TSC of the last look */
	struct gap gaps[GAUGE_GAPS]; /* longest first */
	uint32_t resets;             /* machine's count when last cleared */
	uint64_t steps_back; /* how often the TSC was less than before */

	uint64_t interval_tsc;
	uint64_t interval_end;   /* TSC */
	uint64_t interval;       /* number of the open one, from 0 */
	uint64_t interval_pages; /* stamped before the open one */
	uint32_t *ring; /* pages of interval n at n % GAUGE_RING; borrowed */
};

/* Interval 0 begins at TSC @start. */
void gauge_start(struct gauge *gauge, uint64_t start, uint64_t interval_tsc,
		 uint32_t *ring);
void gauge_reset(struct gauge *gauge, uint32_t resets);
void gauge_insert(struct gauge *gauge, struct gap gap);
void gauge_close_intervals(struct gauge *gauge, uint64_t now, uint64_t pages);

/* Pages stamped in @interval; 0 if it is not closed or forgotten. */
uint32_t gauge_pages_in(const struct gauge *gauge, uint64_t interval);

/* To be called all the time, the more often the finer. */
static inline void gauge_look(struct gauge *gauge, uint64_t now)
{
	uint64_t length = now - gauge->last;

	if (length > gauge->gaps[GAUGE_GAPS - 1].length)
		gauge_insert(gauge, (struct gap){ length, gauge->last });
	gauge->last = now;
}

/* @pages: stamped by this vCPU up to @now. */
static inline void gauge_work(struct gauge *gauge, uint64_t now, uint64_t pages)
{
	if (now >= gauge->interval_end)
		gauge_close_intervals(gauge, now, pages);
}

#endif
