/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a ring's indices in guest memory say, of rings that have been placed
 * (vh_dev_place()); called by dev.c and dev_lost.c with the device's lock.  The driver
 * may write anything there, and its back end writes at any time while the ring is live:
 * no two are of one moment.
 */
#ifndef GODWIT_VHOST_RING_H
#define GODWIT_VHOST_RING_H

#include <stdbool.h>
#include <stdint.h>

struct vh_ring;

uint16_t ring_used(const struct vh_ring *ring);
uint16_t ring_avail(const struct vh_ring *ring);
/* All that is available has been used. */
bool ring_is_idle(const struct vh_ring *ring);
/* How many requests are to be used yet, of all that are available and of those before
 * index @end.  -EBADMSG: more than there is room for, which only a driver can say that
 * wrote where it may not, or a back end that makes its indices up. */
int ring_left(const struct vh_ring *ring);
int ring_left_before(const struct vh_ring *ring, uint16_t end);
/* Nothing is taken from it any more; see struct vh_ring for @next and @taken. */
void ring_rest(struct vh_ring *ring, uint16_t next, uint16_t taken);

#endif
