// SPDX-License-Identifier: Apache-2.0
/* Back ends that turn what they share with the machine against it: files and eventfds
 * whose length, contents and flags are theirs as well. */
#include <errno.h>

#include "base/bitmap.h"
#include "bed.h"
#include "mem/space.h"

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

static void test_log_that_a_back_end_cuts_is_whole(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	f->options.cuts_log = true;
	start(f);
	if (mem_log_global_start(f->bed.board.mem, &err))
		fail_msg("%s", err_msg(&err));
	assert_int_equal(f->be.counts.refused_cuts, 1);
	assert_true(bed_do(&f->bed, 0, VIRTIO_BLK_T_IN, 0, BED_DATA, 4096));
	mem_log_sync(f->bed.board.mem, false);
	assert_true(bitmap_test(f->bed.low->dirty, BED_DATA / 4096));
	assert_false(bed_needs_reset(&f->bed));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_log_that_a_back_end_cuts_is_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
