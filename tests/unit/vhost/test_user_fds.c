// SPDX-License-Identifier: Apache-2.0
/* Back ends that turn what they share with the machine against it: files and eventfds
 * whose length, contents and flags are theirs as well. */
#include <errno.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/event.h"
#include "bed.h"
#include "mem/space.h"

#define LIMIT_S    60               /* SIGALRM ends what would wait for ever */
#define IN_TIME_NS (4 * NS_PER_SEC) /* a reply's limit is later */

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
	f->bed.has_vector = true;
	alarm(LIMIT_S);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mem_log_global_stop(f->bed.board.mem, 0);
	bed_disk_free(&f->bed);
	be_end(&f->be);
	bed_fini(&f->bed);
	alarm(0);
	free(f);
	return 0;
}

static void start(struct fixture *f)
{
	struct err err = ERR_INIT;

	assert_int_equal(be_start(&f->be, &f->options), 0);
	if (bed_disk_new(&f->bed, 1, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(&f->bed);
}

static unsigned int count(const unsigned int *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void test_log_that_a_back_end_cuts_is_whole(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	f->options.cuts_log = true;
	start(f);
	if (mem_log_global_start(f->bed.board.mem, &err))
		fail_msg("%s", err_msg(&err));
	assert_int_equal(count(&f->be.counts.refused_cuts), 1);
	assert_true(bed_do(&f->bed, 0, VIRTIO_BLK_T_IN, 0, BED_DATA, 4096));
	mem_log_sync(f->bed.board.mem, false);
	assert_true(bitmap_test(f->bed.low->dirty, BED_DATA / 4096));
	assert_false(bed_needs_reset(&f->bed));
}

/* ---- eventfds that block ---- */

/* The driver notifies by a store, which comes to the device where nothing else takes
 * it. */
static bool do_write(struct fixture *f)
{
	bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096);
	board_store(&f->bed.board, f->bed.bar + VDEV_PCI_NOTIFY, 0, 4);
	return bed_wait(&f->bed, 0, 1);
}

static void start_spoilt(struct fixture *f)
{
	f->options.spoils_eventfds = true;
	start(f);
	assert_true(do_write(f));
}

static void assert_in_time(uint64_t start_ns)
{
	assert_true(clock_mono_ns() - start_ns < IN_TIME_NS);
}

static void test_full_kick_that_blocks_holds_up_no_start(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns;

	start_spoilt(f);
	start_ns = clock_mono_ns();
	bed_reset(&f->bed);
	bed_drive(&f->bed);
	assert_true(do_write(f));
	assert_in_time(start_ns);
	assert_int_equal(count(&f->be.counts.connections), 1);
}

static void test_full_kick_that_blocks_holds_up_no_reconnection(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns;

	f->options.death = BE_DIES_WRITTEN;
	f->options.die_at = 2;
	start_spoilt(f);
	start_ns = clock_mono_ns();
	assert_true(do_write(f));
	assert_in_time(start_ns);
	assert_int_equal(count(&f->be.counts.connections), 2);
	assert_false(bed_needs_reset(&f->bed));
}

static void test_eventfds_that_block_hold_up_no_log(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns;

	start_spoilt(f);
	start_ns = clock_mono_ns();
	assert_int_equal(mem_log_global_start(f->bed.board.mem, NULL), 0);
	bed_submit(&f->bed, 0, VIRTIO_BLK_T_IN, 0, BED_DATA, 4096);
	assert_true(bed_wait(&f->bed, 0, 1));
	mem_log_sync(f->bed.board.mem, false);
	assert_true(bitmap_test(f->bed.low->dirty, BED_DATA / 4096));
	vdev_pause_begin(f->bed.vdev);
	assert_int_equal(
		vdev_pause(f->bed.vdev, clock_mono_ns() + IN_TIME_NS, NULL), 0);
	vdev_run(f->bed.vdev);
	assert_true(do_write(f));
	assert_in_time(start_ns);
}

/* It has taken what interrupted, too. */
static void
test_empty_interrupt_that_blocks_holds_up_no_function_reset(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns;

	start_spoilt(f);
	assert_true(event_take(vdev_call_fd(f->bed.vdev, NULL)));
	start_ns = clock_mono_ns();
	bed_function_reset(&f->bed);
	assert_in_time(start_ns);
	bed_drive(&f->bed);
	assert_true(do_write(f));
}

static bool has_new_size(void *opaque)
{
	struct bed *bed = opaque;

	return board_load(&bed->board, bed->bar + VDEV_PCI_CONFIG, 4) ==
	       2 * BED_IMAGE_SECTORS;
}

static bool has_old_size(void *opaque)
{
	struct bed *bed = opaque;

	return board_load(&bed->board, bed->bar + VDEV_PCI_CONFIG, 4) ==
	       BED_IMAGE_SECTORS;
}

/* Of a change of its size, by the vector that its queues have. */
static void test_full_interrupt_that_blocks_holds_up_no_other(void **state)
{
	struct fixture *f = *state;

	start_spoilt(f);
	be_resize(&f->be, 2 * BED_IMAGE_SECTORS);
	assert_true(bed_until(has_new_size, &f->bed));
	be_resize(&f->be, BED_IMAGE_SECTORS);
	assert_true(bed_until(has_old_size, &f->bed));
	assert_true(do_write(f));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_log_that_a_back_end_cuts_is_whole),
		TEST(test_full_kick_that_blocks_holds_up_no_start),
		TEST(test_full_kick_that_blocks_holds_up_no_reconnection),
		TEST(test_eventfds_that_block_hold_up_no_log),
		TEST(test_empty_interrupt_that_blocks_holds_up_no_function_reset),
		TEST(test_full_interrupt_that_blocks_holds_up_no_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
