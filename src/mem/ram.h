/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM blocks: the host memory behind RAM and ROM regions, each a memfd mapped
 * once and shared (so that vhost-user back ends can map it too), and their
 * dirty bitmaps.
 *
 * Dirty pages.  `dirty` holds the pages of the block that a destination does
 * not have yet, one bit a page: dirty sources set bits at any time (atomically),
 * the one migration thread takes them (D4: and gives them back when a round
 * fails).  `known` holds the pages that have been seen resident and are watched
 * by the accelerator since (accel/kvm/bitmap.c); only the migration thread writes
 * it, and dirty sources may read it at any time (both atomically).  A destination
 * has no such reader: it notes there, without a summary, what came
 * (migrate/ram_recv.c).
 *
 * Each has a summary, one bit for a group of RAM_GROUP_PAGES, so that what is asked
 * of all pages in a pause costs by what is dirty and not by the size of the guest
 * (12 TiB: 96 KiB instead of 384 MiB).  A group with a dirty page is always marked,
 * one without may be; a group that is marked known is known throughout.
 */
#ifndef GODWIT_MEM_RAM_H
#define GODWIT_MEM_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

#define RAM_PAGE_SHIFT 12
#define RAM_PAGE_SIZE  4096ull
/* 64 words of a bitmap, 16 MiB. */
#define RAM_GROUP_PAGES 4096ull

struct err;
struct mem;

struct ram_options {
	uint64_t hugepage_size; /* 0, or 2 MiB: hugetlbfs memfd */
	bool use_thp;           /* MADV_HUGEPAGE */
	uint64_t align;         /* of the mapping; 0 means 2 MiB */
};

struct ram_block {
	/* immutable after init */
	struct mem *mem;
	char name[32];  /* unique in its machine; goes into the stream */
	uint32_t index; /* in order of creation, from 0 */
	int fd;         /* owned memfd */
	uint8_t *host;  /* owned mapping */
	uint64_t size;  /* bytes, a multiple of the backing page size */
	uint64_t pages; /* of RAM_PAGE_SIZE */
	uint64_t hugepage_size;
	/* Advised or made to have large pages: a fault is what gives it one. */
	bool is_huge;

	uint64_t *dirty; /* atomic; see above */
	uint64_t *dirty_groups;
	uint64_t *known;        /* atomic; written by the migration thread */
	uint64_t *known_groups; /* the migration thread's alone */

	struct list link; /* in mem's blocks; protected by the topology lock */
};

/* @size is rounded up to the backing page size.  -EEXIST for a name taken,
 * -ENOMEM or what memfd_create/mmap said. */
int ram_block_new(struct mem *mem, const char *name, uint64_t size,
		  const struct ram_options *options,
		  struct ram_block **ret_block, struct err *err);
void ram_block_free(struct ram_block *block);

struct ram_block *ram_block_find(struct mem *mem, const char *name);
/* The block after @block in order of creation (the first for NULL), or NULL. */
struct ram_block *ram_block_next(struct mem *mem, struct ram_block *block);

/* ---- ram_pages.c: which pages are dirty and known ---- */

/* A write by godwit itself or a back end: any thread, any time. */
void ram_block_mark_dirty(struct ram_block *block, uint64_t offset,
			  uint64_t size);

/*
 * What a log says of 64 pages from @first on, as bits; any thread.  With
 * @is_known_only those that the migration does not watch yet are left out: it finds
 * them resident.  Should it be making one known just now, it reads the page after
 * that, behind the locked instruction that takes its dirty bit: a write that it does
 * not see then came later, and with it the log's word and this look at `known`.
 * Returns how many of them were dirty already.
 */
unsigned int ram_block_mark_word(struct ram_block *block, uint64_t first,
				 uint64_t bits, bool is_known_only);

/* Likewise what a log of @pages says, whose bits past that are zero, of known pages only:
 * KVM's INITIALLY_SET sets those of all others. */
void ram_block_mark_log(struct ram_block *block, uint64_t first,
			const uint64_t *log, uint64_t pages);

/* The other functions are the migration thread's. */

/* How many pages are dirty.  Groups without any are not marked any more. */
uint64_t ram_block_count_dirty(struct ram_block *block);

/* From page @first (a multiple of 64) on, the first multiple of 64 with a dirty page
 * among the 64 from there; @block's pages or more when there is none. */
uint64_t ram_block_next_dirty(const struct ram_block *block, uint64_t first);

void ram_block_mark_known(struct ram_block *block, uint64_t first,
			  uint64_t pages);

/* The first page from @page on that is not known, or @block's pages. */
uint64_t ram_block_next_unknown(const struct ram_block *block, uint64_t page);

/* No page is known. */
void ram_block_forget_known(struct ram_block *block);

/* ---- ram.c: residency ---- */

/* Residency by SEEK_DATA: the first touched page in bytes [start, end), page
 * aligned; false when all of it is a hole.  The cost does not depend on how much
 * is touched behind it.  hugetlbfs memory counts as touched throughout. */
bool ram_block_find_data(const struct ram_block *block, uint64_t start,
			 uint64_t end, uint64_t *ret_at);

/*
 * The same and SEEK_HOLE: the first extent of touched memory in bytes
 * [start, end), page aligned.  false: all of it is a hole.  hugetlbfs memory
 * counts as touched throughout.
 */
bool ram_block_next_data(const struct ram_block *block, uint64_t start,
			 uint64_t end, uint64_t *ret_start, uint64_t *ret_end);

#endif
