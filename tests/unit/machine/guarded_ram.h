/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM for the loaders' tests: it lies between guard pages, so that a write
 * outside of it ends the test. */
#ifndef GODWIT_TEST_MACHINE_GUARDED_RAM_H
#define GODWIT_TEST_MACHINE_GUARDED_RAM_H

#include <cmocka.h>
#include <sys/mman.h>

#define PAGE 4096u
#define MIB  (1ull << 20)

/* The bytes begin one page into it. */
static inline uint8_t *map_guarded(size_t size)
{
	uint8_t *map = mmap(NULL, size + 2 * PAGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(map != MAP_FAILED);
	assert_int_equal(mprotect(map + PAGE, size, PROT_READ | PROT_WRITE), 0);
	return map;
}

static inline uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

#endif
