/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two sides of a move of RAM: memories with the same blocks, a stream in a
 * memfd between them, and on the source's side a dirty log that works as KVM's
 * with manual protect: a sync shows the bits and leaves them, a clear takes
 * them away.
 */
#ifndef GODWIT_TEST_MIGRATE_RAM_PAIR_H
#define GODWIT_TEST_MIGRATE_RAM_PAIR_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "migrate/ram_recv.h"
#include "migrate/ram_send.h"
#include "migrate/stream.h"
#include "migrate/verify.h"

#define BLOCKS 3

/* No multiples of 64, of a window's 1024, or of each other. */
static const uint64_t block_pages[BLOCKS] = { 2090, 1, 70 };

struct side {
	struct mem *mem;
	struct mem_region *root, *regions[BLOCKS];
	struct ram_block *blocks[BLOCKS];
	struct addr_space *as;
};

struct pair;

/* Runs in a callback of the log; @page of @block is about to be sent. */
typedef void pair_hook_fn(struct pair *pair, uint32_t block, uint64_t page);

struct pair {
	struct side from, to;
	struct mem_listener listener;
	uint64_t *log[BLOCKS]; /* atomic; the "kernel's" bits */
	unsigned int syncs, clears, starts, stops;
	uint64_t cleared_pages;
	bool was_last;
	/* Called for each page of a clear, before and after it. */
	pair_hook_fn *before_clear, *after_clear;
	bool is_clear_late; /* a broken log: clears what was sent already */
	bool is_clear_refused;
	uint64_t grace_ns;       /* of the last stop */
	bool is_writing_between; /* page 77 of block 0, after each record */
	uint64_t late[BLOCKS][2200 / 64 + 1];

	struct channel out, in;
	struct record record;
	struct ram_send send;
	struct ram_recv recv;
	struct ram_blocks blocks; /* that may be named */
	uint64_t recv_pages, recv_zero_pages;
	unsigned int checked, unchecked; /* RAM records received */
	uint32_t seed;
};

static inline uint32_t pair_rand(struct pair *pair)
{
	pair->seed = pair->seed * 1664525u + 1013904223u;
	return pair->seed >> 8;
}

static inline void side_init(struct side *side)
{
	side->mem = mem_new();
	side->root = mem_region_new_container(side->mem, "all", MEM_SIZE_2_64);
	for (int i = 0; i < BLOCKS; i++) {
		char name[8] = { (char)('a' + i), '\0' };

		assert_int_equal(ram_block_new(side->mem, name,
					       block_pages[i] << RAM_PAGE_SHIFT,
					       NULL, &side->blocks[i], NULL),
				 0);
		side->regions[i] =
			mem_region_new_ram(side->mem, name, side->blocks[i]);
		mem_region_add(side->root, (uint64_t)i << 32, side->regions[i],
			       0);
	}
	side->as = addr_space_new(side->mem, "memory", side->root);
}

static inline void side_fini(struct side *side)
{
	addr_space_free(side->as);
	for (int i = 0; i < BLOCKS; i++)
		mem_region_put(side->regions[i]);
	mem_region_put(side->root);
	mem_synchronize(side->mem);
	for (int i = 0; i < BLOCKS; i++)
		ram_block_free(side->blocks[i]);
	mem_free(side->mem);
}

/* ---- the guest ---- */

static inline uint8_t *page_at(const struct side *side, uint32_t block,
			       uint64_t page)
{
	return side->blocks[block]->host + (page << RAM_PAGE_SHIFT);
}

/* What a vCPU does; no race that a sanitizer should know of. */
__attribute__((no_sanitize("thread"))) static inline void
guest_store(uint8_t *page, uint64_t value)
{
	volatile uint64_t *words = (volatile uint64_t *)page;

	for (int i = 0; i < 512; i += 73)
		words[i] = value;
}

/* A write that the log hears of, as the hardware does it. */
static inline void guest_write(struct pair *pair, uint32_t block, uint64_t page,
			       uint64_t value)
{
	guest_store(page_at(&pair->from, block, page), value);
	__atomic_fetch_or(&pair->log[block][page / 64], 1ull << page % 64,
			  __ATOMIC_SEQ_CST);
}

/* ---- the log ---- */

static inline int pair_log_start(void *opaque, struct err *err)
{
	struct pair *pair = opaque;

	(void)err;
	pair->starts++;
	return 0;
}

static inline void pair_log_stop(void *opaque, uint64_t grace_ns)
{
	struct pair *pair = opaque;

	pair->stops++;
	pair->grace_ns = grace_ns;
}

static inline void pair_log_sync(void *opaque, bool is_last)
{
	struct pair *pair = opaque;

	pair->syncs++;
	pair->was_last = is_last;
	for (int i = 0; i < BLOCKS; i++) {
		struct ram_block *block = pair->from.blocks[i];

		for (uint64_t w = 0; w < bitmap_words(block->pages); w++)
			ram_block_mark_word(block, w * 64,
					    __atomic_load_n(&pair->log[i][w],
							    __ATOMIC_SEQ_CST),
					    true);
	}
}

static inline void pair_clear_bits(struct pair *pair, uint32_t block,
				   uint64_t word, uint64_t bits)
{
	__atomic_fetch_and(&pair->log[block][word], ~bits, __ATOMIC_SEQ_CST);
}

static inline void pair_call(struct pair *pair, pair_hook_fn *hook,
			     uint32_t block, uint64_t first, uint64_t count,
			     const uint64_t *bits)
{
	uint64_t page = 0;

	while (hook && (page = bitmap_next_set(bits, page, count)) < count)
		hook(pair, block, first + page++);
}

static inline int pair_log_clear(void *opaque, struct ram_block *block,
				 uint64_t first, uint64_t count,
				 const uint64_t *bits, struct err *err)
{
	struct pair *pair = opaque;
	uint32_t b = block->index;

	if (pair->is_clear_refused)
		return err_set(err, -EIO, "nobody watches");
	assert_ptr_equal(block, pair->from.blocks[b]);
	assert_int_equal(first % 64, 0);
	assert_true(first + count <= block->pages);
	pair->clears++;
	pair->cleared_pages += bitmap_count(bits, 0, count);
	pair_call(pair, pair->before_clear, b, first, count, bits);
	for (uint64_t w = 0; w < bitmap_words(count); w++) {
		if (pair->is_clear_late)
			pair->late[b][first / 64 + w] |= bits[w];
		else
			pair_clear_bits(pair, b, first / 64 + w, bits[w]);
	}
	pair_call(pair, pair->after_clear, b, first, count, bits);
	return 0;
}

static const struct mem_listener_ops pair_log_ops = {
	.log_global_start = pair_log_start,
	.log_global_stop = pair_log_stop,
	.log_sync_all = pair_log_sync,
	.log_clear = pair_log_clear,
};

/* ---- both sides ---- */

static inline int pair_setup(void **state)
{
	struct pair *pair = calloc(1, sizeof(*pair));
	char path[64];

	side_init(&pair->from);
	side_init(&pair->to);
	for (int i = 0; i < BLOCKS; i++)
		pair->log[i] = bitmap_new(block_pages[i]);
	mem_listener_add(pair->from.as, &pair->listener, &pair_log_ops, pair,
			 0);
	pair->out = pair->in = (struct channel)CHANNEL_INIT;
	pair->out.fd = memfd_create("stream", MFD_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", pair->out.fd);
	pair->in.fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(pair->in.fd >= 0);
	assert_int_equal(record_init(&pair->record, NULL), 0);
	ram_recv_start(&pair->recv, pair->to.mem);
	pair->blocks.count = BLOCKS;
	memcpy(pair->blocks.pages, block_pages, sizeof(block_pages));
	pair->seed = 1;
	*state = pair;
	return 0;
}

static inline int pair_teardown(void **state)
{
	struct pair *pair = *state;

	ram_send_stop(&pair->send, 0);
	mem_listener_del(&pair->listener);
	for (int i = 0; i < BLOCKS; i++)
		bitmap_free(pair->log[i], block_pages[i]);
	record_fini(&pair->record);
	channel_close(&pair->out);
	channel_close(&pair->in);
	side_fini(&pair->from);
	side_fini(&pair->to);
	free(pair);
	return 0;
}

static inline void pair_start(struct pair *pair, bool is_checked)
{
	struct err err = ERR_INIT;

	if (ram_send_start(&pair->send, pair->from.mem, &pair->out, is_checked,
			   &err))
		fail_msg("%s", err_msg(&err));
}

static inline int take_record(struct pair *pair, struct err *err)
{
	struct ram_runs runs;
	int ret = ram_runs_parse(&pair->record, &pair->blocks, pair->in.is_file,
				 &runs, err);

	if (ret)
		return ret;
	if (pair->record.type == FMT_RAM_ZERO) {
		ram_recv_zero(&pair->recv, &runs);
		pair->recv_zero_pages += runs.pages;
		return 0;
	}
	assert_int_equal(pair->record.type, FMT_RAM);
	if (runs.flags & FMT_RAM_CHECKED)
		pair->checked++;
	else
		pair->unchecked++;
	pair->recv_pages += runs.pages;
	return ram_recv_data(&pair->recv, &runs, &pair->in, &pair->record, err);
}

/* Read all that is in the stream, and empty it. */
static inline int pair_receive(struct pair *pair, struct err *err)
{
	int ret;

	do {
		ret = record_recv(&pair->in, &pair->record, err);
		if (!ret)
			ret = take_record(pair, err);
	} while (!ret);
	assert_int_equal(ftruncate(pair->out.fd, 0), 0);
	lseek(pair->out.fd, 0, SEEK_SET);
	lseek(pair->in.fd, 0, SEEK_SET);
	if (ret == -ENODATA)
		err_clear(err);
	return ret == -ENODATA ? 0 : ret;
}

/* The end of a record, where a late log clears. */
static inline int pair_between(void *opaque, uint64_t pages, struct err *err)
{
	struct pair *pair = opaque;

	(void)pages;
	(void)err;
	if (pair->is_writing_between)
		guest_write(pair, 0, 77, 99);
	for (uint32_t b = 0; pair->is_clear_late && b < BLOCKS; b++) {
		for (uint64_t w = 0; w < bitmap_words(block_pages[b]); w++) {
			pair_clear_bits(pair, b, w, pair->late[b][w]);
			pair->late[b][w] = 0;
		}
	}
	return 0;
}

static inline void pair_pass(struct pair *pair, bool is_stopped)
{
	struct err err = ERR_INIT;

	if (ram_send_pass(&pair->send, is_stopped, pair_between, pair, &err) ||
	    pair_receive(pair, &err))
		fail_msg("%s", err_msg(&err));
}

/* A round of a running guest; returns the pages it began with. */
static inline uint64_t pair_round(struct pair *pair)
{
	uint64_t dirty = ram_send_sync(&pair->send, false);

	pair_pass(pair, false);
	return dirty;
}

static inline uint64_t pair_last_round(struct pair *pair)
{
	uint64_t dirty = ram_send_sync(&pair->send, true);

	pair_pass(pair, true);
	return dirty;
}

static inline bool pair_is_same(const struct pair *pair)
{
	uint64_t from_hash, from_pages, to_hash, to_pages;
	bool is_same = true;

	assert_int_equal(
		verify_ram(pair->from.mem, -1, &from_hash, &from_pages, NULL),
		0);
	assert_int_equal(
		verify_ram(pair->to.mem, -1, &to_hash, &to_pages, NULL), 0);
	for (int i = 0; i < BLOCKS; i++) {
		uint64_t at = 0, start, end;

		/* Holes would be filled by a look. */
		while (ram_block_next_data(pair->from.blocks[i], at, UINT64_MAX,
					   &start, &end)) {
			for (at = start; at < end; at += RAM_PAGE_SIZE) {
				if (memcmp(pair->from.blocks[i]->host + at,
					   pair->to.blocks[i]->host + at,
					   RAM_PAGE_SIZE) != 0)
					is_same = false;
			}
		}
	}
	assert_int_equal(is_same,
			 from_hash == to_hash && from_pages == to_pages);
	return is_same;
}

static inline uint64_t resident_pages(const struct side *side)
{
	uint64_t pages = 0;

	for (int i = 0; i < BLOCKS; i++) {
		uint64_t at = 0, start, end;

		while (ram_block_next_data(side->blocks[i], at, UINT64_MAX,
					   &start, &end)) {
			pages += (end - start) >> RAM_PAGE_SHIFT;
			at = end;
		}
	}
	return pages;
}

#endif
