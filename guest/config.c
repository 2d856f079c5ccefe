/* SPDX-License-Identifier: Apache-2.0 */
/* Options of `stress`: see config.h. */
#include "guest/config.h"

#include <stddef.h>

#include "guest/options.h"

#define OPTION(key, kind, field, min, max)                                \
	{                                                                 \
		key, kind, offsetof(struct config, field), min, max, NULL \
	}
#define NAMED(key, field, names)                                              \
	{                                                                     \
		key, VALUE_NAME, offsetof(struct config, field), 0, 64, names \
	}

static const char *const patterns[] = {
	[PATTERN_SEQ] = "seq",
	[PATTERN_RANDOM] = "random",
	[PATTERN_ZIPF] = "zipf",
	[PATTERN_HOTCOLD] = "hotcold",
	NULL,
};

static const char *const fills[] = { "", "random", NULL };

static const struct option options[] = {
	OPTION("cpus", VALUE_COUNT, cpus, 1, 256),
	OPTION("hot", VALUE_SIZE, hot, 0, 1ULL << 39),
	OPTION("fill", VALUE_SIZE, fill, 0, 1ULL << 39),
	NAMED("fill-pattern", fill_random, fills),
	OPTION("skip", VALUE_SIZE, skip, 0, 1ULL << 39),
	OPTION("rate", VALUE_RATE, rate_per_s, 0, 1000000000),
	NAMED("pattern", pattern, patterns),
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

const char *config_parse(struct config *config, const char *cmdline)
{
	const struct option_table table = {
		options, sizeof(options) / sizeof(options[0])
	};

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
	return options_parse(&table, 1, config, "stress", config->text,
			     sizeof(config->text), cmdline);
}
