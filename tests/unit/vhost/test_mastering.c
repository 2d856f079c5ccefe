// SPDX-License-Identifier: Apache-2.0
/* A vhost-user disk whose driver turns bus mastering off and on, or resets the function. */
#include "base/bitmap.h"
#include "bed.h"

struct fixture {
	struct bed bed;
	struct back_end be;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct be_options options = BE_OPTIONS;
	struct err err = ERR_INIT;

	bed_init(&f->bed, false);
	options.socket = f->bed.socket;
	options.image = f->bed.image;
	if (be_start(&f->be, &options) || bed_disk_new(&f->bed, 1, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(&f->bed);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	bed_disk_free(&f->bed);
	be_end(&f->be);
	bed_fini(&f->bed);
	free(f);
	return 0;
}

static unsigned int count(const unsigned int *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void submit_writes(struct fixture *f, uint8_t byte)
{
	memset(bed_at(&f->bed, BED_DATA), byte, 4096);
	for (unsigned int i = 0; i < 10; i++)
		bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 8 * i, BED_DATA, 4096);
	bed_kick(&f->bed, 0);
}

/* The back end looks at all its rings, and after that at a message. */
static void look_around(struct fixture *f)
{
	unsigned int tables = count(&f->be.counts.tables);

	be_hold(&f->be, false);
	mem_region_set_offset(f->bed.high_region, BED_HIGH + 0x2000000);
	mem_region_set_offset(f->bed.high_region, BED_HIGH);
	assert_int_equal(count(&f->be.counts.tables), tables + 2);
}

static void assert_nothing_done(struct fixture *f)
{
	uint32_t size;
	uint16_t head;

	assert_false(bed_take(&f->bed, 0, &head, &size));
}

static void test_requests_wait_while_it_is_off(void **state)
{
	struct fixture *f = *state;
	unsigned int writes = 0;

	for (unsigned int i = 1; i <= 5; i++) {
		bed_set_master(&f->bed, false);
		assert_int_equal(count(&f->be.counts.stops), i);
		submit_writes(f, (uint8_t)i);
		look_around(f);
		assert_int_equal(count(&f->be.counts.writes), writes);
		assert_nothing_done(f);
		bed_set_master(&f->bed, true);
		assert_true(bed_wait(&f->bed, 0, 10));
		writes += 10;
	}
	assert_int_equal(count(&f->be.counts.connections), 1);
}

static void test_requests_under_way_are_not_lost(void **state)
{
	struct fixture *f = *state;

	be_hold(&f->be, true);
	submit_writes(f, 1);
	bed_set_master(&f->bed, false);
	be_hold(&f->be, false);
	assert_nothing_done(f);
	bed_set_master(&f->bed, true);
	assert_true(bed_wait(&f->bed, 0, 10));
	assert_false(bed_needs_reset(&f->bed));
}

static void
test_what_is_off_stays_off_when_the_back_end_comes_back(void **state)
{
	struct fixture *f = *state;
	struct be_options options = f->be.options;

	bed_set_master(&f->bed, false);
	submit_writes(f, 1);
	be_end(&f->be);
	bed_wait_away(&f->bed);
	assert_int_equal(be_start(&f->be, &options), 0);
	bed_set_master(&f->bed, true);
	assert_true(bed_wait(&f->bed, 0, 10));
	assert_int_equal(count(&f->be.counts.starts), 1);
	assert_false(bed_needs_reset(&f->bed));
}

static void test_pages_written_before_it_went_off_are_in_the_log(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mem_log_global_start(f->bed.board.mem, NULL), 0);
	bed_submit(&f->bed, 0, VIRTIO_BLK_T_IN, 0, BED_HIGH, 4096);
	bed_kick(&f->bed, 0);
	assert_true(bed_wait(&f->bed, 0, 1));
	bed_set_master(&f->bed, false);
	mem_log_sync(f->bed.board.mem, true);
	assert_true(bitmap_test(f->bed.high->dirty, 0));
	bed_set_master(&f->bed, true);
	bitmap_clear(f->bed.high->dirty, 0, f->bed.high->pages);
	assert_true(bed_do(&f->bed, 0, VIRTIO_BLK_T_IN, 0, BED_HIGH, 4096));
	mem_log_sync(f->bed.board.mem, false);
	assert_true(bitmap_test(f->bed.high->dirty, 0));
	mem_log_global_stop(f->bed.board.mem, 0);
}

/* What was not done by then is not done after it, and what is asked for again is. */
static void test_function_level_reset_under_load_loses_nothing(void **state)
{
	struct fixture *f = *state;
	const uint8_t *seen = bed_at(&f->bed, BED_HIGH);

	for (unsigned int round = 1; round < 50; round++) {
		unsigned int writes;

		submit_writes(f, (uint8_t)round);
		bed_function_reset(&f->bed);
		assert_int_equal(bed_status(&f->bed), 0);
		writes = count(&f->be.counts.writes);
		bed_drive(&f->bed);
		submit_writes(f, (uint8_t)round);
		assert_true(bed_wait(&f->bed, 0, 10));
		assert_int_equal(count(&f->be.counts.writes), writes + 10);
		assert_true(bed_do(&f->bed, 0, VIRTIO_BLK_T_IN, 8 * 9, BED_HIGH,
				   4096));
		assert_int_equal(seen[0], round);
		assert_int_equal(seen[4095], round);
	}
	assert_false(bed_needs_reset(&f->bed));
	assert_int_equal(f->be.counts.connections, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_requests_wait_while_it_is_off),
		TEST(test_requests_under_way_are_not_lost),
		TEST(test_what_is_off_stays_off_when_the_back_end_comes_back),
		TEST(test_pages_written_before_it_went_off_are_in_the_log),
		TEST(test_function_level_reset_under_load_loses_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
