/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A row of frames that one queue sends and that are to come back, each of them:
 * numbered, in a window, and sent again when they do not come in time.  The
 * queue's vCPU sends; any vCPU may be the one that receives.
 *
 *	base <= sequence < next: in the window, sent once or more
 */
#ifndef GODWIT_GUEST_FLOW_H
#define GODWIT_GUEST_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/frame.h"

#define FLOW_WINDOW_MAX 1024

struct flow_slot {
	/* written by the sender before it sends */
	uint64_t first, last; /* TSC: sent first, sent last */
	uint32_t size;
	uint32_t resends;
	/* written by receivers: the last sequence that came back here; atomic */
	uint64_t back;
};

struct flow {
	/* immutable after init */
	uint32_t name; /* frame_stamp.flow */
	uint32_t window;
	struct flow_slot *slots; /* of sequence n: n % window; borrowed */

	/* owned by the sender; receivers read @base and @next */
	uint64_t base, next;
	uint64_t sent, resent, lost;
	uint64_t next_look; /* TSC: for frames that are late */

	/* written by receivers; atomic */
	uint64_t highest; /* sequence that came back */
	uint64_t back, twice, unasked, reordered;
};

enum flow_event {
	FLOW_BACK,    /* for the first time */
	FLOW_TWICE,   /* once more; it had been sent again */
	FLOW_UNASKED, /* once more, but it had been sent only once */
	FLOW_UNKNOWN, /* it was never sent */
};

void flow_init(struct flow *flow, uint32_t name, struct flow_slot *slots,
	       uint32_t window);

/* Whether the window has room for one more. */
bool flow_may_send(struct flow *flow);

/* Takes the next number for a frame of @size bytes. */
void flow_send(struct flow *flow, uint64_t now, uint32_t size,
	       struct frame_stamp *ret_stamp);

/*
 * The next frame that has been away for @limit ticks, which is to be sent
 * again; at most one look through the window each @limit / 8.
 */
bool flow_next_late(struct flow *flow, uint64_t now, uint64_t limit,
		    struct frame_stamp *ret_stamp);

/* Gives up the first frame when @limit has passed since it was first sent. */
bool flow_give_up(struct flow *flow, uint64_t now, uint64_t limit,
		  uint64_t *ret_sequence);

/* Frames that are away. */
uint64_t flow_pending(struct flow *flow);

/* A frame came back; @ret_ticks: how long it took, for FLOW_BACK. */
enum flow_event flow_receive(struct flow *flow, uint64_t sequence, uint64_t now,
			     uint64_t *ret_ticks);

/* Frames of somebody else, as their receiver counts them. */
struct flow_heard {
	uint32_t name; /* 0: none yet */
	uint64_t highest;
	uint64_t received, missing, late;
};

void flow_hear(struct flow_heard *heard, uint64_t sequence);

#endif
