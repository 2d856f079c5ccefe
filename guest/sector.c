/* SPDX-License-Identifier: Apache-2.0 */
/* Stamps of sectors: see sector.h. */
#include "guest/sector.h"

#include "guest/cpu.h"

#define MAGIC 0x676f647769740000 /* below it: the disk */
#define STEP  0x9e3779b97f4a7c15

#define ROW_FIRST 3
#define ROW_END   62

const char *const sector_fault_names[SECTOR_FAULTS] = {
	[SECTOR_GOOD] = "good",           [SECTOR_LOST] = "lost",
	[SECTOR_STALE] = "stale",         [SECTOR_TORN] = "torn",
	[SECTOR_MISPLACED] = "misplaced", [SECTOR_CORRUPT] = "corrupt",
};

static uint64_t hash(const struct sector_stamp *stamp)
{
	return mix64(stamp->disk * STEP ^ stamp->sector ^
		     stamp->sequence * 0xd6e8feb86659fd93);
}

void sector_write(uint64_t *words, const struct sector_stamp *stamp)
{
	uint64_t key = hash(stamp), word = key;

	words[0] = MAGIC | stamp->disk;
	words[1] = stamp->sector;
	words[2] = stamp->sequence;
	for (int i = ROW_FIRST; i < ROW_END; i++)
		words[i] = word += STEP;
	words[62] = stamp->sequence;
	words[63] = key;
}

bool sector_is_good(const uint64_t *words, const struct sector_stamp *stamp)
{
	uint64_t key = hash(stamp), word = key, wrong;

	wrong = (words[0] ^ (MAGIC | stamp->disk)) |
		(words[1] ^ stamp->sector) | (words[2] ^ stamp->sequence) |
		(words[62] ^ stamp->sequence) | (words[63] ^ key);
	for (int i = ROW_FIRST; i < ROW_END; i++)
		wrong |= words[i] ^ (word += STEP);
	return !wrong;
}

bool sector_is_zero(const uint64_t *words)
{
	uint64_t any = 0;

	for (int i = 0; i < SECTOR_WORDS; i++)
		any |= words[i];
	return !any;
}

/* The place where @words stops, from either end, to be the start of @stamp. */
static int first_difference(const uint64_t *words,
			    const struct sector_stamp *stamp)
{
	uint64_t whole[SECTOR_WORDS];
	int i = 0;

	sector_write(whole, stamp);
	while (i < SECTOR_WORDS && words[i] == whole[i])
		i++;
	return i;
}

static int last_difference(const uint64_t *words,
			   const struct sector_stamp *stamp)
{
	uint64_t whole[SECTOR_WORDS];
	int i = SECTOR_WORDS;

	sector_write(whole, stamp);
	while (i > 0 && words[i - 1] == whole[i - 1])
		i--;
	return i;
}

enum sector_fault sector_judge(const uint64_t *words,
			       const struct sector_stamp *expected,
			       struct sector_stamp *ret_found)
{
	struct sector_stamp head = { words[0] & 0xffff, words[1], words[2] };
	struct sector_stamp tail = { expected->disk, expected->sector,
				     words[62] };

	*ret_found = (struct sector_stamp){ 0 };
	if (sector_is_zero(words))
		return SECTOR_LOST;
	if (sector_is_good(words, &head)) {
		*ret_found = head;
		return head.disk == expected->disk &&
				       head.sector == expected->sector
			       ? SECTOR_STALE
			       : SECTOR_MISPLACED;
	}
	if (first_difference(words, &head) > ROW_FIRST &&
	    last_difference(words, &tail) <= first_difference(words, &head)) {
		*ret_found = head;
		return SECTOR_TORN;
	}
	return SECTOR_CORRUPT;
}
