/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest program of a test's own: some bytes of machine code that run in ring 3,
 * 64 bit, flat, with the first 4 GiB mapped and all ports open.  Native on every
 * KVM.
 */
#ifndef GODWIT_TEST_ACCEL_KVM_RING3_H
#define GODWIT_TEST_ACCEL_KVM_RING3_H

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "mem/ram.h"

/* Tables in 2 MiB pages at 0x1000, a task state that opens the ports (a guest in
 * ring 3 may lose its IOPL: PVM), and the program. */
#define GUEST_PML4 0x1000u
#define GUEST_PDPT 0x2000u
#define GUEST_PD   0x3000u
#define GUEST_TSS  0x7000u
#define GUEST_CODE 0x8000u
#define GUEST_DATA 0x100000ull /* nothing of the above is behind this */

/* Into zeroed memory at guest-physical 0. */
static inline void ring3_load(uint8_t *ram, const void *program, size_t size)
{
	uint64_t *pml4 = (uint64_t *)(ram + GUEST_PML4);
	uint64_t *pdpt = (uint64_t *)(ram + GUEST_PDPT);
	uint64_t *pd = (uint64_t *)(ram + GUEST_PD);

	pml4[0] = GUEST_PDPT | 0x27; /* accessed, user, writable, present */
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (GUEST_PD + i * RAM_PAGE_SIZE) | 0x27;
	for (uint64_t i = 0; i < 4 * 512; i++)
		pd[i] = i << 21 | 0xe7; /* large, dirty, and the same */
	ram[GUEST_TSS + 102] = 104;     /* the bitmap of ports, all open */
	ram[GUEST_TSS + 104 + 32] = 0xff;
	memcpy(ram + GUEST_CODE, program, size);
}

/* The program's first instruction comes next, with these registers (but rip, rsp
 * and rflags).  0 or -errno. */
static inline int ring3_regs(int vcpu_fd, const struct kvm_regs *wanted)
{
	const struct kvm_segment data = { .limit = 0xffffffff,
					  .selector = 0x13,
					  .type = 3,
					  .present = 1,
					  .dpl = 3,
					  .db = 1,
					  .s = 1,
					  .g = 1 };
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_regs regs = *wanted;
	struct kvm_sregs sregs;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.cs = data;
	sregs.cs.selector = 0x1b;
	sregs.cs.type = 11;
	sregs.cs.db = 0;
	sregs.cs.l = 1;
	sregs.tr = (struct kvm_segment){ .base = GUEST_TSS,
					 .limit = 104 + 32,
					 .selector = 0x20,
					 .type = 11,
					 .present = 1 };
	sregs.cr0 = 0x80000033;
	sregs.cr3 = GUEST_PML4;
	sregs.cr4 = 0x620;
	sregs.efer = 0x500;
	regs.rip = GUEST_CODE;
	regs.rsp = GUEST_CODE + 0x1000;
	regs.rflags = 0x3002;
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0 ||
	    ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0 ||
	    ioctl(vcpu_fd, KVM_SET_MP_STATE, &runnable) < 0)
		return -errno;
	return 0;
}

#endif
