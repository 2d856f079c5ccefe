// SPDX-License-Identifier: Apache-2.0
#include "migrate/ram_recv.h"

#include <errno.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "mem/ram.h"
#include "migrate/channel.h"
#include "migrate/stream.h"

/* The checked runs of a RAM or RAM_ZERO record. */
struct runs {
	struct ram_block *block;
	uint32_t flags, count;
	uint64_t pages; /* of all runs */
	const struct fmt_run *run;
};

void ram_recv_start(struct ram_recv *ram, struct mem *mem)
{
	struct ram_block *block = NULL;

	memset(ram, 0, sizeof(*ram));
	ram->mem = mem;
	while ((block = ram_block_next(mem, block)))
		bitmap_clear(block->known, 0, block->pages);
}

static struct ram_block *block_by_index(struct mem *mem, uint32_t index)
{
	struct ram_block *block = NULL;

	while ((block = ram_block_next(mem, block))) {
		if (block->index == index)
			return block;
	}
	return NULL;
}

static int parse_runs(struct ram_recv *ram, const struct record *record,
		      struct runs *runs, struct err *err)
{
	const char *name = record_name(record->type);
	struct fmt_ram head;
	uint64_t next = 0;

	if (record->fixed < sizeof(head))
		return err_set(err, -EBADMSG, "record %s: too short", name);
	memcpy(&head, record->body, sizeof(head));
	runs->flags = le32_get(head.flags);
	runs->count = le32_get(head.runs);
	runs->pages = 0;
	runs->run = (const struct fmt_run *)(record->body + sizeof(head));
	if (le32_get(head.reserved) || runs->flags & ~FMT_RAM_CHECKED)
		return err_set(err, -EBADMSG, "record %s: reserved bits set",
			       name);
	if (runs->count == 0 || runs->count > FMT_RUNS_MAX ||
	    record->fixed !=
		    sizeof(head) + runs->count * sizeof(struct fmt_run))
		return err_set(err, -EBADMSG,
			       "record %s: %u runs do not fit its length", name,
			       runs->count);
	runs->block = block_by_index(ram->mem, le32_get(head.block));
	if (!runs->block)
		return err_set(err, -EBADMSG, "record %s: no RAM block %u",
			       name, le32_get(head.block));
	for (uint32_t i = 0; i < runs->count; i++) {
		uint64_t first = le64_get(runs->run[i].first);
		uint64_t pages = le64_get(runs->run[i].pages);

		if (first < next || first > runs->block->pages || pages == 0 ||
		    pages > runs->block->pages - first)
			return err_set(
				err, -EBADMSG,
				"record %s: run %u, pages 0x%lx + 0x%lx, "
				"is not in order inside block %s",
				name, i, first, pages, runs->block->name);
		next = first + pages;
		runs->pages += pages;
	}
	return 0;
}

int ram_recv_data(struct ram_recv *ram, struct channel *channel,
		  struct record *record, struct err *err)
{
	struct runs runs;
	int ret = parse_runs(ram, record, &runs, err);

	if (ret)
		return ret;
	if (channel->is_file && !(runs.flags & FMT_RAM_CHECKED))
		return err_set(err, -EBADMSG,
			       "record RAM: not checked, in a saved stream");
	if (runs.pages > FMT_RAM_PAGES ||
	    record->length - record->fixed != runs.pages << RAM_PAGE_SHIFT)
		return err_set(err, -EBADMSG,
			       "record RAM: %lu pages in %u bytes", runs.pages,
			       record->length);
	for (uint32_t i = 0; i < runs.count; i++) {
		uint64_t first = le64_get(runs.run[i].first);
		uint64_t pages = le64_get(runs.run[i].pages);

		ram->iov[i].iov_base =
			runs.block->host + (first << RAM_PAGE_SHIFT);
		ram->iov[i].iov_len = pages << RAM_PAGE_SHIFT;
		bitmap_set(runs.block->known, first, pages);
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
				runs.block->host + (le64_get(runs.run[i].first)
						    << RAM_PAGE_SHIFT),
				le64_get(runs.run[i].pages) << RAM_PAGE_SHIFT);
	}
	ram->pages += runs.pages;
	return record_end_ram(channel, record, err);
}

int ram_recv_zero(struct ram_recv *ram, const struct record *record,
		  struct err *err)
{
	struct runs runs;
	int ret = parse_runs(ram, record, &runs, err);

	if (ret)
		return ret;
	if (runs.flags)
		return err_set(err, -EBADMSG, "record RAM_ZERO: flags 0x%x",
			       runs.flags);
	for (uint32_t i = 0; i < runs.count; i++) {
		uint64_t page = le64_get(runs.run[i].first);
		uint64_t end = page + le64_get(runs.run[i].pages);

		while ((page = bitmap_next_set(runs.block->known, page, end)) <
		       end) {
			memset(runs.block->host + (page << RAM_PAGE_SHIFT), 0,
			       RAM_PAGE_SIZE);
			page++;
		}
	}
	ram->zero_pages += runs.pages;
	return 0;
}
