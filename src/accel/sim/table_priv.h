/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of second-stage tables, for the two files that walk them: table.c, which
 * changes them, and table_pool.c, where tables come from and go to. */
#ifndef GODWIT_ACCEL_SIM_TABLE_PRIV_H
#define GODWIT_ACCEL_SIM_TABLE_PRIV_H

#include "accel/sim/table.h"

static inline uint64_t s2_load(const uint64_t *entry)
{
	return __atomic_load_n(entry, __ATOMIC_ACQUIRE);
}

/* Release: a walk that sees the entry sees the table behind it. */
static inline void s2_store(uint64_t *entry, uint64_t value)
{
	__atomic_store_n(entry, value, __ATOMIC_RELEASE);
}

static inline uint64_t *s2_table_in(uint64_t value)
{
	return (uint64_t *)(uintptr_t)(value & S2_ADDR);
}

static inline bool s2_is_table(uint64_t value)
{
	return (value & (S2_PRESENT | S2_LEAF)) == S2_PRESENT;
}

static inline uint64_t *s2_entry_in(uint64_t *table, uint64_t gpa,
				    unsigned int level)
{
	return &table[gpa >> s2_shift(level) & (S2_ENTRIES - 1)];
}

/* Zeroed; NULL without memory.  With the lock. */
uint64_t *s2_table_take(struct s2 *s2);

#endif
