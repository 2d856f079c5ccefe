// SPDX-License-Identifier: Apache-2.0
/* What the devices of one back-end type share: memory table, log, who scans it. */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>

#include "fake.h"

struct fixture {
	struct world world;
	struct fake a, b, c;
};

static int setup_with(void **state, bool scan_each)
{
	struct fixture *f = calloc(1, sizeof(*f));

	world_init(&f->world, scan_each);
	fake_init(&f->a, &f->world, "a");
	fake_init(&f->b, &f->world, "b");
	fake_init(&f->c, &f->world, "c");
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, false);
}

static int setup_each(void **state)
{
	return setup_with(state, true);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mem_log_global_stop(f->world.mem, 0);
	fake_fini(&f->a);
	fake_fini(&f->b);
	fake_fini(&f->c);
	world_fini(&f->world);
	free(f);
	return 0;
}

static void log_on(struct fixture *f)
{
	struct err err = ERR_INIT;

	if (mem_log_global_start(f->world.mem, &err))
		fail_msg("%s", err_msg(&err));
}

static void sync_log(struct fixture *f)
{
	mem_log_sync(f->world.mem, false);
}

/* Whether the page at @gpa is marked; it is not any more. */
static bool take_dirty(struct fixture *f, uint64_t gpa)
{
	struct ram_block *block =
		gpa >= WORLD_HIGH ? f->world.high : f->world.low;
	uint64_t page = (gpa >= WORLD_HIGH ? gpa - WORLD_HIGH : gpa) / 4096;
	bool is_dirty = bitmap_test(block->dirty, page);

	bitmap_clear(block->dirty, page, 1);
	return is_dirty;
}

static uint64_t dirty_count(struct fixture *f)
{
	return bitmap_count(f->world.low->dirty, 0, f->world.low->pages) +
	       bitmap_count(f->world.high->dirty, 0, f->world.high->pages);
}

/* ---- who scans ---- */

static void test_one_device_scans_for_all_and_each_its_rings(void **state)
{
	struct fixture *f = *state;

	log_on(f);
	world_log(&f->world, 5);
	world_log(&f->world, WORLD_HIGH / 4096 + 3);
	sync_log(f);
	assert_int_equal(world_counts(&f->world).scans, 1);
	assert_int_equal(world_counts(&f->world).ring_scans, 3);
	assert_true(take_dirty(f, 5 * 4096));
	assert_true(take_dirty(f, WORLD_HIGH + 3 * 4096));
	assert_int_equal(dirty_count(f), 0);
	sync_log(f);
	assert_int_equal(dirty_count(f), 0);
}

static void test_with_each_every_device_scans(void **state)
{
	struct fixture *f = *state;

	log_on(f);
	world_log(&f->world, 5);
	sync_log(f);
	assert_int_equal(world_counts(&f->world).scans, 3);
	assert_int_equal(world_counts(&f->world).ring_scans, 3);
	assert_true(take_dirty(f, 5 * 4096));
	assert_int_equal(dirty_count(f), 0);
}

static void test_device_that_joins_never_takes_the_scan_over(void **state)
{
	struct fixture *f = *state;
	struct fake late;

	assert_ptr_equal(world_side(&f->world)->elected, &f->a.dev);
	fake_init(&late, &f->world, "late");
	assert_ptr_equal(world_side(&f->world)->elected, &f->a.dev);
	fake_die(&f->a);
	log_on(f);
	sync_log(f);
	assert_ptr_equal(world_side(&f->world)->elected, &f->b.dev);
	/* It comes back, and does not get it back. */
	fake_arrive(&f->a);
	sync_log(f);
	assert_ptr_equal(world_side(&f->world)->elected, &f->b.dev);
	fake_die(&f->b);
	sync_log(f);
	assert_ptr_equal(world_side(&f->world)->elected, &f->c.dev);
	fake_die(&f->c);
	fake_fini(&late);
	assert_ptr_equal(world_side(&f->world)->elected, &f->a.dev);
	assert_int_equal(world_counts(&f->world).scans, 3);
}

static void test_log_is_scanned_when_nobody_is_left_who_would(void **state)
{
	struct fixture *f = *state;

	log_on(f);
	world_log(&f->world, 9);
	fake_die(&f->a);
	fake_die(&f->b);
	fake_die(&f->c);
	sync_log(f);
	assert_true(take_dirty(f, 9 * 4096));
}

static void test_last_device_that_leaves_scans_before_it_goes(void **state)
{
	struct fixture *f = *state;

	log_on(f);
	fake_fini(&f->b);
	fake_fini(&f->c);
	world_log(&f->world, 9);
	fake_fini(&f->a);
	assert_true(take_dirty(f, 9 * 4096));
}

static void test_stopped_devices_log_is_in_the_last_sync(void **state)
{
	struct fixture *f = *state;

	fake_start_at(&f->a, 0x10000);
	log_on(f);
	world_log(&f->world, 77);
	vh_dev_stop_begin(&f->a.dev);
	assert_int_equal(vh_dev_stop(&f->a.dev, UINT64_MAX, NULL), 0);
	mem_log_sync(f->world.mem, true);
	assert_true(take_dirty(f, 77 * 4096));
	/* Index fields that are written last may be missing in the log. */
	assert_true(take_dirty(f, 0x10000 + 0x2000));
}

static void test_death_at_work_takes_all_that_is_watched_for_dirty(void **state)
{
	struct fixture *f = *state;

	fake_start_at(&f->a, 0x10000);
	log_on(f);
	bitmap_set(f->world.low->known, 3, 4);
	bitmap_set(f->world.high->known, 511, 1);
	fake_die(&f->a);
	sync_log(f);
	for (uint64_t page = 3; page < 7; page++)
		assert_true(take_dirty(f, page * 4096));
	assert_true(take_dirty(f, WORLD_HIGH + 511 * 4096));
	assert_false(take_dirty(f, 8 * 4096));
	/* Once. */
	bitmap_clear(f->world.low->dirty, 0, f->world.low->pages);
	sync_log(f);
	assert_int_equal(dirty_count(f), 0);
}

static void test_death_of_one_that_leaves_is_not_forgotten(void **state)
{
	struct fixture *f = *state;

	fake_start_at(&f->a, 0x10000);
	log_on(f);
	bitmap_set(f->world.low->known, 3, 1);
	fake_die(&f->a);
	fake_fini(&f->a);
	sync_log(f);
	assert_true(take_dirty(f, 3 * 4096));
}

static void
test_death_also_dirties_what_is_not_in_the_table_any_more(void **state)
{
	struct fixture *f = *state;

	fake_start_at(&f->a, 0x10000);
	log_on(f);
	bitmap_set(f->world.high->known, 1, 65);
	bitmap_set(f->world.high->known, 511, 1);
	mem_region_set_enabled(f->world.high_region, false);
	bitmap_clear(f->world.high->dirty, 0, f->world.high->pages);
	fake_die(&f->a);
	sync_log(f);
	for (uint64_t page = 1; page < 66; page++)
		assert_true(take_dirty(f, WORLD_HIGH + page * 4096));
	assert_true(take_dirty(f, WORLD_HIGH + 511 * 4096));
	assert_int_equal(dirty_count(f), FAKE_RINGS); /* the used rings */
	mem_region_set_enabled(f->world.high_region, true);
}

/* ---- a log's words and the regions ---- */

static void test_regions_that_share_a_word_get_their_own_bits(void **state)
{
	struct fixture *f = *state;
	uint64_t last = WORLD_LOW_SIZE / 4096 - 1, first = WORLD_HIGH / 4096;

	assert_int_equal(last / 64, first / 64);
	log_on(f);
	world_log(&f->world, last);
	world_log(&f->world, first);
	sync_log(f);
	assert_true(take_dirty(f, last * 4096));
	assert_true(take_dirty(f, first * 4096));
	assert_int_equal(dirty_count(f), 0);
}

/* A write for each word is what a scan of much memory would cost. */
static void test_log_of_an_idle_guest_is_only_read(void **state)
{
	struct fixture *f = *state;
	struct vh_log *log;

	fake_start_at(&f->a, 0x10000);
	log_on(f);
	log = world_side(&f->world)->log;
	assert_int_equal(mprotect(log->words, log->size, PROT_READ), 0);
	sync_log(f);
	assert_int_equal(
		mprotect(log->words, log->size, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(dirty_count(f), 0);
}

/* As each device does with its own, and takes nothing else of their words. */
static void test_scan_of_a_ring_takes_its_pages_alone(void **state)
{
	struct fixture *f = *state;
	struct vh_side *side = world_side(&f->world);

	log_on(f);
	world_log(&f->world, 0x40);
	world_log(&f->world, 0x41);
	world_log(&f->world, 0x42);
	lock_acquire(&side->lock);
	vh_log_scan(side->log, side->table, 0x41000 + 0xffe, 2);
	lock_release(&side->lock);
	assert_true(take_dirty(f, 0x41000));
	assert_int_equal(dirty_count(f), 0);
	assert_int_equal(side->log->words[1], 1 << 2 | 1);
	sync_log(f);
	assert_true(take_dirty(f, 0x40000));
	assert_true(take_dirty(f, 0x42000));
}

/* Model: a set of pages; both ways of scanning find exactly it. */
static void random_rounds(struct fixture *f)
{
	uint64_t pages = (WORLD_HIGH + WORLD_HIGH_SIZE) / 4096;
	unsigned int seed = 7;

	log_on(f);
	for (int round = 0; round < 200; round++) {
		uint64_t *model = bitmap_new(pages);

		for (int i = rand_r(&seed) % 100; i >= 0; i--) {
			uint64_t page = (uint64_t)rand_r(&seed) % pages;

			world_log(&f->world, page);
			bitmap_set(model, page, 1);
		}
		sync_log(f);
		for (uint64_t page = 0; page < pages; page++) {
			uint64_t gpa = page * 4096;
			bool is_ram = gpa < WORLD_LOW_SIZE || gpa >= WORLD_HIGH;

			if (!is_ram)
				continue;
			assert_int_equal(take_dirty(f, gpa),
					 bitmap_test(model, page));
		}
		assert_int_equal(dirty_count(f), 0);
		bitmap_free(model, pages);
	}
}

static void test_scan_by_one_finds_what_was_written(void **state)
{
	random_rounds(*state);
}

static void test_scan_by_each_finds_the_same(void **state)
{
	random_rounds(*state);
}

/* ---- what devices are told ---- */

static void test_log_is_told_before_features_and_rings(void **state)
{
	struct fixture *f = *state;

	fake_start_at(&f->a, 0x10000);
	f->a.told[0] = '\0';
	log_on(f);
	assert_string_equal(
		f->a.told,
		"log features+log addr+log addr+log addr+log addr+log ");
	f->a.told[0] = '\0';
	mem_log_global_stop(f->world.mem, 0);
	assert_string_equal(f->a.told, "features addr addr addr addr ");
}

static void
test_device_that_starts_while_logging_logs_from_the_start(void **state)
{
	struct fixture *f = *state;

	log_on(f);
	f->b.told[0] = '\0';
	fake_start_at(&f->b, 0x10000);
	f->b.told[60] = '\0';
	assert_string_equal(f->b.told, "table log features+log num base "
				       "addr+log call num base addr+");
	assert_int_equal(world_counts(&f->world).logs_told, 1);
}

static void test_table_that_did_not_change_is_not_told_again(void **state)
{
	struct fixture *f = *state;
	struct mem_region *io =
		mem_region_new_container(f->world.mem, "c", 4096);

	fake_start_at(&f->a, 0x10000);
	mem_region_add(f->world.root, 1ull << 40, io, 0);
	mem_region_set_enabled(f->world.high_region, false);
	mem_begin(f->world.mem);
	mem_region_set_enabled(f->world.high_region, true);
	mem_region_set_enabled(f->world.high_region, false);
	mem_commit(f->world.mem);
	vh_dev_stop(&f->a.dev, UINT64_MAX, NULL);
	fake_start_at(&f->a, 0x10000);
	/* at its start, and when high went */
	assert_non_null(strstr(f->a.told, "table"));
	assert_int_equal(world_counts(&f->world).tables_built, 2);
	/* b and c, which are stopped, are told that one only */
	assert_int_equal(world_counts(&f->world).tables_told, 2 + 2);
	mem_region_set_enabled(f->world.high_region, true);
	mem_region_del(io);
	mem_region_put(io);
}

static void test_table_changes_while_rings_rest(void **state)
{
	struct fixture *f = *state;

	fake_start_at(&f->a, 0x10000);
	f->a.told[0] = '\0';
	mem_region_set_offset(f->world.high_region, WORLD_HIGH + 0x40000);
	assert_memory_equal(f->a.told, "stop stop stop stop table features ",
			    34);
	assert_int_equal(f->a.breaks, 0);
}

static void test_pages_of_ram_that_moves_are_not_lost(void **state)
{
	struct fixture *f = *state;

	fake_start_at(&f->a, 0x10000);
	log_on(f);
	world_log(&f->world, WORLD_HIGH / 4096 + 2);
	mem_region_set_offset(f->world.high_region, WORLD_HIGH + 0x10000000);
	assert_true(take_dirty(f, WORLD_HIGH + 2 * 4096));
	/* The log grew with it. */
	world_log(&f->world, (WORLD_HIGH + 0x10000000) / 4096 + 5);
	sync_log(f);
	assert_true(take_dirty(f, WORLD_HIGH + 5 * 4096));
	assert_int_equal(world_counts(&f->world).logs_told, 2);
	world_log(&f->world, (WORLD_HIGH + 0x10000000) / 4096 + 6);
	mem_region_set_enabled(f->world.high_region, false);
	assert_true(take_dirty(f, WORLD_HIGH + 6 * 4096));
	mem_region_set_enabled(f->world.high_region, true);
}

static void test_back_end_that_cannot_log_refuses_a_migration(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	f->b.dev.can_log = false;
	assert_int_equal(mem_log_global_start(f->world.mem, &err), -ENOTSUP);
	assert_string_equal(err_msg(&err), "b: its back end cannot log what "
					   "it writes");
	f->b.dev.can_log = true;
	log_on(f);
}

static void test_failure_of_one_device_is_only_its_own(void **state)
{
	struct fixture *f = *state;

	fake_start_at(&f->a, 0x10000);
	fake_start_at(&f->b, 0x20000);
	f->a.result = -EBADMSG;
	log_on(f);
	assert_int_equal(f->a.breaks, 1);
	assert_int_equal(f->b.breaks, 0);
	f->a.result = 0;
	world_log(&f->world, 4);
	sync_log(f);
	assert_true(take_dirty(f, 4 * 4096));
	assert_ptr_equal(world_side(&f->world)->elected, &f->b.dev);
}

static void test_more_pieces_of_ram_than_it_takes_break_a_device(void **state)
{
	struct fixture *f = *state;

	fake_start_at(&f->a, 0x10000);
	fake_start_at(&f->b, 0x20000);
	f->a.dev.regions_max = 1;
	mem_region_set_offset(f->world.high_region, WORLD_HIGH + 0x40000);
	assert_int_equal(f->a.breaks, 1);
	assert_int_equal(f->b.breaks, 0);
}

static void test_ring_outside_of_ram_is_refused(void **state)
{
	struct fixture *f = *state;
	const struct vh_queues queues = fake_queues(&f->a);
	struct err err = ERR_INIT;

	fake_start_at(&f->a, 0x10000);
	vh_dev_stop(&f->a.dev, UINT64_MAX, NULL);
	f->a.queues[1].device = WORLD_LOW_SIZE - 0x40;
	assert_int_equal(vh_dev_start(&f->a.dev, &queues, &err), -EFAULT);
	f->a.queues[1].device = ~0ull - 7;
	err_clear(&err);
	assert_int_equal(vh_dev_start(&f->a.dev, &queues, &err), -EFAULT);
}

/* ---- while rounds go on ---- */

struct writer {
	struct fixture *f;
	pthread_t thread;
	unsigned int seed;
	uint64_t *model;
	unsigned int syncs;
	bool is_ending; /* atomic */
};

static void *write_on(void *opaque)
{
	struct writer *writer = opaque;

	while (!__atomic_load_n(&writer->is_ending, __ATOMIC_ACQUIRE)) {
		uint64_t page = (uint64_t)rand_r(&writer->seed) %
				(WORLD_LOW_SIZE / 4096);

		world_log(&writer->f->world, page);
		bitmap_set(writer->model, page, 1);
	}
	return NULL;
}

static void *sync_on(void *opaque)
{
	struct writer *writer = opaque;

	while (!__atomic_load_n(&writer->is_ending, __ATOMIC_ACQUIRE)) {
		sync_log(writer->f);
		writer->syncs++;
	}
	return NULL;
}

static void test_nothing_is_lost_while_devices_join_leave_and_die(void **state)
{
	struct fixture *f = *state;
	struct writer writer = { .f = f, .seed = 1 }, syncer = { .f = f };
	struct fake late;

	writer.model = bitmap_new(WORLD_LOW_SIZE / 4096);
	log_on(f);
	pthread_create(&writer.thread, NULL, write_on, &writer);
	pthread_create(&syncer.thread, NULL, sync_on, &syncer);
	for (int i = 0; i < 300; i++) {
		fake_init(&late, &f->world, "late");
		fake_die(i % 2 ? &f->a : &f->b);
		fake_start_at(&late, 0x10000);
		fake_arrive(i % 2 ? &f->a : &f->b);
		fake_fini(&late);
	}
	__atomic_store_n(&writer.is_ending, true, __ATOMIC_RELEASE);
	__atomic_store_n(&syncer.is_ending, true, __ATOMIC_RELEASE);
	pthread_join(writer.thread, NULL);
	pthread_join(syncer.thread, NULL);
	mem_log_sync(f->world.mem, true);
	/* Whoever dies, one scans in each. */
	if (!f->world.board->scan_each)
		assert_int_equal(world_counts(&f->world).scans,
				 syncer.syncs + 1);
	/* the used rings, which a stop marks by itself */
	for (unsigned int i = 0; i < FAKE_RINGS; i++)
		bitmap_set(writer.model, 0x10 + 3 * i + 2, 1);
	for (uint64_t page = 0; page < WORLD_LOW_SIZE / 4096; page++)
		assert_int_equal(take_dirty(f, page * 4096),
				 bitmap_test(writer.model, page));
	bitmap_free(writer.model, WORLD_LOW_SIZE / 4096);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define EACH(name) cmocka_unit_test_setup_teardown(name, setup_each, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_one_device_scans_for_all_and_each_its_rings),
		EACH(test_with_each_every_device_scans),
		TEST(test_device_that_joins_never_takes_the_scan_over),
		TEST(test_log_is_scanned_when_nobody_is_left_who_would),
		TEST(test_last_device_that_leaves_scans_before_it_goes),
		TEST(test_stopped_devices_log_is_in_the_last_sync),
		TEST(test_death_at_work_takes_all_that_is_watched_for_dirty),
		TEST(test_death_of_one_that_leaves_is_not_forgotten),
		TEST(test_death_also_dirties_what_is_not_in_the_table_any_more),
		TEST(test_regions_that_share_a_word_get_their_own_bits),
		TEST(test_log_of_an_idle_guest_is_only_read),
		TEST(test_scan_of_a_ring_takes_its_pages_alone),
		TEST(test_scan_by_one_finds_what_was_written),
		EACH(test_scan_by_each_finds_the_same),
		TEST(test_log_is_told_before_features_and_rings),
		TEST(test_device_that_starts_while_logging_logs_from_the_start),
		TEST(test_table_that_did_not_change_is_not_told_again),
		TEST(test_table_changes_while_rings_rest),
		TEST(test_pages_of_ram_that_moves_are_not_lost),
		TEST(test_back_end_that_cannot_log_refuses_a_migration),
		TEST(test_failure_of_one_device_is_only_its_own),
		TEST(test_more_pieces_of_ram_than_it_takes_break_a_device),
		TEST(test_ring_outside_of_ram_is_refused),
		TEST(test_nothing_is_lost_while_devices_join_leave_and_die),
		EACH(test_nothing_is_lost_while_devices_join_leave_and_die),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
