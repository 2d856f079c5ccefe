/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes behind images.h. */
	.macro image name
	.globl guest_\name\()_elf, guest_\name\()_elf_end
	.balign 4096
guest_\name\()_elf:
	.incbin "\name\().elf"
guest_\name\()_elf_end:
	.byte 0
	.endm

	.section .rodata
	image stress
	image blk
	image net
	.section .note.GNU-stack, "", @progbits
