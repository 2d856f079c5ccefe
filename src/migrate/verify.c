// SPDX-License-Identifier: Apache-2.0
/*
 * Both sides hash the same: page number and content of every page that is resident
 * and not zero, block by block.  Zero pages count as absent, for the destination
 * leaves holes where the source had written zeroes.
 */
#include "migrate/verify.h"

#include <errno.h>
#include <isa-l.h>
#include <poll.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "mem/ram.h"

/* Hashed in some 20 ms; then a stop is looked for. */
#define STEP (64ull << 20)

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

static bool is_readable(int fd)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };

	return poll(&poller, 1, 0) > 0;
}

int verify_ram(struct mem *mem, int stop_fd, uint64_t *ret_hash,
	       uint64_t *ret_pages, struct err *err)
{
	XXH3_state_t *hasher = XXH3_createState();
	struct ram_block *block = NULL;
	uint64_t pages = 0;

	if (!hasher)
		return err_set(err, -ENOMEM, "no memory to hash RAM");
	XXH3_64bits_reset(hasher);
	while ((block = ram_block_next(mem, block))) {
		uint64_t at = 0, start, end;

		while (ram_block_next_data(block, at, block->size, &start,
					   &end)) {
			if (is_readable(stop_fd)) {
				XXH3_freeState(hasher);
				return err_set(err, -ECANCELED, "stopped");
			}
			if (end - start > STEP)
				end = start + STEP;
			pages += hash_extent(hasher, block, start, end);
			at = end;
		}
	}
	*ret_hash = XXH3_64bits_digest(hasher);
	*ret_pages = pages;
	XXH3_freeState(hasher);
	return 0;
}
