// SPDX-License-Identifier: Apache-2.0
/*
 * Boot by PVH: an ELF kernel that names a 32-bit entry point in a note.
 *
 * The loader reads the file through views that are checked once: struct segment
 * holds ELF32 and ELF64 headers in one form, and every segment in `struct plan`
 * has its file part inside the file and its memory part inside usable RAM.
 * Only then is anything written: the segments, and in the page at BOOT_INFO_GPA
 * struct hvm_start_info, the module list and the memory map.
 *
 * Sources: xen/include/public/arch-x86/hvm/start_info.h,
 * xen/include/public/elfnote.h, System V ABI chapters 4 and 5.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "boot_priv.h"

/* Linux has 5 program headers, some kernels a dozen.  The bounds keep the
 * checks of segments against each other, and of notes, short. */
#define SEGMENTS_MAX 64u
#define NOTES_MAX    (64u << 10) /* bytes in one PT_NOTE */

#define XEN_ELFNOTE_PHYS32_ENTRY 18u
#define GODWIT_ELFNOTE_AP_ENTRY  1u
#define HVM_START_MAGIC          0x336ec578u
#define HVM_START_INFO_SIZE      56u
#define HVM_MODLIST_ENTRY_SIZE   32u
#define HVM_MEMMAP_ENTRY_SIZE    24u

/* Layout of the page at BOOT_INFO_GPA. */
#define MODLIST_GPA (BOOT_INFO_GPA + 64)
#define MEMMAP_GPA  (BOOT_INFO_GPA + 128)

_Static_assert(HVM_START_INFO_SIZE <= 64, "the start info meets the modules");
_Static_assert(HVM_MODLIST_ENTRY_SIZE <= 64, "the modules meet the map");
_Static_assert(128 + BOOT_MAP_MAX * HVM_MEMMAP_ENTRY_SIZE <= BOOT_PAGE,
	       "the memory map leaves its page");

struct segment {
	uint32_t type;
	uint64_t offset, filesz; /* in the file */
	uint64_t gpa, memsz;
	uint64_t align;
};

/* What pvh_load() found out before it writes. */
struct plan {
	const struct boot_image *image;
	bool is_64;
	uint64_t phoff; /* with phnum headers, inside the file */
	unsigned int phnum;
	unsigned int segment_count; /* PT_LOAD with memsz above 0 */
	struct segment segments[SEGMENTS_MAX];
	uint64_t entry, ap_entry; /* 0: not found */
};

static struct range segment_range(const struct segment *segment)
{
	return (struct range){ segment->gpa, segment->gpa + segment->memsz };
}

bool pvh_is_elf(const void *kernel, size_t size)
{
	return size >= SELFMAG && memcmp(kernel, ELFMAG, SELFMAG) == 0;
}

static int take_ehdr(struct plan *plan, struct err *err)
{
	const struct boot_image *image = plan->image;
	const uint8_t *bytes = image->kernel;
	uint16_t type, machine, phnum, phentsize;
	uint64_t phoff;
	Elf64_Ehdr e64;
	Elf32_Ehdr e32;

	if (image->kernel_size < EI_NIDENT)
		return err_set(err, -EBADMSG,
			       "kernel: %zu bytes are less than an ELF header",
			       image->kernel_size);
	plan->is_64 = bytes[EI_CLASS] == ELFCLASS64;
	if (!plan->is_64 && bytes[EI_CLASS] != ELFCLASS32)
		return err_set(err, -ENOEXEC, "kernel: ELF class %u is unknown",
			       bytes[EI_CLASS]);
	if (bytes[EI_DATA] != ELFDATA2LSB)
		return err_set(err, -ENOEXEC,
			       "kernel: a big-endian ELF file is not for x86");
	if (image->kernel_size < (plan->is_64 ? sizeof(e64) : sizeof(e32)))
		return err_set(err, -EBADMSG,
			       "kernel: %zu bytes are less than an ELF header",
			       image->kernel_size);
	if (plan->is_64) {
		memcpy(&e64, bytes, sizeof(e64));
		type = e64.e_type;
		machine = e64.e_machine;
		phoff = e64.e_phoff;
		phnum = e64.e_phnum;
		phentsize = e64.e_phentsize;
	} else {
		memcpy(&e32, bytes, sizeof(e32));
		type = e32.e_type;
		machine = e32.e_machine;
		phoff = e32.e_phoff;
		phnum = e32.e_phnum;
		phentsize = e32.e_phentsize;
	}
	if (machine != EM_X86_64 && machine != EM_386)
		return err_set(err, -ENOEXEC,
			       "kernel: built for ELF machine %u: x86-64 is %u",
			       machine, EM_X86_64);
	if (type != ET_EXEC && type != ET_DYN)
		return err_set(err, -ENOEXEC,
			       "kernel: ELF type %u is no executable", type);
	if (phentsize !=
	    (plan->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return err_set(err, -EBADMSG,
			       "kernel: program headers of %u bytes",
			       phentsize);
	if (phnum < 1 || phnum > SEGMENTS_MAX)
		return err_set(err, -E2BIG,
			       "kernel: %u program headers, at most %u", phnum,
			       SEGMENTS_MAX);
	if (phoff > image->kernel_size ||
	    image->kernel_size - phoff < (size_t)phnum * phentsize)
		return err_set(err, -EBADMSG,
			       "kernel: cut off: program headers at 0x%" PRIx64
			       ", the file has 0x%zx bytes",
			       phoff, image->kernel_size);
	plan->phoff = phoff;
	plan->phnum = phnum;
	return 0;
}

static void take_phdr(const struct plan *plan, unsigned int index,
		      struct segment *ret)
{
	const uint8_t *at = (const uint8_t *)plan->image->kernel + plan->phoff;
	Elf64_Phdr p64;
	Elf32_Phdr p32;

	if (plan->is_64) {
		memcpy(&p64, at + index * sizeof(p64), sizeof(p64));
		*ret = (struct segment){ p64.p_type,   p64.p_offset,
					 p64.p_filesz, p64.p_paddr,
					 p64.p_memsz,  p64.p_align };
	} else {
		memcpy(&p32, at + index * sizeof(p32), sizeof(p32));
		*ret = (struct segment){ p32.p_type,   p32.p_offset,
					 p32.p_filesz, p32.p_paddr,
					 p32.p_memsz,  p32.p_align };
	}
}

static int add_segment(struct plan *plan, unsigned int index,
		       const struct segment *segment, struct err *err)
{
	const struct range boot_data = { BOOT_INFO_GPA,
					 BOOT_CMDLINE_GPA + BOOT_PAGE };

	if (segment->filesz > segment->memsz)
		return err_set(err, -EBADMSG,
			       "kernel: segment %u: 0x%" PRIx64
			       " bytes in the file, 0x%" PRIx64 " in memory",
			       index, segment->filesz, segment->memsz);
	if (segment->memsz == 0)
		return 0;
	if (!boot_is_usable(plan->image, segment->gpa, segment->memsz))
		return err_set(err, -E2BIG,
			       "kernel: segment %u: 0x%" PRIx64
			       " bytes at 0x%" PRIx64
			       " are not inside the guest's RAM: give it more "
			       "memory",
			       index, segment->memsz, segment->gpa);
	if (ranges_overlap(segment_range(segment), boot_data))
		return err_set(
			err, -E2BIG,
			"kernel: segment %u: 0x%" PRIx64 " bytes at 0x%" PRIx64
			" overlap the boot data at 0x%x",
			index, segment->memsz, segment->gpa, BOOT_INFO_GPA);
	for (unsigned int i = 0; i < plan->segment_count; i++) {
		if (ranges_overlap(segment_range(segment),
				   segment_range(&plan->segments[i])))
			return err_set(err, -EBADMSG,
				       "kernel: segment %u at 0x%" PRIx64
				       " overlaps the one at 0x%" PRIx64,
				       index, segment->gpa,
				       plan->segments[i].gpa);
	}
	plan->segments[plan->segment_count++] = *segment;
	return 0;
}

/* An address of 4 or 8 bytes; one that is not 32-bit and 0 are refused. */
static int take_address(const char *what, const uint8_t *desc, uint32_t size,
			uint64_t *ret_address, struct err *err)
{
	struct bytes_reader r = bytes_read(desc, size);
	uint64_t address;

	if (size != 4 && size != 8)
		return err_set(err, -EBADMSG,
			       "kernel: the %s note has %" PRIu32
			       " bytes, not 4 or 8",
			       what, size);
	address = size == 8 ? bytes_take_u64(&r) : bytes_take_u32(&r);
	if (address == 0 || address > UINT32_MAX)
		return err_set(err, -EBADMSG,
			       "kernel: the %s note says 0x%" PRIx64
			       ", not a 32-bit address",
			       what, address);
	*ret_address = address;
	return 0;
}

static bool owner_is(const char *owner, const uint8_t *name, uint32_t size)
{
	return size == strlen(owner) + 1 && memcmp(owner, name, size) == 0;
}

/* Step over what follows @size bytes up to @align; false at the end. */
static bool skip_note_padding(struct bytes_reader *r, uint64_t size,
			      uint64_t align)
{
	uint64_t pad = align_up(size, align) - size;

	/* The last one may do without. */
	return bytes_take(r, pad < bytes_left(r) ? pad : bytes_left(r));
}

static int scan_notes(struct plan *plan, unsigned int index,
		      const struct segment *segment, struct err *err)
{
	struct bytes_reader r;
	uint64_t align = segment->align == 8 ? 8 : 4;

	if (segment->filesz > NOTES_MAX)
		return err_set(err, -E2BIG,
			       "kernel: segment %u: %" PRIu64
			       " bytes of notes, at most %u",
			       index, segment->filesz, NOTES_MAX);
	r = bytes_read((const uint8_t *)plan->image->kernel + segment->offset,
		       segment->filesz);
	while (bytes_left(&r) > 0) {
		uint32_t name_size = bytes_take_u32(&r);
		uint32_t desc_size = bytes_take_u32(&r);
		uint32_t type = bytes_take_u32(&r);
		const uint8_t *name = bytes_take(&r, name_size);
		const uint8_t *desc;
		int ret = 0;

		if (!name || !skip_note_padding(&r, 12ull + name_size, align))
			break;
		desc = bytes_take(&r, desc_size);
		if (!desc || !skip_note_padding(&r, desc_size, align))
			break;
		if (type == XEN_ELFNOTE_PHYS32_ENTRY && !plan->entry &&
		    owner_is("Xen", name, name_size))
			ret = take_address("XEN_ELFNOTE_PHYS32_ENTRY", desc,
					   desc_size, &plan->entry, err);
		else if (type == GODWIT_ELFNOTE_AP_ENTRY && !plan->ap_entry &&
			 owner_is("godwit", name, name_size))
			ret = take_address("godwit", desc, desc_size,
					   &plan->ap_entry, err);
		if (ret)
			return ret;
	}
	if (r.is_short)
		return err_set(err, -EBADMSG,
			       "kernel: a note leaves its segment");
	return 0;
}

/* Hand the segments of @type on, each with its bytes inside the file. */
static int walk_segments(struct plan *plan, uint32_t type,
			 int (*take)(struct plan *plan, unsigned int index,
				     const struct segment *segment,
				     struct err *err),
			 struct err *err)
{
	uint64_t file_size = plan->image->kernel_size;
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < plan->phnum; i++) {
		struct segment segment;

		take_phdr(plan, i, &segment);
		if (segment.type != type)
			continue;
		if (segment.offset > file_size ||
		    segment.filesz > file_size - segment.offset)
			return err_set(err, -EBADMSG,
				       "kernel: cut off: segment %u has "
				       "0x%" PRIx64 " bytes at 0x%" PRIx64
				       ", the file 0x%" PRIx64,
				       i, segment.filesz, segment.offset,
				       file_size);
		ret = take(plan, i, &segment, err);
	}
	return ret;
}

static int check_entry(const struct plan *plan, const char *what,
		       uint64_t address, struct err *err)
{
	for (unsigned int i = 0; i < plan->segment_count; i++) {
		struct range range = segment_range(&plan->segments[i]);

		if (address >= range.start && address < range.end)
			return 0;
	}
	return err_set(err, -EBADMSG,
		       "kernel: %s 0x%" PRIx64 " lies in no segment", what,
		       address);
}

/* Notes first: of any other program it is said that it is no PVH kernel, and
 * not what else is wrong with it. */
static int plan_kernel(struct plan *plan, struct err *err)
{
	int ret = take_ehdr(plan, err);

	if (ret == 0)
		ret = walk_segments(plan, PT_NOTE, scan_notes, err);
	if (ret)
		return ret;
	if (!plan->entry)
		return err_set(err, -ENOEXEC,
			       "kernel: not a PVH kernel: no "
			       "XEN_ELFNOTE_PHYS32_ENTRY note; build with "
			       "CONFIG_PVH=y");
	ret = walk_segments(plan, PT_LOAD, add_segment, err);
	if (ret == 0)
		ret = check_entry(plan, "entry point", plan->entry, err);
	if (ret == 0 && plan->ap_entry)
		ret = check_entry(plan, "entry point of secondary vCPUs",
				  plan->ap_entry, err);
	return ret;
}

static void put_le32(uint8_t **at, uint32_t value)
{
	struct le32 le = le32_of(value);

	memcpy(*at, &le, sizeof(le));
	*at += sizeof(le);
}

static void put_le64(uint8_t **at, uint64_t value)
{
	struct le64 le = le64_of(value);

	memcpy(*at, &le, sizeof(le));
	*at += sizeof(le);
}

/* The page is inside the first piece of RAM. */
static void write_start_info(const struct boot_plan *plan)
{
	const struct boot_image *image = plan->image;
	uint8_t *ram = image->ram[0].host;
	uint8_t *at = ram + BOOT_INFO_GPA;

	memset(at, 0, BOOT_PAGE);
	put_le32(&at, HVM_START_MAGIC);
	put_le32(&at, 1); /* version */
	put_le32(&at, 0); /* flags */
	put_le32(&at, plan->initrd_gpa ? 1 : 0);
	put_le64(&at, plan->initrd_gpa ? MODLIST_GPA : 0);
	put_le64(&at, BOOT_CMDLINE_GPA);
	put_le64(&at, image->rsdp_gpa);
	put_le64(&at, MEMMAP_GPA);
	put_le32(&at, plan->map_count);

	if (plan->initrd_gpa) {
		at = ram + MODLIST_GPA;
		put_le64(&at, plan->initrd_gpa);
		put_le64(&at, image->initrd_size);
	}
	at = ram + MEMMAP_GPA;
	for (unsigned int i = 0; i < plan->map_count; i++) {
		struct range range = plan->map[i].range;

		put_le64(&at, range.start);
		put_le64(&at, range.end - range.start);
		put_le32(&at, plan->map[i].type);
		put_le32(&at, 0);
	}
}

static void write_segments(const struct plan *plan)
{
	const struct boot_image *image = plan->image;

	for (unsigned int i = 0; i < plan->segment_count; i++) {
		const struct segment *segment = &plan->segments[i];
		uint8_t *to = boot_ram_at(image, segment->gpa, segment->memsz);

		memcpy(to, (const uint8_t *)image->kernel + segment->offset,
		       segment->filesz);
		if (!image->is_ram_fresh)
			memset(to + segment->filesz, 0,
			       segment->memsz - segment->filesz);
	}
}

int pvh_load(struct boot_plan *boot, struct boot_entry *ret_entry,
	     struct err *err)
{
	struct plan plan = { .image = boot->image };
	struct range ranges[SEGMENTS_MAX];
	int ret = plan_kernel(&plan, err);

	if (ret)
		return ret;
	for (unsigned int i = 0; i < plan.segment_count; i++)
		ranges[i] = segment_range(&plan.segments[i]);
	ret = boot_plan_initrd(boot, UINT32_MAX, ranges, plan.segment_count,
			       err);
	if (ret)
		return ret;

	write_segments(&plan);
	boot_write_common(boot);
	write_start_info(boot);
	*ret_entry = (struct boot_entry){
		.entry = plan.entry,
		.ap_entry = (uint32_t)plan.ap_entry,
		.info = BOOT_INFO_GPA,
	};
	return 0;
}
