// SPDX-License-Identifier: Apache-2.0
/* RAM blocks: mapping, residency, dirty marks. */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "mem/ram.h"
#include "mem/space.h"

#define MIB (1ull << 20)

static int setup(void **state)
{
	*state = mem_new();
	return 0;
}

static int teardown(void **state)
{
	mem_free(*state);
	return 0;
}

static struct ram_block *block_of(struct mem *mem, const char *name,
				  uint64_t size)
{
	struct ram_block *block = NULL;
	struct err err = ERR_INIT;

	if (ram_block_new(mem, name, size, NULL, &block, &err))
		fail_msg("%s", err_msg(&err));
	return block;
}

static void test_blocks_are_aligned_and_sized_as_asked(void **state)
{
	struct ram_options options = { .align = 1ull << 30, .use_thp = true };
	struct ram_block *small, *large;

	small = block_of(*state, "small", 5000);
	assert_int_equal(small->size, 8192);
	assert_int_equal(small->pages, 2);
	assert_int_equal((uintptr_t)small->host % (2 * MIB), 0);
	assert_int_equal(
		ram_block_new(*state, "large", 3 * MIB, &options, &large, NULL),
		0);
	assert_int_equal((uintptr_t)large->host % (1ull << 30), 0);
	memset(large->host, 0x5a, large->size);
	assert_int_equal(large->index, small->index + 1);
	ram_block_free(large);
	ram_block_free(small);
}

/* As a back end may try that has it. */
static void
test_block_that_is_shared_can_be_cut_or_sealed_by_nobody(void **state)
{
	struct ram_block *block = block_of(*state, "a", MIB);
	void *map;

	assert_int_equal(ftruncate(block->fd, 0), -1);
	assert_int_equal(ftruncate(block->fd, 2 * MIB), -1);
	assert_int_equal(fcntl(block->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE),
			 -1);
	map = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, block->fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	munmap(map, MIB);
	ram_block_free(block);
}

static bool has_flag(const char *flags, const char *flag)
{
	const char *at = strstr(flags, flag);

	/* Two letters each, with a blank before and after. */
	return at && at[-1] == ' ' && (at[2] == ' ' || at[2] == '\n');
}

/* Whether the kernel was advised to use huge pages for the mapping at @host. */
static bool is_advised_huge(const void *host)
{
	uintptr_t at = (uintptr_t)host;
	unsigned long start, end;
	bool is_here = false, is_found = false, is_huge = false;
	char line[512];
	FILE *file = fopen("/proc/self/smaps", "re");

	assert_non_null(file);
	while (!is_found && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			is_here = start <= at && at < end;
		if (!is_here || strncmp(line, "VmFlags:", 8) != 0)
			continue;
		is_found = true;
		is_huge = has_flag(line, "hg");
	}
	fclose(file);
	assert_true(is_found);
	return is_huge;
}

static void test_huge_pages_are_advised_where_asked_for_only(void **state)
{
	struct ram_options options = { .use_thp = true };
	struct ram_block *plain, *huge;

	if (access("/sys/kernel/mm/transparent_hugepage", F_OK)) {
		print_message("skipped: no transparent huge pages\n");
		skip();
	}
	plain = block_of(*state, "plain", 4 * MIB);
	assert_int_equal(
		ram_block_new(*state, "huge", 4 * MIB, &options, &huge, NULL),
		0);
	assert_true(is_advised_huge(huge->host));
	assert_true(is_advised_huge(huge->host + huge->size - 1));
	assert_false(is_advised_huge(plain->host));
	ram_block_free(huge);
	ram_block_free(plain);
}

static void test_blocks_are_found_by_name_and_walked_in_order(void **state)
{
	struct ram_block *a = block_of(*state, "a", MIB);
	struct ram_block *b = block_of(*state, "b", MIB);

	assert_ptr_equal(ram_block_find(*state, "b"), b);
	assert_null(ram_block_find(*state, "c"));
	assert_ptr_equal(ram_block_next(*state, NULL), a);
	assert_ptr_equal(ram_block_next(*state, a), b);
	assert_null(ram_block_next(*state, b));
	ram_block_free(a);
	assert_ptr_equal(ram_block_next(*state, NULL), b);
	ram_block_free(b);
	assert_null(ram_block_next(*state, NULL));
}

static void assert_refused(struct mem *mem, const char *name, uint64_t size,
			   const struct ram_options *options, int code,
			   const char *text)
{
	struct ram_block *block = (struct ram_block *)1;
	struct err err = ERR_INIT;

	assert_int_equal(ram_block_new(mem, name, size, options, &block, &err),
			 code);
	assert_ptr_equal(block, (struct ram_block *)1);
	assert_non_null(strstr(err_msg(&err), text));
}

static void test_what_cannot_be_made_is_refused_with_a_reason(void **state)
{
	struct ram_options odd_align = { .align = 3000 };
	struct ram_options odd_page = { .hugepage_size = 4 * MIB };
	struct ram_block *a = block_of(*state, "a", MIB);

	assert_refused(*state, "a", MIB, NULL, -EEXIST, "exists already");
	assert_refused(*state, "b", 0, NULL, -EINVAL, "0 bytes");
	assert_refused(*state, "b", UINT64_MAX, NULL, -EINVAL, "bytes");
	assert_refused(*state, "b", MIB, &odd_align, -EINVAL, "power of two");
	assert_refused(*state, "b", MIB, &odd_page, -EINVAL, "only 2 MiB");
	assert_refused(*state, "a name of more than thirty-one bytes", MIB,
		       NULL, -EINVAL, "at most 31");
	ram_block_free(a);
}

static uint64_t free_huge_pages(void)
{
	FILE *file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/"
			   "free_hugepages",
			   "re");
	unsigned long count = 0;

	if (file) {
		if (fscanf(file, "%lu", &count) != 1)
			count = 0;
		fclose(file);
	}
	return count;
}

static void test_missing_huge_pages_are_refused_at_creation(void **state)
{
	struct ram_options options = { .hugepage_size = 2 * MIB };

	assert_refused(*state, "huge", (free_huge_pages() + 1) * 2 * MIB,
		       &options, -ENOMEM, "/proc/sys/vm/nr_hugepages");
}

static void test_huge_pages_count_as_resident(void **state)
{
	struct ram_options options = { .hugepage_size = 2 * MIB };
	struct ram_block *block;
	uint64_t start, end;

	if (free_huge_pages() < 2) {
		print_message("skipped: no 2 free huge pages of 2 MiB\n");
		skip();
	}
	assert_int_equal(
		ram_block_new(*state, "huge", 3 * MIB, &options, &block, NULL),
		0);
	assert_int_equal(block->size, 4 * MIB);
	assert_true(ram_block_next_data(block, 0, block->size, &start, &end));
	assert_int_equal(start, 0);
	assert_int_equal(end, block->size);
	ram_block_free(block);
}

static void test_only_touched_pages_are_data(void **state)
{
	struct ram_block *block = block_of(*state, "a", 64 * MIB);
	uint64_t start = 1, end = 1;

	assert_false(ram_block_next_data(block, 0, block->size, &start, &end));
	assert_int_equal(start, 1);
	block->host[5 * MIB + 7] = 1;
	block->host[5 * MIB + 4096] = 1;
	assert_true(ram_block_next_data(block, 0, block->size, &start, &end));
	assert_int_equal(start, 5 * MIB);
	assert_int_equal(end, 5 * MIB + 8192);
	assert_true(ram_block_next_data(block, 5 * MIB + 4096, UINT64_MAX,
					&start, &end));
	assert_int_equal(start, 5 * MIB + 4096);
	assert_true(
		ram_block_next_data(block, 0, 5 * MIB + 4096, &start, &end));
	assert_int_equal(end, 5 * MIB + 4096);
	assert_false(ram_block_next_data(block, end + 4096, block->size, &start,
					 &end));
	assert_false(ram_block_next_data(block, 0, 5 * MIB, &start, &end));
	assert_false(
		ram_block_next_data(block, 64 * MIB, 65 * MIB, &start, &end));
	ram_block_free(block);
}

static void test_a_write_marks_every_page_it_meets(void **state)
{
	struct ram_block *block = block_of(*state, "a", 4 * MIB);

	ram_block_mark_dirty(block, 4095, 2);
	ram_block_mark_dirty(block, 0, 0);
	ram_block_mark_dirty(block, 4 * MIB - 1, 1);
	assert_int_equal(bitmap_count(block->dirty, 0, block->pages), 3);
	assert_true(bitmap_test(block->dirty, 0));
	assert_true(bitmap_test(block->dirty, 1));
	assert_true(bitmap_test(block->dirty, 1023));
	ram_block_free(block);
}

static void test_a_mark_tells_how_many_pages_were_dirty_already(void **state)
{
	struct ram_block *block = block_of(*state, "a", 4 * MIB);

	assert_int_equal(ram_block_mark_word(block, 0, 0xf0, false), 0);
	assert_int_equal(ram_block_mark_word(block, 0, 0xff, false), 4);
	/* Across two words; not known, so not marked, and not dirty before. */
	assert_int_equal(ram_block_mark_word(block, 60, 0xff, false), 0);
	assert_int_equal(ram_block_mark_word(block, 60, 0xff, true), 0);
	bitmap_set(block->known, 63, 2);
	assert_int_equal(ram_block_mark_word(block, 60, 0xff, true), 2);
	assert_int_equal(ram_block_mark_word(block, 56, 0xfff, false), 8);
	assert_int_equal(bitmap_count(block->dirty, 0, block->pages), 20);
	ram_block_free(block);
}

static void test_nobody_who_shares_the_memory_can_shrink_it(void **state)
{
	struct ram_block *block = block_of(*state, "a", MIB);

	assert_int_equal(ftruncate(block->fd, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_true(fcntl(block->fd, F_GETFD) & FD_CLOEXEC);
	ram_block_free(block);
}

static void test_a_block_far_larger_than_the_host_costs_nothing(void **state)
{
	struct ram_block *block = block_of(*state, "a", 1ull << 40);

	block->host[(1ull << 40) - 1] = 1;
	ram_block_mark_dirty(block, (1ull << 40) - 1, 1);
	ram_block_free(block);
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_blocks_are_aligned_and_sized_as_asked),
		fact(test_block_that_is_shared_can_be_cut_or_sealed_by_nobody),
		fact(test_huge_pages_are_advised_where_asked_for_only),
		fact(test_blocks_are_found_by_name_and_walked_in_order),
		fact(test_what_cannot_be_made_is_refused_with_a_reason),
		fact(test_missing_huge_pages_are_refused_at_creation),
		fact(test_huge_pages_count_as_resident),
		fact(test_only_touched_pages_are_data),
		fact(test_a_write_marks_every_page_it_meets),
		fact(test_a_mark_tells_how_many_pages_were_dirty_already),
		fact(test_nobody_who_shares_the_memory_can_shrink_it),
		fact(test_a_block_far_larger_than_the_host_costs_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
