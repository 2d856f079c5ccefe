/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes behind aml.h. */
	.section .rodata
	.globl dsdt_aml, dsdt_aml_end, pci_aml, pci_aml_end
	.balign 16
dsdt_aml:
	.incbin "dsdt.aml"
dsdt_aml_end:
	.byte 0
	.balign 16
pci_aml:
	.incbin "pci.aml"
pci_aml_end:
	.byte 0
	.section .note.GNU-stack, "", @progbits
