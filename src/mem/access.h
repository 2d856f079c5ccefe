/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Access to an address space by guest-physical address (or port number), for
 * accelerators (exits) and devices (DMA).  Each call translates by the
 * published view under RCU and may be made from any thread; see "stale reads"
 * in mem/space.h.  Accesses that cross ranges are split at the boundary.
 */
#ifndef GODWIT_MEM_ACCESS_H
#define GODWIT_MEM_ACCESS_H

#include <stddef.h>
#include <stdint.h>

struct addr_space;

/*
 * 0; -EFAULT when part of [gpa, gpa + size) is not assigned (reads there give
 * all ones, writes go nowhere, the rest is done) or wraps past 2^64.  Writes
 * to ROM are dropped and succeed.  Writes to RAM are reported dirty.
 */
int mem_read(struct addr_space *as, uint64_t gpa, void *buf, size_t size);
int mem_write(struct addr_space *as, uint64_t gpa, const void *buf,
	      size_t size);

/*
 * A direct pointer to [gpa, gpa + size), all of it in one RAM range (and not
 * ROM when @for_write); NULL otherwise.  Inside rcu_read_lock(), valid until
 * its unlock; whoever writes through it says so with ram_block_mark_dirty() on
 * *@ret_block (may be NULL) at *@ret_offset.
 */
struct ram_block;
void *mem_map(struct addr_space *as, uint64_t gpa, size_t size, int for_write,
	      struct ram_block **ret_block, uint64_t *ret_offset);

#endif
