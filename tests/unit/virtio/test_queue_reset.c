// SPDX-License-Identifier: Apache-2.0
/* The reset of one queue (virtio 1.2, 2.6.1), where its back end stops at once, late, or
 * not at all; of storage that does not answer: test_blk_stop.c. */
#include <cmocka.h>

#include "toy_pair.h"

static bool is_resetting(struct toy *toy)
{
	uint64_t value = toy_get(toy, QUEUE_RESET, 2);

	assert_true(value <= 1);
	return value;
}

/* Of queue 0, by a driver whose device has two queues and goes on. */
static void reset_stuck(struct toy *toy)
{
	toy_set_up(toy, 1ull << VIRTIO_F_RING_RESET);
	toy->stop_result = -ETIMEDOUT;
	toy_put(toy, QUEUE_SELECT, 0, 2);
	toy_put(toy, QUEUE_RESET, 1, 2);
}

/* ---- at once ---- */

static void test_queue_reset_leaves_the_others_working(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 1ull << VIRTIO_F_RING_RESET);
	toy->dev.queues[0].next_avail = toy->dev.queues[1].next_avail = 9;
	toy_put(toy, QUEUE_SELECT, 0, 2);
	toy_put(toy, QUEUE_RESET, 1, 2);
	assert_int_equal(toy_get(toy, QUEUE_RESET, 2), 0);
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 0);
	assert_int_equal(toy_get(toy, QUEUE_DESC, 8), 0);
	assert_int_equal(toy->dev.queues[0].next_avail, 0);
	assert_int_equal(toy->dev.queues[1].next_avail, 9);
	assert_int_equal(toy->starts, 2);
	assert_int_equal(toy->enabled_at_start, 1);
	toy_put(toy, QUEUE_SIZE, 16, 2);
	toy_put(toy, QUEUE_VECTOR, 1, 2);
	toy_enable(toy, 0);
	assert_int_equal(toy->starts, 3);
	assert_int_equal(toy->enabled_at_start, 2);
	assert_int_equal(toy->dev.queues[0].size, 16);
	assert_int_equal(toy->dev.queues[0].vector, 1);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
}

static void test_queue_reset_takes_its_feature(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	toy_put(toy, QUEUE_SELECT, 0, 2);
	toy_put(toy, QUEUE_RESET, 1, 2);
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 1);
	assert_int_equal(toy->stops, 0);
}

static void test_queue_of_a_device_that_rests_is_reset_at_once(void **state)
{
	struct toy *toy = *state;

	toy_negotiate(toy, 1ull << VIRTIO_F_RING_RESET);
	toy_enable(toy, 0);
	toy->stop_result = -ETIMEDOUT;
	toy_put(toy, QUEUE_RESET, 1, 2);
	assert_false(is_resetting(toy));
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 0);
	assert_int_equal(toy->stops, 0);
	assert_int_equal(toy->starts, 0);
}

/* ---- not at once ---- */

static void
test_queue_reset_waits_for_a_back_end_that_does_not_stop(void **state)
{
	struct toy *toy = *state;

	reset_stuck(toy);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(toy->stops, i + 1); /* each read asks again */
		assert_int_equal(toy->begins, i + 1);
		assert_true(is_resetting(toy));
	}
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 1);
	/* Nothing of it changes under the back end. */
	toy_put(toy, QUEUE_SIZE, 8, 2);
	toy_put(toy, QUEUE_VECTOR, 2, 2);
	toy_enable(toy, 0);
	assert_int_equal(toy_get(toy, QUEUE_SIZE, 2), TOY_SIZE);
	assert_int_equal(toy_get(toy, QUEUE_VECTOR, 2), MSIX_NO_VECTOR);
	assert_int_equal(toy->starts, 1);
	assert_true(toy->dev.is_working);
	/* It is this queue's. */
	toy_put(toy, QUEUE_SELECT, 1, 2);
	assert_false(is_resetting(toy));
	toy_put(toy, QUEUE_SELECT, TOY_QUEUES, 2);
	assert_false(is_resetting(toy));
	assert_int_equal(toy->stops, 4);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
	toy->stop_result = 0;
	toy_put(toy, QUEUE_SELECT, 0, 2);
	assert_false(is_resetting(toy));
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 0);
	assert_int_equal(toy_get(toy, QUEUE_DESC, 8), 0);
	assert_int_equal(toy->starts, 2);
	assert_int_equal(toy->enabled_at_start, 1);
	toy_enable(toy, 0);
	assert_int_equal(toy->enabled_at_start, 2);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
}

static void test_queues_that_wait_for_their_reset_get_it_together(void **state)
{
	struct toy *toy = *state;

	reset_stuck(toy);
	toy_put(toy, QUEUE_SELECT, 1, 2);
	toy_put(toy, QUEUE_RESET, 1, 2);
	assert_true(is_resetting(toy));
	toy->stop_result = 0;
	assert_false(is_resetting(toy));
	assert_int_equal(toy->dev.queues[0].is_enabled, 0);
	assert_int_equal(toy->dev.queues[1].is_enabled, 0);
	assert_int_equal(toy->enabled_at_start, 0);
}

static void test_queue_reset_that_waits_does_not_hold_up_a_pause(void **state)
{
	struct toy *toy = *state;

	reset_stuck(toy);
	assert_int_equal(vdev_pause(&toy->dev, 0, NULL), -ETIMEDOUT);
	vdev_run(&toy->dev);
	assert_true(is_resetting(toy));
	toy->stop_result = 0;
	assert_int_equal(vdev_pause(&toy->dev, 0, NULL), 0);
	vdev_run(&toy->dev);
	assert_int_equal(toy->starts, 2);
	assert_int_equal(toy->enabled_at_start, 1);
	assert_false(is_resetting(toy));
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 0);
}

static void
test_queue_reset_that_waited_is_done_where_the_guest_goes(void **state)
{
	struct pair *pair = *state;
	struct toy *to = &pair->to;

	reset_stuck(&pair->from);
	/* Registers travel ahead as they are: the queue is enabled still. */
	if (toy_move_ahead(&pair->from, to, &pair->err))
		fail_msg("%s", err_msg(&pair->err));
	assert_int_equal(to->dev.queues[0].is_enabled, 1);
	pair->from.stop_result = 0;
	assert_int_equal(vdev_pause(&pair->from.dev, UINT64_MAX, NULL), 0);
	if (toy_move(&pair->from, to, &pair->err))
		fail_msg("%s", err_msg(&pair->err));
	to->bar = pair->from.bar;
	vdev_run(&to->dev);
	assert_int_equal(to->starts, 1);
	assert_int_equal(to->enabled_at_start, 1);
	assert_false(is_resetting(to));
	assert_int_equal(toy_get(to, QUEUE_ENABLE, 2), 0);
	toy_enable(to, 0);
	assert_int_equal(to->enabled_at_start, 2);
}

static void test_queue_reset_that_waits_ends_with_bus_mastering(void **state)
{
	struct toy *toy = *state;

	reset_stuck(toy);
	toy->stop_result = 0;
	board_config_set(&toy->board, TOY_SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY,
			 2);
	assert_false(toy->dev.is_working);
	assert_false(is_resetting(toy));
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 0);
	assert_int_equal(toy->starts, 1);
}

static void test_reset_of_the_device_is_one_of_its_queues_too(void **state)
{
	struct toy *toy = *state;

	reset_stuck(toy);
	toy_put(toy, STATUS, 0, 1);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
	assert_true(is_resetting(toy));
	assert_int_equal(toy->resets, 0);
	toy->stop_result = 0;
	assert_int_equal(toy_status(toy), 0);
	toy_put(toy, QUEUE_SELECT, 0, 2);
	assert_false(is_resetting(toy));
	toy_set_up(toy, 0);
	assert_int_equal(toy->enabled_at_start, 2);
}

/* A driver does not ask again whether a queue was enabled. */
static void
test_queue_that_is_enabled_beside_a_stuck_one_breaks_it(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	toy->stop_result = -ETIMEDOUT;
	toy_enable(toy, 2);
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 0);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK | NEEDS_RESET);
}

#define TEST(name) \
	cmocka_unit_test_setup_teardown(name, toy_setup, toy_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_queue_reset_leaves_the_others_working),
		TEST(test_queue_reset_takes_its_feature),
		TEST(test_queue_of_a_device_that_rests_is_reset_at_once),
		TEST(test_queue_reset_waits_for_a_back_end_that_does_not_stop),
		TEST(test_queues_that_wait_for_their_reset_get_it_together),
		TEST(test_queue_reset_that_waits_does_not_hold_up_a_pause),
		cmocka_unit_test_setup_teardown(
			test_queue_reset_that_waited_is_done_where_the_guest_goes,
			pair_setup, pair_teardown),
		TEST(test_queue_reset_that_waits_ends_with_bus_mastering),
		TEST(test_reset_of_the_device_is_one_of_its_queues_too),
		TEST(test_queue_that_is_enabled_beside_a_stuck_one_breaks_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
