/* SPDX-License-Identifier: Apache-2.0 */
/* Access patterns: see pattern.h. */
#include "guest/pattern.h"

#include "guest/cpu.h"

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

void pattern_init(struct pattern *pattern, enum pattern_kind kind,
		  uint64_t pages, uint64_t seed)
{
	*pattern = (struct pattern){
		.kind = kind,
		.pages = pages,
		.random = mix64(seed) | 1,
		.stride = 2654435761,
	};
	while (pages >> pattern->octaves)
		pattern->octaves++;
	while (pages && common_divisor(pattern->stride, pages) != 1)
		pattern->stride += 2;
}

static uint64_t next_random(struct pattern *pattern)
{
	pattern->random += 0x9e3779b97f4a7c15;
	return mix64(pattern->random);
}

/*
 * Zipf's law with exponent 1 gives each octave of ranks (1, 2-3, 4-7, ...) the
 * same share.  So: any octave, then any rank in it, cut off at the last page.
 */
static uint64_t next_zipf(struct pattern *pattern)
{
	uint64_t first = 1ULL
			 << mul_high(next_random(pattern), pattern->octaves);
	uint64_t end = 2 * first - 1;
	uint64_t rank;

	if (end > pattern->pages)
		end = pattern->pages;
	rank = first - 1 + mul_high(next_random(pattern), end - first + 1);
	return rank * pattern->stride % pattern->pages;
}

/* Nine in ten to the first tenth of the pages. */
static uint64_t next_hotcold(struct pattern *pattern)
{
	uint64_t hot = (pattern->pages + 9) / 10;
	bool is_hot = mul_high(next_random(pattern), 10) != 0;
	uint64_t rest = pattern->pages - hot;

	if (is_hot || !rest)
		return mul_high(next_random(pattern), hot);
	return hot + mul_high(next_random(pattern), rest);
}

bool pattern_reads(struct pattern *pattern, uint64_t percent)
{
	return percent && mul_high(next_random(pattern), 100) < percent;
}

uint64_t pattern_next(struct pattern *pattern)
{
	uint64_t page;

	switch (pattern->kind) {
	case PATTERN_RANDOM:
		return mul_high(next_random(pattern), pattern->pages);
	case PATTERN_ZIPF:
		return next_zipf(pattern);
	case PATTERN_HOTCOLD:
		return next_hotcold(pattern);
	case PATTERN_SEQ:
	default:
		page = pattern->next;
		pattern->next = page + 1 < pattern->pages ? page + 1 : 0;
		return page;
	}
}
