/* SPDX-License-Identifier: Apache-2.0 */
/* What a thread tells the scheduler about itself. */
#ifndef GODWIT_BASE_THREAD_H
#define GODWIT_BASE_THREAD_H

/*
 * The calling thread is to run soon after it wakes: ask for a time slice of
 * 0.1 ms, the shortest there is, instead of the usual 3 ms.  Its share of the
 * CPU stays the same; it only gets it in smaller pieces, and earlier (EEVDF,
 * Linux 6.12; without effect before, and needs no privilege).  For vCPU and
 * migration threads: each hand-over of a switch is a wake-up, and on a host
 * whose CPUs are all busy one late wake-up is the whole pause.
 */
void thread_want_low_latency(void);

#endif
