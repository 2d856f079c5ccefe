// SPDX-License-Identifier: Apache-2.0
/* The formulas of writes.h. */
#include "migrate/writes.h"

#include <math.h>

const char *writes_pattern_name(enum writes_pattern pattern)
{
	static const char *const names[WRITES_PATTERN_COUNT] = {
		[WRITES_SEQ] = "seq",
		[WRITES_RANDOM] = "random",
		[WRITES_ZIPF] = "zipf",
		[WRITES_HOTCOLD] = "hotcold",
	};

	return names[pattern];
}

/* @slices times @pages, which together get @rate. */
static struct writes_class class_of(double slices, double pages, double rate,
				    bool takes_turns)
{
	return (struct writes_class){
		.pages = slices * pages,
		.rate = rate / (slices * pages),
		.takes_turns = takes_turns,
	};
}

/* Ranks 1, 2-3, 4-7, ... of each slice; the last octave ends with the slice. */
static int zipf_classes(const struct writes *writes, double slices,
			uint64_t pages, struct writes_class *ret_classes)
{
	int octaves = 0;

	while (octaves < WRITES_CLASSES_MAX - 1 && pages >> octaves)
		octaves++;
	for (int i = 0; i < octaves; i++) {
		uint64_t first = 1ull << i;
		uint64_t end = 2 * first - 1 < pages ? 2 * first - 1 : pages;

		ret_classes[i] = class_of(slices, (double)(end - first + 1),
					  writes->rate / octaves, false);
	}
	return octaves;
}

int writes_classes(const struct writes *writes,
		   struct writes_class ret_classes[WRITES_CLASSES_MAX])
{
	double slices = writes->vcpus;
	uint64_t pages = writes->pages / writes->vcpus;
	uint64_t hot = (pages + 9) / 10;

	if (!pages || writes->rate <= 0)
		return 0;
	switch (writes->pattern) {
	case WRITES_ZIPF:
		return zipf_classes(writes, slices, pages, ret_classes);
	case WRITES_HOTCOLD:
		if (hot == pages)
			break;
		ret_classes[0] = class_of(slices, (double)hot,
					  writes->rate * 0.9, false);
		ret_classes[1] = class_of(slices, (double)(pages - hot),
					  writes->rate * 0.1, false);
		return 2;
	default:
		break;
	}
	ret_classes[0] = class_of(slices, (double)pages, writes->rate,
				  writes->pattern == WRITES_SEQ);
	return 1;
}

double writes_chance(const struct writes_class *one, double t)
{
	double writes = one->rate * t;

	if (one->takes_turns)
		return writes < 1 ? writes : 1;
	return -expm1(-writes);
}

double writes_active(const struct writes *writes, double t)
{
	double period = 2 * writes->burst_s, whole, rest;

	if (period <= 0)
		return t;
	whole = floor(t / period);
	rest = t - whole * period;
	return whole * writes->burst_s +
	       (rest < writes->burst_s ? rest : writes->burst_s);
}

double writes_distinct(const struct writes *writes, double t)
{
	struct writes_class classes[WRITES_CLASSES_MAX];
	int count = writes_classes(writes, classes);
	double pages = 0;

	for (int i = 0; i < count; i++)
		pages += classes[i].pages * writes_chance(&classes[i], t);
	return pages;
}
