/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast the guest writes: calc-dirty-rate, with QEMU's names and units.
 *
 * One measurement at a time, on a thread of its own.  Each call is for any thread
 * but dirty_rate_end(), which is for the one that would start a migration or ends
 * the machine.
 */
#ifndef GODWIT_MIGRATE_DIRTY_RATE_H
#define GODWIT_MIGRATE_DIRTY_RATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct dirty_limit;
struct dirty_rate;
struct machine;

enum dirty_rate_mode {
	DIRTY_RATE_PAGE_SAMPLING, /* hashes of some pages, twice; costs no fault */
	DIRTY_RATE_DIRTY_BITMAP, /* the accelerator's log, of all pages */
	DIRTY_RATE_DIRTY_RING,   /* the same, of an accelerator with rings */
	DIRTY_RATE_MODE_COUNT
};

const char *dirty_rate_mode_name(enum dirty_rate_mode mode);

enum dirty_rate_status {
	DIRTY_RATE_UNSTARTED,
	DIRTY_RATE_MEASURING,
	DIRTY_RATE_MEASURED,
};

/* QEMU's limits. */
#define DIRTY_RATE_CALC_MIN_MS   50u
#define DIRTY_RATE_CALC_MAX_MS   60000u
#define DIRTY_RATE_SAMPLES_MIN   128u
#define DIRTY_RATE_SAMPLES_MAX   16384u
#define DIRTY_RATE_SAMPLES_USUAL 512u

struct dirty_rate_params {
	enum dirty_rate_mode mode;
	uint64_t calc_ms;
	uint64_t sample_pages; /* of each GiB */
};

struct dirty_rate_info {
	enum dirty_rate_status status;
	struct dirty_rate_params params;
	uint64_t start_ns;      /* clock_mono_ns() */
	struct err error;       /* why the last one came to nothing */
	uint64_t bytes_per_sec; /* distinct pages; DIRTY_RATE_MEASURED */
	bool has_vcpus;         /* the log says who wrote */
};

/* NULL without memory.  @machine and @limit, which lends the log, outlive it. */
struct dirty_rate *dirty_rate_new(struct machine *machine,
				  struct dirty_limit *limit);
/* NULL is accepted. */
void dirty_rate_free(struct dirty_rate *rate);

/* Returns at once.  -EBUSY while one goes on, -ERANGE or -ENOTSUP with a reason. */
int dirty_rate_start(struct dirty_rate *rate,
		     const struct dirty_rate_params *params, struct err *err);
/* One that goes on ends without a result: the log is needed. */
void dirty_rate_end(struct dirty_rate *rate);

void dirty_rate_query(struct dirty_rate *rate,
		      struct dirty_rate_info *ret_info);
/* Bytes a second that vCPU @index wrote, of info.has_vcpus. */
uint64_t dirty_rate_of_vcpu(struct dirty_rate *rate, unsigned int index);

#endif
