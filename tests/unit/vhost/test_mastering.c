// SPDX-License-Identifier: Apache-2.0
/* A vhost-user disk whose driver turns bus mastering off and on, or resets the function. */
#include "base/bitmap.h"
#include "bed.h"

#define SLOT 1u

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

static void set_master(struct fixture *f, bool is_on)
{
	board_config_set(&f->bed.board, SLOT, PCI_COMMAND,
			 PCI_COMMAND_MEMORY | (is_on ? PCI_COMMAND_MASTER : 0),
			 2);
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
		set_master(f, false);
		assert_int_equal(count(&f->be.counts.stops), i);
		submit_writes(f, (uint8_t)i);
		look_around(f);
		assert_int_equal(count(&f->be.counts.writes), writes);
		assert_nothing_done(f);
		set_master(f, true);
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
	set_master(f, false);
	be_hold(&f->be, false);
	assert_nothing_done(f);
	set_master(f, true);
	assert_true(bed_wait(&f->bed, 0, 10));
	assert_false(bed_needs_reset(&f->bed));
}

static void
test_what_is_off_stays_off_when_the_back_end_comes_back(void **state)
{
	struct fixture *f = *state;
	struct be_options options = f->be.options;

	set_master(f, false);
	submit_writes(f, 1);
	be_end(&f->be);
	bed_wait_away(&f->bed);
	assert_int_equal(be_start(&f->be, &options), 0);
	set_master(f, true);
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
	set_master(f, false);
	mem_log_sync(f->bed.board.mem, true);
	assert_true(bitmap_test(f->bed.high->dirty, 0));
	set_master(f, true);
	bitmap_clear(f->bed.high->dirty, 0, f->bed.high->pages);
	assert_true(bed_do(&f->bed, 0, VIRTIO_BLK_T_IN, 0, BED_HIGH, 4096));
	mem_log_sync(f->bed.board.mem, false);
	assert_true(bitmap_test(f->bed.high->dirty, 0));
	mem_log_global_stop(f->bed.board.mem, 0);
}

static bool is_quiet(void *opaque)
{
	struct fixture *f = opaque;
	unsigned int at = board_capability(&f->bed.board, SLOT, PCI_CAP_ID_EXP);

	return !(board_config(&f->bed.board, SLOT, at + PCI_EXP_DEVSTA, 2) &
		 PCI_EXP_DEVSTA_TRPND);
}

static void function_level_reset(struct fixture *f)
{
	struct board *board = &f->bed.board;
	unsigned int at = board_capability(board, SLOT, PCI_CAP_ID_EXP);

	board_config_set(board, SLOT, at + PCI_EXP_DEVCTL,
			 PCI_EXP_DEVCTL_BCR_FLR, 2);
	assert_true(bed_until(is_quiet, f));
	board_config_set(board, SLOT, PCI_BASE_ADDRESS_4, (uint32_t)f->bed.bar,
			 4);
	board_config_set(board, SLOT, PCI_BASE_ADDRESS_5,
			 (uint32_t)(f->bed.bar >> 32), 4);
	set_master(f, true);
	assert_int_equal(bed_status(&f->bed), 0);
}

/* What was not done by then is not done after it, and what is asked for again is. */
static void test_function_level_reset_under_load_loses_nothing(void **state)
{
	struct fixture *f = *state;
	const uint8_t *seen = bed_at(&f->bed, BED_HIGH);

	for (unsigned int round = 1; round < 50; round++) {
		unsigned int writes;

		submit_writes(f, (uint8_t)round);
		function_level_reset(f);
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
