/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a written page looks like, and what a damaged one tells.
 *
 *	   0	gpa, vcpu, sequence, checksum		head
 *	2048	sequence, its complement mixed with gpa	middle
 *	4064	gpa, vcpu, sequence, checksum		tail
 *
 * Head and tail are equal, so half a page of another time shows; the gpa is in
 * it, so a page in the wrong place shows; the sequence is also kept outside
 * of the page, so an old page shows.  Only three cache lines are touched.
 */
#ifndef GODWIT_GUEST_STAMP_H
#define GODWIT_GUEST_STAMP_H

#include <stdbool.h>
#include <stdint.h>

enum fault {
	FAULT_NONE,
	FAULT_LOST,    /* reads as zero */
	FAULT_STALE,   /* whole, but of another time than expected */
	FAULT_TORN,    /* parts of different times */
	FAULT_SWAPPED, /* whole, but of another page */
	FAULT_CORRUPT, /* no stamp any more */
	FAULT_KINDS,
};

extern const char *const fault_names[FAULT_KINDS];

struct stamp_edge {
	uint64_t gpa;
	uint64_t vcpu;
	uint64_t sequence;
	uint64_t checksum;
};

struct stamp {
	struct stamp_edge head;
	uint64_t unused_1[252];
	uint64_t middle[2];
	uint64_t unused_2[250];
	struct stamp_edge tail;
};

_Static_assert(sizeof(struct stamp) == 4096, "one page");

static inline uint64_t stamp_checksum(uint64_t gpa, uint64_t vcpu,
				      uint64_t sequence)
{
	uint64_t v = (gpa ^ vcpu << 56 ^ sequence * 0x9e3779b97f4a7c15);

	return (v ^ v >> 29) * 0xbf58476d1ce4e5b9 + 1;
}

static inline void stamp_write(struct stamp *page, uint64_t gpa, uint64_t vcpu,
			       uint64_t sequence)
{
	struct stamp_edge edge = { gpa, vcpu, sequence,
				   stamp_checksum(gpa, vcpu, sequence) };

	page->head = edge;
	page->middle[0] = sequence;
	page->middle[1] = ~sequence ^ gpa;
	page->tail = edge;
}

/* Whether the page holds exactly what stamp_write() left there. */
static inline bool stamp_is_good(const struct stamp *page, uint64_t gpa,
				 uint64_t vcpu, uint64_t sequence)
{
	uint64_t sum = stamp_checksum(gpa, vcpu, sequence);

	return !((page->head.gpa ^ gpa) | (page->head.vcpu ^ vcpu) |
		 (page->head.sequence ^ sequence) |
		 (page->head.checksum ^ sum) | (page->middle[0] ^ sequence) |
		 (page->middle[1] ^ ~sequence ^ gpa) | (page->tail.gpa ^ gpa) |
		 (page->tail.vcpu ^ vcpu) | (page->tail.sequence ^ sequence) |
		 (page->tail.checksum ^ sum));
}

/*
 * Names what is wrong with a page that is not good.  @ret_found is the sequence
 * and @ret_from the gpa that the page itself states, 0 if it states none.
 */
enum fault stamp_judge(const struct stamp *page, uint64_t gpa, uint64_t vcpu,
		       uint64_t *ret_found, uint64_t *ret_from);

#endif
