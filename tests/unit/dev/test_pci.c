// SPDX-License-Identifier: Apache-2.0
/* Configuration space, BARs and reset as a guest meets them. */
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#include "dev/pch_reset.h"
#include "mem/ram.h"
#include "pci_board.h"

#define SLOT    1u
#define MEM_ON  PCI_COMMAND_MEMORY
#define BAR_LOW PCI_BASE_ADDRESS_0
#define BAR_BIG PCI_BASE_ADDRESS_2
#define BIG     (32ull << 20)

/* A function with MSI-X in BAR 1, 4 KiB of registers in BAR 0 and a large BAR 2
 * above 4 GiB; its capability's last four bytes are told of. */
struct fixture {
	struct board board;
	struct pci_function *function;
	struct mem_region *low, *big;
	unsigned int capability;

	unsigned int reads, writes, resets;
	uint32_t told_offset, told_size, told_value;
	bool was_mapped; /* when it was reset */
};

static uint64_t tag_read(void *dev, uint64_t offset, unsigned int size)
{
	(void)size;
	return (uint64_t)(uintptr_t)dev + offset;
}

static const struct mem_io_ops tag_ops = { .read = tag_read };

static void on_read(void *opaque, uint32_t offset, uint32_t size)
{
	struct fixture *f = opaque;

	f->reads++;
	f->told_offset = offset;
	f->told_size = size;
	pci_config_put(f->function, offset, 0x12345678, size);
}

static void on_written(void *opaque, uint32_t offset, uint32_t size)
{
	struct fixture *f = opaque;

	f->writes++;
	f->told_offset = offset;
	f->told_size = size;
	f->told_value = pci_config_get(f->function, offset, size);
}

static void on_reset(void *opaque)
{
	struct fixture *f = opaque;

	f->resets++;
	f->was_mapped = pci_config_get(f->function, PCI_COMMAND, 2) & MEM_ON;
}

static const struct pci_function_ops ops = {
	.config_read = on_read,
	.config_written = on_written,
	.reset = on_reset,
};

static void add_function(struct fixture *f, const char *name)
{
	const struct pci_function_config config = {
		.name = name,
		.identity = { .vendor = 0x1af4,
			      .device = 0x1042,
			      .subsystem_vendor = 0x1af4,
			      .subsystem = 0x0002,
			      .revision = 1,
			      .class_code = 0x018000 },
		.ops = &ops,
		.opaque = f,
		.vectors = 4,
		.msix_bar = 1,
	};
	struct err err = ERR_INIT;

	if (pci_function_new(f->board.bus, &config, &f->function, &err))
		fail_msg("%s", err_msg(&err));
	f->low = mem_region_new_io(f->board.mem, "low", 4096, &tag_ops,
				   (void *)0x1000);
	f->big = mem_region_new_io(f->board.mem, "big", BIG, &tag_ops,
				   (void *)0x2000);
	assert_int_equal(pci_bar_add(f->function, 0, f->low, PCI_BAR_32, NULL),
			 0);
	assert_int_equal(
		pci_bar_add(f->function, 2, f->big, PCI_BAR_64_PREFETCH, NULL),
		0);
	f->capability = pci_capability_add(f->function, PCI_CAP_ID_VNDR, 10);
	pci_config(f->function)[f->capability + 2] = 12;
	pci_claim(f->function, f->capability + 4, 4, false);
	pci_claim(f->function, f->capability + 8, 4, true);
}

static void fixture_init(struct fixture *f)
{
	board_init(&f->board);
	add_function(f, "dev0");
	assert_int_equal(pci_bus_assign(f->board.bus, NULL), 0);
}

static void fixture_fini(struct fixture *f)
{
	pci_function_free(f->function);
	mem_region_put(f->low);
	mem_region_put(f->big);
	board_fini(&f->board);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	fixture_init(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fixture_fini(*state);
	free(*state);
	return 0;
}

static uint32_t get(struct fixture *f, unsigned int offset, unsigned int size)
{
	return board_config(&f->board, SLOT, offset, size);
}

static void set(struct fixture *f, unsigned int offset, uint32_t value,
		unsigned int size)
{
	board_config_set(&f->board, SLOT, offset, value, size);
}

static uint64_t bar_get(struct fixture *f, unsigned int offset)
{
	uint64_t address = get(f, offset, 4) & ~0xfu;

	return offset == BAR_BIG
		       ? address | (uint64_t)get(f, offset + 4, 4) << 32
		       : address;
}

static bool shows(struct fixture *f, uint64_t gpa, uint64_t tag)
{
	return board_load(&f->board, gpa, 2) == tag;
}

/* ---- configuration space ---- */

static void test_identity_is_where_the_header_has_it(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, PCI_VENDOR_ID, 2), 0x1af4);
	assert_int_equal(get(f, PCI_DEVICE_ID, 2), 0x1042);
	assert_int_equal(get(f, PCI_REVISION_ID, 1), 1);
	assert_int_equal(get(f, PCI_CLASS_REVISION, 4), 0x01800001);
	assert_int_equal(get(f, PCI_HEADER_TYPE, 1), 0);
	assert_int_equal(get(f, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x00021af4);
	assert_int_equal(get(f, PCI_INTERRUPT_PIN, 1), 0);
	/* The bridge, by which kernels recognise a bus. */
	assert_int_equal(board_config(&f->board, 0, PCI_CLASS_DEVICE, 2),
			 0x0600);
	assert_int_not_equal(board_config(&f->board, 0, PCI_VENDOR_ID, 2),
			     0xffff);
}

static void out_address(struct fixture *f, unsigned int slot,
			unsigned int offset)
{
	board_out(&f->board, 0xcf8,
		  0x80000000u | slot << 11 | (offset & 0xf00) << 16 |
			  (offset & 0xfc),
		  4);
}

static void test_ports_and_ecam_read_the_same_by_every_width(void **state)
{
	struct fixture *f = *state;

	for (unsigned int offset = 0; offset < PCI_CONFIG_SIZE; offset++) {
		for (unsigned int size = 1; size <= 4; size *= 2) {
			uint32_t expected = 0;

			if (offset % 4 + size > 4 ||
			    pci_config(f->function) + offset + size >
				    pci_config(f->function) + PCI_CONFIG_SIZE)
				continue;
			if (offset >= f->capability + 8 &&
			    offset < f->capability + 12)
				continue; /* whose reads have effects */
			memcpy(&expected, pci_config(f->function) + offset,
			       size);
			assert_int_equal(get(f, offset, size), expected);
			out_address(f, SLOT, offset);
			/* Unaligned ones too: 2 bytes at 0xcfd. */
			assert_int_equal(
				board_in(&f->board, 0xcfc + offset % 4, size),
				expected);
		}
	}
}

static void test_ports_write_by_every_width(void **state)
{
	struct fixture *f = *state;
	unsigned int at = f->capability + 4;

	for (unsigned int start = 0; start < 4; start++) {
		for (unsigned int size = 1; size + start <= 4; size++) {
			uint64_t mask = ((1ull << 8 * size) - 1) << 8 * start;

			if (size == 3)
				continue;
			set(f, at, 0x11223344, 4);
			out_address(f, SLOT, at);
			board_out(&f->board, (uint16_t)(0xcfc + start),
				  (uint32_t)(0xaabbccdd >> 8 * start), size);
			assert_int_equal(get(f, at, 4),
					 (0x11223344 & ~mask) |
						 (0xaabbccdd & mask));
		}
	}
}

static void test_address_register_takes_words_only(void **state)
{
	struct fixture *f = *state;

	board_out(&f->board, 0xcf8, 0xffffffff, 4);
	assert_int_equal(board_in(&f->board, 0xcf8, 4), 0x8ffffffc);
	board_out(&f->board, 0xcf8, 0x80000800, 4);
	board_out(&f->board, 0xcf8, 0xff, 1);
	board_out(&f->board, 0xcfa, 0xffff, 2);
	board_out(&f->board, 0xcfb, 0x01, 1);
	assert_int_equal(board_in(&f->board, 0xcf8, 4), 0x80000800);
	assert_int_equal(board_in(&f->board, 0xcf8, 2), 0xffff);
	assert_int_equal(board_in(&f->board, 0xcfc, 4), 0x10421af4);
	board_out(&f->board, 0xcf8, 0x00000800, 4); /* not enabled */
	assert_int_equal(board_in(&f->board, 0xcfc, 4), 0xffffffff);
	board_out(&f->board, 0xcfc, 0, 4);
	board_out(&f->board, 0xcf8, 0x80010800, 4); /* another bus */
	assert_int_equal(board_in(&f->board, 0xcfc, 4), 0xffffffff);
}

static void test_functions_that_are_not_there_read_as_ones(void **state)
{
	struct fixture *f = *state;

	for (unsigned int number = 0; number < 256; number++) {
		uint64_t at = PCI_ECAM_START + number * PCI_CONFIG_SIZE;
		bool is_there = number == 0 || number == SLOT * 8;

		assert_int_equal(board_load(&f->board, at, 2) != 0xffff,
				 is_there);
		if (!is_there) {
			board_store(&f->board, at + 4, 0xffffffff, 4);
			assert_int_equal(board_load(&f->board, at + 0xffc, 4),
					 0xffffffff);
		}
	}
}

static void test_only_writable_bits_change(void **state)
{
	struct fixture *f = *state;
	unsigned int express =
		board_capability(&f->board, SLOT, PCI_CAP_ID_EXP);
	uint8_t before[PCI_CONFIG_SIZE];

	memcpy(before, pci_config(f->function), sizeof(before));
	for (unsigned int offset = 0; offset < PCI_CONFIG_SIZE; offset += 4)
		set(f, offset,
		    offset == express + PCI_EXP_DEVCTL
			    ? ~(uint32_t)PCI_EXP_DEVCTL_BCR_FLR
			    : ~0u,
		    4);
	assert_int_equal(f->resets, 0);
	assert_int_equal(get(f, PCI_COMMAND, 2), 0x0546);
	assert_int_equal(get(f, PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
	assert_int_equal(get(f, PCI_INTERRUPT_LINE, 2), 0x00ff);
	assert_int_equal(get(f, PCI_ROM_ADDRESS, 4), 0);
	assert_int_equal(get(f, PCI_CLASS_REVISION, 4), 0x01800001);
	assert_int_equal(get(f, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x00021af4);
	/* Identifiers and links of capabilities. */
	for (unsigned int at = before[PCI_CAPABILITY_LIST]; at;
	     at = before[at + 1])
		assert_int_equal(get(f, at, 2),
				 before[at] | before[at + 1] << 8);
	for (unsigned int offset = 0x100; offset < PCI_CONFIG_SIZE; offset += 4)
		assert_int_equal(get(f, offset, 4), 0);
}

static void count(void *opaque)
{
	(*(unsigned int *)opaque)++;
}

static void test_reset_port_is_told_from_the_address_by_width(void **state)
{
	struct fixture *f = *state;
	unsigned int resets = 0;
	struct state_registry registry;
	struct pci_bus_config config = {
		.mem = f->board.mem,
		.memory = f->board.memory_root,
		.ports = f->board.ports_root,
		.mmio64_start = BOARD_HIGH,
		.accel = &f->board.accel,
		.state = &registry,
	};
	struct pci_bus *bus;

	assert_int_equal(board_in(&f->board, 0xcf9, 1), 0xff); /* has none */
	state_registry_init(&registry);
	config.reset = pch_reset_new(f->board.mem, NULL, count, &resets,
				     &registry, "pch-reset");
	/* Of two buses the later one is in front. */
	assert_int_equal(pci_bus_new(&config, &bus, NULL), 0);
	board_out(&f->board, 0xcf8, 0x80000600, 4);
	assert_int_equal(board_in(&f->board, 0xcf9, 1), 0);
	assert_int_equal(resets, 0);
	board_out(&f->board, 0xcf9, 0x02, 1);
	assert_int_equal(board_in(&f->board, 0xcf9, 1), 2);
	board_out(&f->board, 0xcf9, 0x06, 1);
	assert_int_equal(resets, 1);
	assert_int_equal(board_in(&f->board, 0xcf8, 4), 0x80000600);
	pci_bus_free(bus);
	pch_reset_free(config.reset);
}

/* ---- BARs ---- */

static void
test_bars_are_placed_and_off_until_the_guest_wants_them(void **state)
{
	struct fixture *f = *state;
	uint64_t low = bar_get(f, BAR_LOW), big = bar_get(f, BAR_BIG);

	assert_in_range(low, PCI_MMIO32_START, PCI_MMIO32_END - 1);
	assert_int_equal(big, BOARD_HIGH);
	assert_int_equal(get(f, BAR_LOW, 1) & 0xf, 0);
	assert_int_equal(get(f, BAR_BIG, 1) & 0xf, 0xc);
	assert_int_equal(get(f, PCI_COMMAND, 2), 0);
	assert_false(shows(f, low, 0x1000));
	assert_false(shows(f, big, 0x2000));
	assert_false(pci_may_master(f->function));
	set(f, PCI_COMMAND, MEM_ON | PCI_COMMAND_MASTER, 2);
	assert_true(shows(f, low, 0x1000));
	assert_true(shows(f, big + 8, 0x2008));
	assert_true(pci_may_master(f->function));
	set(f, PCI_COMMAND, 0, 1);
	assert_false(shows(f, low, 0x1000));
	assert_false(shows(f, big, 0x2000));
	assert_false(pci_may_master(f->function));
}

static void test_sizes_are_found_by_writing_ones(void **state)
{
	struct fixture *f = *state;

	set(f, BAR_LOW, ~0u, 4);
	assert_int_equal(get(f, BAR_LOW, 4), 0xfffff000);
	set(f, BAR_BIG, ~0u, 4);
	set(f, BAR_BIG + 4, ~0u, 4);
	assert_int_equal(get(f, BAR_BIG, 4), 0xfe00000c);
	assert_int_equal(get(f, BAR_BIG + 4, 4), 0xffffffff);
	set(f, PCI_BASE_ADDRESS_4, ~0u, 4); /* there is none */
	assert_int_equal(get(f, PCI_BASE_ADDRESS_4, 4), 0);
}

static void test_bar_moves_in_one_commit(void **state)
{
	struct fixture *f = *state;
	uint64_t big = bar_get(f, BAR_BIG), commits;

	commits = mem_commit_count(f->board.mem);
	set(f, PCI_COMMAND, MEM_ON, 2); /* three BARs */
	assert_int_equal(mem_commit_count(f->board.mem), commits + 1);
	set(f, BAR_BIG, (uint32_t)(big + 4 * BIG), 4);
	assert_int_equal(mem_commit_count(f->board.mem), commits + 2);
	assert_true(shows(f, big + 4 * BIG, 0x2000));
	assert_false(shows(f, big, 0x2000));
	set(f, BAR_BIG, (uint32_t)(big + 4 * BIG), 4); /* the same */
	set(f, PCI_CACHE_LINE_SIZE, 0x10, 1);
	assert_int_equal(mem_commit_count(f->board.mem), commits + 2);
	set(f, PCI_COMMAND, 0, 2);
	assert_int_equal(mem_commit_count(f->board.mem), commits + 3);
	set(f, BAR_BIG, (uint32_t)big, 4); /* off: nobody sees it */
	assert_int_equal(mem_commit_count(f->board.mem), commits + 3);
	set(f, PCI_COMMAND, MEM_ON, 2);
	assert_true(shows(f, big, 0x2000));
}

static void test_bar_moves_by_bytes_and_in_both_halves(void **state)
{
	struct fixture *f = *state;

	set(f, PCI_COMMAND, MEM_ON, 2);
	set(f, BAR_BIG + 4, 4, 1); /* from 8 to 16 GiB */
	assert_true(shows(f, 16ull << 30, 0x2000));
	set(f, BAR_BIG + 3, 0x40, 1);
	assert_true(shows(f, (16ull << 30) + 0x40000000, 0x2000));
	set(f, BAR_LOW + 2, 0xd123, 2);
	assert_true(
		shows(f, 0xd1230000 | (bar_get(f, BAR_LOW) & 0xffff), 0x1000));
}

static void test_bar_outside_of_the_windows_hides_nothing(void **state)
{
	struct fixture *f = *state;
	struct mem_region *ram = mem_region_new_io(f->board.mem, "ram", 4096,
						   &tag_ops, (void *)0x3000);

	mem_region_add(f->board.memory_root, 0x100000, ram, 0);
	set(f, PCI_COMMAND, MEM_ON, 2);
	set(f, BAR_LOW, 0x100000, 4);
	assert_true(shows(f, 0x100000, 0x3000));
	set(f, BAR_LOW, PCI_ECAM_START, 4);
	assert_int_equal(get(f, PCI_VENDOR_ID, 2), 0x1af4);
	set(f, BAR_LOW, 0xfee00000, 4);
	assert_false(shows(f, 0xfee00000, 0x1000));
	set(f, BAR_LOW, 0, 4);
	set(f, BAR_BIG, 0, 4);
	set(f, BAR_BIG + 4, 0, 4);
	assert_false(shows(f, 0, 0x1000));
	set(f, BAR_BIG, ~0u, 4); /* the last of all addresses */
	set(f, BAR_BIG + 4, ~0u, 4);
	assert_false(shows(f, -BIG, 0x2000));
	set(f, BAR_LOW, PCI_MMIO32_END - 4096, 4);
	assert_true(shows(f, PCI_MMIO32_END - 4096, 0x1000));
	mem_region_del(ram);
	mem_region_put(ram);
}

static void test_bars_that_overlap_come_back_when_they_part(void **state)
{
	struct fixture *f = *state;
	uint64_t table = bar_get(f, PCI_BASE_ADDRESS_1);
	uint64_t low = bar_get(f, BAR_LOW);

	set(f, PCI_COMMAND, MEM_ON, 2);
	board_store(&f->board, table + 8, 0x77, 4); /* data of vector 0 */
	set(f, BAR_LOW, (uint32_t)table, 4);
	set(f, PCI_BASE_ADDRESS_1, (uint32_t)table, 4);
	set(f, BAR_LOW, (uint32_t)low, 4);
	assert_true(shows(f, low, 0x1000));
	assert_int_equal(board_load(&f->board, table + 8, 4), 0x77);
}

static void test_bars_that_make_no_sense_are_refused(void **state)
{
	struct fixture *f = *state;
	struct mem_region *odd =
		mem_region_new_container(f->board.mem, "odd", 4096 + 16);
	struct mem_region *small =
		mem_region_new_container(f->board.mem, "small", 8);
	struct mem_region *fits =
		mem_region_new_container(f->board.mem, "fits", 16);
	struct mem_region *huge =
		mem_region_new_container(f->board.mem, "huge", 1ull << 32);

	assert_int_equal(pci_bar_add(f->function, 4, odd, PCI_BAR_32, NULL),
			 -EINVAL);
	assert_int_equal(pci_bar_add(f->function, 4, small, PCI_BAR_32, NULL),
			 -EINVAL);
	assert_int_equal(pci_bar_add(f->function, 4, huge, PCI_BAR_32, NULL),
			 -EINVAL);
	assert_int_equal(pci_bar_add(f->function, 0, fits, PCI_BAR_32, NULL),
			 -EINVAL); /* taken */
	assert_int_equal(pci_bar_add(f->function, 3, fits, PCI_BAR_32, NULL),
			 -EINVAL); /* upper half of 2 */
	assert_int_equal(pci_bar_add(f->function, 5, fits, PCI_BAR_64, NULL),
			 -EINVAL);
	assert_int_equal(pci_bar_add(f->function, 5, fits, PCI_BAR_32, NULL),
			 0);
	mem_region_put(odd);
	mem_region_put(small);
	mem_region_put(fits);
	mem_region_put(huge);
}

static void test_placing_packs_by_size_and_says_what_has_no_room(void **state)
{
	struct board *board = calloc(1, sizeof(*board));
	static const uint64_t sizes[] = { 4096, 128ull << 20, 4096,
					  128ull << 20, 256ull << 20 };
	struct pci_function *functions[array_size(sizes)];
	struct err err = ERR_INIT;

	(void)state;
	board_init(board);
	for (size_t i = 0; i < array_size(sizes); i++) {
		const struct pci_function_config config = {
			.name = (const char *[]){ "a", "b", "c", "d", "e" }[i],
		};
		struct mem_region *region =
			mem_region_new_container(board->mem, "bar", sizes[i]);

		assert_int_equal(pci_function_new(board->bus, &config,
						  &functions[i], NULL),
				 0);
		assert_int_equal(
			pci_bar_add(functions[i], 0, region, PCI_BAR_32, NULL),
			0);
		mem_region_put(region);
	}
	/* 512 MiB are taken by the three largest. */
	assert_int_equal(pci_bus_assign(board->bus, &err), -ENOSPC);
	assert_non_null(strstr(err_msg(&err), "a-pci"));
	assert_int_equal(board_config(board, 5, PCI_BASE_ADDRESS_0, 4),
			 PCI_MMIO32_START);
	assert_int_equal(board_config(board, 2, PCI_BASE_ADDRESS_0, 4),
			 PCI_MMIO32_START + (256u << 20));
	assert_int_equal(board_config(board, 4, PCI_BASE_ADDRESS_0, 4),
			 PCI_MMIO32_START + (384u << 20));
	for (size_t i = 0; i < array_size(sizes); i++)
		pci_function_free(functions[i]);
	board_fini(board);
	free(board);
}

static void test_bus_has_room_for_31_functions(void **state)
{
	struct board *board = calloc(1, sizeof(*board));
	struct pci_function *functions[PCI_SLOTS] = { NULL };
	struct err err = ERR_INIT;
	char name[8];

	(void)state;
	board_init(board);
	for (unsigned int i = 1; i < PCI_SLOTS; i++) {
		const struct pci_function_config config = { .name = name };

		snprintf(name, sizeof(name), "f%u", i);
		assert_int_equal(pci_function_new(board->bus, &config,
						  &functions[i], NULL),
				 0);
	}
	assert_int_equal(pci_function_new(board->bus,
					  &(struct pci_function_config){
						  .name = "one-more" },
					  &functions[0], &err),
			 -ENOSPC);
	for (unsigned int i = 1; i < PCI_SLOTS; i++)
		pci_function_free(functions[i]);
	board_fini(board);
	free(board);
}

/* ---- capabilities, ops, reset ---- */

static void test_capabilities_are_linked_until_there_is_no_room(void **state)
{
	struct fixture *f = *state;
	unsigned int at, last = 0, count = 0;

	assert_int_not_equal(board_capability(&f->board, SLOT, PCI_CAP_ID_EXP),
			     0);
	assert_int_equal(board_capability(&f->board, SLOT, PCI_CAP_ID_VNDR),
			 f->capability);
	while ((at = pci_capability_add(f->function, PCI_CAP_ID_VNDR, 18))) {
		assert_int_equal(at % 4, 0);
		assert_true(at >= last + 20 && at + 20 <= 256);
		last = at;
		count++;
	}
	assert_true(count >= 3);
	for (at = get(f, PCI_CAPABILITY_LIST, 1); get(f, at + 1, 1);
	     at = get(f, at + 1, 1))
		;
	assert_int_equal(at, last);
}

static void test_device_is_told_of_what_it_claimed(void **state)
{
	struct fixture *f = *state;
	unsigned int at = f->capability + 8;

	set(f, at - 4, 0x01020304, 4);
	assert_int_equal(get(f, at - 4, 4), 0x01020304);
	assert_int_equal(f->reads + f->writes, 0);
	set(f, at, 0xabcd, 2);
	assert_int_equal(f->writes, 1);
	assert_int_equal(f->told_offset, at);
	assert_int_equal(f->told_size, 2);
	assert_int_equal(f->told_value, 0xabcd);
	assert_int_equal(get(f, at + 3, 1), 0x78);
	assert_int_equal(f->reads, 1);
	assert_int_equal(f->told_offset, at + 3);
	assert_int_equal(f->told_size, 1);
}

static void test_function_level_reset_is_as_power_up(void **state)
{
	struct fixture *f = *state;
	unsigned int express =
		board_capability(&f->board, SLOT, PCI_CAP_ID_EXP);
	uint64_t low = bar_get(f, BAR_LOW), table;
	uint8_t fresh[PCI_CONFIG_SIZE];

	assert_true(get(f, express + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR);
	memcpy(fresh, pci_config(f->function), sizeof(fresh));
	memset(fresh + BAR_LOW, 0, 24);
	fresh[BAR_BIG] = 0xc;
	set(f, PCI_COMMAND, MEM_ON | PCI_COMMAND_MASTER, 2);
	table = bar_get(f, PCI_BASE_ADDRESS_1);
	board_store(&f->board, table + 12, 0, 4);
	set(f, board_capability(&f->board, SLOT, PCI_CAP_ID_MSIX) + 2,
	    PCI_MSIX_FLAGS_ENABLE, 2);
	set(f, f->capability + 4, ~0u, 4);
	assert_int_equal(f->board.irqfds, 1);

	set(f, express + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR, 2);
	assert_int_equal(f->resets, 1);
	assert_true(f->was_mapped); /* the device goes first */
	assert_int_equal(f->board.irqfds, 2);
	assert_false(shows(f, low, 0x1000));
	assert_false(pci_may_master(f->function));
	assert_memory_equal(pci_config(f->function), fresh, sizeof(fresh));
	/* By the byte that has it, and never read back. */
	set(f, express + PCI_EXP_DEVCTL + 1, 0x80, 1);
	assert_int_equal(f->resets, 2);
	set(f, express + PCI_EXP_DEVCTL, 0x80, 1);
	assert_int_equal(f->resets, 2);
	assert_int_equal(get(f, express + PCI_EXP_DEVCTL, 2), 0x80);
	set(f, BAR_LOW, (uint32_t)low, 4);
	set(f, PCI_COMMAND, MEM_ON, 2);
	assert_true(shows(f, low, 0x1000));
}

/* ---- several vCPUs ---- */

struct vcpus {
	struct fixture *f;
	bool is_ending; /* atomic */
};

static void *move_bars(void *opaque)
{
	struct vcpus *v = opaque;

	for (uint32_t i = 0; i < 300; i++) {
		set(v->f, BAR_LOW, 0xd0000000 + i % 7 * 4096, 4);
		set(v->f, PCI_COMMAND, i % 3 ? MEM_ON | PCI_COMMAND_MASTER : 0,
		    2);
	}
	set(v->f, PCI_COMMAND, MEM_ON | PCI_COMMAND_MASTER, 2);
	return NULL;
}

static void *mask_vectors(void *opaque)
{
	struct vcpus *v = opaque;
	unsigned int at = board_capability(&v->f->board, SLOT, PCI_CAP_ID_MSIX);
	uint64_t table = bar_get(v->f, PCI_BASE_ADDRESS_1);

	for (uint32_t i = 0; i < 300; i++) {
		set(v->f, at + PCI_MSIX_FLAGS,
		    i % 2 ? PCI_MSIX_FLAGS_ENABLE : 0, 2);
		board_store(&v->f->board, table + 12, i % 5 == 0, 4);
		board_load(&v->f->board, table + 64, 8); /* pending bits */
	}
	set(v->f, at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	return NULL;
}

static void *interrupt(void *opaque)
{
	struct vcpus *v = opaque;

	while (!__atomic_load_n(&v->is_ending, __ATOMIC_ACQUIRE)) {
		msix_notify(pci_msix(v->f->function), 0);
		pci_may_master(v->f->function);
		get(v->f, PCI_COMMAND, 4);
	}
	return NULL;
}

static void test_vcpus_in_one_function_leave_it_whole(void **state)
{
	struct fixture *f = *state;
	struct vcpus v = { .f = f };
	pthread_t threads[4];

	pthread_create(&threads[0], NULL, interrupt, &v);
	pthread_create(&threads[1], NULL, move_bars, &v);
	pthread_create(&threads[2], NULL, mask_vectors, &v);
	pthread_create(&threads[3], NULL, mask_vectors, &v);
	for (int i = 1; i < 4; i++)
		pthread_join(threads[i], NULL);
	__atomic_store_n(&v.is_ending, true, __ATOMIC_RELEASE);
	pthread_join(threads[0], NULL);
	/* MSI-X and the BARs are as the registers say in the end. */
	board_store(&f->board, bar_get(f, PCI_BASE_ADDRESS_1) + 12, 0, 4);
	assert_int_equal(f->board.gsis[0].fd,
			 msix_fd(pci_msix(f->function), 0));
	assert_true(shows(f, bar_get(f, BAR_LOW), 0x1000));
	assert_true(pci_may_master(f->function));
}

/* ---- state ---- */

static void test_moved_function_is_where_the_guest_put_it(void **state)
{
	struct fixture *f = *state, *there = calloc(1, sizeof(*there));
	uint64_t commits;

	fixture_init(there);
	set(f, BAR_LOW, 0xd0000000, 4);
	set(f, BAR_BIG + 4, 4, 4);
	set(f, PCI_COMMAND, MEM_ON | PCI_COMMAND_MASTER, 2);
	set(f, f->capability + 4, 0xcafe, 4);
	board_out(&f->board, 0xcf8, 0x80000810, 4);
	commits = mem_commit_count(there->board.mem);
	assert_int_equal(board_move_state(&f->board, &there->board), 0);
	assert_int_equal(mem_commit_count(there->board.mem), commits + 1);
	assert_true(shows(there, 0xd0000000, 0x1000));
	assert_true(shows(there, 16ull << 30, 0x2000));
	assert_true(pci_may_master(there->function));
	assert_int_equal(board_in(&there->board, 0xcfc, 4), 0xd0000000);
	assert_memory_equal(pci_config(there->function),
			    pci_config(f->function), PCI_CONFIG_SIZE);
	assert_int_equal(there->writes + there->resets, 0);
	fixture_fini(there);
	free(there);
}

static void test_pre_state_leaves_nothing_to_do_in_the_switch(void **state)
{
	struct fixture *f = *state, *there = calloc(1, sizeof(*there));
	unsigned int msix = board_capability(&f->board, SLOT, PCI_CAP_ID_MSIX);
	uint64_t commits;

	fixture_init(there);
	set(f, BAR_LOW, 0xd0000000, 4);
	set(f, PCI_COMMAND, MEM_ON | PCI_COMMAND_MASTER, 2);
	for (unsigned int i = 0; i < 3; i++)
		board_store(&f->board,
			    bar_get(f, PCI_BASE_ADDRESS_1) + 16 * i + 12, 0, 4);
	set(f, msix + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	msix_notify(pci_msix(f->function), 3); /* which is masked */

	assert_int_equal(board_move_setup(&f->board, &there->board), 0);
	assert_true(shows(there, 0xd0000000, 0x1000));
	assert_int_equal(there->board.tells, 1);
	assert_int_equal(there->board.irqfds, 3);
	assert_int_equal(board_load(&there->board,
				    bar_get(there, PCI_BASE_ADDRESS_1) + 64, 8),
			 0); /* nothing is pending yet */

	/* One vector is masked in the time between. */
	board_store(&f->board, bar_get(f, PCI_BASE_ADDRESS_1) + 12, 1, 4);
	commits = mem_commit_count(there->board.mem);
	assert_int_equal(board_move_state(&f->board, &there->board), 0);
	assert_int_equal(mem_commit_count(there->board.mem), commits);
	assert_int_equal(there->board.tells, 1);
	assert_int_equal(there->board.irqfds, 4); /* that one is unbound */
	assert_int_equal(board_load(&there->board,
				    bar_get(there, PCI_BASE_ADDRESS_1) + 64, 8),
			 8);
	fixture_fini(there);
	free(there);
}

static void
test_msix_turned_off_after_the_pre_state_delivers_nothing(void **state)
{
	struct fixture *f = *state, *there = calloc(1, sizeof(*there));
	unsigned int msix = board_capability(&f->board, SLOT, PCI_CAP_ID_MSIX);
	int fd;

	fixture_init(there);
	set(f, PCI_COMMAND, MEM_ON | PCI_COMMAND_MASTER, 2);
	board_store(&f->board, bar_get(f, PCI_BASE_ADDRESS_1) + 12, 0, 4);
	set(f, msix + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	assert_int_equal(board_move_setup(&f->board, &there->board), 0);
	fd = msix_fd(pci_msix(there->function), 0);
	assert_int_equal(there->board.gsis[0].fd, fd);

	set(f, msix + PCI_MSIX_FLAGS, 0, 2);
	msix_notify(pci_msix(f->function), 0);
	there->board.refuses_written = true;
	assert_int_equal(board_move_state(&f->board, &there->board), 0);
	assert_int_equal(there->board.gsis[0].fd, -1);
	assert_int_equal(board_load(&there->board,
				    bar_get(there, PCI_BASE_ADDRESS_1) + 64, 8),
			 1);
	fixture_fini(there);
	free(there);
}

static void test_loading_what_did_not_move_changes_no_topology(void **state)
{
	struct fixture *f = *state, *there = calloc(1, sizeof(*there));
	uint64_t commits;

	fixture_init(there);
	commits = mem_commit_count(there->board.mem);
	assert_int_equal(board_move_state(&f->board, &there->board), 0);
	assert_int_equal(mem_commit_count(there->board.mem), commits);
	fixture_fini(there);
	free(there);
}

static void test_state_of_another_device_is_refused(void **state)
{
	struct fixture *f = *state;
	struct state_entry *entry = state_find(&f->board.state, "dev0-pci");
	uint8_t bytes[256 + 1] = { [256] = SLOT };
	struct err err = ERR_INIT;

	memcpy(bytes, pci_config(f->function), 256);
	bytes[PCI_DEVICE_ID]++;
	assert_int_equal(state_load(entry, 1, bytes, sizeof(bytes), &err),
			 -EBADMSG);
	assert_non_null(strstr(err_msg(&err), "10431af4"));
	bytes[PCI_DEVICE_ID]--;
	bytes[PCI_CLASS_DEVICE + 1] ^= 1;
	assert_int_equal(state_load(entry, 1, bytes, sizeof(bytes), NULL),
			 -EBADMSG);
}

static void test_state_of_another_slot_is_refused(void **state)
{
	struct fixture *f = *state;
	struct state_entry *entry = state_find(&f->board.state, "dev0-pci");
	uint8_t bytes[256 + 1] = { [256] = SLOT + 1 };
	struct err err = ERR_INIT;

	memcpy(bytes, pci_config(f->function), 256);
	assert_int_equal(state_load(entry, 1, bytes, sizeof(bytes), &err),
			 -EBADMSG);
	assert_non_null(strstr(err_msg(&err), "same order"));
	bytes[256] = SLOT;
	assert_int_equal(state_load(entry, 1, bytes, sizeof(bytes), NULL), 0);
}

static void test_hostile_state_sets_no_more_than_a_guest_can(void **state)
{
	struct fixture *f = *state;
	struct state_entry *entry = state_find(&f->board.state, "dev0-pci");
	struct state_entry *bus = state_find(&f->board.state, "pci");
	uint8_t bytes[256 + 1], before[256];

	memcpy(before, pci_config(f->function), sizeof(before));
	memset(bytes, 0xff, sizeof(bytes));
	bytes[256] = SLOT;
	memcpy(bytes, before, PCI_COMMAND);
	memcpy(bytes + PCI_CLASS_REVISION, before + PCI_CLASS_REVISION, 4);
	assert_int_equal(state_load(entry, 1, bytes, sizeof(bytes), NULL), 0);
	assert_int_equal(state_activate(entry, NULL), 0);
	assert_int_equal(get(f, PCI_COMMAND, 4), 0x00100546);
	assert_int_equal(get(f, BAR_BIG, 4), 0xfe00000c);
	assert_int_equal(get(f, PCI_BASE_ADDRESS_4, 4), 0);
	assert_int_equal(get(f, PCI_CAPABILITY_LIST, 1),
			 before[PCI_CAPABILITY_LIST]);
	assert_int_equal(f->resets, 0);
	assert_int_equal(state_load(bus, 1, "\xff\xff\xff\xff", 4, NULL), 0);
	assert_int_equal(board_in(&f->board, 0xcf8, 4), 0x8ffffffc);
	assert_int_equal(board_in(&f->board, 0xcfc, 4), 0xffffffff);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_identity_is_where_the_header_has_it),
		T(test_ports_and_ecam_read_the_same_by_every_width),
		T(test_ports_write_by_every_width),
		T(test_address_register_takes_words_only),
		T(test_functions_that_are_not_there_read_as_ones),
		T(test_only_writable_bits_change),
		T(test_reset_port_is_told_from_the_address_by_width),
		T(test_bars_are_placed_and_off_until_the_guest_wants_them),
		T(test_sizes_are_found_by_writing_ones),
		T(test_bar_moves_in_one_commit),
		T(test_bar_moves_by_bytes_and_in_both_halves),
		T(test_bar_outside_of_the_windows_hides_nothing),
		T(test_bars_that_overlap_come_back_when_they_part),
		T(test_bars_that_make_no_sense_are_refused),
		cmocka_unit_test(
			test_placing_packs_by_size_and_says_what_has_no_room),
		cmocka_unit_test(test_bus_has_room_for_31_functions),
		T(test_capabilities_are_linked_until_there_is_no_room),
		T(test_device_is_told_of_what_it_claimed),
		T(test_function_level_reset_is_as_power_up),
		T(test_vcpus_in_one_function_leave_it_whole),
		T(test_moved_function_is_where_the_guest_put_it),
		T(test_pre_state_leaves_nothing_to_do_in_the_switch),
		T(test_msix_turned_off_after_the_pre_state_delivers_nothing),
		T(test_loading_what_did_not_move_changes_no_topology),
		T(test_state_of_another_device_is_refused),
		T(test_state_of_another_slot_is_refused),
		T(test_hostile_state_sets_no_more_than_a_guest_can),
	};

	return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
