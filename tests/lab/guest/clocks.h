/* SPDX-License-Identifier: Apache-2.0 */
/* What this guest's clocks say, and how far they ever stepped. */
#ifndef LAB_GUEST_CLOCKS_H
#define LAB_GUEST_CLOCKS_H

#include <stdint.h>
#include <time.h>

static inline uint64_t tsc_read(void)
{
	uint32_t low, high;

	/* Not before what precedes it is done, and before what follows. */
	__asm__ volatile("lfence; rdtsc; lfence"
			 : "=a"(low), "=d"(high)::"memory");
	return (uint64_t)high << 32 | low;
}

static inline int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/*
 * Says "@clock host=NS real=NS mono=NS tsc=N tsc_real=NS cost=CYCLES".  host is
 * the realtime of whoever runs this guest (KVM_HC_CLOCK_PAIRING, through /dev/ptp0),
 * real and mono the guest's clocks at that very moment; tsc was read when the
 * guest's realtime was tsc_real.  cost is what the cheapest of many
 * clock_gettime() took.
 */
void clocks_say(void);

/* Starts or ends a thread a processor that does nothing but read the clocks. */
void clocks_watch(int is_on);

/*
 * Says "@steps mono=NS real=NS tsc=CYCLES back=N", of the time since the last call:
 * the largest step that a thread saw each clock make, and how often a clock
 * read less than some thread had read before.
 */
void clocks_steps(void);

#endif
