/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As much of an 8042 keyboard controller as a guest needs to reset the machine
 * through it (command 0xfe), and to find out without delay that there is no
 * keyboard: controller commands are answered at once, a byte for a device is
 * answered with "resend" and a timeout, and no interrupt is ever raised.  A
 * machine that has ACPI tables had better say there that it has no 8042; then
 * Linux uses it for the reset alone.
 *
 * Source: IBM PS/2 Hardware Interface Technical Reference (1988), "Keyboard
 * and Auxiliary Device Controller".
 */
#ifndef GODWIT_DEV_I8042_H
#define GODWIT_DEV_I8042_H

struct i8042;
struct mem;
struct mem_region;
struct state_registry;

#define I8042_DATA_PORT    0x60u
#define I8042_COMMAND_PORT 0x64u

/* At ports 0x60 and 0x64 of @io_root.  @on_reset: called by a vCPU thread with
 * no lock held; the vCPU may run on.  NULL without memory. */
struct i8042 *i8042_new(struct mem *mem, struct mem_region *io_root,
			void (*on_reset)(void *opaque), void *opaque,
			struct state_registry *registry, const char *name);
/* No vCPU runs.  NULL is accepted. */
void i8042_free(struct i8042 *dev);

#endif
