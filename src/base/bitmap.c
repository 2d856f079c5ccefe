// SPDX-License-Identifier: Apache-2.0
/*
 * Word by word, each masked to the range.  mmap() gives maps zeroed and lazily, so
 * a bitmap for terabytes costs what is set in it.
 */
#include "base/bitmap.h"

#include <sys/mman.h>

static size_t map_bytes(uint64_t nbits)
{
	size_t bytes = bitmap_words(nbits) * sizeof(uint64_t);

	return bytes ? bytes : sizeof(uint64_t);
}

uint64_t *bitmap_new(uint64_t nbits)
{
	void *map = mmap(NULL, map_bytes(nbits), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return map == MAP_FAILED ? NULL : map;
}

void bitmap_free(uint64_t *map, uint64_t nbits)
{
	if (map)
		munmap(map, map_bytes(nbits));
}

void bitmap_set(uint64_t *map, uint64_t start, uint64_t nbits)
{
	uint64_t end = start + nbits;

	for (uint64_t w = start / BITMAP_WORD_BITS; w < bitmap_words(end); w++)
		map[w] |= bitmap_word_mask(w, start, end);
}

void bitmap_clear(uint64_t *map, uint64_t start, uint64_t nbits)
{
	uint64_t end = start + nbits;

	for (uint64_t w = start / BITMAP_WORD_BITS; w < bitmap_words(end); w++)
		map[w] &= ~bitmap_word_mask(w, start, end);
}

void bitmap_zero(uint64_t *map, uint64_t nbits)
{
	if (madvise(map, map_bytes(nbits), MADV_DONTNEED) == 0)
		return;
	for (uint64_t w = 0; w < bitmap_words(nbits); w++) /* locked memory */
		__atomic_store_n(&map[w], 0, __ATOMIC_RELAXED);
}

uint64_t bitmap_or_word_atomic(uint64_t *map, uint64_t word, uint64_t bits)
{
	/* Always the locked operation: a plain "is it set already?" could be
	 * read before the caller's write to the page is visible, and the one who
	 * takes the bit in between would send the old page. */
	return bits ? __atomic_fetch_or(&map[word], bits, __ATOMIC_SEQ_CST) &
			       bits
		    : 0;
}

void bitmap_set_atomic(uint64_t *map, uint64_t start, uint64_t nbits)
{
	uint64_t end = start + nbits;

	for (uint64_t w = start / BITMAP_WORD_BITS; w < bitmap_words(end); w++)
		bitmap_or_word_atomic(map, w, bitmap_word_mask(w, start, end));
}

uint64_t bitmap_take_word_atomic(uint64_t *map, uint64_t word)
{
	if (!__atomic_load_n(&map[word], __ATOMIC_RELAXED))
		return 0;
	return __atomic_exchange_n(&map[word], 0, __ATOMIC_ACQUIRE);
}

/* The first bit in [start, end) whose value, after xor with @flip, is set. */
static uint64_t next_bit(const uint64_t *map, uint64_t start, uint64_t end,
			 uint64_t flip)
{
	for (uint64_t w = start / BITMAP_WORD_BITS; w < bitmap_words(end);
	     w++) {
		uint64_t bits =
			(map[w] ^ flip) & bitmap_word_mask(w, start, end);

		if (bits)
			return w * BITMAP_WORD_BITS +
			       (uint64_t)__builtin_ctzll(bits);
	}
	return end;
}

uint64_t bitmap_next_set(const uint64_t *map, uint64_t start, uint64_t end)
{
	return next_bit(map, start, end, 0);
}

uint64_t bitmap_next_clear(const uint64_t *map, uint64_t start, uint64_t end)
{
	return next_bit(map, start, end, ~0ull);
}

uint64_t bitmap_count(const uint64_t *map, uint64_t start, uint64_t end)
{
	uint64_t count = 0;

	for (uint64_t w = start / BITMAP_WORD_BITS; w < bitmap_words(end);
	     w++) {
		uint64_t bits = __atomic_load_n(&map[w], __ATOMIC_RELAXED);

		/* Of a large map most words are zero. */
		if (bits)
			count += (uint64_t)__builtin_popcountll(
				bits & bitmap_word_mask(w, start, end));
	}
	return count;
}
