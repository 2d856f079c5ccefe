/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes behind images.h. */
	.section .rodata
	.globl guest_stress_elf, guest_stress_elf_end
	.balign 4096
guest_stress_elf:
	.incbin "stress.elf"
guest_stress_elf_end:
	.byte 0
	.section .note.GNU-stack, "", @progbits
