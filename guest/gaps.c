/* SPDX-License-Identifier: Apache-2.0 */
/* Gaps of a whole machine: see gaps.h. */
#include "guest/gaps.h"

#include "guest/tsc.h"

void gaps_merge(struct machine_gap *gaps, int n, const struct gauge *gauge,
		uint64_t cpu)
{
	for (int i = 0; i < GAUGE_GAPS; i++) {
		struct gap gap = gauge->gaps[i];
		int at = n - 1;

		if (gap.length <= gaps[at].gap.length)
			continue;
		for (; at > 0 && gaps[at - 1].gap.length < gap.length; at--)
			gaps[at] = gaps[at - 1];
		gaps[at] = (struct machine_gap){ gap, cpu };
	}
}

void gaps_print_longest(struct line *line, const struct machine_gap *longest,
			uint64_t tsc_khz)
{
	line_decimal(line, " gap_us=", us_of_tsc(tsc_khz, longest->gap.length));
	line_decimal(line, " gap_at=", longest->gap.start);
	line_decimal(line, " gap_cpu=", longest->cpu);
}

void gaps_print(struct line *line, const struct machine_gap *gaps, int n,
		uint64_t tsc_khz)
{
	for (int i = 0; i < n && gaps[i].gap.length; i++) {
		line_decimal(line, " ", us_of_tsc(tsc_khz, gaps[i].gap.length));
		line_decimal(line, "@", gaps[i].gap.start);
		line_decimal(line, "@", gaps[i].cpu);
	}
}
