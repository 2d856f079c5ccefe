/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many different pages a guest writes in a time: the write sets of the
 * workloads that the built-in guest runs (guest/README.md), as expected values.
 *
 * The set falls into classes of pages that are alike.  A page of a class is
 * written `rate` times a second on average, and found dirty after t seconds with
 * probability
 *	1 - exp(-rate * t)	where the next page is drawn (random),
 *	min(1, rate * t)	where they take turns (seq).
 * Classes: seq and random have one; hotcold has two, a tenth of the pages with
 * nine tenths of the writes; zipf (exponent 1) has one for each octave of ranks,
 * and each octave has the same share of the writes.  Every vCPU has a slice of
 * the set of its own, as in the built-in guest.
 * Pure arithmetic: plan.c calls it.
 */
#ifndef GODWIT_MIGRATE_WRITES_H
#define GODWIT_MIGRATE_WRITES_H

#include <stdbool.h>
#include <stdint.h>

enum writes_pattern {
	WRITES_SEQ,
	WRITES_RANDOM,
	WRITES_ZIPF,
	WRITES_HOTCOLD,
	WRITES_PATTERN_COUNT
};

const char *writes_pattern_name(enum writes_pattern pattern);

struct writes {
	enum writes_pattern pattern;
	uint64_t pages;     /* in the set */
	unsigned int vcpus; /* that share it */
	double rate;        /* writes a second of all vCPUs, while active */
	double burst_s; /* active for that long, then idle as long; 0: always */
};

#define WRITES_CLASSES_MAX 64

struct writes_class {
	double pages;
	double rate; /* writes of each page a second */
	bool takes_turns;
};

/* Fills @ret_classes; returns how many, 0 when nothing is written. */
int writes_classes(const struct writes *writes,
		   struct writes_class ret_classes[WRITES_CLASSES_MAX]);

/* That a page of the class is written at least once in @t active seconds. */
double writes_chance(const struct writes_class *one, double t);

/* Seconds of activity in [0, t). */
double writes_active(const struct writes *writes, double t);

/* Different pages written in @t active seconds. */
double writes_distinct(const struct writes *writes, double t);

#endif
