/* SPDX-License-Identifier: Apache-2.0 */
/* What the threads that a switch waits for prepare. */
#ifndef GODWIT_BASE_THREAD_H
#define GODWIT_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

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
 * While @is_urgent, @thread runs before all ordinary ones (SCHED_FIFO, lowest
 * priority): for those a stopped guest waits for, from the stop to the start.  A
 * vCPU that is to park must get a CPU first, and behind other busy threads that
 * took 4 ms.  Needs CAP_SYS_NICE or RLIMIT_RTPRIO; without effect, and without
 * harm, where neither is there.  The thread's slice stays what it was.
 */
void thread_set_urgent(pthread_t thread, bool is_urgent);

/* Map the program's code and what the calling thread will use of its stack: a page that is
 * met first in the pause costs 3 us there, and on a busy host 60 to 100. */
void thread_map_now(void);

#endif
