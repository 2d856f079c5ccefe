/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Boot by PVH: puts a kernel, its initrd and its boot data into guest RAM.
 *
 * machine_new() and a reset call in with the files' bytes and the layout of
 * RAM; what comes back is where the boot vCPU starts (32-bit protected mode,
 * paging off, ebx = start_info).  The kernel file is untrusted: whatever it
 * says, only the RAM handed in is written, and the work is bounded by the
 * sizes of file and RAM.  A failed load may leave part of it in RAM.
 *
 * What is written below 1 MiB: struct hvm_start_info, the module list and the
 * memory map in the page at PVH_START_INFO_GPA, the command line in the page
 * after it.  The initrd goes to the top of the RAM below 4 GiB.  The guest is
 * told that [PVH_HOLE_START, PVH_HOLE_END) is reserved: BIOS data, VGA and
 * option ROM space, where a machine may put ACPI tables.
 *
 * Sources: xen/include/public/arch-x86/hvm/start_info.h,
 * xen/include/public/elfnote.h, System V ABI chapters 4 and 5.
 */
#ifndef GODWIT_MACHINE_PVH_H
#define GODWIT_MACHINE_PVH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define PVH_START_INFO_GPA 0x6000u
#define PVH_CMDLINE_GPA    0x7000u
#define PVH_CMDLINE_MAX    4095u /* bytes without the NUL */
#define PVH_HOLE_START     0x9fc00u
#define PVH_HOLE_END       0x100000u
#define PVH_RANGES_MAX     32u /* of each array in struct pvh_image */

/* A piece of guest RAM. */
struct pvh_ram {
	uint64_t gpa, size; /* page-aligned, size above zero */
	uint8_t *host;      /* borrowed during pvh_load() */
};

/* Addresses the guest is told to leave alone, outside of RAM. */
struct pvh_reserved {
	uint64_t gpa, size;
};

/* All pointers are borrowed during pvh_load(). */
struct pvh_image {
	const void *kernel; /* an ELF file */
	size_t kernel_size;
	const void *initrd; /* NULL without one */
	size_t initrd_size;
	const char *cmdline; /* NULL is "" */

	/* In order of gpa, not overlapping; the first starts at 0 and reaches
	 * past 1 MiB; none crosses 4 GiB. */
	const struct pvh_ram *ram;
	unsigned int ram_count;
	const struct pvh_reserved *reserved; /* any order; NULL without any */
	unsigned int reserved_count;
	uint64_t rsdp_gpa; /* ACPI's root pointer; 0 without ACPI */

	/* RAM was never written: what a segment leaves zero (.bss) is not
	 * touched, and stays a hole. */
	bool is_ram_fresh;
};

struct pvh_entry {
	uint32_t entry;      /* eip of the boot vCPU */
	uint32_t ap_entry;   /* eip of the others (ELF note "godwit", type 1),
			      or 0: they wait for the kernel's INIT/SIPI */
	uint32_t start_info; /* ebx */
};

/*
 * 0; -ENOEXEC for a file that is no PVH kernel for x86 (the message says what
 * to do), -EBADMSG for one that is cut off or contradicts itself, -E2BIG for
 * what does not fit into RAM or the limits here, -EINVAL for a RAM layout that
 * breaks the rules above.
 */
int pvh_load(const struct pvh_image *image, struct pvh_entry *ret_entry,
	     struct err *err);

/* A file mapped for pvh_load(), privately; size 0 is refused.  Truncating it
 * meanwhile kills the process (SIGBUS), so it is closed again soon. */
struct pvh_file {
	void *data; /* owned mapping, NULL when closed */
	size_t size;
};

/* @what is for the message: "kernel: PATH: No such file or directory". */
int pvh_file_open(const char *what, const char *path, struct pvh_file *ret_file,
		  struct err *err);
void pvh_file_close(struct pvh_file *file);

#endif
