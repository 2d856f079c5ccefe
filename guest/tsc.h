/* SPDX-License-Identifier: Apache-2.0 */
/* The TSC's frequency, and times in it. */
#ifndef GODWIT_GUEST_TSC_H
#define GODWIT_GUEST_TSC_H

#include <stdint.h>

/* @given, or what CPUID tells, or a guess with a "@warning" line. */
uint64_t tsc_find_khz(uint64_t given);

static inline uint64_t tsc_of_us(uint64_t khz, uint64_t us)
{
	return us * khz / 1000;
}

static inline uint64_t us_of_tsc(uint64_t khz, uint64_t ticks)
{
	return ticks * 1000 / khz;
}

#endif
