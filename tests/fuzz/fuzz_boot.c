// SPDX-License-Identifier: Apache-2.0
/*
 * boot_load() with any file as the kernel.  RAM is an allocation of its own
 * size, so that the address sanitizer sees a write outside of it.  The last
 * byte of the input chooses the circumstances.  The built-in guest programs
 * (build/guest) and the first sectors of a bzImage are good seeds.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "machine/boot.h"

#define LOW_SIZE  (4u << 20)
#define HIGH_SIZE (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Kept from run to run: clearing it would be most of the time. */
	static uint8_t *low, *high;
	const struct boot_ram ram[] = {
		{ 0, LOW_SIZE, low = low ? low : malloc(LOW_SIZE) },
		{ 4ull << 30, HIGH_SIZE,
		  high = high ? high : malloc(HIGH_SIZE) },
	};
	const uint8_t how = size ? data[size - 1] : 0;
	const struct boot_image image = {
		.kernel = data,
		.kernel_size = size,
		.initrd = how & 1 ? data : NULL,
		.initrd_size = size,
		.cmdline = how & 2 ? "console=ttyS0" : NULL,
		.ram = ram,
		.ram_count = how & 4 ? 1 : 2,
		.is_ram_fresh = how & 8,
	};
	struct boot_entry entry;
	struct err err = ERR_INIT;
	int ret = boot_load(&image, &entry, &err);

	/* It says why, or where to start. */
	if (ret ? err.code != ret : entry.entry == 0)
		abort();
	return 0;
}
