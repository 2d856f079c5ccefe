/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Boot: puts a kernel, its initrd and its boot data into guest RAM.
 *
 * machine_new() calls in with the files' bytes and the layout of RAM; what
 * comes back is where the boot vCPU starts.  The kernel file says by its magic
 * how it wants to be started: an ELF file by PVH (pvh.c), a bzImage by Linux's
 * 64-bit boot protocol (bzimage.c).  It is untrusted: whatever it says, only the
 * RAM handed in is written, and the work is bounded by the sizes of file and
 * RAM.  A failed load may leave part of it in RAM.
 *
 * RAM below 1 MiB as the guest finds it:
 *
 *	0x6000    BOOT_INFO_GPA     struct hvm_start_info, or struct boot_params
 *	0x7000    BOOT_CMDLINE_GPA  the command line
 *	0x8000    BOOT_TABLES_GPA   GDT and page tables (64-bit protocol only)
 *	0x9fc00   BOOT_HOLE_START   announced as reserved, up to 1 MiB: BIOS data,
 *	                            VGA and option ROM space, ACPI tables
 *
 * The initrd goes to the highest place below 4 GiB that the kernel can reach.
 */
#ifndef GODWIT_MACHINE_BOOT_H
#define GODWIT_MACHINE_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define BOOT_INFO_GPA    0x6000u
#define BOOT_CMDLINE_GPA 0x7000u
#define BOOT_CMDLINE_MAX 4095u /* bytes without the NUL */
#define BOOT_TABLES_GPA  0x8000u
#define BOOT_TABLES_SIZE 0x7000u
#define BOOT_HOLE_START  0x9fc00u
#define BOOT_HOLE_END    0x100000u
#define BOOT_RANGES_MAX  32u /* of each array in struct boot_image */

/* A piece of guest RAM. */
struct boot_ram {
	uint64_t gpa, size; /* page-aligned, size above zero */
	uint8_t *host;      /* borrowed during boot_load() */
};

/* Addresses the guest is told to leave alone, outside of RAM. */
struct boot_reserved {
	uint64_t gpa, size;
};

/* All pointers are borrowed during boot_load(). */
struct boot_image {
	const void *kernel; /* an ELF file or a bzImage */
	size_t kernel_size;
	const void *initrd; /* NULL without one */
	size_t initrd_size;
	const char *cmdline; /* NULL is "" */

	/* In order of gpa, not overlapping; the first starts at 0 and reaches
	 * past 1 MiB; none crosses 4 GiB. */
	const struct boot_ram *ram;
	unsigned int ram_count;
	const struct boot_reserved *reserved; /* any order; NULL without any */
	unsigned int reserved_count;
	uint64_t rsdp_gpa; /* ACPI's root pointer; 0 without ACPI */

	/* RAM was never written: what the kernel leaves zero (.bss) is not
	 * touched, and stays a hole. */
	bool is_ram_fresh;
};

/*
 * How the boot vCPU starts.  PVH: 32-bit protected mode, paging off, ebx = info
 * (xen docs/misc/pvh.pandoc).  64-bit protocol: long mode with 4 GiB mapped
 * one to one, rsi = info (Documentation/arch/x86/boot.rst).
 */
struct boot_entry {
	bool is_64;
	uint64_t entry;    /* 32 bits by PVH */
	uint32_t ap_entry; /* eip of the others (ELF note "godwit", type 1),
			      or 0: they wait for the kernel's INIT/SIPI */
	uint32_t info;     /* BOOT_INFO_GPA */

	/* is_64: */
	uint32_t page_table; /* cr3 */
	uint32_t gdt;        /* flat code at 0x10, data at 0x18 */
	uint16_t gdt_limit;
};

/*
 * 0; -ENOEXEC for a file that is no such kernel for x86 (the message says what
 * to do), -EBADMSG for one that is cut off or contradicts itself, -E2BIG for
 * what does not fit into RAM or the limits here, -EINVAL for a RAM layout that
 * breaks the rules above.
 */
int boot_load(const struct boot_image *image, struct boot_entry *ret_entry,
	      struct err *err);

/* A file mapped for boot_load(), privately; size 0 is refused.  Truncating it
 * meanwhile kills the process (SIGBUS), so it is closed again soon. */
struct boot_file {
	void *data; /* owned mapping, NULL when closed */
	size_t size;
};

/* @what is for the message: "kernel: PATH: No such file or directory". */
int boot_file_open(const char *what, const char *path,
		   struct boot_file *ret_file, struct err *err);
void boot_file_close(struct boot_file *file);

#endif
