// SPDX-License-Identifier: Apache-2.0
/*
 * Boot by Linux's 64-bit protocol: a bzImage, entered in long mode.
 *
 * The file begins with real-mode code, in which a header says all that the
 * loader needs; the protected-mode kernel follows.  That part goes to the
 * address the header prefers, since the kernel unpacks itself nowhere lower; it
 * needs init_size bytes from there.  Its 64-bit entry is 0x200 past its start.
 * struct boot_params, the GDT and page tables that map the first 4 GiB one to
 * one with 2 MiB pages are written below 1 MiB (machine/boot.h).
 *
 * Source: Linux, Documentation/arch/x86/boot.rst; asm/bootparam.h has the
 * structures.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "boot_priv.h"

#define SECTOR        512ull
#define HEADER_AT     0x1f1u
#define JUMP_AT       0x201u /* a jump over the header, so it tells its end */
#define MAGIC_AT      0x202u
#define VERSION_MIN   0x020cu /* the first with xloadflags: Linux 3.8 */
#define ENTRY_64      0x200u
#define LOADER_OTHER  0xffu
#define MAPPED_END    (4ull << 30)
#define HEADER_NEEDED offsetof(struct setup_header, handover_offset)

#define GDT_GPA       BOOT_TABLES_GPA
#define PML4_GPA      (BOOT_TABLES_GPA + 0x1000)
#define PDPT_GPA      (BOOT_TABLES_GPA + 0x2000)
#define DIRECTORY_GPA (BOOT_TABLES_GPA + 0x3000) /* four, one a GiB */
#define TABLE_ENTRIES 512u
#define PAGE_PRESENT  0x3u  /* and writable */
#define PAGE_LARGE    0x83u /* the same, 2 MiB */
#define LARGE_PAGE    (2ull << 20)
#define DIRECTORIES   4u
#define GDT_CODE_64   0x00af9b000000ffffull
#define GDT_DATA      0x00cf93000000ffffull
#define GDT_ENTRIES   4u

_Static_assert(DIRECTORY_GPA + DIRECTORIES * BOOT_PAGE ==
		       BOOT_TABLES_GPA + BOOT_TABLES_SIZE,
	       "the page tables fill their place");
_Static_assert(sizeof(struct boot_params) == BOOT_PAGE, "one page");
_Static_assert(BOOT_MAP_MAX <= E820_MAX_ENTRIES_ZEROPAGE,
	       "the memory map fits");

/* What the file says, checked: [payload, payload + payload_size) is inside of
 * it, and `kernel` is usable RAM. */
struct bzimage {
	struct setup_header header;
	const uint8_t *payload; /* borrowed from the file */
	uint64_t payload_size;
	struct range kernel; /* what it needs, from its load address */
};

bool bzimage_is_one(const void *kernel, size_t size)
{
	return size >= MAGIC_AT + 4 &&
	       memcmp((const uint8_t *)kernel + MAGIC_AT, "HdrS", 4) == 0;
}

static int take_header(const struct boot_image *image,
		       struct setup_header *header, struct err *err)
{
	const uint8_t *bytes = image->kernel;
	size_t end = MAGIC_AT + bytes[JUMP_AT];
	size_t size = end - HEADER_AT;

	if (end > image->kernel_size || size < HEADER_NEEDED)
		return err_set(
			err, -EBADMSG,
			"kernel: bzImage: a header up to 0x%zx: it needs "
			"0x%zx, the file has 0x%zx bytes",
			end, HEADER_AT + HEADER_NEEDED, image->kernel_size);
	memset(header, 0, sizeof(*header));
	memcpy(header, bytes + HEADER_AT,
	       size < sizeof(*header) ? size : sizeof(*header));
	if (header->version < VERSION_MIN)
		return err_set(err, -ENOEXEC,
			       "kernel: bzImage of boot protocol %u.%02u: at "
			       "least 2.12 (Linux 3.8) is needed",
			       header->version >> 8, header->version & 0xff);
	if (!(header->xloadflags & XLF_KERNEL_64) ||
	    !(header->loadflags & LOADED_HIGH))
		return err_set(err, -ENOEXEC,
			       "kernel: bzImage without a 64-bit entry point: "
			       "give an x86-64 kernel");
	return 0;
}

static int take_payload(const struct boot_image *image, struct bzimage *bz,
			struct err *err)
{
	const struct setup_header *header = &bz->header;
	uint64_t sectors = header->setup_sects ? header->setup_sects : 4;
	uint64_t start = (sectors + 1) * SECTOR;
	uint64_t size = header->syssize * 16ull;

	if (start > image->kernel_size || size > image->kernel_size - start)
		return err_set(err, -EBADMSG,
			       "kernel: bzImage cut off: 0x%" PRIx64
			       " bytes at 0x%" PRIx64 ", the file has 0x%zx",
			       size, start, image->kernel_size);
	if (size <= ENTRY_64)
		return err_set(err, -EBADMSG,
			       "kernel: bzImage of 0x%" PRIx64
			       " bytes has no entry point",
			       size);
	bz->payload = (const uint8_t *)image->kernel + start;
	bz->payload_size = size;
	return 0;
}

/* What is loaded or unpacked to has to be RAM, above the boot data. */
static int plan_kernel(const struct boot_image *image, struct bzimage *bz,
		       struct err *err)
{
	uint64_t start = bz->header.pref_address;
	uint64_t size = bz->header.init_size > bz->payload_size
				? bz->header.init_size
				: bz->payload_size;

	if (start < BOOT_HOLE_END || start >= MAPPED_END)
		return err_set(err, -EBADMSG,
			       "kernel: bzImage wants to be at 0x%" PRIx64
			       ", not between 1 MiB and 4 GiB",
			       start);
	if (!boot_is_usable(image, start, size))
		return err_set(err, -E2BIG,
			       "kernel: bzImage needs 0x%" PRIx64
			       " bytes at 0x%" PRIx64
			       ", which are not inside the guest's RAM: give "
			       "it more memory",
			       size, start);
	bz->kernel = (struct range){ start, start + size };
	return 0;
}

static void write_gdt(uint8_t *ram)
{
	const struct le64 gdt[GDT_ENTRIES] = {
		[2] = le64_of(GDT_CODE_64), /* 0x10 */
		[3] = le64_of(GDT_DATA),    /* 0x18 */
	};

	memcpy(ram + GDT_GPA, gdt, sizeof(gdt));
}

static void put_page(uint8_t *ram, uint64_t table_gpa, unsigned int index,
		     uint64_t entry)
{
	struct le64 le = le64_of(entry);

	memcpy(ram + table_gpa + index * sizeof(le), &le, sizeof(le));
}

static void write_page_tables(uint8_t *ram)
{
	memset(ram + PML4_GPA, 0, 2 * BOOT_PAGE);
	put_page(ram, PML4_GPA, 0, PDPT_GPA | PAGE_PRESENT);
	for (unsigned int i = 0; i < DIRECTORIES; i++)
		put_page(ram, PDPT_GPA, i,
			 (DIRECTORY_GPA + i * BOOT_PAGE) | PAGE_PRESENT);
	for (unsigned int i = 0; i < DIRECTORIES * TABLE_ENTRIES; i++)
		put_page(ram, DIRECTORY_GPA, i, i * LARGE_PAGE | PAGE_LARGE);
}

static void write_params(const struct boot_plan *plan, const struct bzimage *bz)
{
	const struct boot_image *image = plan->image;
	struct boot_params params = {
		.acpi_rsdp_addr = image->rsdp_gpa,
		.hdr = bz->header,
		.e820_entries = (uint8_t)plan->map_count,
	};

	params.hdr.type_of_loader = LOADER_OTHER;
	params.hdr.code32_start = (uint32_t)bz->kernel.start;
	params.hdr.cmd_line_ptr = BOOT_CMDLINE_GPA;
	params.hdr.setup_data = 0;
	params.hdr.ramdisk_image = (uint32_t)plan->initrd_gpa;
	params.hdr.ramdisk_size =
		plan->initrd_gpa ? (uint32_t)image->initrd_size : 0;
	for (unsigned int i = 0; i < plan->map_count; i++) {
		struct range range = plan->map[i].range;

		params.e820_table[i] = (struct boot_e820_entry){
			.addr = range.start,
			.size = range.end - range.start,
			.type = plan->map[i].type,
		};
	}
	memcpy(image->ram[0].host + BOOT_INFO_GPA, &params, sizeof(params));
}

int bzimage_load(struct boot_plan *plan, struct boot_entry *ret_entry,
		 struct err *err)
{
	const struct boot_image *image = plan->image;
	struct bzimage bz;
	int ret;

	ret = take_header(image, &bz.header, err);
	if (!ret)
		ret = take_payload(image, &bz, err);
	if (!ret)
		ret = plan_kernel(image, &bz, err);
	if (!ret && plan->cmdline_size > bz.header.cmdline_size)
		ret = err_set(err, -E2BIG,
			      "command line: %zu bytes, this kernel takes at "
			      "most %u",
			      plan->cmdline_size, bz.header.cmdline_size);
	if (!ret)
		ret = boot_plan_initrd(plan, bz.header.initrd_addr_max + 1ull,
				       &bz.kernel, 1, err);
	if (ret)
		return ret;

	memcpy(boot_ram_at(image, bz.kernel.start, bz.payload_size), bz.payload,
	       bz.payload_size);
	boot_write_common(plan);
	write_params(plan, &bz);
	write_gdt(image->ram[0].host);
	write_page_tables(image->ram[0].host);
	*ret_entry = (struct boot_entry){
		.is_64 = true,
		.entry = bz.kernel.start + ENTRY_64,
		.info = BOOT_INFO_GPA,
		.page_table = PML4_GPA,
		.gdt = GDT_GPA,
		.gdt_limit = GDT_ENTRIES * sizeof(struct le64) - 1,
	};
	return 0;
}
