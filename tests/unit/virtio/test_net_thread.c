// SPDX-License-Identifier: Apache-2.0
/* When the network device's own thread works, and who waits for it: a command that takes
 * long is one of set_pairs, which another process may have to answer. */
#include <cmocka.h>

#include "base/clock.h"
#include "net_told.h"

#define CTRL_QUEUE (2 * PAIRS)

static void begin_pairs(struct fixture *f, uint8_t pairs)
{
	command_begin(f, CTRL_QUEUE,
		      (uint8_t[]){ VIRTIO_NET_CTRL_MQ, 0, pairs, 0 }, 4);
}

static uint8_t take_answer(struct fixture *f)
{
	assert_int_equal(driver_take(&f->driver, CTRL_QUEUE, NULL), 1);
	return *answer_at(f, CTRL_QUEUE);
}

/* Its thread is at a command until let_go(). */
static void start_busy(struct fixture *f)
{
	assert_true(driver_start(&f->driver, CONTROL));
	f->told.is_slow = true;
	begin_pairs(f, 2);
	driver_await(f->told.busy_fd);
}

static void let_go(struct fixture *f)
{
	f->told.is_slow = false;
	driver_signal(f->told.gate_fd);
}

static void test_begin_of_a_stop_waits_for_no_command(void **state)
{
	struct fixture *f = *state;

	start_busy(f);
	vdev_pause_begin(f->driver.dev);
	/* The back end may be told something by that command still. */
	assert_int_equal(f->told.stop_begins, 0);
	let_go(f);
	assert_int_equal(vdev_pause(f->driver.dev, UINT64_MAX, NULL), 0);
	assert_int_equal(f->told.stop_begins, 1);
	assert_int_equal(f->told.stops, 1);
	assert_int_equal(f->told.pairs, 2);
	assert_int_equal(take_answer(f), VIRTIO_NET_OK);
}

static void test_stop_that_is_too_late_is_not_begun(void **state)
{
	struct fixture *f = *state;

	start_busy(f);
	for (unsigned int i = 0; i < 3; i++) {
		vdev_pause_begin(f->driver.dev);
		err_clear(&f->driver.err);
		assert_int_equal(vdev_pause(f->driver.dev,
					    clock_mono_ns() + NS_PER_MS,
					    &f->driver.err),
				 -ETIMEDOUT);
		assert_non_null(strstr(err_msg(&f->driver.err), "not done"));
		vdev_run(f->driver.dev);
	}
	let_go(f);
	assert_int_equal(take_answer(f), VIRTIO_NET_OK);
	assert_int_equal(command_pairs(f, 3), VIRTIO_NET_OK);
	assert_int_equal(f->told.stop_begins, 0);
	assert_int_equal(f->told.starts, 1);
}

/* They were left for the stop, and nobody notifies of them again. */
static void test_commands_behind_a_stop_that_is_too_late_are_done(void **state)
{
	struct fixture *f = *state;

	start_busy(f);
	vdev_pause_begin(f->driver.dev);
	command_begin(f, CTRL_QUEUE, (uint8_t[]){ VIRTIO_NET_CTRL_RX, 0, 0 },
		      3);
	assert_int_equal(vdev_pause(f->driver.dev, clock_mono_ns(), NULL),
			 -ETIMEDOUT);
	vdev_run(f->driver.dev);
	let_go(f);
	assert_int_equal(driver_take(&f->driver, CTRL_QUEUE, NULL), 1);
	assert_int_equal(take_answer(f), VIRTIO_NET_OK);
	assert_int_equal(f->told.filter.is_promisc, 0);
}

static void see_pairs(void *opaque)
{
	struct fixture *f = opaque;

	f->told.in_start_wait = NULL;
	assert_int_equal(f->told.pairs, 1);
}

static void test_command_that_waits_is_done_behind_the_start(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, CONTROL));
	assert_int_equal(f->told.start_waits, 1);
	driver_pause(&f->driver);
	begin_pairs(f, 4);
	f->told.in_start_wait = see_pairs;
	f->told.opaque = f;
	vdev_run_begin(f->driver.dev);
	assert_int_equal(f->told.start_waits, 1);
	vdev_run(f->driver.dev);
	assert_null(f->told.in_start_wait);
	assert_int_equal(take_answer(f), VIRTIO_NET_OK);
	assert_int_equal(f->told.pairs, 4);
}

static void test_start_that_is_not_waited_for_can_be_stopped(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, CONTROL));
	driver_pause(&f->driver);
	vdev_run_begin(f->driver.dev);
	driver_pause(&f->driver);
	assert_int_equal(f->told.stops, 2);
	assert_int_equal(f->told.stop_begins, 2);
	vdev_run(f->driver.dev);
	assert_int_equal(command_pairs(f, 2), VIRTIO_NET_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_begin_of_a_stop_waits_for_no_command),
		TEST(test_stop_that_is_too_late_is_not_begun),
		TEST(test_commands_behind_a_stop_that_is_too_late_are_done),
		TEST(test_command_that_waits_is_done_behind_the_start),
		TEST(test_start_that_is_not_waited_for_can_be_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
