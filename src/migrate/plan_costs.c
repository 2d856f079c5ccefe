// SPDX-License-Identifier: Apache-2.0
/*
 * The defaults: a pair of processes on one machine with two cores (AMD EPYC,
 * Linux 6.18, KVM in software), over a UNIX socket.  Other hosts are calibrated
 * (calibrate.h).
 */
#include <stddef.h>

#include "migrate/plan.h"

static const struct {
	const char *name;
	enum plan_unit unit;
	double value;
	const char *source;
} costs[PLAN_COST_COUNT] = {
	[PLAN_COST_SETUP] = { "setup", PLAN_NS, 700e3,
			      "idle 1 GiB guest, total 2.7 ms less its rounds and pause (bench/pause)" },
	[PLAN_COST_SYNC] = { "sync", PLAN_NS, 8e3,
			     "last-sync of an idle guest (query-migrate)" },
	[PLAN_COST_SYNC_GIB] = { "sync-gib", PLAN_NS, 15e3,
				 "the same, guests of 256 and 512 MiB" },
	[PLAN_COST_SYNC_PAGE] = { "sync-page", PLAN_NS, 2,
				  "KVM_GET_DIRTY_LOG, 0.5 ms for 1 GiB all dirty" },
	[PLAN_COST_FIND_PAGE] = { "find-page", PLAN_NS, 30,
				  "SEEK_HOLE over touched memory" },
	[PLAN_COST_CLEAR_WINDOW] = { "clear-window", PLAN_NS, 7e3,
				     "KVM_CLEAR_DIRTY_LOG, 1.8 ms a GiB" },
	[PLAN_COST_SCAN_PAGE] = { "scan-page", PLAN_NS, 140,
				  "zero scan at 30 GB/s on one core" },
	[PLAN_COST_CHECK_PAGE] = { "check-page", PLAN_NS, 350,
				   "XXH3 of a page that no cache holds" },
	[PLAN_COST_FAULT] = { "fault", PLAN_NS, 5000,
			      "what makes the totals of bench/pause come out; a first touch takes as long" },
	[PLAN_COST_WRITE] = { "write", PLAN_NS, 250,
			      "stamp and check of a page by the built-in guest" },
	[PLAN_COST_STOP] = { "stop", PLAN_NS, 90e3,
			     "stop-vcpus and stop-backends of an idle guest" },
	[PLAN_COST_STOP_VCPU] = { "stop-vcpu", PLAN_NS, 10e3,
				  "the same, 1 to 4 vCPUs" },
	[PLAN_COST_SAVE] = { "save", PLAN_NS, 20e3,
			     "save-state of an idle guest" },
	[PLAN_COST_SAVE_VCPU] = { "save-vcpu", PLAN_NS, 110e3,
				  "the same, 1 to 4 vCPUs" },
	[PLAN_COST_LOAD] = { "load", PLAN_NS, 20e3,
			     "dst-load and dst-activate of an idle guest" },
	[PLAN_COST_LOAD_VCPU] = { "load-vcpu", PLAN_NS, 75e3,
				  "the same, 1 to 4 vCPUs" },
	[PLAN_COST_START] = { "start", PLAN_NS, 20e3, "dst-start" },
	[PLAN_COST_MESSAGE] = { "message", PLAN_NS, 12e3,
				"half of wait-running less dst-start" },
	[PLAN_COST_REST] = { "rest", PLAN_NS, 0,
			     "a processor for whoever wakes up" },
	[PLAN_COST_STATE] = { "state", PLAN_BYTES, 2300,
			      "downtime-bytes of an idle guest" },
	[PLAN_COST_STATE_VCPU] = { "state-vcpu", PLAN_BYTES, 6700,
				   "the same, 1 to 4 vCPUs" },
	[PLAN_COST_FRESH] = { "fresh", PLAN_BYTES_PER_S, 1.3e9,
			      "1 GiB of random bytes (bench/move)" },
	[PLAN_COST_WARM] = { "warm", PLAN_BYTES_PER_S, 2.2e9,
			     "mbps after rounds of 100 MiB (query-migrate)" },
	[PLAN_COST_CROWD] = { "crowd", PLAN_PERCENT, 0,
			      "processors enough for guest and migration" },
};

const char *plan_cost_name(enum plan_cost cost)
{
	return costs[cost].name;
}

enum plan_unit plan_cost_unit(enum plan_cost cost)
{
	return costs[cost].unit;
}

const char *plan_cost_source(enum plan_cost cost)
{
	return costs[cost].source;
}

void plan_costs_init(struct plan_costs *ret_costs)
{
	for (int i = 0; i < PLAN_COST_COUNT; i++)
		ret_costs->value[i] = costs[i].value;
}
