// SPDX-License-Identifier: Apache-2.0
/*
 * Memory tables: where guest-physical memory is in this process.  Built by board.c
 * when RAM came or went; read by dev.c (rings), log.c and the back ends.
 *
 * ROM is left out: a back end has no business writing it, and nobody keeps a ring
 * or a buffer there.
 */
#include <stdlib.h>

#include "base/bytes.h"
#include "mem/ram.h"
#include "vhost_priv.h"

static void append(struct vh_mem_table *table, const struct mem_range *range)
{
	/* Registers of less than a page may lie in RAM; back ends take whole
	 * pages. */
	uint64_t start = align_up(range->gpa, RAM_PAGE_SIZE);
	uint64_t end = (uint64_t)align_down((u128)range->gpa + range->size,
					    (u128)RAM_PAGE_SIZE);
	struct ram_block *block = mem_region_block(range->region);
	uint64_t offset = range->offset + (start - range->gpa);

	if (start < range->gpa || end <= start)
		return;
	if (table->count == VH_REGIONS_MAX) {
		table->is_full = true;
		return;
	}
	table->regions[table->count++] = (struct vh_region){
		.gpa = start,
		.size = end - start,
		.hva = (uintptr_t)block->host + offset,
		.block = block,
		.offset = offset,
	};
}

struct vh_mem_table *vh_table_build(const struct flat_view *view)
{
	struct vh_mem_table *table = calloc(1, sizeof(*table));
	const struct mem_range *range;

	if (!table || !view)
		return table;
	flat_view_for_each(range, view)
	{
		if (mem_region_is_ram(range->region) && !range->is_readonly)
			append(table, range);
	}
	return table;
}

bool vh_region_is_same(const struct vh_region *a, const struct vh_region *b)
{
	return a->gpa == b->gpa && a->size == b->size && a->block == b->block &&
	       a->offset == b->offset;
}

bool vh_table_is_same(const struct vh_mem_table *a,
		      const struct vh_mem_table *b)
{
	if (a->count != b->count || a->is_full != b->is_full)
		return false;
	for (unsigned int i = 0; i < a->count; i++) {
		if (!vh_region_is_same(&a->regions[i], &b->regions[i]))
			return false;
	}
	return true;
}

/* Both ascend by gpa. */
bool vh_table_has_all(const struct vh_mem_table *table,
		      const struct vh_mem_table *old)
{
	unsigned int at = 0;

	for (unsigned int i = 0; i < old->count; i++) {
		while (at < table->count &&
		       !vh_region_is_same(&table->regions[at],
					  &old->regions[i]))
			at++;
		if (at == table->count)
			return false;
	}
	return !old->is_full;
}

const struct vh_region *vh_table_find(const struct vh_mem_table *table,
				      uint64_t gpa, uint64_t size)
{
	for (unsigned int i = 0; i < table->count; i++) {
		const struct vh_region *region = &table->regions[i];

		if (gpa >= region->gpa && gpa - region->gpa < region->size)
			return size <= region->size - (gpa - region->gpa)
				       ? region
				       : NULL;
	}
	return NULL;
}
