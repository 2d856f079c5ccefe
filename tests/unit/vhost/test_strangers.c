// SPDX-License-Identifier: Apache-2.0
/* Devices that come back with another back end than the one that went with requests of
 * theirs: what nobody can finish is not lost silently, nor tried for ever. */
#include <errno.h>

#include "fake.h"

struct fixture {
	struct world world;
	struct fake fake;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	world_init(&f->world, false);
	fake_init(&f->fake, &f->world, "a");
	*state = f;
	return 0;
}

/* Of ring 2. */
static void set_avail(struct fixture *f, uint16_t index)
{
	memcpy(f->world.low->host + f->fake.queues[2].driver + 2, &index,
	       sizeof(index));
}

static void set_used(struct fixture *f, uint16_t index)
{
	memcpy(f->world.low->host + f->fake.queues[2].device + 2, &index,
	       sizeof(index));
}

/* The fake says that it stopped at 0, and the stop waits until the used ring is there. */
static int teardown(void **state)
{
	struct fixture *f = *state;

	set_used(f, 0);
	fake_fini(&f->fake);
	world_fini(&f->world);
	free(f);
	return 0;
}

static void come_back(struct fixture *f, bool is_stranger)
{
	struct vh_dev *dev = &f->fake.dev;

	fake_arrive(&f->fake);
	vh_dev_lock(dev);
	dev->is_stranger = is_stranger;
	assert_int_equal(vh_dev_back(dev, world_side(&f->world)->table, NULL,
				     UINT64_MAX, NULL),
			 0);
	vh_dev_unlock(dev);
}

/* With a record; it had taken three requests. */
static void die_with_three(struct fixture *f, uint16_t used)
{
	fake_start_at(&f->fake, 0x10000);
	f->fake.dev.has_inflight = true;
	set_avail(f, 3);
	set_used(f, used);
	fake_die(&f->fake);
}

static void test_requests_in_a_record_are_lost_on_a_stranger(void **state)
{
	struct fixture *f = *state;

	die_with_three(f, 2);
	come_back(f, true);
	assert_int_equal(f->fake.breaks, 1);
	assert_false(vh_dev_is_live(&f->fake.dev));
	/* The driver's reset is all that it needs. */
	vh_dev_stop(&f->fake.dev, UINT64_MAX, NULL);
	fake_start_at(&f->fake, 0x10000);
	assert_true(vh_dev_is_live(&f->fake.dev));
}

static void test_requests_in_a_record_wait_for_one_that_knows_it(void **state)
{
	struct fixture *f = *state;

	die_with_three(f, 2);
	come_back(f, false);
	assert_int_equal(f->fake.breaks, 0);
	assert_true(vh_dev_is_live(&f->fake.dev));
	assert_int_equal(f->fake.dev.rings[2].next, 2);
}

static void part_with_three(struct fixture *f)
{
	fake_start_at(&f->fake, 0x10000);
	set_avail(f, 3);
	set_used(f, 1);
	vh_dev_lock(&f->fake.dev);
	vh_dev_part(&f->fake.dev);
	vh_dev_unlock(&f->fake.dev);
}

static void test_back_end_killed_while_it_was_to_finish_breaks(void **state)
{
	struct fixture *f = *state;

	part_with_three(f);
	set_used(f, 2);
	assert_int_equal(f->fake.breaks, 0);
	come_back(f, true);
	assert_int_equal(f->fake.breaks, 1);
	assert_false(vh_dev_is_live(&f->fake.dev));
}

static void test_back_end_that_finished_and_went_does_not_break(void **state)
{
	struct fixture *f = *state;

	part_with_three(f);
	set_used(f, 3);
	set_avail(f, 4); /* it was hushed */
	come_back(f, true);
	assert_int_equal(f->fake.breaks, 0);
	assert_int_equal(f->fake.dev.rings[2].next, 3);
}

/* What it has not used it never took. */
static void test_back_end_that_comes_back_itself_has_finished(void **state)
{
	struct fixture *f = *state;

	part_with_three(f);
	set_used(f, 2);
	come_back(f, false);
	assert_int_equal(f->fake.breaks, 0);
	assert_int_equal(f->fake.dev.rings[2].next, 2);
}

static void test_requests_that_nobody_took_are_good_for_a_stranger(void **state)
{
	struct fixture *f = *state;

	die_with_three(f, 3);
	set_avail(f, 9);
	come_back(f, true);
	assert_int_equal(f->fake.breaks, 0);
	assert_true(vh_dev_is_live(&f->fake.dev));
	assert_int_equal(f->fake.dev.rings[2].next, 3);
}

/* ---- one after the other ---- */

/* @lives back ends end, with the rings as they are. */
static void live_and_die(struct fixture *f, unsigned int lives)
{
	for (unsigned int i = 0; i < lives; i++) {
		assert_int_equal(f->fake.breaks, 0);
		fake_die(&f->fake);
		if (!f->fake.breaks)
			come_back(f, false);
	}
}

static void start_recorded(struct fixture *f, uint16_t avail)
{
	fake_start_at(&f->fake, 0x10000);
	f->fake.dev.has_inflight = true;
	set_avail(f, avail);
}

static void test_request_that_ends_each_back_end_breaks(void **state)
{
	struct fixture *f = *state;

	start_recorded(f, 3);
	set_used(f, 2); /* the first one gets on */
	live_and_die(f, 1 + VH_FUTILE_MAX);
	assert_int_equal(f->fake.breaks, 1);
	assert_false(vh_dev_is_live(&f->fake.dev));
	assert_string_equal(f->fake.why,
			    "a: ring 2: its back end ends each time it takes "
			    "the next request");
}

static void test_ring_that_gets_on_does_not_hide_one_that_does_not(void **state)
{
	struct fixture *f = *state;
	uint8_t *low = f->world.low->host;

	start_recorded(f, 3);
	for (uint16_t i = 1; i <= VH_FUTILE_MAX; i++) {
		memcpy(low + f->fake.queues[0].driver + 2, &i, sizeof(i));
		memcpy(low + f->fake.queues[0].device + 2, &i, sizeof(i));
		live_and_die(f, 1);
	}
	assert_int_equal(f->fake.breaks, 1);
}

static void test_reset_begins_to_count_anew(void **state)
{
	struct fixture *f = *state;

	start_recorded(f, 3);
	live_and_die(f, VH_FUTILE_MAX - 1);
	vh_dev_stop(&f->fake.dev, UINT64_MAX, NULL);
	start_recorded(f, 3);
	live_and_die(f, VH_FUTILE_MAX - 1);
	assert_int_equal(f->fake.breaks, 0);
}

static void test_back_ends_that_get_on_may_end_any_number_of_times(void **state)
{
	struct fixture *f = *state;

	start_recorded(f, 1);
	for (uint16_t i = 1; i < 20; i++) {
		live_and_die(f, VH_FUTILE_MAX - 1);
		set_avail(f, (uint16_t)(i + 1));
		set_used(f, i);
		live_and_die(f, 1);
	}
	assert_int_equal(f->fake.breaks, 0);
}

static void test_idle_back_ends_may_end_any_number_of_times(void **state)
{
	struct fixture *f = *state;

	start_recorded(f, 7);
	set_used(f, 7);
	live_and_die(f, 10 * VH_FUTILE_MAX);
	assert_int_equal(f->fake.breaks, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_requests_in_a_record_are_lost_on_a_stranger),
		TEST(test_requests_in_a_record_wait_for_one_that_knows_it),
		TEST(test_back_end_killed_while_it_was_to_finish_breaks),
		TEST(test_back_end_that_finished_and_went_does_not_break),
		TEST(test_back_end_that_comes_back_itself_has_finished),
		TEST(test_requests_that_nobody_took_are_good_for_a_stranger),
		TEST(test_request_that_ends_each_back_end_breaks),
		TEST(test_ring_that_gets_on_does_not_hide_one_that_does_not),
		TEST(test_reset_begins_to_count_anew),
		TEST(test_back_ends_that_get_on_may_end_any_number_of_times),
		TEST(test_idle_back_ends_may_end_any_number_of_times),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
