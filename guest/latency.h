/* SPDX-License-Identifier: Apache-2.0 */
/* How long requests took: counts in eight classes an octave of TSC ticks. */
#ifndef GODWIT_GUEST_LATENCY_H
#define GODWIT_GUEST_LATENCY_H

#include <stdint.h>

#define LATENCY_CLASSES 320

struct latency {
	uint32_t counts[LATENCY_CLASSES];
	uint64_t longest; /* TSC ticks */
};

static inline unsigned int latency_class(uint64_t ticks)
{
	unsigned int octave = 63U - (unsigned int)__builtin_clzll(ticks | 8);
	uint64_t n = (octave - 3) * 8 + (ticks >> (octave - 3));

	return n < LATENCY_CLASSES ? (unsigned int)n : LATENCY_CLASSES - 1;
}

static inline void latency_add(struct latency *latency, uint64_t ticks)
{
	latency->counts[latency_class(ticks)]++;
	if (ticks > latency->longest)
		latency->longest = ticks;
}

/* Adds the counts of @from, which may go on counting, to those of @to. */
void latency_merge(struct latency *to, const struct latency *from);

/* Ticks that @permille of all were below, to an eighth; 0 without any. */
uint64_t latency_at(const struct latency *latency, uint64_t permille);

#endif
