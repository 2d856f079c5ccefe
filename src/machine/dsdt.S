/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes behind dsdt.h. */
	.section .rodata
	.globl dsdt_aml, dsdt_aml_end
	.balign 16
dsdt_aml:
	.incbin "dsdt.aml"
dsdt_aml_end:
	.byte 0
	.section .note.GNU-stack, "", @progbits
