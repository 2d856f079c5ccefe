// SPDX-License-Identifier: Apache-2.0
/*
 * Stale reads: translating while the tree is ahead of the published view, or
 * while machine state is being loaded (mem/space.h).  Debug builds abort with the
 * stack that made the view stale and the stack that read it; release builds
 * count and trace.
 */
#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/trace.h"
#include "mem_priv.h"

void mem_stack_take(struct mem_stack *stack)
{
#ifndef NDEBUG
	stack->depth = backtrace(stack->frames, MEM_STACK_DEPTH);
#else
	stack->depth = 0;
#endif
}

void mem_stale_read(struct addr_space *as, const char *what,
		    const struct mem_stack *begun)
{
	uint64_t seen =
		__atomic_add_fetch(&as->mem->stale_reads, 1, __ATOMIC_RELAXED);

	trace(mem_stale_read, "%s: %s (%lu so far)", as->name, what, seen);
#ifndef NDEBUG
	struct mem_stack here;

	mem_stack_take(&here);
	log_warn("stale read of address space %s: %s", as->name, what);
	log_info("begun at:");
	backtrace_symbols_fd(begun->frames, begun->depth, STDERR_FILENO);
	log_info("read at:");
	backtrace_symbols_fd(here.frames, here.depth, STDERR_FILENO);
	abort();
#else
	(void)begun;
#endif
}

void *mem_must_alloc(void *old, size_t size)
{
	void *p = realloc(old, size);

	if (!p) {
		log_warn("no memory for %zu bytes of memory topology", size);
		abort();
	}
	return p;
}
