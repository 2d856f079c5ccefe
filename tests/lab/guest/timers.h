/* SPDX-License-Identifier: Apache-2.0 */
/* Timers that are pending for a while, on processors that do nothing else. */
#ifndef LAB_GUEST_TIMERS_H
#define LAB_GUEST_TIMERS_H

/*
 * Sets, on each processor, a timerfd on the monotonic clock, one on realtime (both
 * absolute), and a sleep, for @after_ms from now.  Each says when it is over:
 * "@timer kind=monotonic|realtime|sleep cpu=N late_us=N", late_us by its own clock.
 */
void timers_set(int after_ms);

/* Says "@ticker cpu=N name=NAME" of each processor: what wakes it for its timers. */
void timers_say_devices(void);

#endif
