/* SPDX-License-Identifier: Apache-2.0 */
/* Names the damage of a page: see stamp.h. */
#include "guest/stamp.h"

const char *const fault_names[FAULT_KINDS] = {
	[FAULT_NONE] = "none",       [FAULT_LOST] = "lost",
	[FAULT_STALE] = "stale",     [FAULT_TORN] = "torn",
	[FAULT_SWAPPED] = "swapped", [FAULT_CORRUPT] = "corrupt",
};

static bool edge_is_whole(const struct stamp_edge *edge)
{
	return edge->checksum ==
	       stamp_checksum(edge->gpa, edge->vcpu, edge->sequence);
}

static bool edge_is_zero(const struct stamp_edge *edge)
{
	return !(edge->gpa | edge->vcpu | edge->sequence | edge->checksum);
}

enum fault stamp_judge(const struct stamp *page, uint64_t gpa, uint64_t vcpu,
		       uint64_t *ret_found, uint64_t *ret_from)
{
	const struct stamp_edge *head = &page->head, *tail = &page->tail;
	bool has_head = edge_is_whole(head), has_tail = edge_is_whole(tail);
	bool middle_is_zero = !(page->middle[0] | page->middle[1]);
	bool middle_is_whole =
		(page->middle[0] ^ page->middle[1]) == ~head->gpa;

	*ret_found = has_head ? head->sequence : has_tail ? tail->sequence : 0;
	*ret_from = has_head ? head->gpa : has_tail ? tail->gpa : 0;
	if (edge_is_zero(head) && edge_is_zero(tail) && middle_is_zero)
		return FAULT_LOST;
	if (has_head != has_tail)
		return edge_is_zero(has_head ? tail : head) ? FAULT_TORN
							    : FAULT_CORRUPT;
	if (!has_head || (!middle_is_whole && !middle_is_zero))
		return FAULT_CORRUPT;
	if (head->sequence != tail->sequence || head->gpa != tail->gpa ||
	    head->vcpu != tail->vcpu || page->middle[0] != head->sequence)
		return FAULT_TORN;
	if (head->gpa != gpa || head->vcpu != vcpu)
		return FAULT_SWAPPED;
	return FAULT_STALE;
}
