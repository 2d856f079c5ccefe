/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What boot.c found out, for the loaders of the two formats.
 *
 * A loader checks all that the file says and where everything goes, and only
 * then writes; boot_plan_initrd() and boot_write_common() are its steps for
 * what both formats share.
 */
#ifndef GODWIT_MACHINE_BOOT_PRIV_H
#define GODWIT_MACHINE_BOOT_PRIV_H

#include "machine/boot.h"

#define BOOT_PAGE 4096ull

/* RAM, its part above the hole, the hole itself, and what is reserved. */
#define BOOT_MAP_MAX (2 * BOOT_RANGES_MAX + 2)

struct range {
	uint64_t start, end; /* half open */
};

static inline bool ranges_overlap(struct range a, struct range b)
{
	return a.start < b.end && b.start < a.end;
}

/* The values are those of E820 and of PVH's map. */
enum boot_map_type {
	BOOT_MAP_RAM = 1,
	BOOT_MAP_RESERVED = 2,
};

struct boot_plan {
	const struct boot_image *image;
	size_t cmdline_size; /* without the NUL, at most BOOT_CMDLINE_MAX */
	unsigned int map_count;
	struct {
		struct range range;
		enum boot_map_type type;
	} map[BOOT_MAP_MAX];
	uint64_t initrd_gpa; /* 0 without one */
};

/* The host address of [gpa, gpa + size) when all of it lies in one piece of
 * RAM, else NULL. */
uint8_t *boot_ram_at(const struct boot_image *image, uint64_t gpa,
		     uint64_t size);
/* The same, of what the guest may use and boot data does not. */
bool boot_is_usable(const struct boot_image *image, uint64_t gpa,
		    uint64_t size);

/* The highest place that ends at @limit or before, and below 4 GiB; it has to
 * leave the @kernel's @count ranges. */
int boot_plan_initrd(struct boot_plan *plan, uint64_t limit,
		     const struct range *kernel, unsigned int count,
		     struct err *err);
/* Initrd and command line. */
void boot_write_common(const struct boot_plan *plan);

/* The loaders; errors as of boot_load(). */
int pvh_load(struct boot_plan *plan, struct boot_entry *ret_entry,
	     struct err *err);
int bzimage_load(struct boot_plan *plan, struct boot_entry *ret_entry,
		 struct err *err);
/* By the file's magic; @size may be anything. */
bool pvh_is_elf(const void *kernel, size_t size);
bool bzimage_is_one(const void *kernel, size_t size);

#endif
