// SPDX-License-Identifier: Apache-2.0
#include "migrate/verify.h"

#include <errno.h>
#include <isa-l.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "mem/ram.h"

static uint64_t hash_extent(XXH3_state_t *hasher, const struct ram_block *block,
			    uint64_t start, uint64_t end)
{
	uint64_t pages = 0;

	for (uint64_t at = start; at < end; at += RAM_PAGE_SIZE) {
		struct le64 page = le64_of(at >> RAM_PAGE_SHIFT);

		if (isal_zero_detect(block->host + at, RAM_PAGE_SIZE) == 0)
			continue;
		XXH3_64bits_update(hasher, &page, sizeof(page));
		XXH3_64bits_update(hasher, block->host + at, RAM_PAGE_SIZE);
		pages++;
	}
	return pages;
}

int verify_ram(struct mem *mem, uint64_t *ret_hash, uint64_t *ret_pages)
{
	XXH3_state_t *hasher = XXH3_createState();
	struct ram_block *block = NULL;
	uint64_t pages = 0;

	if (!hasher)
		return -ENOMEM;
	XXH3_64bits_reset(hasher);
	while ((block = ram_block_next(mem, block))) {
		uint64_t at = 0, start, end;

		while (ram_block_next_data(block, at, block->size, &start,
					   &end)) {
			pages += hash_extent(hasher, block, start, end);
			at = end;
		}
	}
	*ret_hash = XXH3_64bits_digest(hasher);
	*ret_pages = pages;
	XXH3_freeState(hasher);
	return 0;
}
