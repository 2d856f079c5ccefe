// SPDX-License-Identifier: Apache-2.0
/*
 * Run lists are parsed and checked as a whole before a page is touched; data pages
 * are then read by one vectored receive, zero pages cleared only where there is
 * data.
 */
#include "migrate/ram_recv.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "mem/ram.h"
#include "migrate/channel.h"
#include "migrate/stream.h"

void ram_recv_start(struct ram_recv *ram, struct mem *mem)
{
	struct ram_block *block = NULL;

	memset(ram, 0, sizeof(*ram));
	while ((block = ram_block_next(mem, block))) {
		assert(block->index < FMT_BLOCKS_MAX);
		ram->block[block->index] = block;
		ram_block_forget_known(block);
	}
}

static int check_runs(struct ram_runs *runs, uint64_t block_pages,
		      struct err *err)
{
	uint64_t next = 0;

	for (uint32_t i = 0; i < runs->count; i++) {
		uint64_t first = le64_get(runs->run[i].first);
		uint64_t pages = le64_get(runs->run[i].pages);

		if (first < next || first > block_pages || pages == 0 ||
		    pages > block_pages - first)
			return err_set(err, -EBADMSG,
				       "run %u, pages 0x%lx + 0x%lx, "
				       "is not in order inside block %u",
				       i, first, pages, runs->block);
		next = first + pages;
		runs->pages += pages;
	}
	return 0;
}

int ram_runs_parse(const struct record *record, const struct ram_blocks *blocks,
		   bool is_file, struct ram_runs *runs, struct err *err)
{
	bool is_data = record->type == FMT_RAM;
	struct fmt_ram head;
	int ret;

	if (record->fixed < sizeof(head))
		return err_set(err, -EBADMSG, "too short");
	memcpy(&head, record->body, sizeof(head));
	*runs = (struct ram_runs){
		.block = le32_get(head.block),
		.flags = le32_get(head.flags),
		.count = le32_get(head.runs),
		.run = (const struct fmt_run *)(record->body + sizeof(head)),
	};
	if (le32_get(head.reserved) ||
	    runs->flags & ~(is_data ? FMT_RAM_CHECKED : 0))
		return err_set(err, -EBADMSG, "reserved bits are set");
	if (is_data && is_file && !(runs->flags & FMT_RAM_CHECKED))
		return err_set(err, -EBADMSG, "not checked, in a saved stream");
	if (runs->count == 0 || runs->count > FMT_RUNS_MAX ||
	    record->fixed !=
		    sizeof(head) + runs->count * sizeof(struct fmt_run))
		return err_set(err, -EBADMSG, "%u runs do not fit its length",
			       runs->count);
	if (runs->block >= blocks->count || !blocks->pages[runs->block])
		return err_set(err, -EBADMSG, "no RAM block %u", runs->block);
	ret = check_runs(runs, blocks->pages[runs->block], err);
	if (ret)
		return ret;
	if (is_data &&
	    (runs->pages > FMT_RAM_PAGES ||
	     record->length - record->fixed != runs->pages << RAM_PAGE_SHIFT))
		return err_set(err, -EBADMSG, "%lu pages in %u bytes",
			       runs->pages, record->length);
	return 0;
}

int ram_recv_data(struct ram_recv *ram, const struct ram_runs *runs,
		  struct channel *channel, struct record *record,
		  struct err *err)
{
	struct ram_block *block = ram->block[runs->block];
	const struct channel_file file = { block->fd, block->host,
					   block->size };
	int ret;

	for (uint32_t i = 0; i < runs->count; i++) {
		uint64_t first = le64_get(runs->run[i].first);
		uint64_t pages = le64_get(runs->run[i].pages);

		ram->iov[i].iov_base = block->host + (first << RAM_PAGE_SHIFT);
		ram->iov[i].iov_len = pages << RAM_PAGE_SHIFT;
		/* Nobody asks for the summary here, and the guest may wait. */
		bitmap_set(block->known, first, pages);
	}
	/* Large pages come by faults only. */
	ret = channel_recv_mapped(channel, block->is_huge ? NULL : &file,
				  ram->iov, runs->count, err);
	if (ret == -ENODATA) {
		err_clear(err);
		return err_set(err, -EBADMSG, "cut off");
	}
	if (ret)
		return ret;
	if (runs->flags & FMT_RAM_CHECKED) {
		for (uint32_t i = 0; i < runs->count; i++)
			XXH3_64bits_update(
				record->hasher,
				block->host + (le64_get(runs->run[i].first)
					       << RAM_PAGE_SHIFT),
				le64_get(runs->run[i].pages) << RAM_PAGE_SHIFT);
	}
	return record_end_ram(channel, record, err);
}

void ram_recv_zero(struct ram_recv *ram, const struct ram_runs *runs)
{
	struct ram_block *block = ram->block[runs->block];

	for (uint32_t i = 0; i < runs->count; i++) {
		uint64_t page = le64_get(runs->run[i].first);
		uint64_t end = page + le64_get(runs->run[i].pages);

		while ((page = bitmap_next_set(block->known, page, end)) <
		       end) {
			memset(block->host + (page << RAM_PAGE_SHIFT), 0,
			       RAM_PAGE_SIZE);
			page++;
		}
	}
}
