// SPDX-License-Identifier: Apache-2.0
/* Kernels are built here, byte by byte. */
#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "guarded_ram.h"
#include "machine/boot.h"

#define RAM_SIZE     (4 * MIB)
#define HIGH_GPA     (4ull << 30)
#define HIGH_SIZE    (1 * MIB)
#define RANDOM_CASES 25000

#define TEXT_GPA 0x100000u
#define DATA_GPA 0x108000u
#define BSS_SIZE 0x2000u

/* A file with two segments and their notes. */
struct kernel {
	uint8_t bytes[8192];
	size_t size;
	bool is_64;
};

struct fixture {
	uint8_t *low_map, *high_map;
	struct boot_ram ram[2];
	struct boot_image image;
	struct boot_entry entry;
	struct kernel kernel;
	struct err err;
};

static size_t put_note(uint8_t *to, const char *owner, uint32_t type,
		       const void *desc, uint32_t desc_size)
{
	uint32_t owner_size = (uint32_t)strlen(owner) + 1;
	uint32_t head[] = { owner_size, desc_size, type };
	size_t at = sizeof(head);

	memcpy(to, head, sizeof(head));
	memcpy(to + at, owner, owner_size);
	at += align_up(owner_size, 4);
	memcpy(to + at, desc, desc_size);
	return at + align_up(desc_size, 4);
}

#define PHDRS_AT 64
#define TEXT_AT  0x200
#define DATA_AT  0x300
#define NOTES_AT 0x400

static void put_phdr(struct kernel *kernel, unsigned int index,
		     const Elf64_Phdr *p)
{
	Elf32_Phdr p32 = {
		.p_type = p->p_type,
		.p_offset = (Elf32_Off)p->p_offset,
		.p_paddr = (Elf32_Addr)p->p_paddr,
		.p_filesz = (Elf32_Word)p->p_filesz,
		.p_memsz = (Elf32_Word)p->p_memsz,
		.p_align = (Elf32_Word)p->p_align,
	};

	if (kernel->is_64)
		memcpy(kernel->bytes + PHDRS_AT + index * sizeof(*p), p,
		       sizeof(*p));
	else
		memcpy(kernel->bytes + PHDRS_AT + index * sizeof(p32), &p32,
		       sizeof(p32));
}

static void put_ehdr(struct kernel *kernel)
{
	Elf64_Ehdr e64 = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1 },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_phoff = PHDRS_AT,
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 3,
	};
	Elf32_Ehdr e32 = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1 },
		.e_type = ET_EXEC,
		.e_machine = EM_386,
		.e_phoff = PHDRS_AT,
		.e_phentsize = sizeof(Elf32_Phdr),
		.e_phnum = 3,
	};

	if (kernel->is_64)
		memcpy(kernel->bytes, &e64, sizeof(e64));
	else
		memcpy(kernel->bytes, &e32, sizeof(e32));
}

static void build_kernel(struct kernel *kernel, bool is_64)
{
	const uint64_t entry = TEXT_GPA + 4;
	const uint32_t ap_entry = TEXT_GPA + 8;
	uint8_t *notes = kernel->bytes + NOTES_AT;
	size_t size = 0;

	memset(kernel, 0, sizeof(*kernel));
	kernel->is_64 = is_64;
	put_ehdr(kernel);
	memset(kernel->bytes + TEXT_AT, 0x90, 0x100);
	memset(kernel->bytes + DATA_AT, 0xda, 0x100);
	size += put_note(notes + size, "GNU", 3, "build-id", 8);
	size += put_note(notes + size, "Xen", 18, &entry, is_64 ? 8 : 4);
	size += put_note(notes + size, "godwit", 1, &ap_entry, 4);
	put_phdr(kernel, 0,
		 &(Elf64_Phdr){ .p_type = PT_LOAD,
				.p_offset = TEXT_AT,
				.p_paddr = TEXT_GPA,
				.p_filesz = 0x100,
				.p_memsz = 0x100 });
	put_phdr(kernel, 1,
		 &(Elf64_Phdr){ .p_type = PT_LOAD,
				.p_offset = DATA_AT,
				.p_paddr = DATA_GPA,
				.p_filesz = 0x100,
				.p_memsz = 0x100 + BSS_SIZE });
	put_phdr(kernel, 2,
		 &(Elf64_Phdr){ .p_type = PT_NOTE,
				.p_offset = NOTES_AT,
				.p_filesz = size,
				.p_memsz = size,
				.p_align = 4 });
	kernel->size = NOTES_AT + size;
}

static Elf64_Ehdr *ehdr(struct fixture *f)
{
	return (Elf64_Ehdr *)f->kernel.bytes;
}

static Elf64_Phdr *phdr(struct fixture *f, unsigned int index)
{
	return (Elf64_Phdr *)(f->kernel.bytes + PHDRS_AT) + index;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->low_map = map_guarded(RAM_SIZE);
	f->high_map = map_guarded(HIGH_SIZE);
	f->ram[0] = (struct boot_ram){ 0, RAM_SIZE, f->low_map + PAGE };
	f->ram[1] =
		(struct boot_ram){ HIGH_GPA, HIGH_SIZE, f->high_map + PAGE };
	build_kernel(&f->kernel, true);
	f->image.ram = f->ram;
	f->image.ram_count = 2;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	munmap(f->low_map, RAM_SIZE + 2 * PAGE);
	munmap(f->high_map, HIGH_SIZE + 2 * PAGE);
	free(f);
	return 0;
}

static int load(struct fixture *f)
{
	f->image.kernel = f->kernel.bytes;
	f->image.kernel_size = f->kernel.size;
	err_clear(&f->err);
	return boot_load(&f->image, &f->entry, &f->err);
}

static uint8_t *ram(struct fixture *f, uint64_t gpa)
{
	return f->ram[0].host + gpa;
}

static uint64_t word(struct fixture *f, uint64_t gpa, size_t size)
{
	uint64_t value = 0;

	memcpy(&value, ram(f, gpa), size);
	return value;
}

static void refuse(struct fixture *f, int code, const char *phrase)
{
	assert_int_equal(load(f), code);
	if (!strstr(err_msg(&f->err), phrase))
		fail_msg("'%s' is not in '%s'", phrase, err_msg(&f->err));
	assert_null(strchr(err_msg(&f->err), '\n'));
}

static void test_segments_and_entries_are_found(void **state)
{
	struct fixture *f = *state;

	memset(ram(f, DATA_GPA), 0xff, PAGE * 4);
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.entry, TEXT_GPA + 4);
	assert_int_equal(f->entry.ap_entry, TEXT_GPA + 8);
	assert_int_equal(f->entry.info, BOOT_INFO_GPA);
	assert_int_equal(*ram(f, TEXT_GPA + 0xff), 0x90);
	assert_int_equal(*ram(f, DATA_GPA + 0xff), 0xda);
	assert_int_equal(*ram(f, DATA_GPA + 0x100), 0);
	assert_int_equal(*ram(f, DATA_GPA + 0xff + BSS_SIZE), 0);
	assert_int_equal(*ram(f, DATA_GPA + 0x100 + BSS_SIZE), 0xff);
}

static void test_elf32_kernel_loads_too(void **state)
{
	struct fixture *f = *state;

	build_kernel(&f->kernel, false);
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.entry, TEXT_GPA + 4);
	assert_int_equal(f->entry.ap_entry, TEXT_GPA + 8);
	assert_int_equal(*ram(f, DATA_GPA + 0xff), 0xda);
}

static void test_fresh_ram_behind_a_segment_is_not_touched(void **state)
{
	struct fixture *f = *state;

	f->image.is_ram_fresh = true;
	memset(ram(f, DATA_GPA), 0xff, PAGE);
	assert_int_equal(load(f), 0);
	assert_int_equal(*ram(f, DATA_GPA + 0x100), 0xff);
}

static void test_start_info_tells_of_all_there_is(void **state)
{
	struct fixture *f = *state;
	const struct boot_reserved pci = { 0xe0000000, 0x10000000 };
	uint64_t modules, map;

	f->image.initrd = "archive";
	f->image.initrd_size = 7;
	f->image.cmdline = "console=ttyS0";
	f->image.rsdp_gpa = 0xe0000;
	f->image.reserved = &pci;
	f->image.reserved_count = 1;
	assert_int_equal(load(f), 0);
	assert_int_equal(word(f, BOOT_INFO_GPA, 4), 0x336ec578);
	assert_int_equal(word(f, BOOT_INFO_GPA + 4, 4), 1);
	assert_int_equal(word(f, BOOT_INFO_GPA + 8, 4), 0);
	assert_int_equal(word(f, BOOT_INFO_GPA + 12, 4), 1);
	modules = word(f, BOOT_INFO_GPA + 16, 8);
	assert_string_equal(ram(f, word(f, BOOT_INFO_GPA + 24, 8)),
			    "console=ttyS0");
	assert_int_equal(word(f, BOOT_INFO_GPA + 32, 8), 0xe0000);
	map = word(f, BOOT_INFO_GPA + 40, 8);
	assert_int_equal(word(f, BOOT_INFO_GPA + 48, 4), 5);
	assert_int_equal(word(f, BOOT_INFO_GPA + 52, 4), 0);

	assert_int_equal(word(f, modules, 8), RAM_SIZE - PAGE);
	assert_int_equal(word(f, modules + 8, 8), 7);
	assert_memory_equal(ram(f, RAM_SIZE - PAGE), "archive", 7);

	const uint64_t expected[][3] = {
		{ 0, BOOT_HOLE_START, 1 },
		{ BOOT_HOLE_START, BOOT_HOLE_END - BOOT_HOLE_START, 2 },
		{ MIB, RAM_SIZE - MIB, 1 },
		{ HIGH_GPA, HIGH_SIZE, 1 },
		{ 0xe0000000, 0x10000000, 2 },
	};
	for (size_t i = 0; i < array_size(expected); i++) {
		assert_int_equal(word(f, map + i * 24, 8), expected[i][0]);
		assert_int_equal(word(f, map + i * 24 + 8, 8), expected[i][1]);
		assert_int_equal(word(f, map + i * 24 + 16, 8), expected[i][2]);
	}
}

static void test_without_initrd_there_is_no_module(void **state)
{
	struct fixture *f = *state;

	memset(ram(f, BOOT_INFO_GPA), 0xff, 2 * PAGE);
	assert_int_equal(load(f), 0);
	assert_int_equal(word(f, BOOT_INFO_GPA + 12, 4), 0);
	assert_int_equal(word(f, BOOT_INFO_GPA + 16, 8), 0);
	assert_string_equal(ram(f, BOOT_CMDLINE_GPA), "");
}

static void test_segment_above_4_gib_is_loaded(void **state)
{
	struct fixture *f = *state;

	phdr(f, 1)->p_paddr = HIGH_GPA;
	assert_int_equal(load(f), 0);
	assert_int_equal(f->ram[1].host[0xff], 0xda);
}

static void test_kernel_without_pvh_note_says_how_to_build_one(void **state)
{
	struct fixture *f = *state;

	phdr(f, 2)->p_type = PT_NULL;
	refuse(f, -ENOEXEC,
	       "not a PVH kernel: no XEN_ELFNOTE_PHYS32_ENTRY note; build with "
	       "CONFIG_PVH=y");
}

static void test_other_programs_are_told_from_broken_kernels(void **state)
{
	struct fixture *f = *state;

	phdr(f, 0)->p_paddr = 0; /* as in a position-independent program */
	phdr(f, 0)->p_memsz = MIB;
	refuse(f, -E2BIG, "not inside the guest's RAM");
	phdr(f, 2)->p_type = PT_NULL;
	refuse(f, -ENOEXEC, "not a PVH kernel");
}

static void test_file_of_nothing_is_refused(void **state)
{
	struct fixture *f = *state;

	f->kernel.size = 0;
	refuse(f, -ENOEXEC, "neither an ELF file nor a bzImage");
}

static void test_foreign_machines_are_refused(void **state)
{
	struct fixture *f = *state;

	ehdr(f)->e_machine = EM_AARCH64;
	refuse(f, -ENOEXEC, "built for ELF machine 183: x86-64 is 62");
	build_kernel(&f->kernel, true);
	ehdr(f)->e_ident[EI_DATA] = ELFDATA2MSB;
	refuse(f, -ENOEXEC, "big-endian");
	build_kernel(&f->kernel, true);
	ehdr(f)->e_ident[EI_CLASS] = 9;
	refuse(f, -ENOEXEC, "ELF class 9");
	build_kernel(&f->kernel, true);
	ehdr(f)->e_type = ET_REL;
	refuse(f, -ENOEXEC, "ELF type 1 is no executable");
}

static void test_program_headers_out_of_bounds_are_refused(void **state)
{
	struct fixture *f = *state;

	ehdr(f)->e_phentsize = 32;
	refuse(f, -EBADMSG, "program headers of 32 bytes");
	build_kernel(&f->kernel, true);
	ehdr(f)->e_phnum = 0xffff;
	refuse(f, -E2BIG, "65535 program headers, at most 64");
	build_kernel(&f->kernel, true);
	ehdr(f)->e_phoff = ~0ull - 8;
	refuse(f, -EBADMSG, "cut off: program headers at 0xfffffffffffffff7");
}

static void test_segment_outside_the_file_is_refused(void **state)
{
	struct fixture *f = *state;

	phdr(f, 0)->p_offset = ~0ull;
	refuse(f, -EBADMSG, "cut off: segment 0");
	build_kernel(&f->kernel, true);
	phdr(f, 0)->p_filesz = phdr(f, 0)->p_memsz = f->kernel.size;
	refuse(f, -EBADMSG, "cut off: segment 0");
	build_kernel(&f->kernel, true);
	phdr(f, 2)->p_filesz = 1ull << 63;
	refuse(f, -EBADMSG, "cut off: segment 2");
}

static void test_absurd_sizes_are_refused(void **state)
{
	struct fixture *f = *state;

	phdr(f, 0)->p_memsz = 1ull << 63;
	refuse(f, -E2BIG,
	       "segment 0: 0x8000000000000000 bytes at 0x100000 "
	       "are not inside the guest's RAM");
	phdr(f, 0)->p_memsz = ~0ull;
	refuse(f, -E2BIG, "not inside the guest's RAM");
	phdr(f, 0)->p_memsz = 0x100;
	phdr(f, 0)->p_paddr = ~0ull - 0x80;
	refuse(f, -E2BIG, "not inside the guest's RAM");
	phdr(f, 0)->p_paddr = RAM_SIZE - 0xff;
	refuse(f, -E2BIG, "give it more memory");
	phdr(f, 0)->p_paddr = TEXT_GPA;
	phdr(f, 0)->p_memsz = 0xff;
	refuse(f, -EBADMSG, "0x100 bytes in the file, 0xff in memory");
}

static void test_segments_that_overlap_are_refused(void **state)
{
	struct fixture *f = *state;

	phdr(f, 1)->p_paddr = TEXT_GPA + 0xff;
	refuse(f, -EBADMSG,
	       "segment 1 at 0x1000ff overlaps the one at "
	       "0x100000");
	phdr(f, 1)->p_paddr = TEXT_GPA + 0x100;
	assert_int_equal(load(f), 0);
}

static void test_segment_over_the_boot_data_is_refused(void **state)
{
	struct fixture *f = *state;

	phdr(f, 1)->p_paddr = BOOT_CMDLINE_GPA + PAGE - 1;
	refuse(f, -E2BIG, "overlap the boot data at 0x6000");
}

static void test_segment_in_the_reserved_hole_is_refused(void **state)
{
	struct fixture *f = *state;

	phdr(f, 1)->p_paddr = 0xa0000;
	refuse(f, -E2BIG, "not inside the guest's RAM");
}

static void test_entry_outside_of_the_segments_is_refused(void **state)
{
	struct fixture *f = *state;

	phdr(f, 0)->p_paddr = 0x200000;
	refuse(f, -EBADMSG, "entry point 0x100004 lies in no segment");
}

/* Replace the notes by one. */
static void set_note(struct fixture *f, const char *owner, uint32_t type,
		     const void *desc, uint32_t size)
{
	memset(f->kernel.bytes + NOTES_AT, 0, 0x100);
	phdr(f, 2)->p_filesz =
		put_note(f->kernel.bytes + NOTES_AT, owner, type, desc, size);
	f->kernel.size = NOTES_AT + 0x100;
}

static void test_notes_that_break_the_rules_are_refused(void **state)
{
	struct fixture *f = *state;
	const uint64_t far = 1ull << 32, none = 0, good = TEXT_GPA;
	uint32_t *note = (uint32_t *)(f->kernel.bytes + NOTES_AT);

	set_note(f, "Xen", 18, &far, 8);
	refuse(f, -EBADMSG, "note says 0x100000000, not a 32-bit address");
	set_note(f, "Xen", 18, &none, 8);
	refuse(f, -EBADMSG, "note says 0x0");
	set_note(f, "Xen", 18, &good, 2);
	refuse(f, -EBADMSG, "note has 2 bytes, not 4 or 8");
	set_note(f, "Xen!", 18, &good, 8);
	refuse(f, -ENOEXEC, "not a PVH kernel");
	set_note(f, "Xen", 18, &good, 8);
	note[0] = UINT32_MAX;
	refuse(f, -EBADMSG, "a note leaves its segment");
	set_note(f, "Xen", 18, &good, 8);
	note[1] = UINT32_MAX;
	refuse(f, -EBADMSG, "a note leaves its segment");
}

static void test_more_notes_than_reasonable_are_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t *large = calloc(1, 1 << 20);

	memcpy(large, f->kernel.bytes, f->kernel.size);
	((Elf64_Phdr *)(large + PHDRS_AT))[2].p_filesz = (64 << 10) + 1;
	f->image.kernel = large;
	f->image.kernel_size = 1 << 20;
	assert_int_equal(boot_load(&f->image, &f->entry, &f->err), -E2BIG);
	free(large);
}

static void test_notes_with_alignment_of_8_are_read(void **state)
{
	struct fixture *f = *state;
	uint32_t *note = (uint32_t *)(f->kernel.bytes + NOTES_AT);
	const uint64_t entry = TEXT_GPA;

	/* A GNU property note: owner padded to 8, description too. */
	memset(note, 0, 0x100);
	note[0] = 4;
	note[1] = 4;
	note[2] = 5;
	memcpy(&note[3], "GNU", 4);
	note[6] = 4;
	note[7] = 8;
	note[8] = 18;
	memcpy(&note[9], "Xen", 4);
	memcpy(&note[10], &entry, 8);
	phdr(f, 2)->p_align = 8;
	phdr(f, 2)->p_filesz = 48;
	assert_int_equal(load(f), 0);
	assert_int_equal(f->entry.entry, TEXT_GPA);
	assert_int_equal(f->entry.ap_entry, 0);
}

static void test_initrd_that_does_not_fit_is_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t *initrd = calloc(1, RAM_SIZE + 1);

	f->image.initrd = initrd;
	f->image.initrd_size = RAM_SIZE + 1;
	refuse(f, -E2BIG, "initrd: 0x400001 bytes do not fit");
	f->image.initrd_size = RAM_SIZE - MIB + 1;
	refuse(f, -E2BIG, "do not fit");
	f->image.initrd_size = RAM_SIZE - MIB;
	refuse(f, -E2BIG, "overlap the kernel at 0x100000");
	f->image.initrd_size = RAM_SIZE - DATA_GPA - 0x3000;
	assert_int_equal(load(f), 0);
	free(initrd);
}

static void test_command_line_has_a_limit(void **state)
{
	struct fixture *f = *state;
	char line[BOOT_CMDLINE_MAX + 2];

	memset(line, 'x', sizeof(line));
	line[BOOT_CMDLINE_MAX] = '\0';
	f->image.cmdline = line;
	assert_int_equal(load(f), 0);
	assert_int_equal(*ram(f, BOOT_CMDLINE_GPA + BOOT_CMDLINE_MAX), 0);
	line[BOOT_CMDLINE_MAX] = 'x';
	line[BOOT_CMDLINE_MAX + 1] = '\0';
	refuse(f, -E2BIG, "command line: 4096 bytes, at most 4095");
}

static void test_ram_that_breaks_the_rules_is_refused(void **state)
{
	struct fixture *f = *state;
	const struct boot_reserved taken = { RAM_SIZE - 1, 2 };
	const struct boot_reserved wraps = { ~0ull, 2 };

	f->image.reserved_count = 1;
	f->image.reserved = &taken;
	refuse(f, -EINVAL, "is taken already");
	f->image.reserved = &wraps;
	refuse(f, -EINVAL, "wrap past 2^64");
	f->image.reserved_count = 0;
	f->image.ram_count = 0;
	refuse(f, -EINVAL, "RAM: 0 pieces");
	f->image.ram_count = 2;
	f->ram[1].gpa = PAGE;
	refuse(f, -EINVAL, "misplaced");
	f->ram[1].gpa = ~0ull << 12;
	refuse(f, -EINVAL, "misplaced");
	f->ram[1].gpa = (4ull << 30) - PAGE;
	refuse(f, -EINVAL, "misplaced");
	f->image.ram_count = 1;
	f->ram[0].size = MIB;
	refuse(f, -EINVAL, "does not hold the first MiB");
}

/* The file ends where its mapping ends. */
static void test_kernel_cut_off_at_any_byte_stays_in_bounds(void **state)
{
	struct fixture *f = *state;
	size_t full = f->kernel.size;
	uint8_t *map = map_guarded(sizeof(f->kernel.bytes));
	uint8_t *end = map + PAGE + sizeof(f->kernel.bytes);

	for (size_t size = 0; size < full; size++) {
		int ret;

		memcpy(end - size, f->kernel.bytes, size);
		f->image.kernel = end - size;
		f->image.kernel_size = size;
		ret = boot_load(&f->image, &f->entry, NULL);
		assert_true(ret == -ENOEXEC || ret == -EBADMSG);
	}
	munmap(map, sizeof(f->kernel.bytes) + 2 * PAGE);
}

/* Where flips matter: headers and notes. */
static size_t random_place(struct fixture *f, uint64_t *seed)
{
	if (next_random(seed) % 2)
		return next_random(seed) % (PHDRS_AT + 3 * sizeof(Elf64_Phdr));
	return NOTES_AT + next_random(seed) % (f->kernel.size - NOTES_AT);
}

static void test_spoiled_kernels_write_only_ram(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = 0x2545f4914f6cdd1dull;
	unsigned int accepted = 0;

	f->image.initrd = "archive";
	f->image.initrd_size = 7;
	for (int i = 0; i < RANDOM_CASES; i++) {
		build_kernel(&f->kernel, i % 4 != 0);
		for (uint64_t n = 1 + next_random(&seed) % 6; n > 0; n--) {
			size_t at = random_place(f, &seed);
			uint64_t how = next_random(&seed);

			if (how & 0x100)
				f->kernel.bytes[at] ^= 1 << (how & 7);
			else
				f->kernel.bytes[at] = (uint8_t)how;
		}
		if (next_random(&seed) % 8 == 0)
			f->kernel.size = next_random(&seed) % f->kernel.size;
		accepted += load(f) == 0;
	}
	assert_true(accepted > 0);
	assert_true(accepted < RANDOM_CASES);
}

static void test_files_are_mapped_or_the_reason_is_said(void **state)
{
	char path[] = "/tmp/godwit-test-pvh-XXXXXX";
	struct boot_file file = { NULL, 0 };
	struct err err = ERR_INIT;
	char expected[128];
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(boot_file_open("kernel", path, &file, &err), -EINVAL);
	snprintf(expected, sizeof(expected), "kernel: %s: the file is empty",
		 path);
	assert_string_equal(err_msg(&err), expected);
	assert_int_equal(write(fd, "ELF", 3), 3);
	assert_int_equal(boot_file_open("kernel", path, &file, NULL), 0);
	assert_int_equal(file.size, 3);
	assert_memory_equal(file.data, "ELF", 3);
	boot_file_close(&file);
	boot_file_close(&file);
	close(fd);
	unlink(path);

	err_clear(&err);
	assert_int_equal(boot_file_open("initrd", "/nowhere/x", &file, &err),
			 -ENOENT);
	assert_string_equal(err_msg(&err),
			    "initrd: /nowhere/x: No such file or directory");
	err_clear(&err);
	assert_int_equal(boot_file_open("initrd", "/tmp", &file, &err),
			 -EINVAL);
	assert_string_equal(err_msg(&err), "initrd: /tmp: not a regular file");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_segments_and_entries_are_found),
		TEST(test_elf32_kernel_loads_too),
		TEST(test_fresh_ram_behind_a_segment_is_not_touched),
		TEST(test_start_info_tells_of_all_there_is),
		TEST(test_without_initrd_there_is_no_module),
		TEST(test_segment_above_4_gib_is_loaded),
		TEST(test_kernel_without_pvh_note_says_how_to_build_one),
		TEST(test_other_programs_are_told_from_broken_kernels),
		TEST(test_file_of_nothing_is_refused),
		TEST(test_foreign_machines_are_refused),
		TEST(test_program_headers_out_of_bounds_are_refused),
		TEST(test_segment_outside_the_file_is_refused),
		TEST(test_absurd_sizes_are_refused),
		TEST(test_segments_that_overlap_are_refused),
		TEST(test_segment_over_the_boot_data_is_refused),
		TEST(test_segment_in_the_reserved_hole_is_refused),
		TEST(test_entry_outside_of_the_segments_is_refused),
		TEST(test_notes_that_break_the_rules_are_refused),
		TEST(test_more_notes_than_reasonable_are_refused),
		TEST(test_notes_with_alignment_of_8_are_read),
		TEST(test_initrd_that_does_not_fit_is_refused),
		TEST(test_command_line_has_a_limit),
		TEST(test_ram_that_breaks_the_rules_is_refused),
		TEST(test_kernel_cut_off_at_any_byte_stays_in_bounds),
		TEST(test_spoiled_kernels_write_only_ram),
		cmocka_unit_test(test_files_are_mapped_or_the_reason_is_said),
	};

	return cmocka_run_group_tests_name("pvh", tests, NULL, NULL);
}
