/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entry points, static tables and trap stubs of the guest programs.
 *
 * A VMM enters at boot_entry (PVH) or, for secondary vCPUs, at ap_entry, in
 * 32-bit protected mode, paging off, flat segments, ebx = hvm_start_info, and
 * for ap_entry edi = index of the vCPU.  Some two dozen instructions later
 * vcpu_main(index, start_info) runs in ring 3 with I/O privilege: there it is
 * at full speed even where KVM interprets ring 0 (PVM), so all that can be
 * a table in the file is one.  Interrupts stay off.
 *
 * A trap goes on in ring 3 too, in trap_main(vector, error, rip, cr2, rsp).
 */
#include "guest/layout.h"

#define CR0_ON 0x80000033 /* PG, NE, ET, MP, PE */
#define CR4_ON 0x620	  /* OSXMMEXCPT, OSFXSR, PAE */
#define EFER   0xc0000080
#define LME    0x100
#define RFLAGS 0x3002 /* IOPL 3 */

/*
 * Where ring 3 runs natively under PVM its I/O privilege level is lost, so the ports are
 * also allowed by the TSS.
 */
#define IO_PORTS 4096

/* Accessed and dirty are set ahead: nobody has to write the tables for it. */
#define PTE_TABLE 0x27	/* accessed, user, writable, present */
#define PTE_LARGE 0xe7	/* 2 MiB, dirty and the same */

	/* A note: owner (4 bytes aligned), type, description. */
	.section .note.Xen, "a", @note
	.balign 4
	.long 4, 8, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.quad boot_entry
	.section .note.godwit, "a", @note
	.balign 4
	.long 7, 4, 1		/* entry of secondary vCPUs */
	.asciz "godwit"
	.balign 4
	.long ap_entry

	.section .tables, "aw", @progbits
	.globl tables_start, boot_pdpt
tables_start:
	.quad boot_pdpt + PTE_TABLE
	.fill 511, 8, 0
boot_pdpt:
	.quad boot_pd + PTE_TABLE
	.fill 511, 8, 0
boot_pd:
	.set number, 0
	.rept 512
	.quad number * 0x200000 + PTE_LARGE
	.set number, number + 1
	.endr

	/* All vCPUs share a TSS: it only holds the stack for fatal traps. */
	.set tss_address, TABLES_BASE + (tss - tables_start)
gdt:
	.quad 0
	.quad 0x00af9b000000ffff	/* SEL_CODE: ring 0, 64-bit */
	.quad 0x00cff3000000ffff	/* SEL_USER_DATA */
	.quad 0x00affb000000ffff	/* SEL_USER_CODE: 64-bit */
	.rept MAX_VCPUS
	.word tss_end - tss - 1
	.word tss_address & 0xffff
	.byte (tss_address >> 16) & 0xff
	.byte 0x89			/* present, available 64-bit TSS */
	.byte 0, tss_address >> 24
	.quad 0
	.endr
gdt_end:
idt:
	.set number, 0
	.rept TRAP_VECTORS
	.word (TRAPS_BASE + number * TRAP_STUB_SIZE) & 0xffff
	.word SEL_CODE
	.word 0x8e00			/* present, interrupt gate */
	.word (TRAPS_BASE + number * TRAP_STUB_SIZE) >> 16
	.quad 0
	.set number, number + 1
	.endr
idt_end:
	.balign 16
tss:
	.long 0
	.quad trap_stack_end		/* RSP0 */
	.fill 11, 8, 0
	.word 0, io_bitmap - tss
io_bitmap:
	.fill IO_PORTS / 8, 1, 0	/* all allowed */
	.byte 0xff
tss_end:
	.balign 8
	.word 0
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt
	.balign 8
	.word 0
idt_pointer:
	.word idt_end - idt - 1
	.quad idt
	.balign 8
	.word 0, 0, 0
no_idt_pointer:
	.word 0
	.quad 0

	.bss
	.balign 16
	.skip 4096
trap_stack_end:
	.skip 4096
trap_user_stack_end:

	.section .traps, "ax", @progbits
	.globl traps_start
	.code64
traps_start:
	.set number, 0
	.rept TRAP_VECTORS
	.balign TRAP_STUB_SIZE
	.if (1 << number) & 0x60227d00	/* the CPU pushes an error code */
	.else
	pushq $0
	.endif
	pushq $number
	jmp trap
	.set number, number + 1
	.endr
	.balign TRAP_STUB_SIZE

	.text
trap:
	popq %rdi
	popq %rsi
	movq (%rsp), %rdx
	movq %cr2, %rcx
	movq 24(%rsp), %r8
	/* A second one, from trap_main(): the VMM did not let us exit. */
	cmpq $trap_exit_failed, %rdx
	je 1f
	cmpq $cpu_park, %rdx
	je surplus
	movq $trap_main, (%rsp)
	movq $SEL_USER_CODE, 8(%rsp)
	movq $RFLAGS, 16(%rsp)
	movq $(trap_user_stack_end - 8), 24(%rsp)
	movq $SEL_USER_DATA, 32(%rsp)
	iretq
1:
	lidt no_idt_pointer		/* triple fault */
	ud2

	/* Last resort of machine_exit(): ends here or in a triple fault. */
	.globl trap_exit_failed
trap_exit_failed:
	ud2
	jmp trap_exit_failed

	/* For ever: ring 3 may not halt.  Many at once use one stack, for the same. */
	.globl cpu_park
cpu_park:
	ud2

surplus:
	hlt
	jmp surplus

	.code32
	.globl boot_entry, ap_entry
boot_entry:
	xorl %edi, %edi
ap_entry:
	cli
	cmpl $MAX_VCPUS, %edi
	jae surplus
	lgdt gdt_pointer
	movl $CR4_ON, %eax
	movl %eax, %cr4
	movl $tables_start, %eax
	movl %eax, %cr3
	movl $EFER, %ecx
	rdmsr
	orl $LME, %eax
	wrmsr
	movl $CR0_ON, %eax
	movl %eax, %cr0
	ljmp $SEL_CODE, $1f

	.code64
1:
	lidt idt_pointer
	movl %edi, %edi
	movl %ebx, %esi
	movl %edi, %eax
	shll $4, %eax
	addl $SEL_TSS, %eax
	ltr %ax
	leal 1(%rdi), %eax
	imull $STACK_SIZE, %eax, %eax
	leal (STACKS_BASE - 8)(%rax), %esp
	movl %esp, %eax
	pushq $SEL_USER_DATA
	pushq %rax
	pushq $RFLAGS
	pushq $SEL_USER_CODE
	pushq $vcpu_main
	iretq

	/*
	 * Where a SIPI starts a vCPU: copied below 1 MiB, so nothing in it may refer to
	 * where it is.  It comes to ap_entry as the VMM lets others begin there.
	 */
	.section .rodata
	.code16
	.globl wake_start, wake_end, wake_index
wake_start:
	cli
	movw %cs, %ax
	movw %ax, %ds
	lgdtl wake_gdt_pointer - wake_start
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $8, $wake_protected
	.balign 8
wake_gdt_pointer:
	.word wake_gdt_end - wake_gdt - 1
	.long wake_gdt
wake_end:
	.balign 8
wake_gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	/* flat code */
	.quad 0x00cf93000000ffff	/* flat data */
wake_gdt_end:
	.data
	.balign 4
wake_index:
	.long 0

	.text
	.code32
wake_protected:
	movl $16, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl wake_index, %edi
	xorl %ebx, %ebx
	movl %edi, %eax
	shll $4, %eax
	movb $0x89, gdt + SEL_TSS + 5(%eax)	/* no longer busy */
	jmp ap_entry

	.section .note.GNU-stack, "", @progbits
