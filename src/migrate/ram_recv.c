// SPDX-License-Identifier: Apache-2.0
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
		ram->blocks.pages[block->index] = block->pages;
		if (block->index >= ram->blocks.count)
			ram->blocks.count = block->index + 1;
		bitmap_clear(block->known, 0, block->pages);
	}
}

static int check_runs(const struct record *record, struct ram_runs *runs,
		      uint64_t block_pages, struct err *err)
{
	uint64_t next = 0;

	for (uint32_t i = 0; i < runs->count; i++) {
		uint64_t first = le64_get(runs->run[i].first);
		uint64_t pages = le64_get(runs->run[i].pages);

		if (first < next || first > block_pages || pages == 0 ||
		    pages > block_pages - first)
			return err_set(
				err, -EBADMSG,
				"record %s: run %u, pages 0x%lx + 0x%lx, "
				"is not in order inside block %u",
				record_name(record->type), i, first, pages,
				runs->block);
		next = first + pages;
		runs->pages += pages;
	}
	return 0;
}

int ram_runs_parse(const struct record *record, const struct ram_blocks *blocks,
		   bool is_file, struct ram_runs *runs, struct err *err)
{
	const char *name = record_name(record->type);
	bool is_data = record->type == FMT_RAM;
	struct fmt_ram head;
	int ret;

	if (record->fixed < sizeof(head))
		return err_set(err, -EBADMSG, "record %s: too short", name);
	memcpy(&head, record->body, sizeof(head));
	*runs = (struct ram_runs){
		.block = le32_get(head.block),
		.flags = le32_get(head.flags),
		.count = le32_get(head.runs),
		.run = (const struct fmt_run *)(record->body + sizeof(head)),
	};
	if (le32_get(head.reserved) ||
	    runs->flags & ~(is_data ? FMT_RAM_CHECKED : 0))
		return err_set(err, -EBADMSG, "record %s: reserved bits set",
			       name);
	if (is_data && is_file && !(runs->flags & FMT_RAM_CHECKED))
		return err_set(err, -EBADMSG,
			       "record %s: not checked, in a saved stream",
			       name);
	if (runs->count == 0 || runs->count > FMT_RUNS_MAX ||
	    record->fixed !=
		    sizeof(head) + runs->count * sizeof(struct fmt_run))
		return err_set(err, -EBADMSG,
			       "record %s: %u runs do not fit its length", name,
			       runs->count);
	if (runs->block >= blocks->count || !blocks->pages[runs->block])
		return err_set(err, -EBADMSG, "record %s: no RAM block %u",
			       name, runs->block);
	ret = check_runs(record, runs, blocks->pages[runs->block], err);
	if (ret)
		return ret;
	if (is_data &&
	    (runs->pages > FMT_RAM_PAGES ||
	     record->length - record->fixed != runs->pages << RAM_PAGE_SHIFT))
		return err_set(err, -EBADMSG,
			       "record %s: %lu pages in %u bytes", name,
			       runs->pages, record->length);
	return 0;
}

int ram_recv_data(struct ram_recv *ram, struct channel *channel,
		  struct record *record, struct err *err)
{
	struct ram_block *block;
	struct ram_runs runs;
	int ret = ram_runs_parse(record, &ram->blocks, channel->is_file, &runs,
				 err);

	if (ret)
		return ret;
	block = ram->block[runs.block];
	for (uint32_t i = 0; i < runs.count; i++) {
		uint64_t first = le64_get(runs.run[i].first);
		uint64_t pages = le64_get(runs.run[i].pages);

		ram->iov[i].iov_base = block->host + (first << RAM_PAGE_SHIFT);
		ram->iov[i].iov_len = pages << RAM_PAGE_SHIFT;
		bitmap_set(block->known, first, pages);
	}
	ret = channel_recv(channel, ram->iov, runs.count, err);
	if (ret == -ENODATA) {
		err_clear(err);
		return err_set(err, -EBADMSG, "record RAM: cut off");
	}
	if (ret)
		return ret;
	if (runs.flags & FMT_RAM_CHECKED) {
		for (uint32_t i = 0; i < runs.count; i++)
			XXH3_64bits_update(
				record->hasher,
				block->host + (le64_get(runs.run[i].first)
					       << RAM_PAGE_SHIFT),
				le64_get(runs.run[i].pages) << RAM_PAGE_SHIFT);
	}
	ram->pages += runs.pages;
	return record_end_ram(channel, record, err);
}

int ram_recv_zero(struct ram_recv *ram, const struct record *record,
		  struct err *err)
{
	struct ram_block *block;
	struct ram_runs runs;
	int ret = ram_runs_parse(record, &ram->blocks, false, &runs, err);

	if (ret)
		return ret;
	block = ram->block[runs.block];
	for (uint32_t i = 0; i < runs.count; i++) {
		uint64_t page = le64_get(runs.run[i].first);
		uint64_t end = page + le64_get(runs.run[i].pages);

		while ((page = bitmap_next_set(block->known, page, end)) <
		       end) {
			memset(block->host + (page << RAM_PAGE_SHIFT), 0,
			       RAM_PAGE_SIZE);
			page++;
		}
	}
	ram->zero_pages += runs.pages;
	return 0;
}
