// SPDX-License-Identifier: Apache-2.0
/*
 * What both boot protocols share: the memory map, where the initrd goes, opening
 * and choosing.  What differs is in pvh.c and bzimage.c.
 */
#include "machine/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "boot_priv.h"

#define LOW_END (4ull << 30)

uint8_t *boot_ram_at(const struct boot_image *image, uint64_t gpa,
		     uint64_t size)
{
	for (unsigned int i = 0; i < image->ram_count; i++) {
		const struct boot_ram *ram = &image->ram[i];

		if (gpa >= ram->gpa && gpa - ram->gpa < ram->size &&
		    size <= ram->size - (gpa - ram->gpa))
			return ram->host + (gpa - ram->gpa);
	}
	return NULL;
}

bool boot_is_usable(const struct boot_image *image, uint64_t gpa, uint64_t size)
{
	const struct range hole = { BOOT_HOLE_START, BOOT_HOLE_END };

	return boot_ram_at(image, gpa, size) &&
	       !ranges_overlap(hole, (struct range){ gpa, gpa + size });
}

static void map_add(struct boot_plan *plan, uint64_t start, uint64_t end,
		    enum boot_map_type type)
{
	if (start >= end)
		return;
	plan->map[plan->map_count].range = (struct range){ start, end };
	plan->map[plan->map_count].type = type;
	plan->map_count++;
}

static int map_add_ram(struct boot_plan *plan, struct err *err)
{
	const struct boot_image *image = plan->image;
	uint64_t at = 0;

	if (image->ram_count < 1 || image->ram_count > BOOT_RANGES_MAX)
		return err_set(err, -EINVAL, "RAM: %u pieces, at most %u",
			       image->ram_count, BOOT_RANGES_MAX);
	for (unsigned int i = 0; i < image->ram_count; i++) {
		const struct boot_ram *ram = &image->ram[i];
		uint64_t end;

		if (ram->size == 0 || ram->gpa < at ||
		    (ram->gpa | ram->size) % BOOT_PAGE ||
		    __builtin_add_overflow(ram->gpa, ram->size, &end) ||
		    (ram->gpa < LOW_END && end > LOW_END))
			return err_set(err, -EINVAL,
				       "RAM: 0x%" PRIx64 " bytes at 0x%" PRIx64
				       " are misplaced",
				       ram->size, ram->gpa);
		at = end;
		if (i > 0) {
			map_add(plan, ram->gpa, end, BOOT_MAP_RAM);
			continue;
		}
		if (ram->gpa != 0 || end <= BOOT_HOLE_END)
			return err_set(err, -EINVAL,
				       "RAM: [0x%" PRIx64 ", 0x%" PRIx64
				       ") does not hold the first MiB",
				       ram->gpa, end);
		map_add(plan, 0, BOOT_HOLE_START, BOOT_MAP_RAM);
		map_add(plan, BOOT_HOLE_START, BOOT_HOLE_END,
			BOOT_MAP_RESERVED);
		map_add(plan, BOOT_HOLE_END, end, BOOT_MAP_RAM);
	}
	return 0;
}

static int map_add_reserved(struct boot_plan *plan, struct err *err)
{
	const struct boot_image *image = plan->image;

	if (image->reserved_count > BOOT_RANGES_MAX)
		return err_set(err, -EINVAL,
			       "reserved memory: %u pieces, at most %u",
			       image->reserved_count, BOOT_RANGES_MAX);
	for (unsigned int i = 0; i < image->reserved_count; i++) {
		const struct boot_reserved *part = &image->reserved[i];
		struct range range = { part->gpa, 0 };

		if (__builtin_add_overflow(part->gpa, part->size, &range.end))
			return err_set(err, -EINVAL,
				       "reserved memory: 0x%" PRIx64
				       " bytes at 0x%" PRIx64 " wrap past 2^64",
				       part->size, part->gpa);
		for (unsigned int j = 0; j < plan->map_count; j++) {
			if (ranges_overlap(range, plan->map[j].range))
				return err_set(err, -EINVAL,
					       "reserved memory: 0x%" PRIx64
					       " is taken already",
					       part->gpa);
		}
		map_add(plan, range.start, range.end, BOOT_MAP_RESERVED);
	}
	return 0;
}

int boot_plan_initrd(struct boot_plan *plan, uint64_t limit,
		     const struct range *kernel, unsigned int count,
		     struct err *err)
{
	const struct boot_image *image = plan->image;
	uint64_t end = 0;
	struct range range;

	if (!image->initrd || image->initrd_size == 0)
		return 0;
	for (unsigned int i = 0; i < image->ram_count; i++) {
		if (image->ram[i].gpa < LOW_END)
			end = image->ram[i].gpa + image->ram[i].size;
	}
	if (end > limit)
		end = limit;
	if (image->initrd_size > end)
		goto too_large;
	range.start = align_down(end - image->initrd_size, BOOT_PAGE);
	range.end = range.start + image->initrd_size;
	if (range.start < BOOT_HOLE_END ||
	    !boot_is_usable(image, range.start, image->initrd_size))
		goto too_large;
	for (unsigned int i = 0; i < count; i++) {
		if (ranges_overlap(range, kernel[i]))
			return err_set(err, -E2BIG,
				       "initrd: 0x%zx bytes at 0x%" PRIx64
				       " overlap the kernel at 0x%" PRIx64
				       ": give the guest more memory",
				       image->initrd_size, range.start,
				       kernel[i].start);
	}
	plan->initrd_gpa = range.start;
	return 0;

too_large:
	return err_set(err, -E2BIG,
		       "initrd: 0x%zx bytes do not fit into the guest's RAM "
		       "below 0x%" PRIx64,
		       image->initrd_size, end);
}

void boot_write_common(const struct boot_plan *plan)
{
	const struct boot_image *image = plan->image;
	char *cmdline = (char *)image->ram[0].host + BOOT_CMDLINE_GPA;

	memcpy(cmdline, image->cmdline ? image->cmdline : "",
	       plan->cmdline_size);
	cmdline[plan->cmdline_size] = '\0';
	if (plan->initrd_gpa)
		memcpy(boot_ram_at(image, plan->initrd_gpa, image->initrd_size),
		       image->initrd, image->initrd_size);
}

int boot_load(const struct boot_image *image, struct boot_entry *ret_entry,
	      struct err *err)
{
	struct boot_plan plan = { .image = image };
	int ret;

	plan.cmdline_size = image->cmdline ? strlen(image->cmdline) : 0;
	if (plan.cmdline_size > BOOT_CMDLINE_MAX)
		return err_set(err, -E2BIG,
			       "command line: %zu bytes, at most %u",
			       plan.cmdline_size, BOOT_CMDLINE_MAX);
	ret = map_add_ram(&plan, err);
	if (ret == 0)
		ret = map_add_reserved(&plan, err);
	if (ret)
		return ret;
	if (pvh_is_elf(image->kernel, image->kernel_size))
		return pvh_load(&plan, ret_entry, err);
	if (bzimage_is_one(image->kernel, image->kernel_size))
		return bzimage_load(&plan, ret_entry, err);
	return err_set(err, -ENOEXEC,
		       "kernel: neither an ELF file nor a bzImage: give "
		       "Linux's vmlinux or arch/x86/boot/bzImage");
}

int boot_file_open(const char *what, const char *path,
		   struct boot_file *ret_file, struct err *err)
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
	*ret_file = (struct boot_file){ data, (size_t)st.st_size };
out:
	close(fd);
	return ret;
}

void boot_file_close(struct boot_file *file)
{
	if (file->data)
		munmap(file->data, file->size);
	*file = (struct boot_file){ NULL, 0 };
}
