// SPDX-License-Identifier: Apache-2.0
/*
 * The loader reads the file through views that are checked once: struct ehdr
 * and struct segment hold ELF32 and ELF64 headers in one form, and every
 * segment in `struct plan` has its file part inside the file and its memory
 * part inside usable RAM.  Only then is anything written.
 */
#include "machine/pvh.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"

#define PAGE 4096ull

/* Linux has 5 program headers, some kernels a dozen.  The bounds keep the
 * checks of segments against each other, and of notes, short. */
#define SEGMENTS_MAX 64u
#define NOTES_MAX    (64u << 10) /* bytes in one PT_NOTE */

#define XEN_ELFNOTE_PHYS32_ENTRY 18u
#define GODWIT_ELFNOTE_AP_ENTRY  1u
#define BZIMAGE_MAGIC_AT         0x202u
#define HVM_START_MAGIC          0x336ec578u
#define HVM_START_INFO_SIZE      56u
#define HVM_MODLIST_ENTRY_SIZE   32u
#define HVM_MEMMAP_ENTRY_SIZE    24u
#define HVM_MEMMAP_TYPE_RAM      1u
#define HVM_MEMMAP_TYPE_RESERVED 2u

/* Layout of the page at PVH_START_INFO_GPA. */
#define MODLIST_GPA (PVH_START_INFO_GPA + 64)
#define MEMMAP_GPA  (PVH_START_INFO_GPA + 128)
/* RAM, its part above the hole, the hole itself, and what is reserved. */
#define MEMMAP_MAX (2 * PVH_RANGES_MAX + 2)

_Static_assert(HVM_START_INFO_SIZE <= 64, "the start info meets the modules");
_Static_assert(HVM_MODLIST_ENTRY_SIZE <= 64, "the modules meet the map");
_Static_assert(128 + MEMMAP_MAX * HVM_MEMMAP_ENTRY_SIZE <= PAGE,
	       "the memory map leaves its page");

struct range {
	uint64_t start, end; /* half open */
};

struct memmap {
	unsigned int count;
	struct {
		struct range range;
		uint32_t type;
	} entries[MEMMAP_MAX];
};

struct segment {
	uint32_t type;
	uint64_t offset, filesz; /* in the file */
	uint64_t gpa, memsz;
	uint64_t align;
};

/* What pvh_load() found out before it writes. */
struct plan {
	const struct pvh_image *image;
	struct memmap map;
	bool is_64;
	uint64_t phoff; /* with phnum headers, inside the file */
	unsigned int phnum;
	unsigned int segment_count; /* PT_LOAD with memsz above 0 */
	struct segment segments[SEGMENTS_MAX];
	uint64_t entry, ap_entry; /* 0: not found */
	uint64_t initrd_gpa;
};

static bool ranges_overlap(struct range a, struct range b)
{
	return a.start < b.end && b.start < a.end;
}

static struct range segment_range(const struct segment *segment)
{
	return (struct range){ segment->gpa, segment->gpa + segment->memsz };
}

/* The host address of [gpa, gpa + size) when all of it lies in one piece of
 * RAM, else NULL. */
static uint8_t *ram_at(const struct pvh_image *image, uint64_t gpa,
		       uint64_t size)
{
	for (unsigned int i = 0; i < image->ram_count; i++) {
		const struct pvh_ram *ram = &image->ram[i];

		if (gpa >= ram->gpa && gpa - ram->gpa < ram->size &&
		    size <= ram->size - (gpa - ram->gpa))
			return ram->host + (gpa - ram->gpa);
	}
	return NULL;
}

/* As ram_at(), of what the guest may use. */
static bool is_usable(const struct plan *plan, uint64_t gpa, uint64_t size)
{
	const struct range hole = { PVH_HOLE_START, PVH_HOLE_END };

	return ram_at(plan->image, gpa, size) &&
	       !ranges_overlap(hole, (struct range){ gpa, gpa + size });
}

static void map_add(struct memmap *map, uint64_t start, uint64_t end,
		    uint32_t type)
{
	if (start >= end)
		return;
	map->entries[map->count].range = (struct range){ start, end };
	map->entries[map->count].type = type;
	map->count++;
}

static int map_add_ram(struct memmap *map, const struct pvh_image *image,
		       struct err *err)
{
	uint64_t at = 0;

	if (image->ram_count < 1 || image->ram_count > PVH_RANGES_MAX)
		return err_set(err, -EINVAL, "RAM: %u pieces, at most %u",
			       image->ram_count, PVH_RANGES_MAX);
	for (unsigned int i = 0; i < image->ram_count; i++) {
		const struct pvh_ram *ram = &image->ram[i];
		uint64_t end;

		if (ram->size == 0 || ram->gpa < at ||
		    (ram->gpa | ram->size) % PAGE ||
		    __builtin_add_overflow(ram->gpa, ram->size, &end) ||
		    (ram->gpa < 4ull << 30 && end > 4ull << 30))
			return err_set(err, -EINVAL,
				       "RAM: 0x%" PRIx64 " bytes at 0x%" PRIx64
				       " are misplaced",
				       ram->size, ram->gpa);
		at = end;
		if (i > 0) {
			map_add(map, ram->gpa, end, HVM_MEMMAP_TYPE_RAM);
			continue;
		}
		if (ram->gpa != 0 || end <= PVH_HOLE_END)
			return err_set(err, -EINVAL,
				       "RAM: [0x%" PRIx64 ", 0x%" PRIx64
				       ") does not hold the first MiB",
				       ram->gpa, end);
		map_add(map, 0, PVH_HOLE_START, HVM_MEMMAP_TYPE_RAM);
		map_add(map, PVH_HOLE_START, PVH_HOLE_END,
			HVM_MEMMAP_TYPE_RESERVED);
		map_add(map, PVH_HOLE_END, end, HVM_MEMMAP_TYPE_RAM);
	}
	return 0;
}

static int map_add_reserved(struct memmap *map, const struct pvh_image *image,
			    struct err *err)
{
	if (image->reserved_count > PVH_RANGES_MAX)
		return err_set(err, -EINVAL,
			       "reserved memory: %u pieces, at most %u",
			       image->reserved_count, PVH_RANGES_MAX);
	for (unsigned int i = 0; i < image->reserved_count; i++) {
		const struct pvh_reserved *part = &image->reserved[i];
		struct range range = { part->gpa, 0 };

		if (__builtin_add_overflow(part->gpa, part->size, &range.end))
			return err_set(err, -EINVAL,
				       "reserved memory: 0x%" PRIx64
				       " bytes at 0x%" PRIx64 " wrap past 2^64",
				       part->size, part->gpa);
		for (unsigned int j = 0; j < map->count; j++) {
			if (ranges_overlap(range, map->entries[j].range))
				return err_set(err, -EINVAL,
					       "reserved memory: 0x%" PRIx64
					       " is taken already",
					       part->gpa);
		}
		map_add(map, range.start, range.end, HVM_MEMMAP_TYPE_RESERVED);
	}
	return 0;
}

/* Why a file without the ELF magic does not start. */
static int refuse_file(const struct pvh_image *image, struct err *err)
{
	const uint8_t *bytes = image->kernel;

	if (image->kernel_size >= BZIMAGE_MAGIC_AT + 4 &&
	    memcmp(bytes + BZIMAGE_MAGIC_AT, "HdrS", 4) == 0)
		return err_set(err, -ENOEXEC,
			       "kernel: bzImage kernels are not supported yet: "
			       "unpack vmlinux (Linux's "
			       "scripts/extract-vmlinux does it)");
	return err_set(err, -ENOEXEC,
		       "kernel: not an ELF file: give an uncompressed vmlinux");
}

static int take_ehdr(struct plan *plan, struct err *err)
{
	const struct pvh_image *image = plan->image;
	const uint8_t *bytes = image->kernel;
	uint16_t type, machine, phnum, phentsize;
	uint64_t phoff;
	Elf64_Ehdr e64;
	Elf32_Ehdr e32;

	if (image->kernel_size < SELFMAG || memcmp(bytes, ELFMAG, SELFMAG) != 0)
		return refuse_file(image, err);
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
	const struct range boot_data = { PVH_START_INFO_GPA,
					 PVH_CMDLINE_GPA + PAGE };

	if (segment->filesz > segment->memsz)
		return err_set(err, -EBADMSG,
			       "kernel: segment %u: 0x%" PRIx64
			       " bytes in the file, 0x%" PRIx64 " in memory",
			       index, segment->filesz, segment->memsz);
	if (segment->memsz == 0)
		return 0;
	if (!is_usable(plan, segment->gpa, segment->memsz))
		return err_set(err, -E2BIG,
			       "kernel: segment %u: 0x%" PRIx64
			       " bytes at 0x%" PRIx64
			       " are not inside the guest's RAM: give it more "
			       "memory",
			       index, segment->memsz, segment->gpa);
	if (ranges_overlap(segment_range(segment), boot_data))
		return err_set(err, -E2BIG,
			       "kernel: segment %u: 0x%" PRIx64
			       " bytes at 0x%" PRIx64
			       " overlap the boot data at 0x%x",
			       index, segment->memsz, segment->gpa,
			       PVH_START_INFO_GPA);
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

/* The highest place below 4 GiB that the kernel leaves. */
static int plan_initrd(struct plan *plan, struct err *err)
{
	const struct pvh_image *image = plan->image;
	uint64_t low_end = 0;
	struct range range;

	if (!image->initrd || image->initrd_size == 0)
		return 0;
	for (unsigned int i = 0; i < image->ram_count; i++) {
		if (image->ram[i].gpa < 4ull << 30)
			low_end = image->ram[i].gpa + image->ram[i].size;
	}
	if (image->initrd_size > low_end)
		goto too_large;
	range.start = align_down(low_end - image->initrd_size, PAGE);
	range.end = range.start + image->initrd_size;
	if (range.start < PVH_HOLE_END ||
	    !is_usable(plan, range.start, image->initrd_size))
		goto too_large;
	for (unsigned int i = 0; i < plan->segment_count; i++) {
		if (ranges_overlap(range, segment_range(&plan->segments[i])))
			return err_set(err, -E2BIG,
				       "initrd: 0x%zx bytes at 0x%" PRIx64
				       " overlap the kernel at 0x%" PRIx64
				       ": give the guest more memory",
				       image->initrd_size, range.start,
				       plan->segments[i].gpa);
	}
	plan->initrd_gpa = range.start;
	return 0;

too_large:
	return err_set(err, -E2BIG,
		       "initrd: 0x%zx bytes do not fit into the guest's RAM "
		       "below 4 GiB (0x%" PRIx64 " bytes)",
		       image->initrd_size, low_end);
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

/* Both pages are inside the first piece of RAM. */
static void write_boot_data(const struct plan *plan)
{
	const struct pvh_image *image = plan->image;
	uint8_t *ram = image->ram[0].host;
	uint8_t *at = ram + PVH_START_INFO_GPA;
	const char *cmdline = image->cmdline ? image->cmdline : "";

	memset(at, 0, PAGE);
	put_le32(&at, HVM_START_MAGIC);
	put_le32(&at, 1); /* version */
	put_le32(&at, 0); /* flags */
	put_le32(&at, plan->initrd_gpa ? 1 : 0);
	put_le64(&at, plan->initrd_gpa ? MODLIST_GPA : 0);
	put_le64(&at, PVH_CMDLINE_GPA);
	put_le64(&at, image->rsdp_gpa);
	put_le64(&at, MEMMAP_GPA);
	put_le32(&at, plan->map.count);

	if (plan->initrd_gpa) {
		at = ram + MODLIST_GPA;
		put_le64(&at, plan->initrd_gpa);
		put_le64(&at, image->initrd_size);
	}
	at = ram + MEMMAP_GPA;
	for (unsigned int i = 0; i < plan->map.count; i++) {
		struct range range = plan->map.entries[i].range;

		put_le64(&at, range.start);
		put_le64(&at, range.end - range.start);
		put_le32(&at, plan->map.entries[i].type);
		put_le32(&at, 0);
	}
	memcpy(ram + PVH_CMDLINE_GPA, cmdline, strlen(cmdline) + 1);
}

static void write_segments(const struct plan *plan)
{
	const struct pvh_image *image = plan->image;

	for (unsigned int i = 0; i < plan->segment_count; i++) {
		const struct segment *segment = &plan->segments[i];
		uint8_t *to = ram_at(image, segment->gpa, segment->memsz);

		memcpy(to, (const uint8_t *)image->kernel + segment->offset,
		       segment->filesz);
		if (!image->is_ram_fresh)
			memset(to + segment->filesz, 0,
			       segment->memsz - segment->filesz);
	}
}

int pvh_load(const struct pvh_image *image, struct pvh_entry *ret_entry,
	     struct err *err)
{
	struct plan plan = { .image = image };
	size_t cmdline_size = image->cmdline ? strlen(image->cmdline) : 0;
	int ret;

	if (cmdline_size > PVH_CMDLINE_MAX)
		return err_set(err, -E2BIG,
			       "command line: %zu bytes, at most %u",
			       cmdline_size, PVH_CMDLINE_MAX);
	ret = map_add_ram(&plan.map, image, err);
	if (ret == 0)
		ret = map_add_reserved(&plan.map, image, err);
	if (ret == 0)
		ret = plan_kernel(&plan, err);
	if (ret == 0)
		ret = plan_initrd(&plan, err);
	if (ret)
		return ret;

	write_segments(&plan);
	if (plan.initrd_gpa)
		memcpy(ram_at(image, plan.initrd_gpa, image->initrd_size),
		       image->initrd, image->initrd_size);
	write_boot_data(&plan);
	*ret_entry = (struct pvh_entry){
		.entry = (uint32_t)plan.entry,
		.ap_entry = (uint32_t)plan.ap_entry,
		.start_info = PVH_START_INFO_GPA,
	};
	return 0;
}

int pvh_file_open(const char *what, const char *path, struct pvh_file *ret_file,
		  struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	void *data;
	int ret = 0;

	if (fd < 0)
		return err_set_errno(err, -errno, "%s: %s", what, path);
	if (fstat(fd, &st) < 0) {
		ret = err_set_errno(err, -errno, "%s: %s", what, path);
		goto out;
	}
	if (!S_ISREG(st.st_mode) || st.st_size == 0) {
		ret = err_set(err, -EINVAL, "%s: %s: %s", what, path,
			      S_ISREG(st.st_mode) ? "the file is empty"
						  : "not a regular file");
		goto out;
	}
	data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED) {
		ret = err_set_errno(err, -errno, "%s: %s", what, path);
		goto out;
	}
	*ret_file = (struct pvh_file){ data, (size_t)st.st_size };
out:
	close(fd);
	return ret;
}

void pvh_file_close(struct pvh_file *file)
{
	if (file->data)
		munmap(file->data, file->size);
	*file = (struct pvh_file){ NULL, 0 };
}
