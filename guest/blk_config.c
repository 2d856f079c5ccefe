/* SPDX-License-Identifier: Apache-2.0 */
/* Options of `blk`: see blk.h and README.md. */
#include <stddef.h>

#include "guest/blk.h"

#define OPTION(key, kind, field, min, max)                                    \
	{                                                                     \
		key, kind, offsetof(struct blk_config, field), min, max, NULL \
	}

static const char *const patterns[] = {
	[BLK_SEQ] = "seq", [BLK_RANDOM] = "random", NULL
};

static const struct option options[] = {
	OPTION("disk", VALUE_LIMIT, io.device, 0, UINT32_MAX),
	OPTION("span", VALUE_SIZE, span, 4096, 1ULL << 40),
	{ "pattern", VALUE_NAME, offsetof(struct blk_config, pattern), 0, 64,
	  patterns },
	OPTION("reads", VALUE_COUNT, reads, 0, 100),
	OPTION("segments", VALUE_COUNT, segments, 1, BLK_SEGMENTS_MAX),
	OPTION("flush", VALUE_COUNT, flush, 0, UINT32_MAX),
	OPTION("discard", VALUE_COUNT, discard, 0, UINT32_MAX),
	OPTION("zeroes", VALUE_COUNT, zeroes, 0, UINT32_MAX),
};

const struct option_table blk_options = { options, sizeof(options) /
							   sizeof(options[0]) };

void blk_config_init(struct blk_config *config)
{
	*config = (struct blk_config){
		.io = IO_CONFIG_DEFAULTS,
		.span = 64 << 20,
		.pattern = BLK_RANDOM,
		.reads = 50,
		.segments = 1,
	};
	config->io.size = (struct size_mix){ 1, { 4096 } };
}
