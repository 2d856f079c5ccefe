// SPDX-License-Identifier: Apache-2.0
/* Reads and writes by address. */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "mem/access.h"
#include "mem/ram.h"
#include "mem/space.h"

struct fixture {
	struct mem *mem;
	struct mem_region *root;
	struct addr_space *as;
	struct ram_block *ram, *rom;
	struct mem_region *device; /* to move from within its handler */
	char text[1024];
};

static uint64_t device_read(void *dev, uint64_t offset, unsigned int size)
{
	struct fixture *f = dev;
	size_t used = strlen(f->text);

	snprintf(f->text + used, sizeof(f->text) - used, "r%lx/%u ", offset,
		 size);
	/* byte n of the device reads as 0xd0 + n */
	return 0xd7d6d5d4d3d2d1d0ull + offset * 0x0101010101010101ull;
}

static void device_write(void *dev, uint64_t offset, uint64_t value,
			 unsigned int size)
{
	struct fixture *f = dev;
	size_t used = strlen(f->text);

	snprintf(f->text + used, sizeof(f->text) - used, "w%lx/%u=%lx ", offset,
		 size, value);
	if (value == 0x40)
		mem_region_set_offset(f->device, 0x40000);
}

static const struct mem_io_ops device_ops = {
	.read = device_read,
	.write = device_write,
};

static const struct mem_io_ops narrow_ops = {
	.read = device_read,
	.write = device_write,
	.max_access = 2,
};

/* 0: 16 KiB of RAM; 8000: 4 KiB of ROM, then the device; f000: a narrow one. */
static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct mem_region *region;

	f->mem = mem_new();
	f->root = mem_region_new_container(f->mem, "root", MEM_SIZE_2_64);
	f->as = addr_space_new(f->mem, "memory", f->root);
	ram_block_new(f->mem, "ram", 0x4000, NULL, &f->ram, NULL);
	ram_block_new(f->mem, "rom", 0x1000, NULL, &f->rom, NULL);
	memset(f->rom->host, 0xee, f->rom->size);
	region = mem_region_new_ram(f->mem, "ram", f->ram);
	mem_region_add(f->root, 0, region, 0);
	mem_region_put(region);
	region = mem_region_new_rom(f->mem, "rom", f->rom);
	mem_region_add(f->root, 0x8000, region, 0);
	mem_region_put(region);
	f->device = mem_region_new_io(f->mem, "dev", 0x1000, &device_ops, f);
	mem_region_add(f->root, 0x9000, f->device, 0);
	region = mem_region_new_io(f->mem, "narrow", 0x1000, &narrow_ops, f);
	mem_region_add(f->root, 0xf000, region, 0);
	mem_region_put(region);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	addr_space_free(f->as);
	mem_region_put(f->device);
	mem_region_put(f->root);
	mem_synchronize(f->mem);
	ram_block_free(f->ram);
	ram_block_free(f->rom);
	mem_free(f->mem);
	free(f);
	return 0;
}

static void test_ram_is_copied_and_its_pages_marked(void **state)
{
	struct fixture *f = *state;
	uint8_t out[5000], in[5000];

	memset(out, 0x3c, sizeof(out));
	assert_int_equal(mem_write(f->as, 0x800, out, sizeof(out)), 0);
	assert_int_equal(mem_read(f->as, 0x800, in, sizeof(in)), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_memory_equal(f->ram->host + 0x800, out, sizeof(out));
	assert_int_equal(bitmap_count(f->ram->dirty, 0, 4), 2);
	assert_false(bitmap_test(f->ram->dirty, 2));
}

static void test_writes_to_rom_are_dropped(void **state)
{
	struct fixture *f = *state;
	uint32_t value = 0;

	assert_int_equal(mem_write(f->as, 0x8000, &value, 4), 0);
	assert_int_equal(mem_read(f->as, 0x8000, &value, 4), 0);
	assert_int_equal(value, 0xeeeeeeee);
	assert_int_equal(bitmap_count(f->rom->dirty, 0, 1), 0);
}

static void test_unassigned_reads_give_all_ones(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[8] = { 0 };

	assert_int_equal(mem_read(f->as, 0x3ffc, bytes, 8), -EFAULT);
	assert_memory_equal(bytes, "\0\0\0\0\xff\xff\xff\xff", 8);
	memset(bytes, 1, sizeof(bytes));
	assert_int_equal(mem_write(f->as, 0x7ffc, bytes, 8), -EFAULT);
	assert_int_equal(mem_write(f->as, 0x3ffc, bytes, 8), -EFAULT);
	assert_memory_equal(f->ram->host + 0x3ffc, "\1\1\1\1", 4);
}

static void test_a_gap_inside_an_access_does_not_stop_it(void **state)
{
	struct fixture *f = *state;
	static uint8_t bytes[0x5000];

	memset(f->ram->host, 0x11, f->ram->size);
	assert_int_equal(mem_read(f->as, 0x3fff, bytes, sizeof(bytes)),
			 -EFAULT);
	assert_int_equal(bytes[0], 0x11);
	assert_int_equal(bytes[1], 0xff);
	assert_int_equal(bytes[0x4000], 0xff);
	assert_int_equal(bytes[0x4001], 0xee);
}

static void test_an_access_past_2_64_ends_there(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[4] = { 0 };
	struct mem_region *top =
		mem_region_new_io(f->mem, "top", 0x1000, &device_ops, f);

	mem_region_add(f->root, 0 - 0x1000ull, top, 0);
	mem_region_put(top);
	assert_int_equal(mem_read(f->as, UINT64_MAX - 1, bytes, 4), -EFAULT);
	assert_string_equal(f->text, "rffe/2 ");
	assert_int_equal(bytes[2], 0xff);
	assert_int_equal(mem_write(f->as, UINT64_MAX - 1, bytes, 4), -EFAULT);
	assert_int_equal(mem_read(f->as, UINT64_MAX - 1, bytes, 2), 0);
	assert_int_equal(mem_read(f->as, 0, bytes, 0), 0);
}

static void test_a_device_sees_aligned_pieces_of_its_largest_size(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[15];

	assert_int_equal(mem_read(f->as, 0x9001, bytes, 15), 0);
	assert_string_equal(f->text, "r1/1 r2/2 r4/4 r8/8 ");
	for (unsigned int i = 0; i < sizeof(bytes); i++)
		assert_int_equal(bytes[i], 0xd1 + i);
	f->text[0] = '\0';
	assert_int_equal(mem_write(f->as, 0x9004, "\1\2\3\4", 4), 0);
	assert_string_equal(f->text, "w4/4=4030201 ");
	f->text[0] = '\0';
	assert_int_equal(mem_write(f->as, 0xf000, "\1\2\3\4", 4), 0);
	assert_int_equal(mem_write(f->as, 0xf001, "\1\2", 2), 0);
	assert_string_equal(f->text, "w0/2=201 w2/2=403 w1/1=1 w2/1=2 ");
}

static void test_an_access_across_ranges_is_split_at_the_boundary(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[8];

	assert_int_equal(mem_read(f->as, 0x8ffc, bytes, 8), 0);
	assert_memory_equal(bytes, "\xee\xee\xee\xee\xd0\xd1\xd2\xd3", 8);
	assert_string_equal(f->text, "r0/4 ");
}

static void test_a_device_may_move_itself_from_its_handler(void **state)
{
	struct fixture *f = *state;
	uint8_t byte = 0x40;

	assert_int_equal(mem_write(f->as, 0x9000, &byte, 1), 0);
	assert_int_equal(mem_read(f->as, 0x9000, &byte, 1), -EFAULT);
	assert_int_equal(mem_read(f->as, 0x40000, &byte, 1), 0);
}

static void test_a_direct_pointer_needs_one_writable_ram_range(void **state)
{
	struct fixture *f = *state;
	struct ram_block *block = NULL;
	uint64_t offset = 0;

	rcu_read_lock();
	assert_ptr_equal(mem_map(f->as, 0x1000, 0x3000, 1, &block, &offset),
			 f->ram->host + 0x1000);
	assert_ptr_equal(block, f->ram);
	assert_int_equal(offset, 0x1000);
	assert_null(mem_map(f->as, 0x1000, 0x3001, 1, NULL, NULL));
	assert_null(mem_map(f->as, 0x1000, SIZE_MAX, 0, NULL, NULL));
	assert_null(mem_map(f->as, 0x9000, 4, 0, NULL, NULL));
	assert_null(mem_map(f->as, 0x7000, 4, 0, NULL, NULL));
	assert_null(mem_map(f->as, 0x8000, 4, 1, NULL, NULL));
	assert_ptr_equal(mem_map(f->as, 0x8000, 4, 0, NULL, NULL),
			 f->rom->host);
	rcu_read_unlock();
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_ram_is_copied_and_its_pages_marked),
		fact(test_writes_to_rom_are_dropped),
		fact(test_unassigned_reads_give_all_ones),
		fact(test_a_gap_inside_an_access_does_not_stop_it),
		fact(test_an_access_past_2_64_ends_there),
		fact(test_a_device_sees_aligned_pieces_of_its_largest_size),
		fact(test_an_access_across_ranges_is_split_at_the_boundary),
		fact(test_a_device_may_move_itself_from_its_handler),
		fact(test_a_direct_pointer_needs_one_writable_ram_range),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
