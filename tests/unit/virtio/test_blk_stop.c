// SPDX-License-Identifier: Apache-2.0
/* Stopping a block device whose storage does not answer: a real NBD server that
 * was stopped, or killed, with requests in flight. */
#include <cmocka.h>

#include "disk_rig.h"
#include "nbd_server.h"

struct scene {
	struct disk disk;
	struct server server;
	unsigned int in_flight;
};

static int setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	char text[192];

	*state = s;
	if (server_init(&s->server, nbdkit, DISK_SIZE))
		return -1;
	snprintf(text, sizeof(text), "nbd=%s,queues=%u", s->server.uri,
		 DISK_QUEUES);
	disk_board_init(&s->disk);
	if (disk_build(&s->disk, text, false))
		fail_msg("%s", err_msg(&s->disk.err));
	vdev_run(s->disk.dev);
	disk_set_up(&s->disk, DISK_FEATURES);
	return 0;
}

static int teardown(void **state)
{
	struct scene *s = *state;

	disk_fini(&s->disk);
	server_fini(&s->server);
	free(s);
	return 0;
}

static uint64_t soon(void)
{
	return clock_mono_ns() + 50 * NS_PER_MS;
}

/* By the device's thread. */
static void look(void *opaque)
{
	struct scene *s = opaque;

	s->in_flight = ((struct blk *)s->disk.dev)->in_flight;
}

/* A read of the first blocks, which a hung server does not answer. */
static void begin_read(struct scene *s)
{
	struct blk *blk = (struct blk *)s->disk.dev;
	uint64_t end = clock_mono_ns() + DISK_LIMIT;

	server_hang(&s->server);
	disk_begin(&s->disk, 0, 0, VIRTIO_BLK_T_IN, 0, DISK_DATA, 65536);
	for (s->in_flight = 0; s->in_flight == 0;) {
		assert_true(clock_mono_ns() < end);
		io_thread_call(blk->thread, look, s, UINT64_MAX);
	}
}

static void test_a_pause_that_misses_its_deadline_is_called_off(void **state)
{
	struct scene *s = *state;
	struct vdev *dev = s->disk.dev;
	struct err err = ERR_INIT;

	begin_read(s);
	for (unsigned int i = 0; i < 3; i++) {
		vdev_pause_begin(dev);
		assert_int_equal(vdev_pause(dev, soon(), &err), -ETIMEDOUT);
		assert_non_null(strstr(err_msg(&err), "did not finish"));
		vdev_run(dev);
	}
	/* The other queue is worked on, too. */
	disk_begin(&s->disk, 1, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	server_go_on(&s->server);
	disk_wait(&s->disk, 0);
	disk_wait(&s->disk, 1);
	assert_int_equal(*disk_status(&s->disk, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(*disk_status(&s->disk, 1, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(vdev_pause(dev, UINT64_MAX, NULL), 0);
}

static void test_a_pause_waits_for_a_server_that_comes_back(void **state)
{
	struct scene *s = *state;

	server_kill(&s->server);
	disk_begin(&s->disk, 0, 0, VIRTIO_BLK_T_IN, 0, DISK_DATA, 65536);
	vdev_pause_begin(s->disk.dev);
	server_start(&s->server);
	assert_int_equal(
		vdev_pause(s->disk.dev, clock_mono_ns() + DISK_LIMIT, NULL), 0);
	/* Taken or not, it is done when the device runs again. */
	vdev_run(s->disk.dev);
	disk_wait(&s->disk, 0);
	assert_int_equal(*disk_status(&s->disk, 0, 0), VIRTIO_BLK_S_OK);
}

/* Without a limit it must end, and the driver is told that its requests failed. */
static void test_a_pause_without_a_deadline_ends_all_the_same(void **state)
{
	struct scene *s = *state;

	begin_read(s);
	assert_int_equal(vdev_pause(s->disk.dev, UINT64_MAX, NULL), 0);
	vdev_run(s->disk.dev);
	disk_wait(&s->disk, 0);
	assert_int_equal(*disk_status(&s->disk, 0, 0), VIRTIO_BLK_S_IOERR);
	server_go_on(&s->server);
	assert_int_equal(disk_do(&s->disk, VIRTIO_BLK_T_IN, 0, DISK_DATA, 512),
			 VIRTIO_BLK_S_OK);
}

static void await_reset(struct scene *s)
{
	uint64_t end = clock_mono_ns() + DISK_LIMIT;

	while (toy_status(&s->disk.toy) != 0)
		assert_true(clock_mono_ns() < end);
}

static void
test_lesson_nothing_of_a_request_is_used_after_the_reset(void **state)
{
	struct scene *s = *state;
	uint8_t *data = disk_at(&s->disk, DISK_DATA);

	begin_read(s);
	toy_put(&s->disk.toy, STATUS, 0, 1);
	assert_int_not_equal(toy_status(&s->disk.toy), 0);
	/* The server answers while the driver waits for its reset. */
	server_go_on(&s->server);
	await_reset(s);
	memset(data, 0x5a, 65536);
	disk_set_up(&s->disk, DISK_FEATURES);
	assert_int_equal(disk_do(&s->disk, VIRTIO_BLK_T_FLUSH, 0, 0, 0),
			 VIRTIO_BLK_S_OK);
	for (unsigned int i = 0; i < 65536; i++)
		assert_int_equal(data[i], 0x5a);
}

static void test_a_reset_ends_though_the_server_is_gone(void **state)
{
	struct scene *s = *state;
	uint8_t *data = disk_at(&s->disk, DISK_DATA);

	begin_read(s);
	toy_put(&s->disk.toy, STATUS, 0, 1);
	await_reset(s);
	memset(data, 0x5a, 65536);
	/* What it answers now is nobody's. */
	server_go_on(&s->server);
	disk_set_up(&s->disk, DISK_FEATURES);
	assert_int_equal(disk_do(&s->disk, VIRTIO_BLK_T_FLUSH, 0, 0, 0),
			 VIRTIO_BLK_S_OK);
	for (unsigned int i = 0; i < 65536; i++)
		assert_int_equal(data[i], 0x5a);
}

/* Nor are the device's other queues harmed by it. */
static void test_a_queue_reset_waits_for_a_server_that_hangs(void **state)
{
	struct scene *s = *state;
	struct toy *toy = &s->disk.toy;
	uint64_t end = clock_mono_ns() + DISK_LIMIT;

	toy_put(toy, STATUS, 0, 1);
	await_reset(s);
	disk_set_up(&s->disk, DISK_FEATURES | BIT(VIRTIO_F_RING_RESET));
	begin_read(s);
	toy_put(toy, QUEUE_SELECT, 0, 2);
	toy_put(toy, QUEUE_RESET, 1, 2);
	assert_int_equal(toy_get(toy, QUEUE_RESET, 2), 1);
	disk_begin(&s->disk, 1, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	assert_int_equal(toy_get(toy, QUEUE_RESET, 2), 1);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
	server_go_on(&s->server);
	while (toy_get(toy, QUEUE_RESET, 2) == 1)
		assert_true(clock_mono_ns() < end);
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 0);
	assert_int_equal(*disk_status(&s->disk, 0, 0), VIRTIO_BLK_S_OK);
	disk_wait(&s->disk, 1);
	assert_int_equal(*disk_status(&s->disk, 1, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
	assert_int_equal(vdev_pause(s->disk.dev, UINT64_MAX, NULL), 0);
}

static void test_a_pause_within_a_reset_says_why_it_failed(void **state)
{
	struct scene *s = *state;
	struct err err = ERR_INIT;

	begin_read(s);
	toy_put(&s->disk.toy, STATUS, 0, 1);
	assert_int_not_equal(toy_status(&s->disk.toy), 0);
	vdev_pause_begin(s->disk.dev);
	assert_int_equal(vdev_pause(s->disk.dev, soon(), &err), -ETIMEDOUT);
	assert_non_null(strstr(err_msg(&err), "did not finish"));
	vdev_run(s->disk.dev);
	server_go_on(&s->server);
	await_reset(s);
}

static void test_a_machine_ends_though_the_server_is_gone(void **state)
{
	struct scene *s = *state;

	/* teardown() frees the device that still works. */
	begin_read(s);
	assert_true(s->disk.dev->is_working);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_pause_that_misses_its_deadline_is_called_off),
		TEST(test_a_pause_waits_for_a_server_that_comes_back),
		TEST(test_a_pause_without_a_deadline_ends_all_the_same),
		TEST(test_lesson_nothing_of_a_request_is_used_after_the_reset),
		TEST(test_a_reset_ends_though_the_server_is_gone),
		TEST(test_a_queue_reset_waits_for_a_server_that_hangs),
		TEST(test_a_pause_within_a_reset_says_why_it_failed),
		TEST(test_a_machine_ends_though_the_server_is_gone),
	};

	if (!server_is_there())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
