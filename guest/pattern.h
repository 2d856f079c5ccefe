/* SPDX-License-Identifier: Apache-2.0 */
/* Which page comes next: one after another, any, or some far more often. */
#ifndef GODWIT_GUEST_PATTERN_H
#define GODWIT_GUEST_PATTERN_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/config.h"

struct pattern {
	enum pattern_kind kind;
	uint64_t pages;
	uint64_t next;   /* PATTERN_SEQ */
	uint64_t random; /* state of the generator */
	uint64_t octaves;
	uint64_t stride; /* spreads ranks; no divisor in common with pages */
};

void pattern_init(struct pattern *pattern, enum pattern_kind kind,
		  uint64_t pages, uint64_t seed);

/* A page below @pattern->pages, which is not 0. */
uint64_t pattern_next(struct pattern *pattern);

/* Whether the next access, @percent of all, only reads. */
bool pattern_reads(struct pattern *pattern, uint64_t percent);

#endif
