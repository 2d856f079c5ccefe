/* SPDX-License-Identifier: Apache-2.0 */
/* The memory map and the page tables: see ram.h. */
#include "guest/ram.h"

#include <stddef.h>

#include "guest/cpu.h"

/* Xen's public/arch-x86/hvm/start_info.h */
#define HVM_START_MAGIC 0x336ec578
#define HVM_MEMMAP_RAM  1

struct hvm_start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist_paddr;
	uint64_t cmdline_paddr;
	uint64_t rsdp_paddr;
	uint64_t memmap_paddr; /* version 1 and above */
	uint32_t memmap_entries;
	uint32_t reserved;
};

struct hvm_memmap_entry {
	uint64_t addr;
	uint64_t size;
	uint32_t type;
	uint32_t reserved;
};

#define GIB        (1ULL << 30)
#define LARGE_PAGE (LARGE_PAGES * (uint64_t)PAGE_SIZE)
#define MAX_GIB    512 /* one page-directory-pointer table */
#define PTE_TABLE  0x27
#define PTE_LARGE  0xe7
#define PTE_DEVICE 0xff /* the same, uncached */

extern uint64_t boot_pdpt[512];

/*
 * From not-present to present, so no TLB has to be flushed, which ring 3 could
 * not do.
 */
static void map_gib(uint64_t n, uint64_t flags)
{
	uint64_t *dir = (uint64_t *)(DIRS_BASE + n * PAGE_SIZE);

	if (boot_pdpt[n])
		return;
	for (uint64_t i = 0; i < 512; i++)
		dir[i] = (n * GIB + i * LARGE_PAGE) | flags;
	write_once(boot_pdpt[n], (uint64_t)dir | PTE_TABLE);
}

static void map_range(uint64_t start, uint64_t end, uint64_t flags)
{
	for (uint64_t n = start / GIB; n < (end + GIB - 1) / GIB; n++)
		map_gib(n, flags);
}

bool ram_map_device(uint64_t start, uint64_t end)
{
	if (start >= end || end > MAX_GIB * GIB)
		return false;
	map_range(start, end, PTE_DEVICE);
	return true;
}

const char *ram_init(struct ram *ram, uint64_t start_info)
{
	const struct hvm_start_info *info = (const void *)start_info;
	const struct hvm_memmap_entry *entry;
	uint64_t low_end = 0, high_start = 0, high_end = 0;

	if (info->magic != HVM_START_MAGIC)
		return "no PVH start info";
	if (info->version < 1 || !info->memmap_paddr)
		return "the PVH start info has no memory map";
	entry = (const void *)info->memmap_paddr;
	for (uint32_t i = 0; i < info->memmap_entries; i++, entry++) {
		uint64_t start = entry->addr, end = start + entry->size;

		if (entry->type != HVM_MEMMAP_RAM)
			continue;
		if (start <= AREA_BASE && end > AREA_BASE)
			low_end = end & ~(LARGE_PAGE - 1);
		if (start >= 4 * GIB && start < MAX_GIB * GIB && !high_end) {
			high_start = start;
			high_end = end < MAX_GIB * GIB ? end : MAX_GIB * GIB;
		}
	}
	if (!low_end)
		return "no RAM at 16 MiB";
	map_range(AREA_BASE, low_end, PTE_LARGE);
	map_range(high_start, high_end, PTE_LARGE);
	ram->low_pages = (low_end - AREA_BASE) / PAGE_SIZE;
	ram->high_add = high_end ? high_start - low_end : 0;
	ram->pages = ram->low_pages + (high_end - high_start) / PAGE_SIZE;
	return NULL;
}

const char *ram_cmdline(uint64_t start_info)
{
	const struct hvm_start_info *info = (const void *)start_info;

	return (const char *)info->cmdline_paddr;
}
