// SPDX-License-Identifier: Apache-2.0
/* A split ring's indices (virtio 1.2, 2.7.6 and 2.7.8); called by dev.c and dev_lost.c. */
#include "vhost/ring.h"

#include <errno.h>

#include "mem/ram.h"
#include "vhost_priv.h"

static uint16_t index_at(uint64_t hva)
{
	return __atomic_load_n((const uint16_t *)(uintptr_t)hva,
			       __ATOMIC_ACQUIRE);
}

uint16_t ring_used(const struct vh_ring *ring)
{
	return index_at(ring->addr.used + 2);
}

uint16_t ring_avail(const struct vh_ring *ring)
{
	return index_at(ring->addr.avail + 2);
}

bool ring_is_idle(const struct vh_ring *ring)
{
	return ring_used(ring) == ring_avail(ring);
}

static int judge_left(const struct vh_ring *ring, uint16_t used, uint16_t end)
{
	uint16_t left = (uint16_t)(end - used);

	return left > ring->size ? -EBADMSG : left;
}

int ring_left_before(const struct vh_ring *ring, uint16_t end)
{
	return judge_left(ring, ring_used(ring), end);
}

int ring_left(const struct vh_ring *ring)
{
	uint16_t used = ring_used(ring);
	int left = judge_left(ring, used, ring_avail(ring));

	/* A ring that got on in between may have room for both. */
	return left < 0 && ring_used(ring) != used ? 1 : left;
}

/* Index fields that the back end writes last of all may miss in the log; they are in
 * these pages. */
void ring_rest(struct vh_ring *ring, uint16_t next, uint16_t taken)
{
	ring->is_live = ring->is_stopping = false;
	ring->next = next;
	ring->taken = taken;
	ram_block_mark_dirty(ring->used_block, ring->used_offset,
			     ring->used_size);
}
