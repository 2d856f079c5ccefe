// SPDX-License-Identifier: Apache-2.0
/*
 * Threads that a switch waits for (ARCHITECTURE, "Why it is the way it is").  What the
 * kernel refuses, for want of privilege or because it is old, costs time only.
 */
#include "base/thread.h"

#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

/* As deep as a migration goes: its own frame has 50 KiB, a call for all MSRs of a vCPU 12. */
#define STACK_USED (96u << 10)

/* The linker's, around the program's code. */
extern char __executable_start[], etext[];

/* struct sched_attr, version 0 (sched_setattr(2)); glibc has none. */
struct sched_attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

void thread_want_low_latency(void)
{
	struct sched_attributes attr = { .size = sizeof(attr) };

	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) < 0 ||
	    attr.policy != 0)
		return;
	attr.runtime = 100 * NS_PER_US;
	/* Refused by kernels that know no slices: nothing is lost. */
	syscall(SYS_sched_setattr, 0, &attr, 0);
}

void thread_set_urgent(pthread_t thread, bool is_urgent)
{
	const struct sched_param urgent = { .sched_priority = 1 };
	const struct sched_param ordinary = { .sched_priority = 0 };
	struct sched_param now;
	int policy;

	/* Whoever started godwit with a policy of its own knows better. */
	if (pthread_getschedparam(thread, &policy, &now))
		return;
	if (is_urgent && policy == SCHED_OTHER)
		pthread_setschedparam(thread, SCHED_FIFO, &urgent);
	else if (!is_urgent && policy == SCHED_FIFO && now.sched_priority == 1)
		pthread_setschedparam(thread, SCHED_OTHER, &ordinary);
}

/* Not inlined: its frame is to end with it. */
static __attribute__((noinline)) void touch_stack(void)
{
	char used[STACK_USED];

	memset(used, 0, sizeof(used));
	__asm__ volatile("" : : "r"(used) : "memory");
}

void thread_map_now(void)
{
	uintptr_t start = (uintptr_t)__executable_start;

	touch_stack();
	madvise(__executable_start, (uintptr_t)etext - start,
		MADV_POPULATE_READ);
}
