// SPDX-License-Identifier: Apache-2.0
/*
 * Readers without locks while a writer commits.  Each device answers reads
 * with its own number and is only ever shown at its own slot or one slot
 * further, so that a torn view, or a range of a view that was freed, shows as
 * a wrong answer.  Meant for the thread and address sanitizers too.
 */
#include <cmocka.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "mem/access.h"
#include "mem/ram.h"
#include "mem/space.h"

#define READERS  3
#define DEVICES  300
#define COMMITS  20000
#define SLOT     0x1000ull
#define RAM_BASE (1ull << 32)

struct shared {
	struct mem *mem;
	struct mem_region *root, *devices[DEVICES];
	struct addr_space *as;
	struct ram_block *block;
	pthread_barrier_t start;
	/* atomic */
	bool is_over;
	uint64_t readers, wrong;
};

static uint64_t device_read(void *dev, uint64_t offset, unsigned int size)
{
	(void)offset;
	(void)size;
	return (uint64_t)(uintptr_t)dev;
}

static const struct mem_io_ops device_ops = { .read = device_read };

static bool is_over(const struct shared *s)
{
	return __atomic_load_n(&s->is_over, __ATOMIC_RELAXED);
}

static void note_wrong(struct shared *s)
{
	__atomic_add_fetch(&s->wrong, 1, __ATOMIC_RELAXED);
}

/* Device n + 1 answers at 2n or at 2n + 1 slots. */
static void read_device(struct shared *s, uint64_t slot)
{
	uint32_t value;
	int ret = mem_read(s->as, slot * SLOT, &value, sizeof(value));

	if (ret ? value != UINT32_MAX : value != slot / 2 + 1)
		note_wrong(s);
}

static void walk_view(struct shared *s)
{
	const struct flat_view *view;
	const struct mem_range *range;
	uint32_t count = 0;
	u128 end = 0;

	rcu_read_lock();
	view = addr_space_view(s->as);
	flat_view_for_each(range, view)
	{
		if (range->gpa < end)
			note_wrong(s);
		end = range->gpa + range->size;
		count++;
	}
	if (count != flat_view_count(view))
		note_wrong(s);
	rcu_read_unlock();
}

/* Each with a page of RAM of its own. */
static void *read_until_over(void *opaque)
{
	struct shared *s = opaque;
	uint64_t gpa = RAM_BASE + 0x1000 * __atomic_fetch_add(&s->readers, 1,
							      __ATOMIC_RELAXED);
	uint32_t rounds = 0, got;

	pthread_barrier_wait(&s->start);
	do {
		for (uint64_t slot = 0; slot < 2 * DEVICES; slot++)
			read_device(s, slot);
		rounds++;
		if (mem_write(s->as, gpa, &rounds, sizeof(rounds)) ||
		    mem_read(s->as, gpa, &got, sizeof(got)) || got != rounds)
			note_wrong(s);
		walk_view(s);
	} while (!is_over(s));
	return NULL;
}

static void shared_init(struct shared *s)
{
	struct mem_region *ram;

	pthread_barrier_init(&s->start, NULL, READERS + 1);
	s->mem = mem_new();
	ram_block_new(s->mem, "ram", READERS * 0x1000, NULL, &s->block, NULL);
	s->root = mem_region_new_container(s->mem, "root", MEM_SIZE_2_64);
	s->as = addr_space_new(s->mem, "memory", s->root);
	mem_begin(s->mem);
	ram = mem_region_new_ram(s->mem, "ram", s->block);
	mem_region_add(s->root, RAM_BASE, ram, 0);
	mem_region_put(ram);
	for (uint64_t i = 0; i < DEVICES; i++) {
		s->devices[i] = mem_region_new_io(s->mem, "dev", SLOT,
						  &device_ops, (void *)(i + 1));
		mem_region_add(s->root, 2 * i * SLOT, s->devices[i], 0);
	}
	mem_commit(s->mem);
}

static void shared_fini(struct shared *s)
{
	for (int i = 0; i < DEVICES; i++)
		mem_region_put(s->devices[i]);
	addr_space_free(s->as);
	mem_region_put(s->root);
	mem_synchronize(s->mem);
	ram_block_free(s->block);
	mem_free(s->mem);
	pthread_barrier_destroy(&s->start);
}

/* One device goes for good and another one takes its place: regions are freed
 * under the readers too. */
static void replace_device(struct shared *s, uint64_t i)
{
	mem_begin(s->mem);
	mem_region_del(s->devices[i]);
	mem_region_put(s->devices[i]);
	s->devices[i] = mem_region_new_io(s->mem, "dev", SLOT, &device_ops,
					  (void *)(i + 1));
	mem_region_add(s->root, 2 * i * SLOT, s->devices[i], 0);
	mem_commit(s->mem);
}

static void test_readers_see_whole_views_while_a_writer_commits(void **state)
{
	struct shared s = { 0 };
	pthread_t readers[READERS];

	(void)state;
	shared_init(&s);
	for (int i = 0; i < READERS; i++)
		assert_int_equal(
			pthread_create(&readers[i], NULL, read_until_over, &s),
			0);
	pthread_barrier_wait(&s.start);
	for (uint64_t n = 0; n < COMMITS; n++) {
		uint64_t i = n * 7919 % DEVICES;

		if (n % 4 == 3)
			replace_device(&s, i);
		else
			mem_region_set_offset(s.devices[i],
					      (2 * i + n % 2) * SLOT);
	}
	__atomic_store_n(&s.is_over, true, __ATOMIC_RELAXED);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	assert_int_equal(s.wrong, 0);
	shared_fini(&s);
}

/* Several writers take turns; a transaction is never interleaved. */
struct writer {
	struct shared *shared;
	uint64_t index;
};

static void *write_triples(void *opaque)
{
	struct writer *w = opaque;
	struct mem *mem = w->shared->mem;

	for (uint64_t n = 0; n < COMMITS / 10; n++) {
		mem_begin(mem);
		for (uint64_t i = 0; i < 3; i++)
			mem_region_set_enabled(
				w->shared->devices[3 * w->index + i], n % 2);
		mem_commit(mem);
	}
	return NULL;
}

static void *check_triples(void *opaque)
{
	struct shared *s = opaque;

	while (!is_over(s)) {
		const struct flat_view *view;

		rcu_read_lock();
		view = addr_space_view(s->as);
		for (uint64_t i = 0; i < 3 * READERS; i += 3) {
			bool a = flat_view_find(view, 2 * i * SLOT);

			if (a != !!flat_view_find(view, (2 * i + 2) * SLOT) ||
			    a != !!flat_view_find(view, (2 * i + 4) * SLOT))
				note_wrong(s);
		}
		rcu_read_unlock();
	}
	return NULL;
}

static void test_a_transaction_shows_at_once_whoever_writes(void **state)
{
	struct shared s = { 0 };
	struct writer writers[READERS];
	pthread_t threads[READERS], checker;

	(void)state;
	shared_init(&s);
	assert_int_equal(pthread_create(&checker, NULL, check_triples, &s), 0);
	for (int i = 0; i < READERS; i++) {
		writers[i] = (struct writer){ &s, (uint64_t)i };
		assert_int_equal(pthread_create(&threads[i], NULL,
						write_triples, &writers[i]),
				 0);
	}
	for (int i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	__atomic_store_n(&s.is_over, true, __ATOMIC_RELAXED);
	pthread_join(checker, NULL);
	assert_int_equal(s.wrong, 0);
	shared_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_readers_see_whole_views_while_a_writer_commits),
		cmocka_unit_test(
			test_a_transaction_shows_at_once_whoever_writes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
