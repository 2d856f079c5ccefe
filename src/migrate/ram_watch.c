// SPDX-License-Identifier: Apache-2.0
/* Dirty logs and residency, together. */
#include "migrate/ram_watch.h"

#include "base/bitmap.h"
#include "base/err.h"
#include "mem/space.h"

/*
 * New resident pages become known and dirty.  Only what is not known yet is
 * asked for: known runs are stepped over in the bitmap, holes by SEEK_DATA, so
 * the cost follows the number of borders between the two.
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

uint64_t ram_watch_sync(struct ram_watch *watch, bool is_last)
{
	struct ram_block *block = NULL;
	uint64_t dirty = 0;

	if (!watch->is_begun)
		forget_pages(watch->mem);
	watch->is_begun = true;
	/* Dirty logs first: what they miss because a page was not known yet is
	 * then found resident. */
	mem_log_sync(watch->mem, is_last);
	while ((block = ram_block_next(watch->mem, block))) {
		scan_residency(watch, block);
		dirty += ram_block_count_dirty(block);
	}
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
