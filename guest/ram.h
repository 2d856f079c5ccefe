/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM as a row of pages, across the hole below 4 GiB.
 *
 * Page 0 is at AREA_BASE.  Two ranges of the memory map are used, the one
 * that AREA_BASE is in and the first that starts at 4 GiB or above; they
 * are mapped one to one, so a guest physical address is also a pointer.
 */
#ifndef GODWIT_GUEST_RAM_H
#define GODWIT_GUEST_RAM_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/layout.h"

#define PAGE_SIZE   4096
#define LARGE_PAGES 512 /* pages in 2 MiB */

struct ram {
	uint64_t pages;     /* in both ranges */
	uint64_t low_pages; /* in the first */
	uint64_t high_add;  /* bytes to add from page low_pages on */
};

static inline uint64_t ram_gpa(const struct ram *ram, uint64_t page)
{
	uint64_t gpa = AREA_BASE + page * PAGE_SIZE;

	return page < ram->low_pages ? gpa : gpa + ram->high_add;
}

/*
 * Finds the ranges in PVH's hvm_start_info at @start_info and maps what is
 * above 1 GiB.  Returns NULL or what is wrong with it, as a phrase.
 */
const char *ram_init(struct ram *ram, uint64_t start_info);

/* The command line in @start_info, or NULL. */
const char *ram_cmdline(uint64_t start_info);

/*
 * Maps device registers, uncached, and all that is in the same GiB and not mapped
 * yet.  False when the range is out of reach.
 */
bool ram_map_device(uint64_t start, uint64_t end);

/*
 * Takes at least @pages off the end of the first range, in steps of 2 MiB, so
 * that page numbers stay aligned as addresses.  0 when they do not fit.
 */
static inline uint64_t ram_take_low(struct ram *ram, uint64_t pages)
{
	pages = (pages + LARGE_PAGES - 1) & ~(uint64_t)(LARGE_PAGES - 1);
	if (pages > ram->low_pages)
		return 0;
	ram->low_pages -= pages;
	ram->pages -= pages;
	ram->high_add += pages * PAGE_SIZE;
	return AREA_BASE + ram->low_pages * PAGE_SIZE;
}

#endif
