/* SPDX-License-Identifier: Apache-2.0 */
/* A bzImage of one page: it prints what it was given by the 64-bit boot protocol
 * (Documentation/arch/x86/boot.rst) and ends.  Linked flat, at 0. */
	.set PAYLOAD, 0x400
	.set LOADED_AT, 0x200000

	.text
	.globl _start
_start:
	.org 0x1f1
	.byte 1			/* setup_sects */
	.org 0x1f4
	.long (end - payload) / 16
	.org 0x200
	.byte 0xeb, 0x6a	/* a jump to the header's end */
	.ascii "HdrS"
	.word 0x020f		/* version */
	.org 0x211
	.byte 1			/* loaded high */
	.org 0x22c
	.long 0x7fffffff	/* initrd_addr_max */
	.org 0x236
	.word 1			/* with a 64-bit entry */
	.long 2047		/* cmdline_size */
	.org 0x258
	.quad LOADED_AT		/* pref_address */
	.long 0x100000		/* init_size */

	.org PAYLOAD
payload:
	.org PAYLOAD + 0x200
	mov $LOADED_AT, %esp
	mov $0x3f8, %edx
	lea hello(%rip), %rdi
	call print
	mov 0x228(%rsi), %edi	/* cmd_line_ptr in boot_params */
	call print
	mov 0x70(%rsi), %rsi	/* acpi_rsdp_addr: its signature */
	mov $' ', %al
	out %al, %dx
	mov $8, %ecx
	rep outsb
	mov $'\n', %al
	out %al, %dx
	mov %cs, %ax
	out %eax, $0xf4
1:	jmp 1b

print:	/* the string at rdi to port dx; changes al */
	mov (%rdi), %al
	test %al, %al
	jz 2f
	out %al, %dx
	inc %rdi
	jmp print
2:	ret

hello:
	.asciz "@boot "
	.balign 16
end:
