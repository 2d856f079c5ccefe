// SPDX-License-Identifier: Apache-2.0
/* What a back end is told before its guest is there, and what is left for the start. */
#include <errno.h>

#include "fake.h"

#define AHEAD \
	"features num call enable num call enable num call enable num call enable "
#define START "base addr base addr base addr base addr " KICKS
#define KICKS "kick kick kick kick "

struct fixture {
	struct world world;
	struct fake a;
	struct err err;
};

static void tell_table(struct fixture *f)
{
	vh_dev_lock(&f->a.dev);
	vh_dev_tell_table(&f->a.dev, world_side(&f->world)->table, NULL);
	vh_dev_unlock(&f->a.dev);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	world_init(&f->world, false);
	fake_init(&f->a, &f->world, "a");
	fake_set_queues(&f->a, 0x10000);
	tell_table(f);
	f->a.told[0] = '\0';
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->a.result = 0;
	fake_fini(&f->a);
	world_fini(&f->world);
	free(f);
	return 0;
}

static int build(struct fixture *f, enum vdev_stage stage)
{
	const struct vh_queues queues = fake_queues(&f->a);

	f->a.told[0] = '\0';
	err_clear(&f->err);
	return vh_dev_build(&f->a.dev, &queues, stage, &f->err);
}

static void start(struct fixture *f)
{
	const struct vh_queues queues = fake_queues(&f->a);

	f->a.told[0] = '\0';
	assert_int_equal(vh_dev_start(&f->a.dev, &queues, &f->err), 0);
	assert_int_equal(vh_dev_start_wait(&f->a.dev, &f->err), 0);
}

static void test_back_end_learns_ahead_what_needs_no_guest_memory(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(build(f, VDEV_AHEAD), 0);
	assert_string_equal(f->a.told, AHEAD);
	assert_false(vh_dev_is_live(&f->a.dev));
	start(f);
	assert_string_equal(f->a.told, START);
	assert_true(vh_dev_is_live(&f->a.dev));
}

static void test_nothing_is_told_ahead_twice(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(build(f, VDEV_AHEAD), 0);
	assert_int_equal(build(f, VDEV_AHEAD), 0);
	assert_string_equal(f->a.told, "");
}

/* Bases beside the guest's last pages, and addresses behind these: some look at the used
 * index as they are told where it is. */
static void test_only_kicks_are_left_for_the_start(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(build(f, VDEV_AHEAD), 0);
	for (unsigned int i = 0; i < FAKE_RINGS; i++)
		f->a.queues[i].next_avail = (uint16_t)(7 + i);
	assert_int_equal(build(f, VDEV_STOPPED), 0);
	assert_string_equal(f->a.told, "base base base base ");
	assert_int_equal(build(f, VDEV_WHOLE), 0);
	assert_string_equal(f->a.told, "addr addr addr addr ");
	assert_false(vh_dev_is_live(&f->a.dev));
	start(f);
	assert_string_equal(f->a.told, KICKS);
	assert_true(vh_dev_is_live(&f->a.dev));
}

/* A switch that loads all at once knows of no time between. */
static void
test_what_was_not_told_in_time_is_told_when_all_is_there(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(build(f, VDEV_STOPPED), 0);
	assert_string_equal(f->a.told, "");
	assert_int_equal(build(f, VDEV_WHOLE), 0);
	assert_string_equal(f->a.told,
			    AHEAD "base addr base addr base addr base addr ");
	start(f);
	assert_string_equal(f->a.told, KICKS);
}

static void build_all(struct fixture *f)
{
	for (int stage = VDEV_AHEAD; stage <= VDEV_WHOLE; stage++)
		assert_int_equal(build(f, (enum vdev_stage)stage), 0);
}

static void change_table(struct fixture *f)
{
	mem_region_set_enabled(f->world.high_region, false);
	mem_region_set_enabled(f->world.high_region, true);
}

static void test_another_table_has_all_rings_told_again(void **state)
{
	struct fixture *f = *state;

	build_all(f);
	change_table(f);
	start(f);
	assert_string_equal(f->a.told, START);
}

/* Its driver begins anew, maybe where it was. */
static void test_reset_has_all_rings_told_again(void **state)
{
	struct fixture *f = *state;

	build_all(f);
	vh_dev_reset(&f->a.dev);
	start(f);
	assert_string_equal(f->a.told, START);
}

static void test_ring_that_moved_before_it_began_is_told_again(void **state)
{
	struct fixture *f = *state;

	build_all(f);
	f->a.queues[1].device += 0x100;
	f->a.queues[2].next_avail = 1;
	f->a.queues[3].size = FAKE_SIZE / 2;
	start(f);
	assert_string_equal(f->a.told, "addr base addr num addr " KICKS);
}

/* The guest is here by then, and gets a broken device. */
static void test_ring_outside_of_ram_is_left_to_the_start(void **state)
{
	struct fixture *f = *state;
	const struct vh_queues queues = fake_queues(&f->a);

	f->a.queues[1].device = WORLD_LOW_SIZE;
	build_all(f);
	assert_string_equal(f->a.told, "addr addr addr ");
	assert_int_equal(vh_dev_start(&f->a.dev, &queues, &f->err), -EFAULT);
}

/* Rings lie where the driver says as they begin, whatever was there before. */
static void test_only_what_the_driver_changed_is_told_again(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(build(f, VDEV_AHEAD), 0);
	f->a.queues[2].size = FAKE_SIZE / 2;
	assert_int_equal(build(f, VDEV_AHEAD), 0);
	assert_string_equal(f->a.told, "num ");
	f->a.call_fd = 77;
	assert_int_equal(build(f, VDEV_AHEAD), 0);
	assert_string_equal(f->a.told, "call call call call ");
	f->a.queues[1].size = FAKE_SIZE / 4;
	f->a.queues[3].desc += 0x1000;
	start(f);
	assert_string_equal(f->a.told, "base addr num base addr base addr "
				       "base addr kick kick kick kick ");
}

static void test_ring_that_the_driver_took_back_does_not_begin(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(build(f, VDEV_AHEAD), 0);
	f->a.queues[0].is_enabled = f->a.queues[3].is_enabled = 0;
	start(f);
	assert_string_equal(f->a.told, "base addr base addr kick kick ");
	assert_false(f->a.dev.rings[0].is_live);
}

/* Some take rings away that those do not have. */
static void test_other_features_have_all_told_again(void **state)
{
	struct fixture *f = *state;
	struct vh_queues queues = fake_queues(&f->a);

	assert_int_equal(build(f, VDEV_AHEAD), 0);
	queues.features = 1ull << 29;
	f->a.told[0] = '\0';
	assert_int_equal(vh_dev_build(&f->a.dev, &queues, VDEV_AHEAD, &f->err),
			 0);
	assert_string_equal(f->a.told, AHEAD);
}

static void test_ring_that_is_not_wanted_is_told_so_ahead(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vh_dev_set_count(&f->a.dev, 3, &f->err), 0);
	assert_int_equal(build(f, VDEV_AHEAD), 0);
	assert_string_equal(f->a.told, "features num call enable num call "
				       "enable num call enable num call "
				       "disable ");
	start(f);
	assert_string_equal(f->a.told, START);
}

/* A driver may change its mind after it was built; one that just begins is built by
 * nobody. */
static void
test_ring_that_is_not_wanted_is_told_so_before_its_kick(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(build(f, VDEV_AHEAD), 0);
	assert_int_equal(vh_dev_set_count(&f->a.dev, 3, &f->err), 0);
	start(f);
	assert_string_equal(f->a.told, "base addr base addr base addr base "
				       "addr disable kick kick kick kick ");
	assert_int_equal(vh_dev_stop(&f->a.dev, UINT64_MAX, &f->err), 0);
	start(f);
	assert_string_equal(f->a.told,
			    "features num base addr call num base addr call "
			    "num base addr call num base addr call disable "
			    "kick enable kick enable kick enable kick ");
}

static void test_ring_that_is_wanted_after_all_is_told_so_in_time(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vh_dev_set_count(&f->a.dev, 3, &f->err), 0);
	assert_int_equal(build(f, VDEV_AHEAD), 0);
	assert_int_equal(vh_dev_set_count(&f->a.dev, 4, &f->err), 0);
	assert_int_equal(build(f, VDEV_STOPPED), 0);
	assert_int_equal(build(f, VDEV_WHOLE), 0);
	assert_string_equal(f->a.told, "enable addr addr addr addr ");
	start(f);
	assert_string_equal(f->a.told, KICKS);
}

static void test_a_stop_takes_back_what_was_told_ahead(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(build(f, VDEV_AHEAD), 0);
	start(f);
	assert_int_equal(vh_dev_stop(&f->a.dev, UINT64_MAX, &f->err), 0);
	start(f);
	assert_memory_equal(f->a.told, "features num base addr call num base ",
			    37);
}

static void test_back_end_that_comes_after_it_is_told_all(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(build(f, VDEV_AHEAD), 0);
	fake_die(&f->a);
	assert_int_equal(build(f, VDEV_AHEAD),
			 0); /* there may be one in time */
	assert_int_equal(build(f, VDEV_STOPPED), 0);
	assert_string_equal(f->a.told, "");
	assert_int_equal(build(f, VDEV_WHOLE), -ENOTCONN);
	fake_arrive(&f->a);
	assert_int_equal(build(f, VDEV_AHEAD), 0);
	assert_string_equal(f->a.told, AHEAD);
	assert_int_equal(f->a.breaks, 0);
}

static void
test_back_end_that_comes_after_all_is_told_all_at_the_start(void **state)
{
	struct fixture *f = *state;

	build_all(f);
	fake_die(&f->a);
	fake_arrive(&f->a);
	start(f);
	assert_memory_equal(f->a.told,
			    "table features num base addr call num base ", 43);
}

static void test_refusal_fails_the_move_and_not_the_device(void **state)
{
	struct fixture *f = *state;

	f->a.result = -EPROTO;
	assert_int_equal(build(f, VDEV_AHEAD), -EPROTO);
	assert_int_equal(f->a.breaks, 0);
	assert_true(vh_dev_is_away(&f->a.dev));
}

static void test_refusal_in_the_pause_fails_the_move(void **state)
{
	struct fixture *f = *state;

	for (int stage = VDEV_STOPPED; stage <= VDEV_WHOLE; stage++) {
		f->a.result = 0;
		fake_arrive(&f->a);
		tell_table(f);
		assert_int_equal(build(f, VDEV_AHEAD), 0);
		f->a.result = -EPROTO;
		assert_int_equal(build(f, (enum vdev_stage)stage), -EPROTO);
		assert_int_equal(f->a.breaks, 0);
		assert_true(vh_dev_is_away(&f->a.dev));
	}
}

/* Those that end are missed when all is there, and the guest stays where it was. */
static void test_end_in_the_pause_fails_the_move(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(build(f, VDEV_AHEAD), 0);
	f->a.result = -EPIPE;
	assert_int_equal(build(f, VDEV_STOPPED), 0);
	assert_true(vh_dev_is_away(&f->a.dev));
	assert_int_equal(build(f, VDEV_WHOLE), -ENOTCONN);
	assert_int_equal(f->a.breaks, 0);
}

/* Its guest runs here, and goes on with the next one. */
static void test_end_at_the_start_leaves_the_guest_here(void **state)
{
	struct fixture *f = *state;

	build_all(f);
	f->a.result = -EPIPE;
	start(f);
	assert_true(vh_dev_is_away(&f->a.dev));
	assert_int_equal(f->a.breaks, 0);
	assert_true(f->a.dev.is_started);
}

static void test_log_makes_other_features_at_the_start(void **state)
{
	struct fixture *f = *state;

	build_all(f);
	assert_int_equal(mem_log_global_start(f->world.mem, &f->err), 0);
	start(f);
	assert_memory_equal(f->a.told,
			    "log features+log num base addr+log call ", 40);
	mem_log_global_stop(f->world.mem, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_back_end_learns_ahead_what_needs_no_guest_memory),
		TEST(test_nothing_is_told_ahead_twice),
		TEST(test_only_kicks_are_left_for_the_start),
		TEST(test_what_was_not_told_in_time_is_told_when_all_is_there),
		TEST(test_another_table_has_all_rings_told_again),
		TEST(test_reset_has_all_rings_told_again),
		TEST(test_ring_that_moved_before_it_began_is_told_again),
		TEST(test_ring_outside_of_ram_is_left_to_the_start),
		TEST(test_only_what_the_driver_changed_is_told_again),
		TEST(test_ring_that_the_driver_took_back_does_not_begin),
		TEST(test_other_features_have_all_told_again),
		TEST(test_ring_that_is_not_wanted_is_told_so_ahead),
		TEST(test_ring_that_is_not_wanted_is_told_so_before_its_kick),
		TEST(test_ring_that_is_wanted_after_all_is_told_so_in_time),
		TEST(test_a_stop_takes_back_what_was_told_ahead),
		TEST(test_back_end_that_comes_after_it_is_told_all),
		TEST(test_back_end_that_comes_after_all_is_told_all_at_the_start),
		TEST(test_refusal_fails_the_move_and_not_the_device),
		TEST(test_refusal_in_the_pause_fails_the_move),
		TEST(test_end_in_the_pause_fails_the_move),
		TEST(test_end_at_the_start_leaves_the_guest_here),
		TEST(test_log_makes_other_features_at_the_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
