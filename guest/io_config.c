/* SPDX-License-Identifier: Apache-2.0 */
/* Common options of `blk` and `net`: see io_config.h. */
#include "guest/io_config.h"

#include "guest/virtq.h"

#define OPTION(key, kind, field, min, max)                                   \
	{                                                                    \
		key, kind, offsetof(struct io_config, field), min, max, NULL \
	}
#define NAMED(key, kind, field, names)                                       \
	{                                                                    \
		key, kind, offsetof(struct io_config, field), 0, UINT32_MAX, \
			names                                                \
	}

const char *const churn_names[CHURN_KINDS + 1] = {
	[CHURN_BARS] = "bars",     [CHURN_RESET] = "reset",
	[CHURN_MSIX] = "msix",     [CHURN_QUEUES] = "queues",
	[CHURN_SHMEM] = "shmem",   [CHURN_COMMAND] = "command",
	[CHURN_CPUS] = "cpus",     [CHURN_BREAK] = "break",
	[CHURN_MASTER] = "master", NULL,
};

static const char *const msix_names[] = {
	[MSIX_OFF] = "off", [MSIX_ON] = "on", [MSIX_MASKED] = "masked", NULL
};

static const char *const pci_names[] = {
	[PCI_BY_ECAM] = "ecam", [PCI_BY_PORTS] = "ports", NULL
};

static const struct option options[] = {
	OPTION("cpus", VALUE_COUNT, cpus, 1, 256),
	OPTION("queues", VALUE_LIMIT, queues, 1, UINT32_MAX),
	OPTION("depth", VALUE_COUNT, depth, 1, VIRTQ_SIZE_MAX),
	OPTION("ring", VALUE_COUNT, ring, 4, VIRTQ_SIZE_MAX),
	OPTION("size", VALUE_SIZES, size, 1, 1 << 20),
	OPTION("rate", VALUE_RATE, rate_per_s, 0, 1000000000),
	OPTION("packed", VALUE_BOOL, is_packed, 0, 1),
	OPTION("indirect", VALUE_BOOL, is_indirect, 0, 1),
	OPTION("event-idx", VALUE_BOOL, has_event_idx, 0, 1),
	NAMED("msix", VALUE_NAME, msix, msix_names),
	NAMED("pci", VALUE_NAME, pci, pci_names),
	OPTION("verify", VALUE_BOOL, verify, 0, 1),
	OPTION("churn", VALUE_DURATION, churn_us, 0, 1000000000),
	NAMED("what", VALUE_SET, churn_what, churn_names),
	OPTION("timeout", VALUE_DURATION, timeout_us, 1000, 1000000000),
	OPTION("watch", VALUE_DURATION, watch_us, 0, 10000000),
	OPTION("tick", VALUE_DURATION, tick_us, 0, 10000000),
	OPTION("poll", VALUE_DURATION, poll_us, 0, 10000000),
	OPTION("interval", VALUE_DURATION, interval_us, 100, 10000000),
	OPTION("report", VALUE_SECONDS, report_s, 0, 1000000),
	OPTION("run", VALUE_SECONDS, run_s, 0, 1000000),
	OPTION("seed", VALUE_COUNT, seed, 0, UINT64_MAX),
	OPTION("tsc-khz", VALUE_COUNT, tsc_khz, 0, 100000000),
};

const struct option_table io_options = { options,
					 sizeof(options) / sizeof(options[0]) };
