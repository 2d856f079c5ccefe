/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a written sector looks like, and what a damaged one tells.
 *
 *	word 0	disk and a magic number
 *	     1	sector
 *	     2	sequence
 *	  3-61	a row that starts at a hash of these
 *	    62	sequence
 *	    63	the hash
 *
 * Every word follows from disk, sector and sequence, so nothing that happens to
 * one goes unnoticed; and a sector tells which write it is from, even in part.
 */
#ifndef GODWIT_GUEST_SECTOR_H
#define GODWIT_GUEST_SECTOR_H

#include <stdbool.h>
#include <stdint.h>

#define SECTOR_SIZE  512
#define SECTOR_WORDS (SECTOR_SIZE / 8)

struct sector_stamp {
	uint64_t disk;
	uint64_t sector;
	uint64_t sequence;
};

enum sector_fault {
	SECTOR_GOOD,
	SECTOR_LOST,      /* reads as zero */
	SECTOR_STALE,     /* whole, but of another time */
	SECTOR_TORN,      /* parts of two times */
	SECTOR_MISPLACED, /* whole, but of another place */
	SECTOR_CORRUPT,   /* no stamp any more */
	SECTOR_FAULTS,
};

extern const char *const sector_fault_names[SECTOR_FAULTS];

void sector_write(uint64_t *words, const struct sector_stamp *stamp);

/* Whether the sector holds exactly what sector_write() left there. */
bool sector_is_good(const uint64_t *words, const struct sector_stamp *stamp);

bool sector_is_zero(const uint64_t *words);

/*
 * Names what is wrong with a sector that is not good.  @ret_found is the stamp
 * that the sector itself states, all 0 if it states none.
 */
enum sector_fault sector_judge(const uint64_t *words,
			       const struct sector_stamp *expected,
			       struct sector_stamp *ret_found);

#endif
