/* SPDX-License-Identifier: Apache-2.0 */
/* Options of `net`: see net.h and README.md. */
#include <stddef.h>

#include "guest/net.h"

#define OPTION(key, kind, field, min, max)                                    \
	{                                                                     \
		key, kind, offsetof(struct net_config, field), min, max, NULL \
	}

static const char *const modes[] = {
	[NET_SINK] = "sink", [NET_ECHO] = "echo", [NET_SOURCE] = "source",
	[NET_LOOP] = "loop", [NET_PING] = "ping", NULL
};

static const struct option options[] = {
	OPTION("dev", VALUE_LIMIT, io.device, 0, UINT32_MAX),
	{ "mode", VALUE_NAME, offsetof(struct net_config, mode), 0, 64, modes },
	OPTION("peer", VALUE_COUNT, peer, 0, IO_DEVICES_MAX - 1),
	OPTION("to", VALUE_MAC, to, 1, UINT64_MAX),
	OPTION("mac", VALUE_MAC, mac, 1, UINT64_MAX),
	OPTION("ip", VALUE_IPV4, ip, 0, UINT32_MAX),
	OPTION("mergeable", VALUE_BOOL, is_mergeable, 0, 1),
	OPTION("rx-size", VALUE_SIZE, rx_size, 128, 65536),
	OPTION("promisc", VALUE_BOOL, is_promisc, 0, 1),
	OPTION("idle", VALUE_BOOL, has_idle, 0, 1),
	OPTION("resend", VALUE_DURATION, resend_us, 1000, 60000000),
};

const struct option_table net_options = { options, sizeof(options) /
							   sizeof(options[0]) };

void net_config_init(struct net_config *config)
{
	*config = (struct net_config){
		.io = IO_CONFIG_DEFAULTS,
		.mode = NET_LOOP,
		.peer = IO_ALL,
		.is_mergeable = 1,
		.rx_size = 2048,
		.resend_us = 200000,
	};
	config->io.size = (struct size_mix){ 3, { FRAME_MIN, 512, 1514 } };
}
