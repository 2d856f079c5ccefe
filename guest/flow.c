/* SPDX-License-Identifier: Apache-2.0 */
/* Windows of frames: see flow.h. */
#include "guest/flow.h"

#include "guest/cpu.h"

#define LOOKS_PER_LIMIT 8

void flow_init(struct flow *flow, uint32_t name, struct flow_slot *slots,
	       uint32_t window)
{
	*flow = (struct flow){
		.name = name,
		.window = window,
		.slots = slots,
		.base = 1,
		.next = 1,
	};
	for (uint32_t i = 0; i < window; i++)
		slots[i] = (struct flow_slot){ .back = 0 };
}

static struct flow_slot *slot_of(const struct flow *flow, uint64_t sequence)
{
	return &flow->slots[sequence % flow->window];
}

static bool is_back(const struct flow *flow, uint64_t sequence)
{
	return load_acquire(slot_of(flow, sequence)->back) >= sequence;
}

static void advance(struct flow *flow)
{
	while (flow->base < flow->next && is_back(flow, flow->base))
		write_once(flow->base, flow->base + 1);
}

bool flow_may_send(struct flow *flow)
{
	if (flow->next - flow->base < flow->window)
		return true;
	advance(flow);
	return flow->next - flow->base < flow->window;
}

uint64_t flow_pending(struct flow *flow)
{
	advance(flow);
	return flow->next - flow->base;
}

void flow_send(struct flow *flow, uint64_t now, uint32_t size,
	       struct frame_stamp *ret_stamp)
{
	struct flow_slot *slot = slot_of(flow, flow->next);

	slot->first = now;
	slot->last = now;
	slot->size = size;
	slot->resends = 0;
	*ret_stamp = (struct frame_stamp){
		.sequence = flow->next,
		.flow = flow->name,
		.size = size,
	};
	flow->sent++;
	store_release(flow->next, flow->next + 1);
}

bool flow_next_late(struct flow *flow, uint64_t now, uint64_t limit,
		    struct frame_stamp *ret_stamp)
{
	if (now < flow->next_look)
		return false;
	for (uint64_t n = flow->base; n < flow->next; n++) {
		struct flow_slot *slot = slot_of(flow, n);

		if (now - slot->last < limit || is_back(flow, n))
			continue;
		slot->last = now;
		slot->resends++;
		flow->resent++;
		*ret_stamp = (struct frame_stamp){
			.sequence = n,
			.flow = flow->name,
			.size = slot->size,
		};
		return true;
	}
	flow->next_look = now + limit / LOOKS_PER_LIMIT;
	return false;
}

bool flow_give_up(struct flow *flow, uint64_t now, uint64_t limit,
		  uint64_t *ret_sequence)
{
	struct flow_slot *slot;

	advance(flow);
	slot = slot_of(flow, flow->base);
	if (flow->base == flow->next || now - slot->first < limit)
		return false;
	*ret_sequence = flow->base;
	flow->lost++;
	store_release(slot->back, flow->base);
	advance(flow);
	return true;
}

static void raise(uint64_t *highest, uint64_t to)
{
	uint64_t old = __atomic_load_n(highest, __ATOMIC_RELAXED);

	while (old < to &&
	       !__atomic_compare_exchange_n(highest, &old, to, false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static enum flow_event receive_again(struct flow *flow, uint64_t sequence)
{
	/* Nothing is remembered of one whose slot has another frame by now, or is being
	 * given one: its sender does that once `next` is there.  So `next` is read
	 * last. */
	uint32_t resends = load_acquire(slot_of(flow, sequence)->resends);
	bool was_resent =
		resends || load_acquire(flow->next) >= sequence + flow->window;
	uint64_t *count = was_resent ? &flow->twice : &flow->unasked;

	__atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
	return was_resent ? FLOW_TWICE : FLOW_UNASKED;
}

enum flow_event flow_receive(struct flow *flow, uint64_t sequence, uint64_t now,
			     uint64_t *ret_ticks)
{
	struct flow_slot *slot = slot_of(flow, sequence);
	uint64_t old = load_acquire(slot->back), first = read_once(slot->first);
	uint32_t resends = read_once(slot->resends);

	if (!sequence || sequence >= load_acquire(flow->next))
		return FLOW_UNKNOWN;
	do {
		if (old >= sequence)
			return receive_again(flow, sequence);
	} while (!__atomic_compare_exchange_n(&slot->back, &old, sequence,
					      false, __ATOMIC_ACQ_REL,
					      __ATOMIC_ACQUIRE));
	*ret_ticks = now - first;
	__atomic_fetch_add(&flow->back, 1, __ATOMIC_RELAXED);
	if (!resends &&
	    sequence < __atomic_load_n(&flow->highest, __ATOMIC_RELAXED))
		__atomic_fetch_add(&flow->reordered, 1, __ATOMIC_RELAXED);
	raise(&flow->highest, sequence);
	return FLOW_BACK;
}

void flow_hear(struct flow_heard *heard, uint64_t sequence)
{
	heard->received++;
	if (sequence <= heard->highest) {
		heard->late++;
		return;
	}
	heard->missing += sequence - heard->highest - 1;
	heard->highest = sequence;
}
