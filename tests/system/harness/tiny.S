/* SPDX-License-Identifier: Apache-2.0 */
/* A PVH kernel that does one thing, chosen by the build (tiny.py). */
	.section .note.Xen, "a", @note
	.balign 4
	.long 4, 4, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long _start

	.text
	.globl _start
_start:
	mov $0x3f8, %edx	/* say so: one line on the serial port */
	mov $hello, %esi
	mov $0x200000, %esp
	call print
#if defined(TINY_DEBUG_EXIT)
	mov $VALUE, %eax
	out %eax, $0xf4
#elif defined(TINY_RESET)
	mov $0xfe, %al		/* the keyboard controller's reset line */
	out %al, $0x64
#elif defined(TINY_TRIPLE_FAULT)
	lidt no_idt
	ud2
#elif defined(TINY_POWER_OFF)
	mov $PORT, %edx		/* sleep type S5 with SLP_EN */
	mov $VALUE, %eax
	out %ax, %dx
#elif defined(TINY_POWER_BUTTON)
	mov $0x600, %edx	/* PM1 status, until the power button is in it */
3:	in %dx, %ax
	test $1, %ah
	jz 3b
	mov $0x604, %edx	/* PM1 control: S5, sleep */
	mov $0x3400, %eax
	out %ax, %dx
#elif defined(TINY_BOOT_DATA)
	/* ebx = struct hvm_start_info: command line at 24, modules at 12 and 16,
	 * ACPI's root pointer at 32. */
	mov $boot, %esi
	call print
	mov 24(%ebx), %esi
	call print
	mov $initrd, %esi
	call print
	mov 16(%ebx), %eax	/* the first module: address, then size */
	mov 8(%eax), %ebp
	mov $8, %ecx
6:	rol $4, %ebp
	mov %ebp, %eax
	and $15, %eax
	mov digits(%eax), %al
	out %al, %dx
	dec %ecx
	jnz 6b
	mov $rsdp, %esi
	call print
	mov 32(%ebx), %esi
	mov $8, %ecx		/* its signature */
	rep outsb
	mov $'\n', %al
	out %al, %dx
	mov $0, %eax
	out %eax, $0xf4
#elif defined(TINY_TICKS)
3:	mov $0x3f8, %edx
	mov $'.', %al
	out %al, %dx
	mov $100, %ecx
4:	dec %ecx
	jnz 4b
	jmp 3b
#endif
5:	jmp 5b

print:	/* the string at esi to port dx; changes al */
	mov (%esi), %al
	test %al, %al
	jz 2f
	out %al, %dx
	inc %esi
	jmp print
2:	ret

hello:
	.asciz "@tiny\n"
boot:
	.asciz "@boot "
initrd:
	.asciz " initrd="
rsdp:
	.asciz " rsdp="
digits:
	.ascii "0123456789abcdef"
no_idt:
	.short 0
	.long 0
