// SPDX-License-Identifier: Apache-2.0
/* bzImages are built here: the header, and a payload of one byte's value. */
#include <asm/bootparam.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "guarded_ram.h"
#include "machine/boot.h"

#define RAM_SIZE     (8 * MIB)
#define KERNEL_GPA   (2 * MIB)
#define INIT_SIZE    (1 * MIB)
#define INITRD_MAX   (6 * MIB - 1)
#define CMDLINE_MAX  100u
#define SETUP_SECTS  2u
#define PAYLOAD_AT   ((SETUP_SECTS + 1) * 512u)
#define PAYLOAD_SIZE 0x1000u
#define HEADER_AT    0x1f1u
#define RANDOM_CASES 25000

struct fixture {
	uint8_t *map;
	struct boot_ram ram;
	struct boot_image image;
	struct boot_entry entry;
	uint8_t bytes[PAYLOAD_AT + PAYLOAD_SIZE];
	size_t size;
	struct err err;
};

static struct setup_header *header(struct fixture *f)
{
	return (struct setup_header *)(f->bytes + HEADER_AT);
}

static void build(struct fixture *f)
{
	memset(f->bytes, 0, PAYLOAD_AT);
	memset(f->bytes + PAYLOAD_AT, 0xc0, PAYLOAD_SIZE);
	f->size = sizeof(f->bytes);
	*header(f) = (struct setup_header){
		.setup_sects = SETUP_SECTS,
		.syssize = PAYLOAD_SIZE / 16,
		.jump = 0x6aeb, /* to the end of the header */
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = INITRD_MAX,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = CMDLINE_MAX,
		.setup_data = 0x1234,
		.pref_address = KERNEL_GPA,
		.init_size = INIT_SIZE,
	};
	f->bytes[0x1ef] = 0xff; /* the sentinel: not to be copied */
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->map = map_guarded(RAM_SIZE);
	f->ram = (struct boot_ram){ 0, RAM_SIZE, f->map + PAGE };
	f->image.ram = &f->ram;
	f->image.ram_count = 1;
	build(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	munmap(f->map, RAM_SIZE + 2 * PAGE);
	free(f);
	return 0;
}

static int load(struct fixture *f)
{
	f->image.kernel = f->bytes;
	f->image.kernel_size = f->size;
	err_clear(&f->err);
	return boot_load(&f->image, &f->entry, &f->err);
}

static void refuse(struct fixture *f, int code, const char *phrase)
{
	assert_int_equal(load(f), code);
	if (!strstr(err_msg(&f->err), phrase))
		fail_msg("'%s' is not in '%s'", phrase, err_msg(&f->err));
	assert_null(strchr(err_msg(&f->err), '\n'));
}

static uint8_t *ram(struct fixture *f, uint64_t gpa)
{
	return f->ram.host + gpa;
}

static uint64_t word(struct fixture *f, uint64_t gpa)
{
	uint64_t value;

	memcpy(&value, ram(f, gpa), sizeof(value));
	return value;
}

static void test_payload_goes_where_the_header_prefers(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(load(f), 0);
	assert_true(f->entry.is_64);
	assert_int_equal(f->entry.entry, KERNEL_GPA + 0x200);
	assert_int_equal(f->entry.ap_entry, 0);
	assert_int_equal(f->entry.info, BOOT_INFO_GPA);
	assert_int_equal(*ram(f, KERNEL_GPA), 0xc0);
	assert_int_equal(*ram(f, KERNEL_GPA + PAYLOAD_SIZE - 1), 0xc0);
	assert_int_equal(*ram(f, KERNEL_GPA + PAYLOAD_SIZE), 0);
	assert_int_equal(*ram(f, KERNEL_GPA - 1), 0);
}

static void test_boot_params_tell_of_all_there_is(void **state)
{
	struct fixture *f = *state;
	const struct boot_reserved pci = { 0xe0000000, 0x10000000 };
	const struct boot_params *params =
		(const struct boot_params *)ram(f, BOOT_INFO_GPA);
	const uint64_t expected[][3] = {
		{ 0, BOOT_HOLE_START, 1 },
		{ BOOT_HOLE_START, BOOT_HOLE_END - BOOT_HOLE_START, 2 },
		{ MIB, RAM_SIZE - MIB, 1 },
		{ 0xe0000000, 0x10000000, 2 },
	};

	memset(ram(f, BOOT_INFO_GPA), 0xff, PAGE);
	f->image.initrd = "archive";
	f->image.initrd_size = 7;
	f->image.cmdline = "console=ttyS0";
	f->image.rsdp_gpa = 0xe0000;
	f->image.reserved = &pci;
	f->image.reserved_count = 1;
	assert_int_equal(load(f), 0);
	assert_int_equal(params->hdr.header, 0x53726448);
	assert_int_equal(params->hdr.type_of_loader, 0xff);
	assert_int_equal(params->hdr.code32_start, KERNEL_GPA);
	assert_int_equal(params->hdr.setup_data, 0);
	assert_int_equal(params->hdr.init_size, INIT_SIZE);
	assert_string_equal(ram(f, params->hdr.cmd_line_ptr), "console=ttyS0");
	assert_int_equal(params->acpi_rsdp_addr, 0xe0000);
	assert_int_equal(params->sentinel, 0);
	assert_int_equal(params->hdr.ramdisk_size, 7);
	assert_memory_equal(ram(f, params->hdr.ramdisk_image), "archive", 7);
	assert_int_equal(params->e820_entries, array_size(expected));
	for (size_t i = 0; i < array_size(expected); i++) {
		assert_int_equal(params->e820_table[i].addr, expected[i][0]);
		assert_int_equal(params->e820_table[i].size, expected[i][1]);
		assert_int_equal(params->e820_table[i].type, expected[i][2]);
	}
}

static void test_without_initrd_there_is_no_ram_disk(void **state)
{
	struct fixture *f = *state;
	const struct boot_params *params =
		(const struct boot_params *)ram(f, BOOT_INFO_GPA);

	header(f)->ramdisk_image = header(f)->ramdisk_size = 77;
	assert_int_equal(load(f), 0);
	assert_int_equal(params->hdr.ramdisk_image, 0);
	assert_int_equal(params->hdr.ramdisk_size, 0);
}

static void test_page_tables_map_4_gib_one_to_one(void **state)
{
	struct fixture *f = *state;
	uint64_t page, gib;

	memset(ram(f, BOOT_TABLES_GPA), 0xff, BOOT_TABLES_SIZE);
	assert_int_equal(load(f), 0);
	for (uint64_t gpa = 0; gpa < 4ull << 30; gpa += 2 * MIB) {
		page = word(f, f->entry.page_table);
		assert_int_equal(page & 0xfff, 3);
		gib = word(f, (page & ~0xfffull) + (gpa >> 30) * 8);
		assert_int_equal(gib & 0xfff, 3);
		page = word(f, (gib & ~0xfffull) + (gpa >> 21 & 511) * 8);
		assert_int_equal(page, gpa | 0x83);
	}
	assert_int_equal(word(f, f->entry.page_table + 8), 0);
}

static void test_descriptors_are_flat(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.gdt_limit, 0x1f);
	assert_int_equal(word(f, f->entry.gdt), 0);
	assert_int_equal(word(f, f->entry.gdt + 0x10), 0x00af9b000000ffff);
	assert_int_equal(word(f, f->entry.gdt + 0x18), 0x00cf93000000ffff);
}

static void test_initrd_ends_where_the_kernel_reaches(void **state)
{
	struct fixture *f = *state;
	const struct boot_params *params =
		(const struct boot_params *)ram(f, BOOT_INFO_GPA);
	uint8_t *initrd = calloc(1, 4 * MIB);

	f->image.initrd = initrd;
	f->image.initrd_size = 3 * MIB;
	assert_int_equal(load(f), 0);
	assert_int_equal(params->hdr.ramdisk_image, 3 * MIB);
	f->image.initrd_size = 3 * MIB + 1;
	refuse(f, -E2BIG, "overlap the kernel at 0x200000");
	header(f)->initrd_addr_max = UINT32_MAX;
	assert_int_equal(load(f), 0);
	assert_int_equal(params->hdr.ramdisk_image, RAM_SIZE - 3 * MIB - PAGE);
	header(f)->initrd_addr_max = MIB;
	refuse(f, -E2BIG, "do not fit");
	free(initrd);
}

static void test_command_line_has_the_kernels_limit(void **state)
{
	struct fixture *f = *state;
	char line[CMDLINE_MAX + 2];

	memset(line, 'x', sizeof(line));
	line[CMDLINE_MAX] = '\0';
	f->image.cmdline = line;
	assert_int_equal(load(f), 0);
	line[CMDLINE_MAX] = 'x';
	line[CMDLINE_MAX + 1] = '\0';
	refuse(f, -E2BIG,
	       "command line: 101 bytes, this kernel takes at most 100");
}

static void test_kernels_of_other_kinds_are_refused(void **state)
{
	struct fixture *f = *state;

	header(f)->version = 0x020b;
	refuse(f, -ENOEXEC, "boot protocol 2.11: at least 2.12 (Linux 3.8)");
	build(f);
	header(f)->xloadflags = 0;
	refuse(f, -ENOEXEC, "without a 64-bit entry point: give an x86-64");
	build(f);
	header(f)->loadflags = 0;
	refuse(f, -ENOEXEC, "without a 64-bit entry point");
	build(f);
	header(f)->header = 0;
	refuse(f, -ENOEXEC, "neither an ELF file nor a bzImage");
}

static void test_absurd_sizes_are_refused(void **state)
{
	struct fixture *f = *state;

	header(f)->syssize = UINT32_MAX;
	refuse(f, -EBADMSG, "cut off: 0xffffffff0 bytes at 0x600");
	build(f);
	header(f)->syssize = 0x20;
	refuse(f, -EBADMSG, "of 0x200 bytes has no entry point");
	build(f);
	header(f)->setup_sects = 0xff;
	refuse(f, -EBADMSG, "cut off");
	build(f);
	header(f)->init_size = UINT32_MAX;
	refuse(f, -E2BIG, "needs 0xffffffff bytes at 0x200000");
	build(f);
	header(f)->pref_address = RAM_SIZE - INIT_SIZE + 1;
	refuse(f, -E2BIG, "give it more memory");
	build(f);
	header(f)->pref_address = ~0ull;
	refuse(f, -EBADMSG, "not between 1 MiB and 4 GiB");
	header(f)->pref_address = BOOT_INFO_GPA;
	refuse(f, -EBADMSG, "not between 1 MiB and 4 GiB");
	build(f);
	header(f)->jump = 0x20eb;
	refuse(f, -EBADMSG, "a header up to 0x222: it needs 0x264");
}

static void test_no_sectors_mean_four(void **state)
{
	struct fixture *f = *state;

	header(f)->setup_sects = 0;
	header(f)->syssize = (sizeof(f->bytes) - 5 * 512) / 16;
	assert_int_equal(load(f), 0);
}

/* The file ends where its mapping ends. */
static void test_kernel_cut_off_at_any_byte_stays_in_bounds(void **state)
{
	struct fixture *f = *state;
	uint8_t *map = map_guarded(2 * PAGE);
	uint8_t *end = map + PAGE + 2 * PAGE;

	for (size_t size = 0; size < f->size; size++) {
		int ret;

		memcpy(end - size, f->bytes, size);
		f->image.kernel = end - size;
		f->image.kernel_size = size;
		ret = boot_load(&f->image, &f->entry, NULL);
		assert_int_equal(ret, size < 0x206 ? -ENOEXEC : -EBADMSG);
	}
	munmap(map, 4 * PAGE);
}

static void test_spoiled_kernels_write_only_ram(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = 0x2545f4914f6cdd1dull;
	unsigned int accepted = 0;

	f->image.initrd = "archive";
	f->image.initrd_size = 7;
	f->image.cmdline = "quiet";
	for (int i = 0; i < RANDOM_CASES; i++) {
		build(f);
		for (uint64_t n = 1 + next_random(&seed) % 6; n > 0; n--) {
			size_t at = HEADER_AT + next_random(&seed) % 0x80;
			uint64_t how = next_random(&seed);

			if (how & 0x100)
				f->bytes[at] ^= 1 << (how & 7);
			else
				f->bytes[at] = (uint8_t)how;
		}
		if (next_random(&seed) % 8 == 0)
			f->size = next_random(&seed) % f->size;
		accepted += load(f) == 0;
	}
	assert_true(accepted > 0);
	assert_true(accepted < RANDOM_CASES);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_payload_goes_where_the_header_prefers),
		TEST(test_boot_params_tell_of_all_there_is),
		TEST(test_without_initrd_there_is_no_ram_disk),
		TEST(test_page_tables_map_4_gib_one_to_one),
		TEST(test_descriptors_are_flat),
		TEST(test_initrd_ends_where_the_kernel_reaches),
		TEST(test_command_line_has_the_kernels_limit),
		TEST(test_kernels_of_other_kinds_are_refused),
		TEST(test_absurd_sizes_are_refused),
		TEST(test_no_sectors_mean_four),
		TEST(test_kernel_cut_off_at_any_byte_stays_in_bounds),
		TEST(test_spoiled_kernels_write_only_ram),
	};

	return cmocka_run_group_tests_name("bzimage", tests, NULL, NULL);
}
