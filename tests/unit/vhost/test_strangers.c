// SPDX-License-Identifier: Apache-2.0
/* Devices that come back with another back end than the one that went with requests of
 * theirs: what nobody can finish is not lost silently. */
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
