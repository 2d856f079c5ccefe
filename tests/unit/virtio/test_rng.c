// SPDX-License-Identifier: Apache-2.0
#include <cmocka.h>
#include <errno.h>
#include <sys/random.h>

#include "driver.h"
#include "virtio/rng.h"

/* How often the host has no bytes yet. */
static _Atomic unsigned int empty_times;

ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned int flags);
ssize_t __real_getrandom(void *bytes, size_t size, unsigned int flags);

ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned int flags)
{
	assert_true(flags & GRND_NONBLOCK);
	if (empty_times) {
		empty_times--;
		errno = EAGAIN;
		return -1;
	}
	return __real_getrandom(bytes, size, flags);
}

static int setup(void **state)
{
	struct driver *driver = calloc(1, sizeof(*driver));

	driver_init(driver, "rng0");
	if (rng_new(&driver->site, "on", &driver->dev, &driver->err))
		fail_msg("%s", err_msg(&driver->err));
	*state = driver;
	return 0;
}

static int teardown(void **state)
{
	driver_fini(*state);
	free(*state);
	return 0;
}

static uint32_t ask(struct driver *driver, unsigned int index, uint32_t size)
{
	const struct driver_buffer buffer = { driver_buffer(0, 8 * index), size,
					      true };

	driver_add(driver, 0, &buffer, 1);
	driver_kick(driver, 0);
	return driver_take(driver, 0, NULL);
}

static bool is_filled(struct driver *driver, unsigned int index, size_t size)
{
	const uint8_t *bytes = driver_at(driver, driver_buffer(0, 8 * index));
	size_t zeroes = 0;

	for (size_t i = 0; i < size; i++)
		zeroes += bytes[i] == 0;
	return zeroes < size / 8;
}

static void test_buffers_are_filled_with_different_bytes(void **state)
{
	struct driver *driver = *state;

	assert_true(driver_start(driver, 0));
	assert_int_equal(ask(driver, 0, 64), 64);
	assert_int_equal(ask(driver, 1, 64), 64);
	assert_true(is_filled(driver, 0, 64));
	assert_memory_not_equal(driver_at(driver, driver_buffer(0, 0)),
				driver_at(driver, driver_buffer(0, 8)), 64);
	assert_int_equal(ask(driver, 2, 1), 1);
}

static void test_huge_buffer_gets_a_piece(void **state)
{
	struct driver *driver = *state;

	assert_true(driver_start(driver, 0));
	assert_int_equal(ask(driver, 0, 0x40000), 4096);
	assert_true(is_filled(driver, 0, 4096));
	assert_int_equal(
		*(uint8_t *)driver_at(driver, driver_buffer(0, 0) + 4096), 0);
}

static void test_buffer_that_cannot_be_written_gets_nothing(void **state)
{
	struct driver *driver = *state;
	const struct driver_buffer buffer = { driver_buffer(0, 0), 64, false };

	assert_true(driver_start(driver, 0));
	driver_add(driver, 0, &buffer, 1);
	driver_kick(driver, 0);
	assert_int_equal(driver_take(driver, 0, NULL), 0);
	assert_int_equal(ask(driver, 1, 64), 64);
}

static void test_requests_wait_while_the_host_has_none(void **state)
{
	struct driver *driver = *state;

	assert_true(driver_start(driver, 0));
	empty_times = 3;
	assert_int_equal(ask(driver, 0, 64), 64);
	assert_int_equal(empty_times, 0);
	assert_true(is_filled(driver, 0, 64));
}

static void
test_request_made_while_it_is_stopped_is_served_elsewhere(void **state)
{
	struct driver *driver = *state, *to;
	const struct driver_buffer buffer = { driver_buffer(0, 0), 64, true };
	void *other;

	setup(&other);
	to = other;
	assert_true(driver_start(driver, 0));
	assert_int_equal(ask(driver, 1, 64), 64);
	driver_pause(driver);
	driver_add(driver, 0, &buffer, 1);
	driver_kick(driver, 0);
	driver_move(driver, to);
	vdev_run(to->dev);
	assert_int_equal(driver_take(to, 0, NULL), 64);
	assert_true(is_filled(to, 0, 64));
	assert_false(driver_has_used(driver, 0));
	teardown(&other);
}

static void test_request_outside_of_ram_breaks_the_device(void **state)
{
	struct driver *driver = *state;
	const struct driver_buffer buffer = { 0x7000000000, 64, true };

	assert_true(driver_start(driver, 0));
	driver_add(driver, 0, &buffer, 1);
	driver_kick(driver, 0);
	while (!driver_is_broken(driver))
		sched_yield();
	driver_reset(driver);
	assert_true(driver_start(driver, 0));
	assert_int_equal(ask(driver, 0, 64), 64);
}

static void test_only_on_is_known(void **state)
{
	struct driver *driver = *state;
	struct err err = ERR_INIT;
	struct vdev *dev;

	assert_int_equal(rng_new(&driver->site, "egd", &dev, &err), -EINVAL);
	assert_string_equal(err_msg(&err), "'egd' is not 'on'");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_buffers_are_filled_with_different_bytes),
		TEST(test_huge_buffer_gets_a_piece),
		TEST(test_buffer_that_cannot_be_written_gets_nothing),
		TEST(test_requests_wait_while_the_host_has_none),
		TEST(test_request_made_while_it_is_stopped_is_served_elsewhere),
		TEST(test_request_outside_of_ram_breaks_the_device),
		TEST(test_only_on_is_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
