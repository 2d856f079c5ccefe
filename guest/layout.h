/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where things live in the guest's memory; for C and assembly.
 *
 *	1 MiB	image: tables, code, data (guest.ld repeats the first two
 *		addresses and asserts that they agree)
 *	2 MiB	stacks, one per vCPU
 *	4 MiB	page directories for memory above 1 GiB, written by ring 3
 *	6 MiB	struct vcpu, one per vCPU
 *	16 MiB	hot area, then fill area, to the end of RAM; the side tables
 *		take the end of the RAM below 4 GiB
 *
 * What is above the image is in no ELF segment, so that a loader need not
 * touch it, and is never assumed to be zero.
 */
#ifndef GODWIT_GUEST_LAYOUT_H
#define GODWIT_GUEST_LAYOUT_H

#define MAX_VCPUS 256

#define TABLES_BASE 0x100000
#define TRAPS_BASE  0x108000 /* a multiple of 64 KiB plus less than that */
#define STACKS_BASE 0x200000
#define STACK_SIZE  0x2000
#define DIRS_BASE   0x400000 /* directory of GiB n: + n * 4 KiB */
#define VCPUS_BASE  0x600000
#define VCPU_SIZE   0x2000
#define AREA_BASE   0x1000000

#define TRAP_VECTORS   32
#define TRAP_STUB_SIZE 16

/* Selectors; the TSS descriptor of vCPU n is at SEL_TSS + 16 * n. */
#define SEL_CODE      0x08
#define SEL_USER_DATA 0x13
#define SEL_USER_CODE 0x1b
#define SEL_TSS       0x20

#endif
