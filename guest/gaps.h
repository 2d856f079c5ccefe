/* SPDX-License-Identifier: Apache-2.0 */
/* The longest gaps of a machine, out of the gauges of its vCPUs. */
#ifndef GODWIT_GUEST_GAPS_H
#define GODWIT_GUEST_GAPS_H

#include <stdint.h>

#include "guest/gauge.h"
#include "guest/serial.h"

struct machine_gap {
	struct gap gap;
	uint64_t cpu;
};

/* Sorts the gaps of vCPU @cpu into the @n longest, longest first. */
void gaps_merge(struct machine_gap *gaps, int n, const struct gauge *gauge,
		uint64_t cpu);

/* Members of "@report": the longest. */
void gaps_print_longest(struct line *line, const struct machine_gap *longest,
			uint64_t tsc_khz);

/* The line "@gaps", which has been begun. */
void gaps_print(struct line *line, const struct machine_gap *gaps, int n,
		uint64_t tsc_khz);

#endif
