// SPDX-License-Identifier: Apache-2.0
/*
 * Scheduling of the threads that a switch waits for (ARCHITECTURE, "Why it is the
 * way it is").  All of it is refused without privilege, which costs time only.
 */
#include "base/thread.h"

#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

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
