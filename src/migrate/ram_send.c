// SPDX-License-Identifier: Apache-2.0
/*
 * A pass walks the dirty bitmap in windows of one record: take, clear (D1), sort
 * into data and zeroes, send out of guest memory.
 */
#include "migrate/ram_send.h"

#include <errno.h>
#include <isa-l.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/trace.h"
#include "mem/space.h"
#include "migrate/channel.h"
#include "migrate/stream.h"

int ram_send_start(struct ram_send *ram, struct mem *mem,
		   struct channel *channel, bool is_checked, struct err *err)
{
	memset(ram, 0, sizeof(*ram));
	ram->channel = channel;
	ram->is_checked = is_checked;
	ram->hasher = XXH3_createState();
	if (is_checked)
		ram->bounce = malloc(FMT_RAM_PAGES << RAM_PAGE_SHIFT);
	if (!ram->hasher || (is_checked && !ram->bounce))
		return err_set(err, -ENOMEM, "no memory to send RAM");
	return ram_watch_start(&ram->watch, mem, err);
}

void ram_send_stop(struct ram_send *ram, uint64_t grace_ns)
{
	ram_watch_stop(&ram->watch, grace_ns);
	bytes_writer_fini(&ram->out);
	XXH3_freeState(ram->hasher);
	ram->hasher = NULL;
	free(ram->bounce);
	ram->bounce = NULL;
}

uint64_t ram_send_sync(struct ram_send *ram, bool is_last)
{
	return ram_watch_sync(&ram->watch, is_last);
}

static void add_page(struct fmt_run *runs, uint32_t *count, uint64_t page)
{
	if (*count) {
		struct fmt_run *last = &runs[*count - 1];
		uint64_t pages = le64_get(last->pages);

		if (le64_get(last->first) + pages == page) {
			last->pages = le64_of(pages + 1);
			return;
		}
	}
	runs[(*count)++] = (struct fmt_run){ le64_of(page), le64_of(1) };
}

/* Sort the window's pages into runs of data and of zeroes. */
static void build_runs(struct ram_send *ram, const struct ram_block *block,
		       uint64_t first, uint64_t count)
{
	uint64_t page = 0;

	ram->run_count = ram->zero_run_count = 0;
	while ((page = bitmap_next_set(ram->window, page, count)) < count) {
		void *host = block->host + ((first + page) << RAM_PAGE_SHIFT);

		if (isal_zero_detect(host, RAM_PAGE_SIZE) == 0)
			add_page(ram->zero_runs, &ram->zero_run_count,
				 first + page);
		else
			add_page(ram->runs, &ram->run_count, first + page);
		page++;
	}
}

static int send_zero_runs(struct ram_send *ram, const struct ram_block *block,
			  struct err *err)
{
	const struct fmt_ram head = { .block = le32_of(block->index),
				      .runs = le32_of(ram->zero_run_count) };
	size_t begin = record_begin(&ram->out, FMT_RAM_ZERO);

	bytes_put(&ram->out, &head, sizeof(head));
	bytes_put(&ram->out, ram->zero_runs,
		  ram->zero_run_count * sizeof(ram->zero_runs[0]));
	record_end(&ram->out, begin);
	for (uint32_t i = 0; i < ram->zero_run_count; i++)
		ram->zero_pages += le64_get(ram->zero_runs[i].pages);
	return stream_flush(ram->channel, &ram->out, err);
}

/* One RAM record straight out of guest memory (or out of the bounce buffer,
 * when live pages are to be checked). */
static int send_runs(struct ram_send *ram, const struct ram_block *block,
		     bool is_stopped, struct err *err)
{
	bool is_checked = is_stopped || ram->is_checked;
	struct fmt_ram head = {
		.block = le32_of(block->index),
		.flags = le32_of(is_checked ? FMT_RAM_CHECKED : 0),
		.runs = le32_of(ram->run_count),
	};
	struct {
		struct fmt_record record;
		struct fmt_ram ram;
	} top;
	size_t runs_size = ram->run_count * sizeof(ram->runs[0]);
	uint8_t *copy_at = ram->bounce;
	uint64_t pages = 0;
	XXH3_state_t *hasher = ram->hasher;
	const struct channel_file file = { block->fd, block->host,
					   block->size };
	int ret;

	for (uint32_t i = 0; i < ram->run_count; i++) {
		size_t size = le64_get(ram->runs[i].pages) << RAM_PAGE_SHIFT;
		uint8_t *from = block->host + (le64_get(ram->runs[i].first)
					       << RAM_PAGE_SHIFT);

		if (ram->is_checked && !is_stopped) {
			from = memcpy(copy_at, from, size);
			copy_at += size;
		}
		ram->iov[i + 2] = (struct iovec){ from, size };
		pages += size >> RAM_PAGE_SHIFT;
	}
	top.record.type = le32_of(FMT_RAM);
	top.record.length = le32_of((uint32_t)(sizeof(head) + runs_size +
					       (pages << RAM_PAGE_SHIFT)));
	top.ram = head;
	XXH3_64bits_reset(hasher);
	XXH3_64bits_update(hasher, &top.record,
			   offsetof(struct fmt_record, hash));
	XXH3_64bits_update(hasher, &top.ram, sizeof(top.ram));
	XXH3_64bits_update(hasher, ram->runs, runs_size);
	for (uint32_t i = 0; is_checked && i < ram->run_count; i++)
		XXH3_64bits_update(hasher, ram->iov[i + 2].iov_base,
				   ram->iov[i + 2].iov_len);
	top.record.hash = le64_of(XXH3_64bits_digest(hasher));

	ram->iov[0] = (struct iovec){ &top, sizeof(top) };
	ram->iov[1] = (struct iovec){ ram->runs, runs_size };
	/* A page that changes before the peer reads it is dirty again (D1). */
	ret = channel_send_mapped(ram->channel,
				  block->hugepage_size ? NULL : &file, ram->iov,
				  ram->run_count + 2, err);
	ram->pages += pages;
	trace(mig_ram, "block %u: %lu pages in %u runs", block->index, pages,
	      ram->run_count);
	return ret;
}

/* Take, watch again, read, send: pages [first, first + count) of the block. */
static int send_window(struct ram_send *ram, struct ram_block *block,
		       uint64_t first, uint64_t count, bool is_stopped,
		       uint64_t *pages, struct err *err)
{
	uint64_t taken = ram_watch_take(block, first, count, ram->window);
	int ret = 0;

	if (!taken)
		return 0;
	if (!is_stopped) /* D1 */
		ret = ram_watch_again(&ram->watch, block, first, count,
				      ram->window, err);
	if (!ret)
		build_runs(ram, block, first, count);
	if (!ret && ram->zero_run_count)
		ret = send_zero_runs(ram, block, err);
	if (!ret && ram->run_count)
		ret = send_runs(ram, block, is_stopped, err);
	if (ret) { /* D4 */
		for (uint64_t w = 0; w < bitmap_words(count); w++)
			ram_block_mark_word(block, first + w * 64,
					    ram->window[w], false);
		return ret;
	}
	*pages += taken;
	return 0;
}

int ram_send_pass(struct ram_send *ram, bool is_stopped, ram_send_fn *between,
		  void *opaque, struct err *err)
{
	struct ram_block *block = NULL;
	uint64_t pages = 0;
	int ret;

	while ((block = ram_block_next(ram->watch.mem, block))) {
		uint64_t first = 0, count;

		while ((count = ram_watch_window(block, &first,
						 FMT_RAM_PAGES))) {
			ret = send_window(ram, block, first, count, is_stopped,
					  &pages, err);
			if (!ret)
				ret = between(opaque, pages, err);
			if (ret)
				return ret;
			first = align_up(first + count, 64);
		}
	}
	return 0;
}
