/* SPDX-License-Identifier: Apache-2.0 */
/* How long single accesses to memory take, as the guest itself sees it. */
#ifndef LAB_GUEST_STALLS_H
#define LAB_GUEST_STALLS_H

/*
 * Starts, on each processor, a thread that writes all over @mib of memory, a page
 * at a time, by chance.  Says "@stalls pages=N" when each page was written once.
 */
void stalls_start(int mib);

/* Accesses from now on belong to @phase, 0 to 7; before, to 0. */
void stalls_phase(int phase);

/*
 * Says "@stalled phase=N count=N p50=CYCLES p999=CYCLES longest=CYCLES": what the
 * accesses of @phase took, in cycles of the TSC.
 */
void stalls_say(int phase);

#endif
