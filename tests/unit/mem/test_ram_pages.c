// SPDX-License-Identifier: Apache-2.0
/* Dirty and known pages with their summaries, beside plain arrays of one byte a page. */
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "mem/ram.h"
#include "mem/space.h"

/* 70 groups, so that their bits take two words; neither the last group nor its last word
 * is whole. */
#define PAGES (69 * RAM_GROUP_PAGES + 3 * 64 + 7)
#define STEPS 20000

struct fixture {
	struct mem *mem;
	struct ram_block *block;
	uint64_t seed;
	uint8_t model[PAGES];
};

static int setup(void **state)
{
	static struct fixture f;
	struct err err = ERR_INIT;

	f = (struct fixture){ .mem = mem_new(), .seed = 1 };
	if (ram_block_new(f.mem, "a", PAGES << RAM_PAGE_SHIFT, NULL, &f.block,
			  &err))
		fail_msg("%s", err_msg(&err));
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ram_block_free(f->block);
	mem_free(f->mem);
	return 0;
}

static uint64_t pick(struct fixture *f, uint64_t below)
{
	f->seed = f->seed * 6364136223846793005u + 1442695040888963407u;
	return (f->seed >> 33) % below;
}

/* Mostly short, at times several groups; at times at the very end. */
static void pick_run(struct fixture *f, uint64_t *first, uint64_t *pages)
{
	*first = pick(f, PAGES);
	*pages = pick(f, 8) ? 1 + pick(f, 5) : 1 + pick(f, 3 * RAM_GROUP_PAGES);
	if (!pick(f, 50))
		*first = PAGES - 1 - pick(f, 70);
	if (*pages > PAGES - *first)
		*pages = PAGES - *first;
}

/* ---- dirty ---- */

static void mark_some(struct fixture *f)
{
	uint64_t first, pages;

	pick_run(f, &first, &pages);
	if (pages > 64 || pick(f, 2)) {
		ram_block_mark_dirty(f->block, first << RAM_PAGE_SHIFT,
				     pages << RAM_PAGE_SHIFT);
	} else {
		uint64_t bits = pages == 64 ? ~0ull : (1ull << pages) - 1;

		ram_block_mark_word(f->block, first, bits, false);
	}
	memset(f->model + first, 1, pages);
}

/* As a pass does: from one word with dirty pages to the next. */
static void take_all(struct fixture *f)
{
	uint64_t at = 0, expected = 0;

	for (;;) {
		at = ram_block_next_dirty(f->block, at);
		while (expected < PAGES && !f->model[expected])
			expected++;
		if (expected == PAGES)
			break;
		assert_int_equal(at, expected / 64 * 64);
		bitmap_take_word_atomic(f->block->dirty, at / 64);
		for (uint64_t i = at; i < at + 64 && i < PAGES; i++)
			f->model[i] = 0;
		at += 64;
	}
	assert_true(at >= PAGES);
}

static void test_what_is_dirty_is_found_and_counted(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(ram_block_count_dirty(f->block), 0);
	for (int step = 0; step < STEPS; step++) {
		uint64_t count = 0;

		mark_some(f);
		if (pick(f, 40))
			continue;
		if (pick(f, 2))
			take_all(f);
		for (uint64_t i = 0; i < PAGES; i++)
			count += f->model[i];
		assert_int_equal(ram_block_count_dirty(f->block), count);
	}
}

static void test_groups_without_dirty_pages_are_not_looked_at(void **state)
{
	struct fixture *f = *state;
	const uint64_t *marks = f->block->dirty_groups;

	ram_block_mark_dirty(f->block, 5 * RAM_GROUP_PAGES << RAM_PAGE_SHIFT,
			     1);
	ram_block_mark_word(f->block, 66 * RAM_GROUP_PAGES - 1, 3, false);
	assert_int_equal(marks[0], 1ull << 5);
	assert_int_equal(marks[1], 3ull << (65 - 64));
	/* Nothing was dirty there, so nothing is marked. */
	ram_block_mark_word(f->block, 0, ~0ull, true);
	assert_int_equal(marks[0], 1ull << 5);
	bitmap_take_word_atomic(f->block->dirty, 66 * RAM_GROUP_PAGES / 64);
	assert_int_equal(ram_block_count_dirty(f->block), 2);
	assert_int_equal(marks[1], 1ull << (65 - 64));
}

/* ---- a writer beside it ---- */

#define ROUNDS 20000

struct writer {
	struct ram_block *block;
	pthread_t thread;
	uint32_t asked, done; /* rounds; atomic */
};

static uint32_t await_change(const uint32_t *at, uint32_t from)
{
	uint32_t now;

	while ((now = __atomic_load_n(at, __ATOMIC_ACQUIRE)) == from)
		sched_yield();
	return now;
}

/* A page a round, of a group that is being found clean. */
static void *write_rounds(void *opaque)
{
	struct writer *w = opaque;

	for (uint32_t round = 0; round < ROUNDS;) {
		round = await_change(&w->asked, round);
		ram_block_mark_word(w->block, 64 * (round % 64), 1, false);
		__atomic_store_n(&w->done, round, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void test_no_page_marked_beside_the_count_is_missed(void **state)
{
	struct fixture *f = *state;
	struct writer w = { .block = f->block };

	assert_int_equal(pthread_create(&w.thread, NULL, write_rounds, &w), 0);
	for (uint32_t round = 1; round <= ROUNDS; round++) {
		__atomic_store_n(&w.asked, round, __ATOMIC_RELEASE);
		while (__atomic_load_n(&w.done, __ATOMIC_ACQUIRE) != round)
			ram_block_count_dirty(f->block);
		assert_int_equal(ram_block_count_dirty(f->block), 1);
		assert_int_equal(ram_block_next_dirty(f->block, 0),
				 64 * (round % 64));
		bitmap_take_word_atomic(f->block->dirty, round % 64);
	}
	pthread_join(w.thread, NULL);
}

#define LOG_PAGES (20 * 64 + 5)

/* A log that begins at any page, most of whose bits say nothing. */
static void test_of_a_log_known_pages_become_dirty(void **state)
{
	struct fixture *f = *state;
	uint64_t log[(LOG_PAGES + 63) / 64];

	for (int step = 0; step < STEPS / 20; step++) {
		uint64_t first = pick(f, PAGES - LOG_PAGES + 1), known, pages;

		first -= pick(f, 2) ? first % 64 : 0;
		first = pick(f, 8) ? first : PAGES - LOG_PAGES; /* to its end */
		memset(f->model, 0, sizeof(f->model));
		ram_block_forget_known(f->block);
		for (int i = 0; i < 5; i++) {
			known = pick(f, PAGES - 100);
			if (i > 1)
				known = first + pick(f, LOG_PAGES) - pick(f, 2);
			known = known > PAGES - 100 ? 0 : known;
			pages = 1 + pick(f, 99);
			ram_block_mark_known(f->block, known, pages);
			memset(f->model + known, 1, pages);
		}
		for (size_t w = 0; w < sizeof(log) / sizeof(log[0]); w++)
			log[w] = pick(f, 3)   ? ~0ull
				 : pick(f, 2) ? 1ull << pick(f, 64)
					      : 0;
		log[LOG_PAGES / 64] &= (1ull << LOG_PAGES % 64) - 1;
		ram_block_mark_log(f->block, first, log, LOG_PAGES);
		for (uint64_t i = 0; i < PAGES; i++) {
			bool is_said = i >= first && i < first + LOG_PAGES &&
				       bitmap_test(log, i - first);

			assert_int_equal(bitmap_test(f->block->dirty, i),
					 is_said && f->model[i]);
		}
		while ((known = ram_block_next_dirty(f->block, 0)) < PAGES)
			bitmap_take_word_atomic(f->block->dirty, known / 64);
	}
}

/* ---- known ---- */

static void test_what_is_not_known_is_found(void **state)
{
	struct fixture *f = *state;

	for (int step = 0; step < STEPS / 10; step++) {
		uint64_t first, pages, from, expected;

		pick_run(f, &first, &pages);
		ram_block_mark_known(f->block, first, pages);
		memset(f->model + first, 1, pages);
		from = expected = pick(f, 2) ? first : pick(f, PAGES);
		while (expected < PAGES && f->model[expected])
			expected++;
		assert_int_equal(ram_block_next_unknown(f->block, from),
				 expected);
		if (pick(f, 500))
			continue;
		ram_block_forget_known(f->block);
		memset(f->model, 0, PAGES);
		assert_int_equal(bitmap_count(f->block->known, 0, PAGES), 0);
		assert_int_equal(ram_block_next_unknown(f->block, from), from);
	}
	ram_block_mark_known(f->block, 0, PAGES);
	assert_int_equal(ram_block_next_unknown(f->block, 0), PAGES);
	assert_int_equal(bitmap_count(f->block->known_groups, 0, 70), 70);
	assert_int_equal(ram_block_next_unknown(f->block, PAGES), PAGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_what_is_dirty_is_found_and_counted, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_groups_without_dirty_pages_are_not_looked_at,
			setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_no_page_marked_beside_the_count_is_missed, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_of_a_log_known_pages_become_dirty, setup,
			teardown),
		cmocka_unit_test_setup_teardown(test_what_is_not_known_is_found,
						setup, teardown),
	};

	return cmocka_run_group_tests_name("ram_pages", tests, NULL, NULL);
}
