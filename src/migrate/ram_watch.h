/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages were written: what a migration sends, and calc-dirty-rate counts.
 *
 * A page is one of:
 *
 *	hole ----> dirty ----> clean
 *	 |          ^  ^         |
 *	 |          |  +---------+  reported by a dirty source
 *	 +-> watched hole            likewise
 *
 * A hole was never touched (SEEK_DATA): it is neither read nor sent.  Once seen
 * resident it is `known` and dirty.  Who takes a dirty page (its bit is cleared) and
 * wants to know of the next write has it watched again by ram_watch_again().  The
 * holes near it are watched with it, and known from then on: memory of which every other
 * page was touched would have a border to ask for at each of them, in every sync (1 us
 * each, and a guest of some GiB has 100,000).
 */
#ifndef GODWIT_MIGRATE_RAM_WATCH_H
#define GODWIT_MIGRATE_RAM_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "mem/ram.h"

struct err;
struct mem;

struct ram_watch {
	struct mem *mem;      /* NULL while the logs are not ours */
	bool is_begun;        /* the first sync was */
	uint64_t known_pages; /* that were found resident */
};

/* Turn logging on, which takes as long for any amount of memory; every resident page
 * becomes dirty in the first sync.  -EBUSY while somebody else has it on. */
int ram_watch_start(struct ram_watch *watch, struct mem *mem, struct err *err);
/* Let logging end, not before @grace_ns, if ram_watch_start() turned it on; after a
 * failed start too.  Returns at once. */
void ram_watch_stop(struct ram_watch *watch, uint64_t grace_ns);

/* Look for what has become resident, of which no log is asked.  The first time it
 * takes long (0.1 us a page): whoever does that ahead has a shorter first sync. */
void ram_watch_look(struct ram_watch *watch);

/* Ask every dirty source once and residency again; returns how many pages are
 * dirty.  @is_last: nothing writes any more (D3). */
uint64_t ram_watch_sync(struct ram_watch *watch, bool is_last);

/* The most pages of a window. */
#define RAM_WATCH_PAGES 4096u

/* From page *first (a multiple of 64) on: where a window with dirty pages begins,
 * and of how many pages it is, at most @max (RAM_WATCH_PAGES); 0: there is none. */
uint64_t ram_watch_window(const struct ram_block *block, uint64_t *first,
			  uint64_t max);
/* Take the dirty bits of such a window into @window; returns how many were set. */
uint64_t ram_watch_take(struct ram_block *block, uint64_t first, uint64_t count,
			uint64_t *window);
/* The next write to a page that was taken is told, and so is the first one to each hole
 * of the window.  What mem_log_clear() says. */
int ram_watch_again(struct ram_watch *watch, struct ram_block *block,
		    uint64_t first, uint64_t count, const uint64_t *window,
		    struct err *err);

#endif
