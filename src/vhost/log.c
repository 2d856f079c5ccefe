// SPDX-License-Identifier: Apache-2.0
/*
 * Dirty logs: one a back-end type, a bit for each guest-physical page, set by back
 * ends after each write has completed (D1) and taken here, once a round.
 *
 * The scan reads words plainly and exchanges only those that are not zero: of an
 * idle guest, which is where its cost counts, it only reads, at memory's speed.
 *
 * A log is sparse, as guest-physical memory is: only what stands for a table's
 * regions is ever touched.
 */
#include <errno.h>
#include <fcntl.h>
#include <isa-l/mem_routines.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "mem/ram.h"
#include "vhost_priv.h"

/* A log word stands for 256 KiB of guest memory. */
#define WORD_SHIFT (RAM_PAGE_SHIFT + 6)
/* Words that are looked at in one go: for 128 MiB. */
#define STRIDE 512u

/* More than guest-physical addresses of 51 bits need. */
#define LOG_SIZE_MAX (1ull << 36)

static uint64_t size_for(const struct vh_mem_table *table)
{
	const struct vh_region *last;

	if (!table->count)
		return 4096;
	last = &table->regions[table->count - 1];
	/* whole pages of it: it is mapped */
	return align_up((((last->gpa + last->size - 1) >> WORD_SHIFT) + 1) * 8,
			4096ull);
}

/* Have the pages there before the first scan or write needs them. */
static void populate(struct vh_log *log, const struct vh_mem_table *table)
{
	for (unsigned int i = 0; i < table->count; i++) {
		const struct vh_region *region = &table->regions[i];
		uint64_t start =
			align_down((region->gpa >> WORD_SHIFT) * 8, 4096ull);
		uint64_t end = align_up(
			((region->gpa + region->size - 1) >> WORD_SHIFT) * 8 +
				8,
			4096ull);

		/* advice: an older kernel has them come one by one */
		madvise((uint8_t *)log->words + start, end - start,
			MADV_POPULATE_WRITE);
	}
}

/* Sealed: a back end that could cut it would have the next scan die of SIGBUS, and one
 * that could forbid writing to it would have others refuse it. */
static int open_memfd(struct vh_log *log, struct err *err)
{
	log->fd = memfd_create("godwit:vhost-log",
			       MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (log->fd < 0 || ftruncate(log->fd, (off_t)log->size) < 0 ||
	    fcntl(log->fd, F_ADD_SEALS,
		  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_set_errno(err, -errno, "vhost: dirty log");
	return 0;
}

int vh_log_new(const struct vh_mem_table *table, struct vh_log **ret_log,
	       struct err *err)
{
	struct vh_log *log = calloc(1, sizeof(*log));
	int ret = 0;

	if (!log)
		return err_set(err, -ENOMEM, "vhost: no memory for a log");
	log->words = MAP_FAILED;
	log->fd = -1;
	log->size = size_for(table);
	if (log->size > LOG_SIZE_MAX)
		ret = err_set(err, -E2BIG,
			      "vhost: a dirty log of %lu bytes, at most %llu",
			      log->size, LOG_SIZE_MAX);
	else
		ret = open_memfd(log, err);
	if (!ret)
		log->words = mmap(NULL, log->size, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_NORESERVE, log->fd, 0);
	if (!ret && log->words == MAP_FAILED)
		ret = err_set_errno(err, -errno, "vhost: mapping a dirty log");
	if (ret) {
		vh_log_free(log);
		return ret;
	}
	populate(log, table);
	*ret_log = log;
	return 0;
}

void vh_log_free(struct vh_log *log)
{
	if (!log)
		return;
	if (log->words != MAP_FAILED)
		munmap(log->words, log->size);
	if (log->fd >= 0)
		close(log->fd);
	free(log);
}

bool vh_log_covers(const struct vh_log *log, const struct vh_mem_table *table)
{
	return size_for(table) <= log->size;
}

static bool is_zero(const uint64_t *words, uint64_t word)
{
	return !__atomic_load_n(&words[word], __ATOMIC_RELAXED);
}

/* The first word in [word, end) that is not zero, or @end.  A back end that sets a
 * bit meanwhile is seen now or in the next round, as is one that sets it later. */
static uint64_t next_word(const uint64_t *words, uint64_t word, uint64_t end)
{
	while (word < end && word % STRIDE && is_zero(words, word))
		word++;
	if (word % STRIDE == 0) {
		while (word + STRIDE <= end &&
		       !isal_zero_detect((void *)(uintptr_t)(words + word),
					 STRIDE * sizeof(*words)))
			word += STRIDE;
	}
	while (word < end && is_zero(words, word))
		word++;
	return word;
}

/* Pages [start, end) of guest-physical memory, all of them in @region. */
static void scan_pages(struct vh_log *log, const struct vh_region *region,
		       uint64_t start, uint64_t end)
{
	uint64_t word_end = (end + 63) / 64;
	uint64_t base = region->gpa >> RAM_PAGE_SHIFT;
	uint64_t word = start / 64;

	while ((word = next_word(log->words, word, word_end)) < word_end) {
		/* The rest of the word may be another region's. */
		uint64_t mask = bitmap_word_mask(word, start, end);
		uint64_t first = word * 64;
		/* acquire: the page is read after the bit is taken */
		uint64_t bits = __atomic_fetch_and(&log->words[word], ~mask,
						   __ATOMIC_ACQ_REL) &
				mask;

		if (first < base) {
			bits >>= base - first;
			first = base;
		}
		if (bits)
			ram_block_mark_word(region->block,
					    (region->offset >> RAM_PAGE_SHIFT) +
						    first - base,
					    bits, false);
		word++;
	}
}

void vh_log_scan(struct vh_log *log, const struct vh_mem_table *table,
		 uint64_t gpa, uint64_t size)
{
	uint64_t word = gpa >> WORD_SHIFT, end;
	const struct vh_region *region;

	if (!size || gpa + size < gpa)
		return;
	end = ((gpa + size - 1) >> WORD_SHIFT) + 1;
	/* An idle ring's region is not even looked for. */
	if (end > log->size / sizeof(*log->words))
		return;
	/* One or two words, which a call of next_word() would cost twice. */
	while (word < end && is_zero(log->words, word))
		word++;
	if (word == end)
		return;
	region = vh_table_find(table, gpa, size);
	if (region)
		scan_pages(log, region, gpa >> RAM_PAGE_SHIFT,
			   ((gpa + size - 1) >> RAM_PAGE_SHIFT) + 1);
}

void vh_log_scan_all(struct vh_log *log, const struct vh_mem_table *table)
{
	for (unsigned int i = 0; i < table->count; i++) {
		const struct vh_region *region = &table->regions[i];

		scan_pages(log, region, region->gpa >> RAM_PAGE_SHIFT,
			   (region->gpa + region->size) >> RAM_PAGE_SHIFT);
	}
}
