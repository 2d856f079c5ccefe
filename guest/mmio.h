/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accesses to device registers.  Each is one plain MOV: hypervisors decode these
 * instructions, so the compiler is given no choice of others.
 */
#ifndef GODWIT_GUEST_MMIO_H
#define GODWIT_GUEST_MMIO_H

#include <stdint.h>

static inline uint8_t mmio_read8(uint64_t addr)
{
	uint8_t value;

	__asm__ volatile("movb (%1), %0" : "=q"(value) : "r"(addr) : "memory");
	return value;
}

static inline uint16_t mmio_read16(uint64_t addr)
{
	uint16_t value;

	__asm__ volatile("movw (%1), %0" : "=r"(value) : "r"(addr) : "memory");
	return value;
}

static inline uint32_t mmio_read32(uint64_t addr)
{
	uint32_t value;

	__asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(addr) : "memory");
	return value;
}

static inline void mmio_write8(uint64_t addr, uint8_t value)
{
	__asm__ volatile("movb %0, (%1)" ::"q"(value), "r"(addr) : "memory");
}

static inline void mmio_write16(uint64_t addr, uint16_t value)
{
	__asm__ volatile("movw %0, (%1)" ::"r"(value), "r"(addr) : "memory");
}

static inline void mmio_write32(uint64_t addr, uint32_t value)
{
	__asm__ volatile("movl %0, (%1)" ::"r"(value), "r"(addr) : "memory");
}

/* As two halves, which all devices must take. */
static inline void mmio_write64(uint64_t addr, uint64_t value)
{
	mmio_write32(addr, (uint32_t)value);
	mmio_write32(addr + 4, (uint32_t)(value >> 32));
}

#endif
