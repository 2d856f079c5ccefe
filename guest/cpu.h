/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instructions that C has no words for, as used in ring 3, and the
 * compiler's view of memory that other vCPUs or a migration may change.
 */
#ifndef GODWIT_GUEST_CPU_H
#define GODWIT_GUEST_CPU_H

#include <stdint.h>

#define read_once(v)     (*(const volatile __typeof__(v) *)&(v))
#define write_once(v, x) (*(volatile __typeof__(v) *)&(v) = (x))
#define load_acquire(v)  __atomic_load_n(&(v), __ATOMIC_ACQUIRE)
/* The partner of load_acquire(): what was written before is seen after. */
#define store_release(v, x) __atomic_store_n(&(v), (x), __ATOMIC_RELEASE)

static inline uint64_t cpu_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static inline void cpu_pause(void)
{
	__asm__ volatile("pause" ::: "memory");
}

/* A vCPU that nobody needs halts for ever (start.S), and leaves its CPU to the others. */
_Noreturn void cpu_park(void);

static inline void port_out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline void port_out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint8_t port_in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t port_in32(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void cpu_cpuid(uint32_t leaf, uint32_t ret_regs[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(ret_regs[0]), "=b"(ret_regs[1]),
			   "=c"(ret_regs[2]), "=d"(ret_regs[3])
			 : "a"(leaf), "c"(0));
}

/*
 * One 64-bit value that lives in a register and nowhere in memory.  The
 * compiler leaves XMM15 alone because of -mgeneral-regs-only.
 */
static inline void cpu_keep(uint64_t value)
{
	__asm__ volatile("movq %0, %%xmm15" ::"r"(value));
}

static inline uint64_t cpu_kept(void)
{
	uint64_t value;

	__asm__ volatile("movq %%xmm15, %0" : "=r"(value));
	return value;
}

/* The upper half of the product: scales a random @a to [0, @b). */
static inline uint64_t mul_high(uint64_t a, uint64_t b)
{
	return (uint64_t)((unsigned __int128)a * b >> 64);
}

/* A bijection that spreads every input bit over all output bits. */
static inline uint64_t mix64(uint64_t v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9;
	v = (v ^ v >> 27) * 0x94d049bb133111eb;
	return v ^ v >> 31;
}

#endif
