/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Second-stage tables: guest-physical to host addresses, four levels of 512
 * entries of 64 bits, with leaves of 4 KiB, 2 MiB and 1 GiB.
 *
 *	63           12 11      2      1       0
 *	host address     0    leaf   write   present
 *
 * An address may be written when every entry on the way has its write bit: one
 * bit cleared at the top protects all that is below, and a fault pushes the
 * protection one level down.
 *
 * Walks take no lock.  Entries change under the lock, but for the write bit of a
 * 4 KiB leaf, which a fault may set without.  A vCPU has no TLB: it walks at every
 * access, and after a write it looks again (s2_walk() twice, with a full barrier
 * between).  So whoever clears a write bit and then reads the page sees either the
 * new bytes, or the writer sees the cleared bit and logs the page again: what
 * real hardware needs a TLB flush for.
 *
 * A table that was taken out may still be walked; it is freed when every vCPU has
 * passed between two accesses (sim_wait_epoch()).
 */
#ifndef GODWIT_ACCEL_SIM_TABLE_H
#define GODWIT_ACCEL_SIM_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/lock.h"

#define S2_PRESENT 1ull
#define S2_WRITE   2ull
#define S2_LEAF    4ull
#define S2_ADDR    (~0xfffull)

#define S2_ENTRIES   512u
#define S2_TOP_LEVEL 3u /* entries of 512 GiB; level 0: of 4 KiB */
#define S2_GPA_BITS  48u

/* Bytes that an entry of @level covers, as a shift. */
#define s2_shift(level) (12u + 9u * (level))
#define s2_size(level)  (1ull << s2_shift(level))

/* RAM as a fault finds it. */
struct s2_range {
	uint64_t gpa, size;
	uint8_t *host;
	unsigned int max_leaf; /* level */
	bool is_readonly;
	bool is_logged;
};

/* A table that is reachable no more, by the level of the entry that it was in. */
struct s2_orphan {
	uint64_t *table;
	unsigned int level;
};

/* So many wait for whoever frees them: those of 4 TiB that was mapped by leaves of 1 GiB
 * before. */
#define S2_ORPHANS 4096u

struct s2_stats {
	uint64_t tables; /* of 4 KiB; those that wait to be freed included */
	uint64_t leaves[S2_TOP_LEVEL + 1]; /* by level; none at the top */
	uint64_t splits;
	uint64_t faults; /* that took the lock */
	uint64_t hold_max_ns, wait_max_ns;
};

struct s2 {
	uint64_t *root; /* immutable after init */

	struct lock lock;
	uint32_t waiters; /* atomic */
	/* protected by lock */
	uint64_t held_since_ns;
	uint64_t **chunks; /* owned; each of S2_ENTRIES tables */
	size_t chunk_count, chunk_room;
	uint64_t **free_tables;
	size_t free_count, free_room;
	bool keeps_orphans; /* somebody will come for more */
	unsigned int orphan_count;
	struct s2_orphan orphans[S2_ORPHANS];
	struct s2_stats stats;
};

int s2_init(struct s2 *s2);
void s2_fini(struct s2 *s2);

/* For all that changes entries.  Whoever holds it long asks s2_is_wanted(). */
void s2_lock(struct s2 *s2);
void s2_unlock(struct s2 *s2);
bool s2_is_wanted(const struct s2 *s2);

struct s2_walk {
	uint64_t *entry; /* where the walk ended */
	uint64_t value;
	unsigned int level;
	bool is_writable;   /* all of the way */
	bool is_open_above; /* all but the last */
};

/* False: nothing is mapped at @gpa. */
static inline bool s2_walk(const struct s2 *s2, uint64_t gpa,
			   struct s2_walk *ret_walk)
{
	uint64_t *table = s2->root;
	bool is_open = true;

	for (unsigned int level = S2_TOP_LEVEL;; level--) {
		uint64_t *entry =
			&table[gpa >> s2_shift(level) & (S2_ENTRIES - 1)];
		uint64_t value = __atomic_load_n(entry, __ATOMIC_ACQUIRE);

		if (!(value & S2_PRESENT) || (value & S2_LEAF)) {
			*ret_walk = (struct s2_walk){
				.entry = entry,
				.value = value,
				.level = level,
				.is_writable = is_open && (value & S2_WRITE),
				.is_open_above = is_open,
			};
			return value & S2_PRESENT;
		}
		is_open = is_open && (value & S2_WRITE);
		table = (uint64_t *)(uintptr_t)(value & S2_ADDR);
	}
}

static inline uint8_t *s2_host(const struct s2_walk *walk, uint64_t gpa)
{
	return (uint8_t *)(uintptr_t)((walk->value & S2_ADDR) +
				      (gpa & (s2_size(walk->level) - 1)));
}

/* The rest with the lock. */

/* Map @gpa, which @range has, and for a write make it writable: a large leaf that
 * is logged is split.  While orphans are kept, a table where a large leaf would do
 * becomes one of them, and the leaf takes its place.  0 or -ENOMEM. */
int s2_fault(struct s2 *s2, const struct s2_range *range, uint64_t gpa,
	     bool is_write);
/* The next write to the page faults.  A leaf of 1 GiB is split first, so that the
 * rest of it stays writable; one of 2 MiB too when @is_eager. */
void s2_protect_page(struct s2 *s2, uint64_t gpa, bool is_eager);
/* The same for all of [gpa, gpa + size), as high up as it can be: one write bit for
 * each GiB. */
void s2_protect_range(struct s2 *s2, uint64_t gpa, uint64_t size);
/* Split what is large in [gpa, gpa + size), which lies in one GiB. */
int s2_split_range(struct s2 *s2, uint64_t gpa, uint64_t size);
/* Take out what maps [gpa, gpa + s2_size(level)): a leaf, or a table with all
 * that is below, which is returned for s2_free_tree() after a grace period. */
uint64_t *s2_detach(struct s2 *s2, uint64_t gpa, unsigned int level);

/* The same, but only of a table. */
uint64_t *s2_detach_table(struct s2 *s2, uint64_t gpa, unsigned int level);
/* Every leaf below the entry of @level goes, one by one; the tables stay. */
void s2_zap(struct s2 *s2, uint64_t gpa, unsigned int level);

/* Take orphans, at most @room; returns how many.  From now on more are kept, or not (as
 * at first).  For s2_free_tree() after a grace period. */
unsigned int s2_take_orphans(struct s2 *s2, bool keeps_more,
			     struct s2_orphan *ret_orphans, unsigned int room);

/* Without the lock: give back a tree whose root was in an entry of @level; its
 * leaves are counted as gone. */
void s2_free_tree(struct s2 *s2, uint64_t *table, unsigned int level);

/* Map all of [range->gpa, range->gpa + range->size) by leaves of @level: as if
 * every page had been touched.  0 or -ENOMEM.  Without the lock. */
int s2_populate(struct s2 *s2, const struct s2_range *range,
		unsigned int level);

void s2_stats(struct s2 *s2, struct s2_stats *ret_stats);
/* The two longest times begin anew. */
void s2_stats_restart(struct s2 *s2);

#endif
