/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a migration will be like: the source's loop (source.c) in virtual time,
 * with a guest that is a formula (writes.h), a link that is a rate and a
 * latency, and costs that were measured.  Decisions are the real ones: policy.c
 * and throttle.c are called as the source calls them.
 *
 * The model, a round:
 *	sync		by memory known and pages found
 *	decision	policy_decide()
 *	pass		pages in address order; each is watched again as it is
 *			reached, and dirty once it is written after that.
 *			Clearing, scanning and sending take one thread's time;
 *			the link carries what was sent beside that, and
 *			ROUND_DONE comes back after one round trip
 *	guest		each write that dirties a page costs its vCPU a fault,
 *			so it works slower than undisturbed
 * The working set is taken to lie before the rest of memory, as in the built-in
 * guest: its pages are exposed for longest while the rest is sent.
 *
 * Not in the model: who else uses these processors, what the page cache and NUMA
 * do, zero pages, devices.  docs/planning.md says how close it comes.
 */
#ifndef GODWIT_MIGRATE_PLAN_H
#define GODWIT_MIGRATE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/migrate.h"
#include "migrate/policy.h"
#include "migrate/writes.h"

struct err;

/* What takes how long, on one pair of hosts; see plan_costs.c for defaults, where
 * each was measured, and for the names. */
enum plan_cost {
	PLAN_COST_SETUP, /* connecting to the first sync, without round trips */
	PLAN_COST_SYNC,  /* a sync that finds nothing */
	PLAN_COST_SYNC_GIB,     /* more for each GiB of touched memory */
	PLAN_COST_SYNC_PAGE,    /* more for each dirty page */
	PLAN_COST_FIND_PAGE,    /* more for each touched page, the first time */
	PLAN_COST_CLEAR_WINDOW, /* watching 4 MiB again */
	PLAN_COST_SCAN_PAGE,    /* looking for zeroes, building runs */
	PLAN_COST_CHECK_PAGE,   /* in the pause, on either side */
	PLAN_COST_FAULT,        /* a write to a page that is watched */
	PLAN_COST_WRITE,        /* one of the guest's, rate=max */
	PLAN_COST_STOP,         /* of vCPUs and back ends */
	PLAN_COST_STOP_VCPU,
	PLAN_COST_SAVE,
	PLAN_COST_SAVE_VCPU,
	PLAN_COST_LOAD,
	PLAN_COST_LOAD_VCPU,
	PLAN_COST_START,   /* from GO to running, the destination's side */
	PLAN_COST_MESSAGE, /* a wake-up and a record, each way */
	PLAN_COST_REST,    /* of the pause: what these do not explain */
	PLAN_COST_STATE,   /* bytes of device state */
	PLAN_COST_STATE_VCPU,
	PLAN_COST_FRESH, /* bytes a second into memory never touched */
	PLAN_COST_WARM,  /* into memory that is there */
	PLAN_COST_CROWD, /* per cent that each vCPU adds to the time of those */
	PLAN_COST_COUNT
};

enum plan_unit {
	PLAN_NS,
	PLAN_BYTES,
	PLAN_BYTES_PER_S,
	PLAN_PERCENT
};

struct plan_costs {
	double value[PLAN_COST_COUNT]; /* in the unit of each */
};

const char *plan_cost_name(enum plan_cost cost);
enum plan_unit plan_cost_unit(enum plan_cost cost);
/* Where the default comes from. */
const char *plan_cost_source(enum plan_cost cost);
void plan_costs_init(struct plan_costs *costs);

struct plan_guest {
	uint64_t memory;  /* bytes */
	uint64_t touched; /* of them, ever; the rest are holes */
	uint64_t hot;     /* of them, rewritten over and over */
	unsigned int cpus;
	enum writes_pattern pattern;
	bool is_rate_max;   /* as fast as it can (PLAN_COST_WRITE) */
	double rate;        /* accesses a second of all vCPUs, otherwise */
	unsigned int reads; /* of a hundred accesses, those that only read */
	uint64_t burst_ns;  /* active that long, then idle as long; 0: always */
};

struct plan_link {
	uint64_t rate;       /* bytes a second; 0: no limit but the hosts' */
	uint64_t latency_ns; /* one way */
};

struct plan_limits {
	uint64_t downtime_ms;   /* as migrate-set-parameters has it */
	uint64_t max_bandwidth; /* bytes a second; 0: none */
	bool throttle;          /* hold writers back (throttle.h) */
};

struct plan_input {
	struct plan_guest guest;
	struct plan_link link;
	struct plan_limits limits;
	struct plan_costs costs;
};

#define PLAN_MEMORY_MAX     (1ull << 50)
#define PLAN_CPUS_MAX       4096u
#define PLAN_LATENCY_MAX_NS 10000000000ull
#define PLAN_COST_MAX       1e15
/* No prediction is longer than that. */
#define PLAN_ROUNDS_MAX 1000

struct plan_round {
	double remaining; /* pages, at its sync */
	double sync_ns, pass_ns;
	uint64_t estimate_ns; /* the policy's, of the pause */
	double share;         /* of their writing that throttling left */
};

enum plan_outcome {
	PLAN_MOVES,
	PLAN_LINK_TOO_SLOW, /* rounds no longer shrink, the rest does not fit */
	PLAN_OUT_OF_REACH,  /* the fixed costs alone are above the limit */
};

/* One word; for people, a phrase. */
const char *plan_outcome_name(enum plan_outcome outcome);
const char *plan_outcome_text(enum plan_outcome outcome);

struct plan {
	enum plan_outcome outcome;
	double setup_ns, precopy_ns,
		downtime_ns;              /* downtime 0 unless it moves */
	uint64_t expected_ns;             /* the policy's estimate */
	double phase_ns[MIG_PHASE_COUNT]; /* of the pause */
	double precopy_bytes, downtime_bytes;
	double writes;        /* the guest's, during the rounds */
	double writes_wanted; /* had nobody migrated it */
	double share;         /* what throttling left at the end */
	double throttled_ns;  /* time in which it left less than all */
	int rounds;
	struct plan_round round[PLAN_ROUNDS_MAX];
};

/* -EINVAL for what contradicts itself, -ERANGE for what is absurd. */
int plan_check(const struct plan_input *input, struct err *err);

/* @input has passed plan_check(); always ends. */
void plan_run(const struct plan_input *input, struct plan *ret_plan);

#endif
