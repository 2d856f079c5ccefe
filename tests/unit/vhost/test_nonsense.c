// SPDX-License-Identifier: Apache-2.0
/* Drivers that write into their rings' indices what cannot be: that breaks their device,
 * and holds up no stop.  What can be is waited for. */
#include <errno.h>

#include "fake.h"

#define STOP_NS (10 * NS_PER_SEC)
#define SOON_NS (20 * NS_PER_MS)

struct fixture {
	struct world world;
	struct fake fake;
};

/* The fake says of each ring that it stopped at 0. */
static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	world_init(&f->world, false);
	fake_init(&f->fake, &f->world, "a");
	fake_start_at(&f->fake, 0x10000);
	*state = f;
	return 0;
}

/* Of ring 1. */
static void set_indices(struct fixture *f, uint16_t avail, uint16_t used)
{
	uint8_t *low = f->world.low->host;

	memcpy(low + f->fake.queues[1].driver + 2, &avail, sizeof(avail));
	memcpy(low + f->fake.queues[1].device + 2, &used, sizeof(used));
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	set_indices(f, 0, 0);
	fake_fini(&f->fake);
	world_fini(&f->world);
	free(f);
	return 0;
}

static int stop(struct fixture *f, uint64_t limit_ns)
{
	return vh_dev_stop(&f->fake.dev, clock_mono_ns() + limit_ns, NULL);
}

static void assert_breaks(struct fixture *f)
{
	uint64_t start_ns = clock_mono_ns();

	assert_int_equal(stop(f, STOP_NS), 0);
	assert_true(clock_mono_ns() - start_ns < STOP_NS / 2);
	assert_int_equal(f->fake.breaks, 1);
	assert_string_equal(f->fake.why,
			    "a: ring 1: its indices have more requests under "
			    "way than its size, 16");
	/* The driver's reset is all that it needs. */
	set_indices(f, 0, 0);
	fake_arrive(&f->fake);
	fake_start_at(&f->fake, 0x10000);
	assert_true(vh_dev_is_live(&f->fake.dev));
	assert_int_equal(stop(f, STOP_NS), 0);
	assert_int_equal(f->fake.breaks, 1);
}

static void assert_waits(struct fixture *f)
{
	assert_int_equal(stop(f, SOON_NS), -ETIMEDOUT);
	assert_int_equal(f->fake.breaks, 0);
}

static void test_used_index_too_far_from_the_base_breaks(void **state)
{
	set_indices(*state, 0, (uint16_t)(0 - FAKE_SIZE - 1));
	assert_breaks(*state);
}

static void test_used_index_past_the_base_breaks(void **state)
{
	set_indices(*state, 1, 1);
	assert_breaks(*state);
}

static void test_ring_full_of_requests_under_way_is_waited_for(void **state)
{
	set_indices(*state, 0, (uint16_t)(0 - FAKE_SIZE));
	assert_waits(*state);
}

static void test_more_available_than_there_is_room_for_breaks(void **state)
{
	struct fixture *f = *state;

	f->fake.dev.is_hasty = true;
	set_indices(f, FAKE_SIZE + 1, 0);
	assert_breaks(f);
}

static void test_used_index_past_the_available_one_breaks(void **state)
{
	struct fixture *f = *state;

	f->fake.dev.is_hasty = true;
	set_indices(f, 0, 1);
	assert_breaks(f);
}

static void test_ring_full_of_available_requests_is_waited_for(void **state)
{
	struct fixture *f = *state;

	f->fake.dev.is_hasty = true;
	set_indices(f, FAKE_SIZE, 0);
	assert_waits(f);
}

/* Which waits for nothing. */
static void test_first_question_of_a_stop_sees_it(void **state)
{
	struct fixture *f = *state;

	f->fake.dev.is_hasty = true;
	set_indices(f, FAKE_SIZE + 1, 0);
	vh_dev_stop_begin(&f->fake.dev);
	assert_int_equal(f->fake.breaks, 1);
}

/* No back end will ever finish it. */
static void test_nonsense_holds_up_no_stop_without_a_back_end(void **state)
{
	struct fixture *f = *state;

	f->fake.dev.has_inflight = true;
	fake_die(&f->fake);
	set_indices(f, FAKE_SIZE, 0);
	assert_waits(f);
	set_indices(f, FAKE_SIZE + 1, 0);
	assert_int_equal(stop(f, STOP_NS), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_used_index_too_far_from_the_base_breaks),
		TEST(test_used_index_past_the_base_breaks),
		TEST(test_ring_full_of_requests_under_way_is_waited_for),
		TEST(test_more_available_than_there_is_room_for_breaks),
		TEST(test_used_index_past_the_available_one_breaks),
		TEST(test_ring_full_of_available_requests_is_waited_for),
		TEST(test_first_question_of_a_stop_sees_it),
		TEST(test_nonsense_holds_up_no_stop_without_a_back_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
