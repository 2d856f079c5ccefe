/* SPDX-License-Identifier: Apache-2.0 */
/* What threads tell the scheduler. */
#ifndef GODWIT_BASE_THREAD_H
#define GODWIT_BASE_THREAD_H

#include <pthread.h>

/*
 * The calling thread is to run soon after it wakes: ask for a time slice of
 * 0.1 ms, the shortest there is, instead of the usual 3 ms.  Its share of the
 * CPU stays the same; it only gets it in smaller pieces, and earlier (EEVDF,
 * Linux 6.12; without effect before, and needs no privilege).  For vCPU and
 * migration threads: each hand-over of a switch is a wake-up, and on a host
 * whose CPUs are all busy one late wake-up is the whole pause.
 */
void thread_want_low_latency(void);

/*
 * How a thread competes for CPUs.
 *
 *	BACKGROUND  only where nothing else wants to run (SCHED_IDLE)
 *	NORMAL      as it was (SCHED_OTHER)
 *	URGENT      before all ordinary threads (SCHED_FIFO, lowest priority): for
 *	            those a stopped guest waits for, from the stop to the start.
 *	            A vCPU that is to park must get a CPU first, and behind other
 *	            busy threads that took 4 ms.  Needs CAP_SYS_NICE or
 *	            RLIMIT_RTPRIO; without either, NORMAL stays.
 */
enum thread_class {
	THREAD_BACKGROUND,
	THREAD_NORMAL,
	THREAD_URGENT,
};

void thread_set_class(pthread_t thread, enum thread_class class);

#endif
