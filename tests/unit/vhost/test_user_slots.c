// SPDX-License-Identifier: Apache-2.0
/* A vhost-user disk whose back end takes regions of RAM one by one. */
#include <errno.h>

#include "base/bitmap.h"
#include "bed.h"

struct fixture {
	struct bed bed;
	struct back_end be;
	struct be_options options;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct be_options options = BE_OPTIONS;

	bed_init(&f->bed, false);
	f->options = options;
	f->options.socket = f->bed.socket;
	f->options.image = f->bed.image;
	f->options.has_slots = true;
	f->options.slots = 2;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	bed_fini(&f->bed);
	free(f);
	return 0;
}

static void start(struct fixture *f)
{
	assert_int_equal(be_start(&f->be, &f->options), 0);
}

static void disk(struct fixture *f)
{
	struct err err = ERR_INIT;

	if (bed_disk_new(&f->bed, 1, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(&f->bed);
}

static void end(struct fixture *f)
{
	bed_disk_free(&f->bed);
	be_end(&f->be);
	assert_int_equal(f->be.counts.tables, 0);
}

static bool write_block(struct fixture *f, unsigned int block, uint8_t byte)
{
	memset(bed_at(&f->bed, BED_DATA), byte, 4096);
	return bed_do(&f->bed, 0, VIRTIO_BLK_T_OUT, 8 * block, BED_DATA, 4096);
}

/* By a read to @gpa, which is somewhere in high. */
static void assert_block(struct fixture *f, unsigned int block, uint64_t gpa,
			 uint8_t byte)
{
	uint8_t wanted[4096];
	uint8_t *bytes = f->bed.high->host + 0x1000;

	memset(wanted, byte, sizeof(wanted));
	memset(bytes, (uint8_t)~byte, 4096);
	assert_true(bed_do(&f->bed, 0, VIRTIO_BLK_T_IN, 8 * block, gpa + 0x1000,
			   4096));
	assert_memory_equal(bytes, wanted, 4096);
}

static unsigned int count(const unsigned int *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void test_each_region_is_told_once(void **state)
{
	struct fixture *f = *state;

	start(f);
	disk(f);
	for (unsigned int i = 0; i < 10; i++) {
		bed_reset(&f->bed);
		bed_drive(&f->bed);
		assert_true(write_block(f, i, (uint8_t)i));
	}
	end(f);
	assert_int_equal(f->be.counts.regions_added, 2);
	assert_int_equal(f->be.counts.regions_removed, 0);
}

/* It has no slot more than it needs. */
static void move_under_load(struct fixture *f)
{
	uint64_t gpa = BED_HIGH;

	start(f);
	disk(f);
	for (unsigned int i = 0; i < 20; i++) {
		assert_true(write_block(f, 10, (uint8_t)i));
		for (unsigned int k = 0; k < 10; k++)
			bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 8 * k,
				   BED_DATA, 4096);
		bed_kick(&f->bed, 0);
		gpa = BED_HIGH + (i % 2 ? 0 : 0x2000000);
		mem_region_set_offset(f->bed.high_region, gpa);
		assert_true(bed_wait(&f->bed, 0, 10));
		assert_block(f, 10, gpa, (uint8_t)i);
	}
	end(f);
	assert_int_equal(f->be.counts.connections, 1);
	assert_int_equal(f->be.counts.regions_added, 2 + 20);
	assert_int_equal(f->be.counts.regions_removed, 20);
}

static void test_only_the_region_that_moves_is_told_again(void **state)
{
	move_under_load(*state);
}

static void test_back_end_without_acknowledgements_follows_too(void **state)
{
	struct fixture *f = *state;

	f->options.has_reply_ack = false;
	move_under_load(f);
}

static void test_rings_work_on_while_a_region_is_added(void **state)
{
	struct fixture *f = *state;
	unsigned int stops, messages;

	start(f);
	disk(f);
	mem_region_set_enabled(f->bed.high_region, false);
	assert_true(write_block(f, 0, 1));
	stops = count(&f->be.counts.stops);
	messages = count(&f->be.counts.messages);
	be_hold(&f->be, true);
	bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 8, BED_DATA, 4096);
	bed_kick(&f->bed, 0);
	mem_region_set_enabled(f->bed.high_region, true);
	assert_int_equal(count(&f->be.counts.stops), stops);
	/* the region and a fence */
	assert_int_equal(count(&f->be.counts.messages), messages + 2);
	be_hold(&f->be, false);
	assert_true(bed_wait(&f->bed, 0, 1));
	assert_block(f, 1, BED_HIGH, 1);
	end(f);
	assert_int_equal(f->be.counts.regions_removed, 1);
}

/* D5 */
static void test_pages_of_a_region_that_moves_are_not_lost(void **state)
{
	struct fixture *f = *state;

	start(f);
	disk(f);
	assert_true(write_block(f, 0, 1));
	assert_int_equal(mem_log_global_start(f->bed.board.mem, NULL), 0);
	for (unsigned int i = 0; i < 10; i++) {
		uint64_t gpa = BED_HIGH + (i % 2 ? 0x10000 : 0);

		mem_region_set_offset(f->bed.high_region, gpa);
		bitmap_clear(f->bed.high->dirty, 0, f->bed.high->pages);
		assert_block(f, 0, gpa, 1);
		mem_region_set_enabled(f->bed.high_region, false);
		assert_true(bitmap_test(f->bed.high->dirty, 1));
		mem_region_set_enabled(f->bed.high_region, true);
		bitmap_clear(f->bed.high->dirty, 0, f->bed.high->pages);
		assert_block(f, 0, gpa, 1);
		mem_log_sync(f->bed.board.mem, false);
		assert_true(bitmap_test(f->bed.high->dirty, 1));
	}
	mem_log_global_stop(f->bed.board.mem, 0);
	end(f);
}

static void test_back_end_that_comes_back_is_told_all_regions(void **state)
{
	struct fixture *f = *state;

	start(f);
	disk(f);
	mem_region_set_offset(f->bed.high_region, BED_HIGH + 0x2000000);
	assert_true(write_block(f, 0, 1));
	be_end(&f->be);
	bed_wait_away(&f->bed);
	start(f);
	assert_block(f, 0, BED_HIGH + 0x2000000, 1);
	end(f);
	assert_int_equal(f->be.counts.regions_added, 2);
	assert_int_equal(f->be.counts.regions_removed, 0);
}

/* ---- slots that are not there ---- */

static void test_too_few_slots_are_a_clear_error(void **state)
{
	static const struct {
		unsigned int slots;
		int ret;
		const char *message;
	} cases[] = {
		{ 0, -ENOTSUP, "disk0: its back end takes no memory at all" },
		{ 1, -E2BIG, "disk0: 2 pieces of RAM, its back end takes 1" },
	};
	struct fixture *f = *state;

	for (unsigned int i = 0; i < array_size(cases); i++) {
		struct err err = ERR_INIT;

		f->options.slots = cases[i].slots;
		start(f);
		assert_int_equal(bed_disk_new(&f->bed, 1, &err), cases[i].ret);
		assert_string_equal(err_msg(&err), cases[i].message);
		be_end(&f->be);
	}
}

static void test_more_slots_than_there_are_regions_do_no_harm(void **state)
{
	struct fixture *f = *state;

	f->options.slots = UINT32_MAX;
	start(f);
	disk(f);
	assert_true(write_block(f, 0, 1));
	end(f);
}

static void test_region_without_a_slot_asks_for_a_reset(void **state)
{
	struct fixture *f = *state;
	struct mem_region *third;

	start(f);
	disk(f);
	assert_true(write_block(f, 0, 1));
	third = mem_region_new_ram(f->bed.board.mem, "third", f->bed.high);
	mem_region_add(f->bed.board.memory_root, 0x4000000, third, 0);
	assert_true(bed_needs_reset(&f->bed));
	mem_region_del(third);
	mem_region_put(third);
	bed_reset(&f->bed);
	bed_drive(&f->bed);
	assert_block(f, 0, BED_HIGH, 1);
	end(f);
}

/* ---- wrong replies ---- */

static bool is_value(enum um_request request)
{
	return request == UM_GET_MAX_MEM_SLOTS;
}

/* Whether it can be seen as soon as the request was made. */
static bool is_wrong(enum um_request request, enum be_fault_kind kind)
{
	switch (kind) {
	case BE_RIGHT:
	case BE_LATE:
	case BE_TWICE: /* at the next one */
	case BE_GONE:  /* it comes back */
	case BE_TORN:
		return false;
	case BE_REFUSED:
		return !is_value(request);
	default:
		return true;
	}
}

static void move_high(struct fixture *f)
{
	mem_region_set_offset(f->bed.high_region, BED_HIGH + 0x2000000);
	mem_region_set_offset(f->bed.high_region, BED_HIGH);
}

/* What a device does whose back end fails once, at the first or the second time that it
 * is asked. */
static void live(struct fixture *f, enum um_request request,
		 enum be_fault_kind kind, unsigned int skip)
{
	struct err err = ERR_INIT;

	f->options.slots = 8;
	f->options.fault = (struct be_fault){
		.request = request,
		.kind = kind,
		.skip = skip,
		.delay_ms = 20,
	};
	start(f);
	if (bed_disk_new(&f->bed, 1, &err) == 0) {
		bed_drive(&f->bed);
		move_high(f);
		if (!write_block(f, 0, 1)) {
			assert_true(bed_needs_reset(&f->bed));
			bed_reset(&f->bed);
			bed_drive(&f->bed);
			assert_true(write_block(f, 0, 1));
		} else {
			assert_false(is_wrong(request, kind));
		}
		assert_block(f, 0, BED_HIGH, 1);
	} else if (strncmp(err_msg(&err), "disk0: ", 7)) {
		fail_msg("'%s'", err_msg(&err));
	}
	end(f);
}

static void test_wrong_replies_break_the_device_and_nothing_else(void **state)
{
	static const struct {
		enum um_request request;
		unsigned int skip;
	} cases[] = {
		{ UM_GET_MAX_MEM_SLOTS, 0 }, { UM_ADD_MEM_REG, 0 },
		{ UM_ADD_MEM_REG, 2 }, /* while it works */
		{ UM_REM_MEM_REG, 0 },       { UM_REM_MEM_REG, 1 },
	};

	for (unsigned int i = 0; i < array_size(cases); i++) {
		for (int kind = BE_RIGHT; kind < BE_KIND_COUNT; kind++) {
			if (kind != BE_NO_FD && kind != BE_PLAIN_FD &&
			    kind != BE_SILENT && kind != BE_EXIT)
				live(*state, cases[i].request,
				     (enum be_fault_kind)kind, cases[i].skip);
		}
	}
}

static void test_silence_about_a_region_ends_in_a_reset(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns = clock_mono_ns();

	live(f, UM_REM_MEM_REG, BE_SILENT, 0);
	assert_true(clock_mono_ns() - start_ns < 12 * NS_PER_SEC);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_each_region_is_told_once),
		TEST(test_only_the_region_that_moves_is_told_again),
		TEST(test_back_end_without_acknowledgements_follows_too),
		TEST(test_rings_work_on_while_a_region_is_added),
		TEST(test_pages_of_a_region_that_moves_are_not_lost),
		TEST(test_back_end_that_comes_back_is_told_all_regions),
		TEST(test_too_few_slots_are_a_clear_error),
		TEST(test_more_slots_than_there_are_regions_do_no_harm),
		TEST(test_region_without_a_slot_asks_for_a_reset),
		TEST(test_wrong_replies_break_the_device_and_nothing_else),
		TEST(test_silence_about_a_region_ends_in_a_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
