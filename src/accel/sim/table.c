// SPDX-License-Identifier: Apache-2.0
/* Second-stage tables: mapping, splitting, protecting, taking out. */
#include "accel/sim/table.h"

#include <errno.h>

#include "accel/sim/table_priv.h"
#include "base/bytes.h"

/* ---- entries ---- */

/* Replace the large leaf in @entry by a table of the next smaller ones, with the
 * same write bit each. */
static int split(struct s2 *s2, uint64_t *entry, unsigned int level)
{
	uint64_t old = s2_load(entry);
	uint64_t *table = s2_table_take(s2);

	if (!table)
		return -ENOMEM;
	for (uint64_t i = 0; i < S2_ENTRIES; i++)
		table[i] = old + i * s2_size(level - 1);
	s2->stats.leaves[level]--;
	s2->stats.leaves[level - 1] += S2_ENTRIES;
	s2->stats.splits++;
	s2_store(entry, (uint64_t)(uintptr_t)table | S2_PRESENT | S2_WRITE);
	return 0;
}

/* Protection of a whole table goes to its entries.  They first: meanwhile both
 * protect. */
static void push_down(uint64_t *entry, uint64_t value)
{
	uint64_t *table = s2_table_in(value);

	for (unsigned int i = 0; i < S2_ENTRIES; i++) {
		if (s2_load(&table[i]) & S2_WRITE)
			__atomic_fetch_and(&table[i], ~S2_WRITE,
					   __ATOMIC_SEQ_CST);
	}
	s2_store(entry, value | S2_WRITE);
}

/* Whether a leaf of @level at @gpa stays within the range, and is aligned there
 * and here. */
static bool leaf_fits(const struct s2_range *range, uint64_t gpa,
		      unsigned int level)
{
	uint64_t size = s2_size(level), start = align_down(gpa, size);

	if (level > range->max_leaf || (range->is_logged && level > 0))
		return false;
	return start >= range->gpa &&
	       start + size <= range->gpa + range->size &&
	       (((uintptr_t)range->host + (start - range->gpa)) & (size - 1)) ==
		       0;
}

static void put_leaf(struct s2 *s2, uint64_t *entry, unsigned int level,
		     const struct s2_range *range, uint64_t gpa, bool is_open)
{
	uint64_t start = align_down(gpa, s2_size(level));
	uint64_t host = (uint64_t)(uintptr_t)range->host + (start - range->gpa);

	s2->stats.leaves[level]++;
	s2_store(entry, host | S2_PRESENT | S2_LEAF | (is_open ? S2_WRITE : 0));
}

/* Memory that nobody logs needs no fault for its first write. */
static bool opens(const struct s2_range *range, bool is_write)
{
	return !range->is_readonly && (is_write || !range->is_logged);
}

/* What is below stays protected where somebody may be logging it. */
static void open_table(const struct s2_range *range, uint64_t *entry,
		       uint64_t value, uint64_t gpa, unsigned int level)
{
	uint64_t start = align_down(gpa, s2_size(level));

	if (!range->is_logged && start >= range->gpa &&
	    start + s2_size(level) <= range->gpa + range->size)
		s2_store(entry, value | S2_WRITE);
	else
		push_down(entry, value);
}

/*
 * A fault at memory that is logged no more, where a table is left over from logging: a
 * leaf takes its place, and what else is below it needs no fault any more.  So does
 * KVM's TDP MMU at a fault that the fast path does not repair: at the level that it
 * wants to map, it replaces whatever is there (kvm_tdp_mmu_map()), and frees a
 * table after a grace period.  Here that is the worker's to do: when as many
 * wait for it as there is room for, the tables are gone through as they are.
 */
static bool replace_table(struct s2 *s2, const struct s2_range *range,
			  uint64_t *entry, uint64_t gpa, unsigned int level,
			  bool is_write)
{
	if (!s2->keeps_orphans || s2->orphan_count == S2_ORPHANS ||
	    range->is_logged || !leaf_fits(range, gpa, level))
		return false;
	s2->orphans[s2->orphan_count++] =
		(struct s2_orphan){ s2_table_in(s2_load(entry)), level };
	put_leaf(s2, entry, level, range, gpa, opens(range, is_write));
	return true;
}

int s2_fault(struct s2 *s2, const struct s2_range *range, uint64_t gpa,
	     bool is_write)
{
	uint64_t *table = s2->root;

	s2->stats.faults++;
	for (unsigned int level = S2_TOP_LEVEL;; level--) {
		uint64_t *entry = s2_entry_in(table, gpa, level);
		uint64_t value = s2_load(entry);

		if (!(value & S2_PRESENT)) {
			if (level < S2_TOP_LEVEL &&
			    leaf_fits(range, gpa, level)) {
				put_leaf(s2, entry, level, range, gpa,
					 opens(range, is_write));
				return 0;
			}
			table = s2_table_take(s2);
			if (!table)
				return -ENOMEM;
			s2_store(entry, (uint64_t)(uintptr_t)table |
						S2_PRESENT | S2_WRITE);
			continue;
		}
		if (s2_is_table(value)) {
			if (replace_table(s2, range, entry, gpa, level,
					  is_write))
				return 0;
			if (is_write && !(value & S2_WRITE))
				open_table(range, entry, value, gpa, level);
			table = s2_table_in(s2_load(entry));
			continue;
		}
		if (!is_write || (value & S2_WRITE))
			return 0;
		if (level == 0 || !range->is_logged) {
			__atomic_fetch_or(entry, S2_WRITE, __ATOMIC_SEQ_CST);
			return 0;
		}
		if (split(s2, entry, level))
			return -ENOMEM;
		table = s2_table_in(s2_load(entry));
	}
}

void s2_protect_page(struct s2 *s2, uint64_t gpa, bool is_eager)
{
	unsigned int smallest = is_eager ? 0 : 1;
	uint64_t *table = s2->root;

	for (unsigned int level = S2_TOP_LEVEL;; level--) {
		uint64_t *entry = s2_entry_in(table, gpa, level);
		uint64_t value = s2_load(entry);

		if (!(value & S2_PRESENT))
			return;
		if (s2_is_table(value)) {
			table = s2_table_in(value);
			continue;
		}
		/* Without memory for the split, all of the leaf is protected:
		 * more faults, and no less right. */
		if (level > smallest && (value & S2_WRITE) &&
		    split(s2, entry, level) == 0) {
			table = s2_table_in(s2_load(entry));
			continue;
		}
		__atomic_fetch_and(entry, ~S2_WRITE, __ATOMIC_SEQ_CST);
		return;
	}
}

static void protect_in(uint64_t *table, unsigned int level, uint64_t start,
		       uint64_t end)
{
	for (uint64_t at = start; at < end;) {
		uint64_t *entry = s2_entry_in(table, at, level);
		uint64_t value = s2_load(entry);
		uint64_t next = align_down(at, s2_size(level)) + s2_size(level);
		uint64_t stop = next < end ? next : end;
		bool is_whole = stop - at == s2_size(level);

		if ((value & S2_PRESENT) && (is_whole || (value & S2_LEAF)))
			__atomic_fetch_and(entry, ~S2_WRITE, __ATOMIC_SEQ_CST);
		else if (value & S2_PRESENT)
			protect_in(s2_table_in(value), level - 1, at, stop);
		at = stop;
	}
}

void s2_protect_range(struct s2 *s2, uint64_t gpa, uint64_t size)
{
	protect_in(s2->root, S2_TOP_LEVEL, gpa, gpa + size);
}

static int split_in(struct s2 *s2, uint64_t *table, unsigned int level,
		    uint64_t start, uint64_t end)
{
	int ret = 0;

	for (uint64_t at = start; !ret && at < end;) {
		uint64_t *entry = s2_entry_in(table, at, level);
		uint64_t value = s2_load(entry);
		uint64_t next = align_down(at, s2_size(level)) + s2_size(level);
		uint64_t stop = next < end ? next : end;

		if (level > 0 && (value & S2_LEAF))
			ret = split(s2, entry, level);
		value = s2_load(entry);
		if (!ret && level > 1 && s2_is_table(value))
			ret = split_in(s2, s2_table_in(value), level - 1, at,
				       stop);
		at = stop;
	}
	return ret;
}

int s2_split_range(struct s2 *s2, uint64_t gpa, uint64_t size)
{
	return split_in(s2, s2->root, S2_TOP_LEVEL, gpa, gpa + size);
}

/* The entry of @at_level, or the larger leaf, that @gpa is in; NULL: nothing is
 * there. */
static uint64_t *find_entry(struct s2 *s2, uint64_t gpa, unsigned int at_level,
			    unsigned int *ret_level)
{
	uint64_t *table = s2->root;

	for (unsigned int level = S2_TOP_LEVEL;; level--) {
		uint64_t *entry = s2_entry_in(table, gpa, level);
		uint64_t value = s2_load(entry);

		if (!(value & S2_PRESENT))
			return NULL;
		if (level == at_level || (value & S2_LEAF)) {
			*ret_level = level;
			return entry;
		}
		table = s2_table_in(value);
	}
}

uint64_t *s2_detach(struct s2 *s2, uint64_t gpa, unsigned int at_level)
{
	unsigned int level;
	uint64_t *entry = find_entry(s2, gpa, at_level, &level);
	uint64_t value;

	if (!entry)
		return NULL;
	value = s2_load(entry);
	s2_store(entry, 0);
	if (s2_is_table(value))
		return s2_table_in(value);
	s2->stats.leaves[level]--;
	return NULL;
}

uint64_t *s2_detach_table(struct s2 *s2, uint64_t gpa, unsigned int at_level)
{
	unsigned int level;
	uint64_t *entry = find_entry(s2, gpa, at_level, &level);

	if (!entry || !s2_is_table(s2_load(entry)))
		return NULL;
	return s2_detach(s2, gpa, at_level);
}

static void zap_below(struct s2 *s2, uint64_t *table, unsigned int level)
{
	for (unsigned int i = 0; i < S2_ENTRIES; i++) {
		uint64_t value = s2_load(&table[i]);

		if (s2_is_table(value)) {
			zap_below(s2, s2_table_in(value), level - 1);
		} else if (value & S2_LEAF) {
			__atomic_exchange_n(&table[i], 0, __ATOMIC_SEQ_CST);
			s2->stats.leaves[level - 1]--;
		}
	}
}

unsigned int s2_take_orphans(struct s2 *s2, bool keeps_more,
			     struct s2_orphan *ret_orphans, unsigned int room)
{
	unsigned int count = 0;

	while (count < room && s2->orphan_count)
		ret_orphans[count++] = s2->orphans[--s2->orphan_count];
	s2->keeps_orphans = keeps_more;
	return count;
}

void s2_zap(struct s2 *s2, uint64_t gpa, unsigned int at_level)
{
	unsigned int level;
	uint64_t *entry = find_entry(s2, gpa, at_level, &level);

	if (entry && s2_is_table(s2_load(entry)))
		zap_below(s2, s2_table_in(s2_load(entry)), level);
}

/* ---- populating ---- */

/* The table of level @level - 1 entries that @gpa is in. */
static int tables_down_to(struct s2 *s2, uint64_t gpa, unsigned int level,
			  uint64_t **ret_table)
{
	uint64_t *table = s2->root;

	for (unsigned int at = S2_TOP_LEVEL; at > level; at--) {
		uint64_t *entry = s2_entry_in(table, gpa, at);
		uint64_t value = s2_load(entry);

		if (value & S2_LEAF)
			return -EEXIST;
		table = s2_table_in(value);
		if (!(value & S2_PRESENT)) {
			table = s2_table_take(s2);
			if (!table)
				return -ENOMEM;
			s2_store(entry, (uint64_t)(uintptr_t)table |
						S2_PRESENT | S2_WRITE);
		}
	}
	*ret_table = table;
	return 0;
}

/* [start, end) lies in one entry of @level + 1. */
static int populate_table(struct s2 *s2, const struct s2_range *range,
			  uint64_t start, uint64_t end, unsigned int level)
{
	uint64_t *table;
	int ret = tables_down_to(s2, start, level, &table);

	for (uint64_t gpa = start; !ret && gpa < end; gpa += s2_size(level)) {
		uint64_t *entry = s2_entry_in(table, gpa, level);

		if (!(s2_load(entry) & S2_PRESENT))
			put_leaf(s2, entry, level, range, gpa,
				 opens(range, false));
	}
	return ret;
}

int s2_populate(struct s2 *s2, const struct s2_range *range, unsigned int level)
{
	uint64_t end = range->gpa + range->size;
	int ret = 0;

	for (uint64_t at = range->gpa; !ret && at < end;) {
		uint64_t next =
			align_down(at, s2_size(level + 1)) + s2_size(level + 1);
		uint64_t stop = next < end ? next : end;

		s2_lock(s2);
		ret = populate_table(s2, range, at, stop, level);
		s2_unlock(s2);
		if (ret == -EEXIST)
			ret = 0;
		at = stop;
	}
	return ret;
}
