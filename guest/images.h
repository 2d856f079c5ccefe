/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest programs inside the main binary: whole ELF files, for the boot code to
 * load like any kernel.
 */
#ifndef GODWIT_GUEST_IMAGES_H
#define GODWIT_GUEST_IMAGES_H

extern const unsigned char guest_stress_elf[];
extern const unsigned char guest_stress_elf_end[];
extern const unsigned char guest_blk_elf[];
extern const unsigned char guest_blk_elf_end[];
extern const unsigned char guest_net_elf[];
extern const unsigned char guest_net_elf_end[];

#endif
