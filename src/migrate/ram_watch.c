// SPDX-License-Identifier: Apache-2.0
/* Dirty logs and residency, together. */
#include "migrate/ram_watch.h"

#include <assert.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "mem/space.h"

/*
 * New resident pages become known and dirty.  Only what is not known yet is
 * asked for: known runs are stepped over in the bitmap, holes by SEEK_DATA, so
 * the cost follows the number of borders between the two.
 *
 * That the memfd has as many blocks as at the last look (one fstat()) would not do
 * instead: under memory pressure the kernel drops pages that were only read, and counts
 * them off when the next one is allocated (shmem_recalc_inode()).
 */
static void scan_residency(struct ram_watch *watch, struct ram_block *block)
{
	uint64_t page = 0;

	while ((page = ram_block_next_unknown(block, page)) < block->pages) {
		uint64_t start, end, last;

		if (!ram_block_find_data(block, page << RAM_PAGE_SHIFT,
					 block->size, &start))
			return;
		page = start >> RAM_PAGE_SHIFT;
		/* SEEK_HOLE walks all of an extent (30 ns a page): only new
		 * ones are worth it. */
		if (bitmap_test(block->known, page))
			continue;
		if (!ram_block_next_data(block, start, block->size, &start,
					 &end))
			return;
		last = bitmap_next_set(block->known, page,
				       end >> RAM_PAGE_SHIFT);
		ram_block_mark_known(block, page, last - page);
		ram_block_mark_dirty(block, page << RAM_PAGE_SHIFT,
				     (last - page) << RAM_PAGE_SHIFT);
		watch->known_pages += last - page;
		page = last;
	}
}

int ram_watch_start(struct ram_watch *watch, struct mem *mem, struct err *err)
{
	int ret = mem_log_global_start(mem, err);

	/* Only then are the logs and bitmaps ours. */
	*watch = (struct ram_watch){ .mem = ret ? NULL : mem };
	return ret;
}

void ram_watch_stop(struct ram_watch *watch, uint64_t grace_ns)
{
	if (watch->mem)
		mem_log_global_stop(watch->mem, grace_ns);
	watch->mem = NULL;
}

/* Of who watched before.  A bit that is left in a dirty bitmap is no loss: its
 * page is resident, and becomes dirty as it becomes known. */
static void forget_pages(struct mem *mem)
{
	struct ram_block *block = NULL;

	while ((block = ram_block_next(mem, block)))
		ram_block_forget_known(block);
}

void ram_watch_look(struct ram_watch *watch)
{
	struct ram_block *block = NULL;

	if (!watch->is_begun)
		forget_pages(watch->mem);
	watch->is_begun = true;
	while ((block = ram_block_next(watch->mem, block)))
		scan_residency(watch, block);
}

uint64_t ram_watch_sync(struct ram_watch *watch, bool is_last)
{
	struct ram_block *block = NULL;
	uint64_t dirty = 0;

	/* Dirty logs first: what they miss because a page was not known yet is
	 * then found resident. */
	mem_log_sync(watch->mem, is_last);
	ram_watch_look(watch);
	while ((block = ram_block_next(watch->mem, block)))
		dirty += ram_block_count_dirty(block);
	return dirty;
}

uint64_t ram_watch_window(const struct ram_block *block, uint64_t *first,
			  uint64_t max)
{
	*first = ram_block_next_dirty(block, *first);
	if (*first >= block->pages)
		return 0;
	return block->pages - *first < max ? block->pages - *first : max;
}

uint64_t ram_watch_take(struct ram_block *block, uint64_t first, uint64_t count,
			uint64_t *window)
{
	uint64_t taken = 0;

	for (uint64_t w = 0; w < bitmap_words(count); w++) {
		window[w] =
			bitmap_take_word_atomic(block->dirty, first / 64 + w);
		taken += (uint64_t)__builtin_popcountll(window[w]);
	}
	return taken;
}

/* Pages [first, end) were holes, and are watched since: what became resident before
 * that is dirty. */
static void find_late(struct ram_watch *watch, struct ram_block *block,
		      uint64_t first, uint64_t end)
{
	uint64_t at = first << RAM_PAGE_SHIFT, start;

	while (ram_block_next_data(block, at, end << RAM_PAGE_SHIFT, &start,
				   &at)) {
		ram_block_mark_dirty(block, start, at - start);
		watch->known_pages += (at - start) >> RAM_PAGE_SHIFT;
	}
}

int ram_watch_again(struct ram_watch *watch, struct ram_block *block,
		    uint64_t first, uint64_t count, const uint64_t *window,
		    struct err *err)
{
	uint64_t bits[RAM_WATCH_PAGES / 64], holes[RAM_WATCH_PAGES / 64];
	uint64_t page = 0;
	int ret;

	assert(count <= RAM_WATCH_PAGES);
	for (uint64_t w = 0; w < bitmap_words(count); w++) {
		holes[w] = ~block->known[first / 64 + w] &
			   bitmap_word_mask(w, 0, count);
		bits[w] = window[w] | holes[w];
	}
	ret = mem_log_clear(watch->mem, block, first, count, bits, err);
	if (ret)
		return ret;
	/* Known first: a write that comes behind the look is the log's. */
	ram_block_mark_known(block, first, count);
	while ((page = bitmap_next_set(holes, page, count)) < count) {
		uint64_t end = bitmap_next_clear(holes, page, count);

		find_late(watch, block, first + page, first + end);
		page = end;
	}
	return 0;
}
