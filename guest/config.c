/* SPDX-License-Identifier: Apache-2.0 */
/* Parses the command line: see config.h. */
#include "guest/config.h"

#include <stddef.h>

enum value_kind {
	VALUE_COUNT,    /* number with k, M, G (thousands) */
	VALUE_SIZE,     /* bytes with K, M, G, T (1024) */
	VALUE_DURATION, /* us, ms, s; kept in us */
	VALUE_SECONDS,  /* or on, off */
	VALUE_RATE,     /* max, or a count, or a count/s */
	VALUE_BOOL,
	VALUE_PATTERN,
	VALUE_FILL,
};

struct option {
	const char *key;
	enum value_kind kind;
	size_t offset; /* of a uint64_t in struct config */
	uint64_t min, max;
};

#define OPTION(key, kind, field, min, max)                          \
	{                                                           \
		key, kind, offsetof(struct config, field), min, max \
	}

static const struct option options[] = {
	OPTION("cpus", VALUE_COUNT, cpus, 1, 256),
	OPTION("hot", VALUE_SIZE, hot, 0, 1ULL << 39),
	OPTION("fill", VALUE_SIZE, fill, 0, 1ULL << 39),
	OPTION("fill-pattern", VALUE_FILL, fill_random, 0, 1),
	OPTION("skip", VALUE_SIZE, skip, 0, 1ULL << 39),
	OPTION("rate", VALUE_RATE, rate_per_s, 0, 1000000000),
	OPTION("pattern", VALUE_PATTERN, pattern, 0, PATTERN_HOTCOLD),
	OPTION("burst", VALUE_DURATION, burst_us, 0, 10000000),
	OPTION("reads", VALUE_COUNT, reads, 0, 100),
	OPTION("writers", VALUE_COUNT, writers, 0, 256),
	OPTION("verify", VALUE_BOOL, verify, 0, 1),
	OPTION("scan", VALUE_COUNT, scan, 1, 1000000),
	OPTION("tick", VALUE_DURATION, tick_us, 0, 10000000),
	OPTION("poll", VALUE_DURATION, poll_us, 0, 10000000),
	OPTION("interval", VALUE_DURATION, interval_us, 100, 10000000),
	OPTION("report", VALUE_SECONDS, report_s, 0, 1000000),
	OPTION("run", VALUE_SECONDS, run_s, 0, 1000000),
	OPTION("seed", VALUE_COUNT, seed, 0, UINT64_MAX),
	OPTION("tsc-khz", VALUE_COUNT, tsc_khz, 0, 100000000),
	OPTION("selftest", VALUE_BOOL, selftest, 0, 1),
};

static bool is_separator(char c)
{
	return c == ',' || c == ' ' || c == '\t' || c == '\n';
}

static bool is_end(char c)
{
	return !c || is_separator(c);
}

/* Moves @at past @word when that is there, whole if @is_whole. */
static bool take(const char **at, const char *word, bool is_whole)
{
	const char *p = *at;

	for (; *word; word++, p++) {
		if (*p != *word)
			return false;
	}
	if (is_whole && !is_end(*p))
		return false;
	*at = p;
	return true;
}

static bool take_number(const char **at, uint64_t *ret_value)
{
	const char *p = *at;
	uint64_t value = 0;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
			return false;
	}
	if (p == *at)
		return false;
	*at = p;
	*ret_value = value;
	return true;
}

/* Takes one letter of @letters (either case) and scales by its power. */
static bool take_scale(const char **at, const char *letters, uint64_t step,
		       uint64_t *value)
{
	uint64_t scale = 1;

	for (; *letters; letters++) {
		scale *= step;
		if ((**at | 0x20) == *letters) {
			(*at)++;
			return !__builtin_mul_overflow(*value, scale, value);
		}
	}
	return true;
}

static bool take_bool(const char **at, uint64_t *ret_value)
{
	if (take(at, "on", true) || take(at, "1", true))
		*ret_value = 1;
	else if (take(at, "off", true) || take(at, "0", true))
		*ret_value = 0;
	else
		return false;
	return true;
}

static bool take_duration(const char **at, uint64_t *ret_value)
{
	uint64_t scale = 0;

	if (take(at, "off", true)) {
		*ret_value = 0;
		return true;
	}
	if (!take_number(at, ret_value))
		return false;
	if (take(at, "us", true))
		scale = 1;
	else if (take(at, "ms", true))
		scale = 1000;
	else if (take(at, "s", true))
		scale = 1000000;
	else
		return *ret_value == 0;
	return !__builtin_mul_overflow(*ret_value, scale, ret_value);
}

static bool take_value(const char **at, enum value_kind kind,
		       uint64_t *ret_value)
{
	switch (kind) {
	case VALUE_COUNT:
		return take_number(at, ret_value) &&
		       take_scale(at, "kmg", 1000, ret_value);
	case VALUE_SIZE:
		return take_number(at, ret_value) &&
		       take_scale(at, "kmgt", 1024, ret_value);
	case VALUE_DURATION:
		return take_duration(at, ret_value);
	case VALUE_SECONDS:
		if (take(at, "on", true) || take(at, "off", true)) {
			*ret_value = (*at)[-1] == 'n';
			return true;
		}
		if (!take_number(at, ret_value))
			return false;
		take(at, "s", true);
		return true;
	case VALUE_RATE:
		if (take(at, "max", true)) {
			*ret_value = 0;
			return true;
		}
		if (!take_number(at, ret_value) || *ret_value == 0 ||
		    !take_scale(at, "kmg", 1000, ret_value))
			return false;
		take(at, "/s", true);
		return true;
	case VALUE_BOOL:
		return take_bool(at, ret_value);
	case VALUE_PATTERN:
		if (take(at, "seq", true))
			*ret_value = PATTERN_SEQ;
		else if (take(at, "random", true))
			*ret_value = PATTERN_RANDOM;
		else if (take(at, "zipf", true))
			*ret_value = PATTERN_ZIPF;
		else if (take(at, "hotcold", true))
			*ret_value = PATTERN_HOTCOLD;
		else
			return false;
		return true;
	case VALUE_FILL:
		*ret_value = 1;
		return take(at, "random", true);
	}
	return false;
}

static bool take_option(struct config *config, const char **at)
{
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		const struct option *option = &options[i];
		const char *p = *at;
		uint64_t value;

		if (!take(&p, option->key, false) || *p++ != '=')
			continue;
		if (!take_value(&p, option->kind, &value) || !is_end(*p) ||
		    value < option->min || value > option->max)
			return false;
		*(uint64_t *)((char *)config + option->offset) = value;
		*at = p;
		return true;
	}
	return false;
}

const char *config_parse(struct config *config, const char *cmdline)
{
	const char *at = config->text;
	size_t n = 0;

	*config = (struct config){
		.cpus = 1,
		.pattern = PATTERN_SEQ,
		.verify = 1,
		.fill_random = 1,
		.writers = UINT64_MAX,
		.scan = 8,
		.tick_us = 1000,
		.poll_us = 10000,
		.interval_us = 10000,
		.seed = 1,
	};
	for (; cmdline && cmdline[n] && n < sizeof(config->text) - 1; n++)
		config->text[n] = cmdline[n];
	if (cmdline && cmdline[n])
		return config->text; /* too long */
	while (*at) {
		if (is_separator(*at))
			at++;
		else if (!take(&at, "stress", true) &&
			 !take_option(config, &at))
			return at;
	}
	return NULL;
}
