/* SPDX-License-Identifier: Apache-2.0 */
/* The lines that CPU 0 prints; README.md gives their formats. */
#ifndef GODWIT_GUEST_REPORT_H
#define GODWIT_GUEST_REPORT_H

#include "guest/vcpu.h"

/* "@stress": what is going to run, before memory is written. */
void report_start(const struct machine *m);
/* "@ready": every page has been written once, the loop begins. */
void report_ready(const struct machine *m);
/* "@report": counters of the machine and its longest gap. */
void report_counters(const struct machine *m);
/* "@gaps": the longest gaps of the machine. */
void report_gaps(const struct machine *m);
/* "@work": pages stamped in each of the last 960 intervals. */
void report_work(const struct machine *m);

#endif
