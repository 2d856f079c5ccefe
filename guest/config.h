/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line as numbers.  Options are `key=value`, separated by commas
 * or blanks; README.md lists them.
 */
#ifndef GODWIT_GUEST_CONFIG_H
#define GODWIT_GUEST_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define CONFIG_TEXT_MAX 1024

enum pattern_kind {
	PATTERN_SEQ,
	PATTERN_RANDOM,
	PATTERN_ZIPF,
	PATTERN_HOTCOLD
};

struct config {
	char text[CONFIG_TEXT_MAX]; /* the command line, for the first line */
	uint64_t cpus;
	uint64_t hot, fill;  /* bytes, of the machine */
	uint64_t skip;       /* bytes of RAM left alone before them */
	uint64_t rate_per_s; /* stamps, of the machine; 0 = no limit */
	uint64_t pattern;    /* enum pattern_kind */
	uint64_t
		burst_us; /* stamps for so long, then none for as long; 0 = no */
	uint64_t reads;   /* of a hundred accesses, only read a page */
	uint64_t writers;     /* vCPUs from this one on only read */
	uint64_t verify;      /* bool */
	uint64_t fill_random; /* bool, the only fill there is */
	uint64_t scan;        /* stamps per page that is only read */
	uint64_t tick_us;     /* 0 = none */
	uint64_t poll_us;     /* 0 = never */
	uint64_t interval_us; /* of the work record */
	uint64_t report_s;    /* 0 = only when asked */
	uint64_t run_s;       /* 0 = for ever */
	uint64_t seed;
	uint64_t tsc_khz;  /* 0 = not given */
	uint64_t selftest; /* bool */
};

/*
 * Reads @cmdline into @config.  Returns NULL, or the option at fault, inside
 * config->text and up to a separator.
 */
const char *config_parse(struct config *config, const char *cmdline);

#endif
