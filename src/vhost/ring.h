/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a ring's indices in guest memory say, of rings that have been placed
 * (vh_dev_place()); called by dev.c and dev_lost.c with the device's lock.  The driver
 * may write anything there, and its back end writes at any time while the ring is live:
 * each call looks once.
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
/* Nothing is taken from it any more; see struct vh_ring for @next and @taken. */
void ring_rest(struct vh_ring *ring, uint16_t next, uint16_t taken);

#endif
