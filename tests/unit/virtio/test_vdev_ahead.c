// SPDX-License-Identifier: Apache-2.0
/* A device whose registers travel ahead of its guest: what is built when, and what is
 * left for the switch. */
#include <cmocka.h>

#include "base/bytes.h"
#include "toy_pair.h"

static void move_ahead(struct pair *pair)
{
	if (toy_move_ahead(&pair->from, &pair->to, &pair->err))
		fail_msg("%s", err_msg(&pair->err));
}

static void move_rest(struct pair *pair)
{
	assert_int_equal(vdev_pause(&pair->from.dev, UINT64_MAX, NULL), 0);
	if (toy_move(&pair->from, &pair->to, &pair->err))
		fail_msg("%s", err_msg(&pair->err));
}

static void assert_same_queues(struct pair *pair)
{
	for (unsigned int i = 0; i < TOY_QUEUES; i++) {
		const struct vdev_queue *a = &pair->from.dev.queues[i];
		const struct vdev_queue *b = &pair->to.dev.queues[i];

		assert_int_equal(a->is_enabled, b->is_enabled);
		assert_int_equal(a->size, b->size);
		assert_int_equal(a->vector, b->vector);
		assert_int_equal(a->desc, b->desc);
		assert_int_equal(a->driver, b->driver);
		assert_int_equal(a->device, b->device);
		assert_int_equal(a->next_avail, b->next_avail);
		assert_int_equal(a->next_used, b->next_used);
	}
	assert_int_equal(pair->from.dev.status, pair->to.dev.status);
	assert_int_equal(pair->from.dev.features, pair->to.dev.features);
}

static void test_device_that_was_built_ahead_goes_on_elsewhere(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 1ull << TOY_FEATURE);
	move_ahead(pair);
	pair->from.dev.queues[0].next_avail = 0x1234;
	pair->from.dev.queues[0].next_used = 0x1230;
	move_rest(pair);
	assert_same_queues(pair);
	vdev_run(&pair->to.dev);
	assert_int_equal(pair->to.starts, 1);
	assert_int_equal(pair->to.enabled_at_start, 2);
}

static void test_device_is_built_ahead_and_started_in_the_switch(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 0);
	move_ahead(pair);
	assert_int_equal(pair->to.builds[VDEV_AHEAD], 1);
	assert_int_equal(pair->to.starts, 0);
	move_rest(pair);
	assert_int_equal(pair->to.builds[VDEV_AHEAD], 1);
	assert_int_equal(pair->to.builds[VDEV_STOPPED], 1);
	assert_int_equal(pair->to.builds[VDEV_WHOLE], 1);
	assert_int_equal(pair->to.starts, 0);
}

static void test_device_without_a_driver_is_not_built(void **state)
{
	struct pair *pair = *state;

	toy_negotiate(&pair->from, 0);
	toy_enable(&pair->from, 0);
	move_ahead(pair);
	move_rest(pair);
	assert_same_queues(pair);
	assert_int_equal(pair->to.builds[VDEV_AHEAD], 0);
	assert_int_equal(pair->to.builds[VDEV_STOPPED], 0);
	assert_int_equal(pair->to.builds[VDEV_WHOLE], 0);
}

static void test_queues_that_changed_since_arrive_changed(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 0);
	move_ahead(pair);
	toy_enable(&pair->from, 2);
	move_rest(pair);
	assert_same_queues(pair);
	vdev_run(&pair->to.dev);
	assert_int_equal(pair->to.enabled_at_start, 3);
}

static void test_device_that_was_reset_since_arrives_reset(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 1ull << TOY_FEATURE);
	move_ahead(pair);
	toy_put(&pair->from, STATUS, 0, 1);
	move_rest(pair);
	assert_same_queues(pair);
	assert_int_equal(pair->to.builds[VDEV_AHEAD], 1);
	assert_int_equal(pair->to.builds[VDEV_STOPPED], 0);
	assert_int_equal(pair->to.builds[VDEV_WHOLE], 0);
	vdev_run(&pair->to.dev);
	assert_int_equal(pair->to.starts, 0);
}

static void test_what_travels_ahead_again_replaces_the_first(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 1ull << TOY_FEATURE);
	move_ahead(pair);
	toy_put(&pair->from, STATUS, 0, 1);
	toy_negotiate(&pair->from, 0);
	toy_enable(&pair->from, 2);
	toy_add_status(&pair->from, DRIVER_OK);
	move_ahead(pair);
	assert_int_equal(pair->to.builds[VDEV_AHEAD], 2);
	move_rest(pair);
	assert_same_queues(pair);
	vdev_run(&pair->to.dev);
	assert_int_equal(pair->to.enabled_at_start, 1);
}

static void test_hostile_registers_ahead_are_refused(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 0);
	pair->from.dev.queues[1].desc = 8;
	assert_int_equal(toy_move_ahead(&pair->from, &pair->to, &pair->err),
			 -EBADMSG);
	pair->from.dev.queues[1].desc = 16;
	pair->from.dev.queues[1].size = 2 * TOY_SIZE;
	assert_int_equal(toy_move_ahead(&pair->from, &pair->to, &pair->err),
			 -EBADMSG);
	pair->from.dev.queues[1].size = TOY_SIZE;
	pair->from.dev.features |= 1ull << 60;
	assert_int_equal(toy_move_ahead(&pair->from, &pair->to, &pair->err),
			 -EBADMSG);
	assert_int_equal(pair->to.builds[VDEV_AHEAD], 0);
}

static void test_back_end_that_cannot_be_built_fails_the_move(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 0);
	pair->to.build_result = -EPROTO;
	assert_int_equal(toy_move_ahead(&pair->from, &pair->to, &pair->err),
			 -EPROTO);
}

/* A rehearsal saves the destination's devices, whose memory is not there yet. */
static void test_save_of_a_device_that_arrives_does_not_break_it(void **state)
{
	struct bytes_writer bytes = { .data = NULL };
	struct pair *pair = *state;

	toy_set_up(&pair->from, 0);
	move_ahead(pair);
	mem_region_set_enabled(pair->to.ram_region, false);
	assert_int_equal(state_save(&pair->to.dev.state, &bytes, NULL), 0);
	bytes_writer_fini(&bytes);
	assert_int_equal(pair->to.dev.is_broken, 0);
	mem_region_set_enabled(pair->to.ram_region, true);
	move_rest(pair);
}

static void test_all_devices_begin_before_one_is_waited_for(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 0);
	move_ahead(pair);
	move_rest(pair);
	vdev_run_begin(&pair->to.dev);
	assert_int_equal(pair->to.starts, 1);
	assert_int_equal(pair->to.waits, 0);
	vdev_run(&pair->to.dev);
	assert_int_equal(pair->to.starts, 1);
	assert_int_equal(pair->to.waits, 1);
}

static void test_device_that_is_not_answered_is_broken(void **state)
{
	struct pair *pair = *state;

	pair->from.wait_result = -EPROTO;
	toy_negotiate(&pair->from, 0);
	toy_enable(&pair->from, 0);
	assert_int_equal(toy_add_status(&pair->from, DRIVER_OK),
			 SET_UP | DRIVER_OK | NEEDS_RESET);
	assert_int_equal(pair->from.waits, 1);
	pair->from.wait_result = 0;
	toy_put(&pair->from, STATUS, 0, 1);
	assert_int_equal(pair->from.stops, 1);
	toy_set_up(&pair->from, 0);
	assert_int_equal(toy_status(&pair->from) & NEEDS_RESET, 0);
}

#define TEST(name) \
	cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_device_that_was_built_ahead_goes_on_elsewhere),
		TEST(test_device_is_built_ahead_and_started_in_the_switch),
		TEST(test_device_without_a_driver_is_not_built),
		TEST(test_queues_that_changed_since_arrive_changed),
		TEST(test_device_that_was_reset_since_arrives_reset),
		TEST(test_what_travels_ahead_again_replaces_the_first),
		TEST(test_hostile_registers_ahead_are_refused),
		TEST(test_back_end_that_cannot_be_built_fails_the_move),
		TEST(test_save_of_a_device_that_arrives_does_not_break_it),
		TEST(test_all_devices_begin_before_one_is_waited_for),
		TEST(test_device_that_is_not_answered_is_broken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
