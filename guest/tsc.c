/* SPDX-License-Identifier: Apache-2.0 */
/* The TSC's frequency: see tsc.h. */
#include "guest/tsc.h"

#include <stddef.h>

#include "guest/cpu.h"
#include "guest/serial.h"

#define KVM_SIGNATURE 0x4b4d564b /* "KVMK", first of KVMKVMKVM */

uint64_t tsc_find_khz(uint64_t given)
{
	struct line line;
	uint32_t regs[4];

	if (given)
		return given;
	cpu_cpuid(0x40000000, regs);
	if (regs[1] == KVM_SIGNATURE && regs[0] >= 0x40000010) {
		cpu_cpuid(0x40000010, regs);
		if (regs[0])
			return regs[0];
	}
	cpu_cpuid(0, regs);
	if (regs[0] >= 0x15) {
		cpu_cpuid(0x15, regs);
		if (regs[0] && regs[1] && regs[2])
			return (uint64_t)regs[2] * regs[1] / regs[0] / 1000;
	}
	line_begin(&line, NULL, "@warning no tsc-khz: 2000000 assumed");
	line_end(&line);
	return 2000000;
}
