/* SPDX-License-Identifier: Apache-2.0 */
/* Gaps and work per interval: see gauge.h. */
#include "guest/gauge.h"

void gauge_start(struct gauge *gauge, uint64_t start, uint64_t interval_tsc,
		 uint32_t *ring)
{
	*gauge = (struct gauge){
		.last = start,
		.interval_tsc = interval_tsc,
		.interval_end = start + interval_tsc,
		.ring = ring,
	};
	for (int i = 0; i < GAUGE_RING; i++)
		ring[i] = 0;
}

void gauge_reset(struct gauge *gauge, uint32_t resets)
{
	for (int i = 0; i < GAUGE_GAPS; i++)
		gauge->gaps[i] = (struct gap){ 0 };
	gauge->resets = resets;
}

void gauge_insert(struct gauge *gauge, struct gap gap)
{
	int i = GAUGE_GAPS - 1;

	if (gap.length > INT64_MAX) {
		gauge->steps_back++;
		return;
	}
	for (; i > 0 && gauge->gaps[i - 1].length < gap.length; i--)
		gauge->gaps[i] = gauge->gaps[i - 1];
	gauge->gaps[i] = gap;
}

/*
 * Everything since the last call counts for the interval that was open; the
 * ones slept through get zero.
 */
void gauge_close_intervals(struct gauge *gauge, uint64_t now, uint64_t pages)
{
	uint64_t over = (now - gauge->interval_end) / gauge->interval_tsc;
	uint64_t zeroes = over < GAUGE_RING ? over : GAUGE_RING;

	gauge->ring[gauge->interval % GAUGE_RING] =
		(uint32_t)(pages - gauge->interval_pages);
	for (uint64_t i = 1; i <= zeroes; i++)
		gauge->ring[(gauge->interval + i) % GAUGE_RING] = 0;
	gauge->interval_pages = pages;
	gauge->interval_end += (over + 1) * gauge->interval_tsc;
	gauge->interval += over + 1;
}

uint32_t gauge_pages_in(const struct gauge *gauge, uint64_t interval)
{
	if (interval >= gauge->interval ||
	    interval + GAUGE_RING < gauge->interval)
		return 0;
	return gauge->ring[interval % GAUGE_RING];
}
