// SPDX-License-Identifier: Apache-2.0
/* A device's registers on their way to another machine, whole and broken. */
#include <cmocka.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "toy_pair.h"

static void pause_and_move(struct pair *pair)
{
	assert_int_equal(vdev_pause(&pair->from.dev, UINT64_MAX, NULL), 0);
	if (toy_move(&pair->from, &pair->to, &pair->err))
		fail_msg("%s", err_msg(&pair->err));
	/* The BARs are where they were. */
	pair->to.bar = pair->from.bar;
}

static void assert_same_registers(struct pair *pair)
{
	for (unsigned int queue = 0; queue <= TOY_QUEUES; queue++) {
		for (unsigned int reg = 0; reg < 0x40; reg++)
			assert_int_equal(toy_get(&pair->to, reg, 1),
					 toy_get(&pair->from, reg, 1));
		toy_put(&pair->from, QUEUE_SELECT, queue, 2);
		toy_put(&pair->to, QUEUE_SELECT, queue, 2);
	}
}

static void test_working_device_goes_on_elsewhere(void **state)
{
	struct pair *pair = *state;

	toy_put(&pair->from, CONFIG_VECTOR, 2, 2);
	toy_put(&pair->from, QUEUE_SELECT, 1, 2);
	toy_put(&pair->from, QUEUE_VECTOR, 3, 2);
	toy_put(&pair->from, QUEUE_SIZE, 16, 2);
	toy_set_up(&pair->from, 1ull << TOY_FEATURE);
	vdev_config_changed(&pair->from.dev);
	pair->from.dev.queues[0].next_avail = 0xfffe;
	pair->from.dev.queues[0].next_used = 0xfffe;
	pair->from.dev.queues[1].next_avail = 3;
	pair->from.dev.queues[1].next_used = 0xfff9; /* in flight elsewhere */
	pause_and_move(pair);
	assert_same_registers(pair);
	assert_int_equal(pair->to.dev.features, pair->from.dev.features);
	assert_int_equal(pair->to.dev.queues[0].next_avail, 0xfffe);
	assert_int_equal(pair->to.dev.queues[0].next_used, 0xfffe);
	assert_int_equal(pair->to.dev.queues[1].next_avail, 3);
	assert_int_equal(pair->to.dev.queues[1].next_used, 0xfff9);
	assert_int_equal(pair->to.accepts, 1);
	assert_int_equal(pair->to.starts, 0);
	vdev_run(&pair->to.dev);
	assert_int_equal(pair->to.starts, 1);
	assert_int_equal(pair->to.enabled_at_start, 2);
}

static void test_driver_goes_on_in_the_middle_of_setting_up(void **state)
{
	struct pair *pair = *state;
	struct toy *to = &pair->to;

	toy_add_status(&pair->from, ACKNOWLEDGE);
	toy_add_status(&pair->from, DRIVER);
	toy_put(&pair->from, DEVICE_SELECT, 1, 4);
	toy_put(&pair->from, DRIVER_SELECT, 1, 4);
	toy_put(&pair->from, DRIVER_FEATURES, 1, 4);
	/* Half an address of a queue that is not enabled, and a size. */
	toy_put(&pair->from, QUEUE_SELECT, 2, 2);
	toy_put(&pair->from, QUEUE_SIZE, 7, 2);
	toy_put(&pair->from, QUEUE_DESC, 0x12345, 4);
	pause_and_move(pair);
	assert_same_registers(pair);
	vdev_run(&to->dev);
	assert_int_equal(toy_add_status(to, FEATURES_OK), SET_UP);
	toy_enable(to, 0);
	assert_int_equal(toy_add_status(to, DRIVER_OK), SET_UP | DRIVER_OK);
	assert_int_equal(to->starts, 1);
}

/* It may be told no, but not be kept from moving by that. */
static void test_features_that_were_not_asked_for_yet_may_be_any(void **state)
{
	struct pair *pair = *state;
	struct toy *to = &pair->to;

	toy_add_status(&pair->from, ACKNOWLEDGE);
	toy_add_status(&pair->from, DRIVER);
	toy_put(&pair->from, DRIVER_FEATURES, 0xffffffff, 4);
	assert_int_equal(toy_add_status(&pair->from, FEATURES_OK),
			 ACKNOWLEDGE | DRIVER);
	pause_and_move(pair);
	assert_same_registers(pair);
	vdev_run(&to->dev);
	assert_int_equal(toy_add_status(to, FEATURES_OK), ACKNOWLEDGE | DRIVER);
	toy_put(to, DRIVER_FEATURES, 0, 4);
	toy_put(to, DRIVER_SELECT, 1, 4);
	toy_put(to, DRIVER_FEATURES, 1, 4);
	assert_int_equal(toy_add_status(to, FEATURES_OK), SET_UP);
}

static void test_broken_device_stays_broken(void **state)
{
	struct pair *pair = *state;
	const struct err reason = { .code = -EBADMSG, .msg = "a loop" };

	toy_set_up(&pair->from, 0);
	vdev_break(&pair->from.dev, &reason);
	pause_and_move(pair);
	assert_int_equal(toy_status(&pair->to),
			 SET_UP | DRIVER_OK | NEEDS_RESET);
	vdev_run(&pair->to.dev);
	assert_int_equal(pair->to.starts, 0);
	assert_int_equal(
		board_load(&pair->to.board, pair->to.bar + VDEV_PCI_ISR, 1), 2);
	toy_put(&pair->to, STATUS, 0, 1);
	toy_set_up(&pair->to, 0);
	assert_int_equal(pair->to.starts, 1);
}

/* It cannot keep its machine from being moved with that. */
static void test_guest_whose_rings_are_gone_is_broken_and_moves(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 0);
	mem_region_set_size(pair->from.ram_region, toy_ring(1, 0));
	mem_region_set_size(pair->to.ram_region, toy_ring(1, 0));
	pause_and_move(pair);
	assert_int_equal(toy_status(&pair->to),
			 SET_UP | DRIVER_OK | NEEDS_RESET);
}

static void test_rings_that_are_nowhere_here_fail_the_load(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 0);
	assert_int_equal(vdev_pause(&pair->from.dev, UINT64_MAX, NULL), 0);
	mem_region_set_size(pair->to.ram_region, toy_ring(1, 0));
	assert_int_equal(toy_move(&pair->from, &pair->to, &pair->err), -EFAULT);
	assert_non_null(strstr(err_msg(&pair->err), "queue 1"));
}

static void test_type_that_cannot_have_the_features_fails_the_load(void **state)
{
	struct pair *pair = *state;

	toy_set_up(&pair->from, 1ull << TOY_FEATURE);
	assert_int_equal(vdev_pause(&pair->from.dev, UINT64_MAX, NULL), 0);
	pair->to.accept_result = -EINVAL;
	assert_int_equal(toy_move(&pair->from, &pair->to, &pair->err),
			 -EBADMSG);
}

static void test_configuration_that_differs_fails_the_load(void **state)
{
	struct pair *pair = *state;

	pair->to.dev.config[TOY_CONFIG - 1] ^= 1;
	assert_int_equal(toy_move(&pair->from, &pair->to, &pair->err),
			 -EBADMSG);
	assert_non_null(strstr(err_msg(&pair->err), "byte 11"));
}

/* ---- hostile bytes ---- */

/* Where the fields are in what is saved (vdev_state.c), for three queues. */
enum {
	AT_STATUS = 0,
	AT_BROKEN = 1,
	AT_FEATURES = 6,
	AT_CONFIG_SIZE = 14,
	AT_SIZE_COUNT = 30,
	AT_SIZE = 34,
	AT_VECTOR = 44,
	AT_ENABLED = 54,
	AT_DESC = 61,
	AT_DRIVER = 89,
	AT_DEVICE = 117,
	AT_NEXT_AVAIL = 145,
	AT_NEXT_USED = 155,
	AT_END = 161,
};

static void save_from(struct pair *pair)
{
	struct state_entry *entry = state_find(&pair->from.board.state, "toy0");

	assert_int_equal(vdev_pause(&pair->from.dev, UINT64_MAX, NULL), 0);
	assert_int_equal(state_save(entry, &pair->bytes, NULL), 0);
	assert_int_equal(pair->bytes.size, AT_END);
}

/* What loading says to @size bytes of @value in the place of those at @at. */
static int load_with(struct pair *pair, unsigned int at, unsigned int size,
		     uint64_t value)
{
	struct state_entry *entry = state_find(&pair->to.board.state, "toy0");
	uint8_t bytes[AT_END];

	memcpy(bytes, pair->bytes.data, AT_END);
	for (unsigned int i = 0; i < size; i++)
		bytes[at + i] = (uint8_t)(value >> 8 * i);
	err_clear(&pair->err);
	return state_load(entry, entry->desc->version, bytes, AT_END,
			  &pair->err);
}

struct hostile {
	unsigned int at, size;
	uint64_t value;
};

static void refuse_all(struct pair *pair, const struct hostile *cases,
		       unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		assert_int_equal(load_with(pair, cases[i].at, cases[i].size,
					   cases[i].value),
				 -EBADMSG);
		assert_string_not_equal(err_msg(&pair->err), "");
	}
	assert_int_equal(load_with(pair, 0, 0, 0), 0);
}

static void test_hostile_state_is_refused(void **state)
{
	struct pair *pair = *state;
	static const struct hostile cases[] = {
		{ AT_STATUS, 1, DRIVER_OK },
		{ AT_STATUS, 1, SET_UP & ~DRIVER },
		{ AT_STATUS, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK },
		{ AT_STATUS, 1, ACKNOWLEDGE }, /* with queues enabled */
		{ AT_STATUS, 1, 0x10 },
		{ AT_STATUS, 1, NEEDS_RESET },
		{ AT_BROKEN, 1, 2 },
		{ AT_FEATURES, 8, 0 },
		{ AT_FEATURES, 8, UINT64_MAX },
		{ AT_FEATURES, 8, 1ull << VIRTIO_F_VERSION_1 | 1ull << 63 },
		{ AT_CONFIG_SIZE, 4, TOY_CONFIG - 1 },
		{ AT_CONFIG_SIZE, 4, UINT32_MAX },
		{ AT_SIZE_COUNT, 4, TOY_QUEUES - 1 },
		{ AT_SIZE_COUNT, 4, VDEV_QUEUES_MAX + 1 },
		{ AT_SIZE, 2, 0 },
		{ AT_SIZE, 2, 6 },
		{ AT_SIZE, 2, 2 * TOY_SIZE },
		{ AT_SIZE + 4, 2, 32 }, /* of the queue with 16 */
		{ AT_VECTOR, 2, TOY_QUEUES + 1 },
		{ AT_VECTOR, 2, 0xfffe },
		{ AT_ENABLED, 1, 2 },
		{ AT_DESC, 8, 8 },
		{ AT_DESC, 8, UINT64_MAX - 0xf },
		{ AT_DRIVER, 8, 1 },
		{ AT_DEVICE, 8, 2 },
		{ AT_NEXT_AVAIL, 2, TOY_SIZE + 1 },
		{ AT_NEXT_AVAIL, 2, 0xffff },
		{ AT_NEXT_USED, 2, 1 },
	};

	toy_set_up(&pair->from, 0);
	save_from(pair);
	refuse_all(pair, cases, array_size(cases));
}

static void test_columns_of_different_lengths_are_refused(void **state)
{
	struct pair *pair = *state;
	struct state_entry *entry = state_find(&pair->to.board.state, "toy0");
	uint8_t bytes[AT_END];

	toy_set_up(&pair->from, 0);
	save_from(pair);
	/* Sizes of two queues, and all else of three. */
	memcpy(bytes, pair->bytes.data, AT_END);
	bytes[AT_SIZE_COUNT] = TOY_QUEUES - 1;
	memmove(bytes + AT_SIZE + 4, bytes + AT_SIZE + 6, AT_END - AT_SIZE - 6);
	assert_int_equal(state_load(entry, entry->desc->version, bytes,
				    AT_END - 2, &pair->err),
			 -EBADMSG);
	assert_non_null(strstr(err_msg(&pair->err), "2 queues"));
}

static void test_hostile_indices_of_packed_queues_are_refused(void **state)
{
	struct pair *pair = *state;
	static const struct hostile cases[] = {
		{ AT_NEXT_AVAIL, 2, TOY_SIZE },
		{ AT_NEXT_AVAIL, 2, 0x8000 | TOY_SIZE },
		{ AT_NEXT_USED, 2, 0x7fff },
		{ AT_DRIVER, 8, 2 },
	};

	toy_set_up(&pair->from, 1ull << VIRTIO_F_RING_PACKED);
	save_from(pair);
	refuse_all(pair, cases, array_size(cases));
	assert_int_equal(load_with(pair, AT_SIZE, 2, 6), 0);
}

static void test_hostile_registers_of_the_transport_are_refused(void **state)
{
	struct pair *pair = *state;
	struct state_entry *entry =
		state_find(&pair->to.board.state, "toy0-virtio");
	uint8_t bytes[13] = { 0 };

	bytes[10] = TOY_QUEUES;
	assert_int_equal(state_load(entry, 1, bytes, sizeof(bytes), NULL), 0);
	bytes[10] = TOY_QUEUES + 1;
	assert_int_equal(state_load(entry, 1, bytes, sizeof(bytes), NULL),
			 -EBADMSG);
	bytes[10] = bytes[11] = 0xff; /* no vector */
	assert_int_equal(state_load(entry, 1, bytes, sizeof(bytes), NULL), 0);
	bytes[12] = 4;
	assert_int_equal(state_load(entry, 1, bytes, sizeof(bytes), NULL),
			 -EBADMSG);
	/* A queue that there is not may be selected: a driver can do that. */
	bytes[12] = 0;
	bytes[8] = bytes[9] = 0xff;
	assert_int_equal(state_load(entry, 1, bytes, sizeof(bytes), NULL), 0);
	assert_int_equal(toy_get(&pair->to, QUEUE_SIZE, 2), 0);
	toy_put(&pair->to, QUEUE_ENABLE, 1, 2);
}

static bool is_called(const struct vdev *dev, const struct vdev_queue *queue)
{
	struct pollfd poll_fd = { .fd = vdev_call_fd(dev, queue),
				  .events = POLLIN };

	return poll(&poll_fd, 1, 0) == 1;
}

static void
test_guest_that_arrived_is_interrupted_once_for_each_queue(void **state)
{
	struct pair *pair = *state;
	struct vdev *to = &pair->to.dev;
	eventfd_t count;

	toy_put(&pair->from, CONFIG_VECTOR, 3, 2);
	for (unsigned int i = 0; i < 2; i++) {
		toy_put(&pair->from, QUEUE_SELECT, i, 2);
		toy_put(&pair->from, QUEUE_VECTOR, i, 2);
	}
	toy_set_up(&pair->from, 0);
	pause_and_move(pair);
	vdev_run(to);
	assert_false(is_called(to, &to->queues[0]));
	vdev_arrived(to);
	for (unsigned int i = 0; i < 2; i++) {
		assert_true(to->queues[i].is_enabled);
		assert_true(is_called(to, &to->queues[i]));
		eventfd_read(vdev_call_fd(to, &to->queues[i]), &count);
		assert_int_equal(count, 1);
	}
	assert_true(is_called(to, NULL));
}

static void test_guest_without_a_driver_is_not_interrupted(void **state)
{
	struct pair *pair = *state;
	struct vdev *to = &pair->to.dev;

	toy_put(&pair->from, CONFIG_VECTOR, 3, 2);
	pause_and_move(pair);
	vdev_run(to);
	vdev_arrived(to);
	assert_false(is_called(to, NULL));
}

/* A device whose `load` does the work of `activate`, and the other way round. */
static const struct state_desc *right;

static int activate_early(void *obj, uint16_t version, struct err *err)
{
	(void)version;
	return right->activate(obj, err);
}

static int load_late(void *obj, struct err *err)
{
	return right->load(obj, right->version, err);
}

/* In a child, which dies of it in builds with assertions, and else exits with how
 * often it was seen. */
static void load_swapped(struct pair *pair)
{
	struct rlimit no_core = { 0, 0 };
	struct state_desc swapped;

	right = pair->to.dev.state.desc;
	swapped = *right;
	swapped.load = activate_early;
	swapped.activate = load_late;
	pair->to.dev.state.desc = &swapped;
	setrlimit(RLIMIT_CORE, &no_core);
	signal(SIGABRT, SIG_DFL);
	close(STDERR_FILENO);
	toy_move(&pair->from, &pair->to, &pair->err);
	_exit((int)mem_stale_reads(pair->to.board.mem));
}

static void test_load_and_activate_that_are_swapped_are_caught(void **state)
{
	struct pair *pair = *state;
	int status;
	pid_t pid;

	toy_set_up(&pair->from, 0);
	pause_and_move(pair); /* it has rings, then, to look for too early */
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		load_swapped(pair);
	assert_int_equal(waitpid(pid, &status, 0), pid);
#ifndef NDEBUG
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
#else
	assert_true(WIFEXITED(status));
	assert_true(WEXITSTATUS(status) > 0);
#endif
}

#define TEST(name) \
	cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_working_device_goes_on_elsewhere),
		TEST(test_driver_goes_on_in_the_middle_of_setting_up),
		TEST(test_features_that_were_not_asked_for_yet_may_be_any),
		TEST(test_broken_device_stays_broken),
		TEST(test_guest_whose_rings_are_gone_is_broken_and_moves),
		TEST(test_rings_that_are_nowhere_here_fail_the_load),
		TEST(test_type_that_cannot_have_the_features_fails_the_load),
		TEST(test_configuration_that_differs_fails_the_load),
		TEST(test_hostile_state_is_refused),
		TEST(test_columns_of_different_lengths_are_refused),
		TEST(test_hostile_indices_of_packed_queues_are_refused),
		TEST(test_hostile_registers_of_the_transport_are_refused),
		TEST(test_guest_that_arrived_is_interrupted_once_for_each_queue),
		TEST(test_guest_without_a_driver_is_not_interrupted),
		TEST(test_load_and_activate_that_are_swapped_are_caught),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
