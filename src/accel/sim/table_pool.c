// SPDX-License-Identifier: Apache-2.0
/* Second-stage tables: their lock and their counters, where they come from, and how
 * trees of them are given back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "accel/sim/table_priv.h"
#include "base/clock.h"

#define TABLE_BYTES (S2_ENTRIES * sizeof(uint64_t))
#define CHUNK_BYTES (S2_ENTRIES * TABLE_BYTES)

/* A holder lets go within this, or sleeps itself. */
#define SPIN_NS (20 * NS_PER_US)

/* Given back with the lock held once. */
#define GIVE_BACK_BATCH 64u

/* ---- the lock ---- */

static void note_max(uint64_t *max, uint64_t value)
{
	if (value > *max)
		*max = value;
}

void s2_lock(struct s2 *s2)
{
	uint64_t start_ns = clock_mono_ns(), now_ns = start_ns;

	__atomic_add_fetch(&s2->waiters, 1, __ATOMIC_SEQ_CST);
	while (!lock_try(&s2->lock)) {
		__builtin_ia32_pause();
		now_ns = clock_mono_ns();
		if (now_ns - start_ns > SPIN_NS) {
			lock_acquire(&s2->lock);
			now_ns = clock_mono_ns();
			break;
		}
	}
	__atomic_sub_fetch(&s2->waiters, 1, __ATOMIC_SEQ_CST);
	note_max(&s2->stats.wait_max_ns, now_ns - start_ns);
	s2->held_since_ns = now_ns;
}

void s2_unlock(struct s2 *s2)
{
	note_max(&s2->stats.hold_max_ns, clock_mono_ns() - s2->held_since_ns);
	lock_release(&s2->lock);
}

bool s2_is_wanted(const struct s2 *s2)
{
	return __atomic_load_n(&s2->waiters, __ATOMIC_RELAXED) != 0;
}

/* ---- tables ---- */

/* Room for one more pointer in an array that doubles. */
static int grow(uint64_t ***array, size_t count, size_t *room)
{
	size_t wanted = *room ? *room * 2 : S2_ENTRIES;
	uint64_t **larger;

	if (count < *room)
		return 0;
	larger = realloc(*array, wanted * sizeof(**array));
	if (!larger)
		return -ENOMEM;
	*array = larger;
	*room = wanted;
	return 0;
}

static int add_chunk(struct s2 *s2)
{
	uint64_t *chunk;

	if (grow(&s2->chunks, s2->chunk_count, &s2->chunk_room))
		return -ENOMEM;
	while (s2->free_room < (s2->chunk_count + 1) * S2_ENTRIES) {
		/* Room for all that can ever come back: giving one back cannot
		 * fail. */
		if (grow(&s2->free_tables, s2->free_room, &s2->free_room))
			return -ENOMEM;
	}
	chunk = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (chunk == MAP_FAILED)
		return -ENOMEM;
	s2->chunks[s2->chunk_count++] = chunk;
	for (unsigned int i = S2_ENTRIES; i-- > 0;)
		s2->free_tables[s2->free_count++] = chunk + i * S2_ENTRIES;
	return 0;
}

/* Free tables are zero. */
uint64_t *s2_table_take(struct s2 *s2)
{
	if (!s2->free_count && add_chunk(s2))
		return NULL;
	s2->stats.tables++;
	return s2->free_tables[--s2->free_count];
}

int s2_init(struct s2 *s2)
{
	memset(s2, 0, sizeof(*s2));
	lock_init(&s2->lock, LOCK_MMU);
	s2->root = s2_table_take(s2);
	return s2->root ? 0 : -ENOMEM;
}

void s2_fini(struct s2 *s2)
{
	for (size_t i = 0; i < s2->chunk_count; i++)
		munmap(s2->chunks[i], CHUNK_BYTES);
	free(s2->chunks);
	free(s2->free_tables);
	lock_fini(&s2->lock);
}

/* ---- giving back ---- */

struct trees {
	uint64_t *tables[S2_ENTRIES]; /* all at one level */
	unsigned int count;
	uint64_t leaves[S2_TOP_LEVEL + 1];
};

static void give_back_some(struct s2 *s2, struct trees *trees)
{
	unsigned int n =
		trees->count < GIVE_BACK_BATCH ? trees->count : GIVE_BACK_BATCH;

	s2_lock(s2);
	s2->stats.tables -= n;
	for (; n > 0; n--)
		s2->free_tables[s2->free_count++] =
			trees->tables[--trees->count];
	s2_unlock(s2);
}

/* The pages go back to the host, and read as zero when they are used again. */
static void give_back(struct s2 *s2, struct trees *trees)
{
	for (unsigned int i = 0; i < trees->count;) {
		unsigned int n = 1;

		while (i + n < trees->count &&
		       trees->tables[i + n] ==
			       trees->tables[i] + (size_t)n * S2_ENTRIES)
			n++;
		madvise(trees->tables[i], n * TABLE_BYTES, MADV_DONTNEED);
		i += n;
	}
	s2_lock(s2);
	for (unsigned int level = 0; level <= S2_TOP_LEVEL; level++)
		s2->stats.leaves[level] -= trees->leaves[level];
	s2_unlock(s2);
	while (trees->count)
		give_back_some(s2, trees);
	*trees = (struct trees){ .count = 0 };
}

/* @table was in an entry of @level. */
static void free_below(struct s2 *s2, uint64_t *table, unsigned int level,
		       struct trees *trees)
{
	for (unsigned int i = 0; i < S2_ENTRIES; i++) {
		uint64_t value = s2_load(&table[i]);

		if (value & S2_LEAF)
			trees->leaves[level - 1]++;
		else if (value & S2_PRESENT)
			free_below(s2, s2_table_in(value), level - 1, trees);
	}
	trees->tables[trees->count++] = table;
	if (trees->count == S2_ENTRIES)
		give_back(s2, trees);
}

void s2_free_tree(struct s2 *s2, uint64_t *table, unsigned int level)
{
	struct trees trees = { .count = 0 };

	if (!table)
		return;
	free_below(s2, table, level, &trees);
	give_back(s2, &trees);
}

/* ---- counters ---- */

void s2_stats(struct s2 *s2, struct s2_stats *ret_stats)
{
	s2_lock(s2);
	*ret_stats = s2->stats;
	s2_unlock(s2);
}

void s2_stats_restart(struct s2 *s2)
{
	s2_lock(s2);
	s2->stats.hold_max_ns = s2->stats.wait_max_ns = 0;
	s2_unlock(s2);
}
