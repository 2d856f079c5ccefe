/* SPDX-License-Identifier: Apache-2.0 */
/* The clock's registers, for mc146818.c and its tests. */
#ifndef GODWIT_DEV_MC146818_PRIV_H
#define GODWIT_DEV_MC146818_PRIV_H

#include "base/lock.h"
#include "dev/mc146818.h"
#include "mem/region.h"
#include "state/state.h"

#define MC146818_BYTES 128u

struct mc146818 {
	/* immutable after init */
	struct mem_region *region;     /* owned reference */
	uint64_t (*now_ns)(void *now); /* CLOCK_REALTIME, but for tests */
	void *now;
	struct state_entry state;

	/* protected by lock (LOCK_DEVICE) */
	struct lock lock;
	uint8_t index;
	/* The time in it counts while register B's SET is on; otherwise it
	 * comes from the host's clock and offset_s. */
	uint8_t bytes[MC146818_BYTES];
	uint64_t offset_s; /* two's complement */
};

extern const struct mem_io_ops mc146818_io_ops;
extern const struct state_desc mc146818_state;

void mc146818_init(struct mc146818 *rtc);
void mc146818_fini(struct mc146818 *rtc);

#endif
