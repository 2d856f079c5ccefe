// SPDX-License-Identifier: Apache-2.0
/*
 * Which pages of a RAM block are dirty and known, with a summary of each: see
 * mem/ram.h.
 *
 * A dirty source sets a page's bit and then looks whether its group is marked; the
 * migration thread unmarks a group and then looks for bits in it again.  Both in
 * sequentially consistent order, so one of them sees the other.
 */
#include <assert.h>

#include "base/bitmap.h"
#include "mem_priv.h"

#define GROUP_WORDS (RAM_GROUP_PAGES / BITMAP_WORD_BITS)

uint64_t ram_block_groups(const struct ram_block *block)
{
	return (block->pages + RAM_GROUP_PAGES - 1) / RAM_GROUP_PAGES;
}

static uint64_t bit_of(uint64_t group)
{
	return 1ull << group % BITMAP_WORD_BITS;
}

static void mark_group(struct ram_block *block, uint64_t group)
{
	uint64_t *marks = &block->dirty_groups[group / BITMAP_WORD_BITS];

	/* Many writers, one word: it is left alone where it says so already. */
	if (!(__atomic_load_n(marks, __ATOMIC_SEQ_CST) & bit_of(group)))
		__atomic_fetch_or(marks, bit_of(group), __ATOMIC_SEQ_CST);
}

static unsigned int mark_word(struct ram_block *block, uint64_t word,
			      uint64_t bits)
{
	uint64_t repeats = bitmap_or_word_atomic(block->dirty, word, bits);

	if (bits)
		mark_group(block, word / GROUP_WORDS);
	return (unsigned int)__builtin_popcountll(repeats);
}

void ram_block_mark_dirty(struct ram_block *block, uint64_t offset,
			  uint64_t size)
{
	uint64_t first = offset >> RAM_PAGE_SHIFT;
	uint64_t end;

	if (size == 0)
		return;
	assert(offset < block->size && size <= block->size - offset);
	end = (offset + size + RAM_PAGE_SIZE - 1) >> RAM_PAGE_SHIFT;
	for (uint64_t w = first / BITMAP_WORD_BITS; w < bitmap_words(end); w++)
		mark_word(block, w, bitmap_word_mask(w, first, end));
}

unsigned int ram_block_mark_word(struct ram_block *block, uint64_t first,
				 uint64_t bits, bool is_known_only)
{
	uint64_t word = first / BITMAP_WORD_BITS;
	unsigned int shift = first % BITMAP_WORD_BITS;
	uint64_t low = bits << shift;
	uint64_t high = shift ? bits >> (BITMAP_WORD_BITS - shift) : 0;
	unsigned int repeats;

	if (is_known_only && low)
		low &= __atomic_load_n(&block->known[word], __ATOMIC_RELAXED);
	if (is_known_only && high)
		high &= __atomic_load_n(&block->known[word + 1],
					__ATOMIC_RELAXED);
	repeats = mark_word(block, word, low);
	if (high)
		repeats += mark_word(block, word + 1, high);
	return repeats;
}

/* As far as words of both agree, what is not known is passed over without a call. */
void ram_block_mark_log(struct ram_block *block, uint64_t first,
			const uint64_t *log, uint64_t pages)
{
	uint64_t word = first / BITMAP_WORD_BITS;

	for (uint64_t w = 0; w < bitmap_words(pages); w++) {
		if (log[w] &&
		    (first % BITMAP_WORD_BITS ||
		     (log[w] & __atomic_load_n(&block->known[word + w],
					       __ATOMIC_RELAXED))))
			ram_block_mark_word(block, first + w * BITMAP_WORD_BITS,
					    log[w], true);
	}
}

/* Of the group's words in either map, where they end. */
static uint64_t group_end(const struct ram_block *block, uint64_t group)
{
	uint64_t words = bitmap_words(block->pages);
	uint64_t end = (group + 1) * GROUP_WORDS;

	return end < words ? end : words;
}

static uint64_t count_group(const struct ram_block *block, uint64_t group)
{
	uint64_t count = 0;

	for (uint64_t w = group * GROUP_WORDS; w < group_end(block, group);
	     w++) {
		uint64_t bits =
			__atomic_load_n(&block->dirty[w], __ATOMIC_SEQ_CST);

		if (bits)
			count += (uint64_t)__builtin_popcountll(bits);
	}
	return count;
}

/* Of a group that is marked; one without a dirty page is not any more. */
static uint64_t recount_group(struct ram_block *block, uint64_t group)
{
	uint64_t dirty = count_group(block, group);

	if (dirty)
		return dirty;
	__atomic_fetch_and(&block->dirty_groups[group / BITMAP_WORD_BITS],
			   ~bit_of(group), __ATOMIC_SEQ_CST);
	dirty = count_group(block, group);
	if (dirty)
		mark_group(block, group);
	return dirty;
}

uint64_t ram_block_count_dirty(struct ram_block *block)
{
	uint64_t words = bitmap_words(ram_block_groups(block)), count = 0;

	for (uint64_t m = 0; m < words; m++) {
		uint64_t left = __atomic_load_n(&block->dirty_groups[m],
						__ATOMIC_SEQ_CST);

		for (; left; left &= left - 1)
			count += recount_group(
				block, m * BITMAP_WORD_BITS +
					       (uint64_t)__builtin_ctzll(left));
	}
	return count;
}

uint64_t ram_block_next_dirty(const struct ram_block *block, uint64_t first)
{
	uint64_t words = bitmap_words(block->pages);
	uint64_t word = first / BITMAP_WORD_BITS;

	while (word < words) {
		uint64_t group = word / GROUP_WORDS,
			 m = group / BITMAP_WORD_BITS;
		uint64_t marks = __atomic_load_n(&block->dirty_groups[m],
						 __ATOMIC_SEQ_CST) >>
				 group % BITMAP_WORD_BITS;

		if (!marks) {
			word = (m + 1) * BITMAP_WORD_BITS * GROUP_WORDS;
			continue;
		}
		if (!(marks & 1)) {
			word = (group + (uint64_t)__builtin_ctzll(marks)) *
			       GROUP_WORDS;
			continue;
		}
		for (; word < group_end(block, group); word++) {
			if (__atomic_load_n(&block->dirty[word],
					    __ATOMIC_RELAXED))
				return word * BITMAP_WORD_BITS;
		}
	}
	return block->pages;
}

static bool is_known_throughout(const struct ram_block *block, uint64_t group)
{
	uint64_t first = group * RAM_GROUP_PAGES;
	uint64_t end = first + RAM_GROUP_PAGES;

	if (end > block->pages)
		end = block->pages;
	return bitmap_next_clear(block->known, first, end) == end;
}

void ram_block_mark_known(struct ram_block *block, uint64_t first,
			  uint64_t pages)
{
	uint64_t last = first + pages - 1;

	bitmap_set_atomic(block->known, first, pages);
	for (uint64_t group = first / RAM_GROUP_PAGES;
	     group <= last / RAM_GROUP_PAGES; group++) {
		if (is_known_throughout(block, group))
			bitmap_set(block->known_groups, group, 1);
	}
}

uint64_t ram_block_next_unknown(const struct ram_block *block, uint64_t page)
{
	while (page < block->pages) {
		uint64_t group = page / RAM_GROUP_PAGES;
		uint64_t next = bitmap_next_clear(block->known_groups, group,
						  ram_block_groups(block));
		uint64_t end = (next + 1) * RAM_GROUP_PAGES;

		if (next > group)
			page = next * RAM_GROUP_PAGES;
		if (end > block->pages)
			end = block->pages;
		if (page >= end)
			break;
		page = bitmap_next_clear(block->known, page, end);
		if (page < end)
			return page;
	}
	return block->pages;
}

void ram_block_forget_known(struct ram_block *block)
{
	bitmap_zero(block->known, block->pages);
	bitmap_zero(block->known_groups, ram_block_groups(block));
}
