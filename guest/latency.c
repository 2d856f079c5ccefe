/* SPDX-License-Identifier: Apache-2.0 */
/* Percentiles of latencies: see latency.h. */
#include "guest/latency.h"

#include "guest/cpu.h"

void latency_merge(struct latency *to, const struct latency *from)
{
	uint64_t longest = read_once(from->longest);

	for (unsigned int i = 0; i < LATENCY_CLASSES; i++)
		to->counts[i] += read_once(from->counts[i]);
	if (longest > to->longest)
		to->longest = longest;
}

/* The first tick count that is above class @n. */
static uint64_t class_end(unsigned int n)
{
	unsigned int octave = n / 8;

	if (n < 16)
		return n + 1;
	return (uint64_t)(n % 8 + 9) << (octave - 1);
}

uint64_t latency_at(const struct latency *latency, uint64_t permille)
{
	uint64_t total = 0, sum = 0;

	for (unsigned int i = 0; i < LATENCY_CLASSES; i++)
		total += latency->counts[i];
	for (unsigned int i = 0; total && i < LATENCY_CLASSES; i++) {
		sum += latency->counts[i];
		if (sum * 1000 < total * permille)
			continue;
		return class_end(i) < latency->longest ? class_end(i)
						       : latency->longest;
	}
	return 0;
}
