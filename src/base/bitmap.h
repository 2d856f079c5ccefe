/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bitmaps of 64-bit words, least significant bit first: the layout of KVM's
 * dirty bitmaps on a little-endian host.  A size is in bits; bits past the
 * size in the last word are kept zero by the callers' ranges.
 *
 * The _atomic functions may race with each other; the others need the caller
 * to own the words they touch.
 */
#ifndef GODWIT_BASE_BITMAP_H
#define GODWIT_BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BITMAP_WORD_BITS 64u
#define bitmap_words(nbits) \
	(((nbits) + BITMAP_WORD_BITS - 1) / BITMAP_WORD_BITS)

/* A zeroed bitmap, freed with bitmap_free(); NULL without memory.  Large ones
 * are mapped, so that words never set cost no memory. */
uint64_t *bitmap_new(uint64_t nbits);
void bitmap_free(uint64_t *map, uint64_t nbits);

static inline bool bitmap_test(const uint64_t *map, uint64_t bit)
{
	return map[bit / BITMAP_WORD_BITS] >> (bit % BITMAP_WORD_BITS) & 1;
}

void bitmap_set(uint64_t *map, uint64_t start, uint64_t nbits);
void bitmap_clear(uint64_t *map, uint64_t start, uint64_t nbits);

/* All of a map of @nbits from bitmap_new(): its memory goes back, at a cost that does
 * not depend on the size of what was never set.  Readers may race. */
void bitmap_zero(uint64_t *map, uint64_t nbits);

/* Atomic for concurrent writers of the same words (release order). */
void bitmap_set_atomic(uint64_t *map, uint64_t start, uint64_t nbits);

/* map[word] |= bits, atomically: what the caller wrote before is seen by whoever
 * takes the bits after.  Returns those of @bits that were set already. */
uint64_t bitmap_or_word_atomic(uint64_t *map, uint64_t word, uint64_t bits);

/* Take a word: returns it and leaves zero, atomically (acquire order). */
uint64_t bitmap_take_word_atomic(uint64_t *map, uint64_t word);

/* The first set (clear) bit in [start, end), or @end. */
uint64_t bitmap_next_set(const uint64_t *map, uint64_t start, uint64_t end);
uint64_t bitmap_next_clear(const uint64_t *map, uint64_t start, uint64_t end);

/* Number of set bits in [start, end). */
uint64_t bitmap_count(const uint64_t *map, uint64_t start, uint64_t end);

/* The mask of bits of word @word that lie in [start, end). */
static inline uint64_t bitmap_word_mask(uint64_t word, uint64_t start,
					uint64_t end)
{
	uint64_t base = word * BITMAP_WORD_BITS;
	uint64_t mask = ~0ull;

	if (start > base)
		mask &= start - base >= BITMAP_WORD_BITS
				? 0
				: ~0ull << (start - base);
	if (end < base + BITMAP_WORD_BITS)
		mask &= end <= base
				? 0
				: ~0ull >> (BITMAP_WORD_BITS - (end - base));
	return mask;
}

#endif
