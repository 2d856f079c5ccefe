/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Address spaces and transactions.
 *
 * An address space is a root region and its current flat view (mem/view.h),
 * published by RCU.  Readers take no lock.  Writers change the tree inside a
 * transaction:
 *
 *	mem_begin(mem);
 *	mem_region_set_offset(bar, where);
 *	mem_commit(mem);
 *
 * Transactions nest; only the outermost commit renders, only the address
 * spaces whose tree changed, and of those only the addresses where something
 * may have changed: its cost grows with the changes and not with the number of
 * regions (bench/mem_commit.c).  It then tells the listeners
 * (mem/listener.h) what differs; a commit after which everything looks as
 * before calls none of them and does not count.
 *
 * The topology lock is held from the outermost mem_begin() to its
 * mem_commit(), so one thread at a time has a transaction open.  A commit does
 * not wait for readers: old views are freed behind its back (call_rcu).  It
 * has no failure to report; without memory for the new view the process
 * aborts with a message.
 *
 * Stale reads: translating through an address space that the
 * calling thread's own open transaction has changed is a bug, and so is any
 * translation between mem_load_begin() and mem_load_end(), by any thread.
 * Debug builds abort with both stacks, release builds count
 * (mem_stale_reads()) and trace.  Listeners are handed views and may use
 * those at any time.
 */
#ifndef GODWIT_MEM_SPACE_H
#define GODWIT_MEM_SPACE_H

#include "mem/listener.h"
#include "mem/region.h"
#include "mem/view.h"

struct err;
struct addr_space;

/* The memory of one machine. */
struct mem *mem_new(void);
void mem_free(struct mem *mem); /* all spaces and regions are gone by then */

void mem_begin(struct mem *mem);
void mem_commit(struct mem *mem);
/* Topology commits so far that changed something; any thread.  Whoever sees a
 * commit counted sees its views too: what was translated at a count is right while
 * the count stays. */
uint64_t mem_commit_count(const struct mem *mem);

/* Machine state is being loaded: see "stale reads" above.  Not nested. */
void mem_load_begin(struct mem *mem);
void mem_load_end(struct mem *mem);
/* Stale reads seen so far (release builds); any thread. */
uint64_t mem_stale_reads(const struct mem *mem);

/* Wait until no reader uses a view that is no longer current.  Not inside a
 * transaction nor inside rcu_read_lock(). */
void mem_synchronize(struct mem *mem);

/* @root is referenced; @name is copied.  Its view is
 * empty until the next commit, which is this call's own outside a transaction.
 * NULL without memory. */
struct addr_space *addr_space_new(struct mem *mem, const char *name,
				  struct mem_region *root);
/* Without listeners, and after its last reader. */
void addr_space_free(struct addr_space *as);
const char *addr_space_name(const struct addr_space *as);

#endif
