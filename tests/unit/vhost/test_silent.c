// SPDX-License-Identifier: Apache-2.0
/* How long a stop waits when a back end has not answered something else yet, and a start: no
 * longer than it may, and the device works on when the answer has come. */
#include <errno.h>
#include <linux/virtio_net.h>
#include <poll.h>

#include "bed.h"

#define LATE_MS    1500u
#define STOP_NS    (100 * NS_PER_MS)
#define IN_TIME_NS (700 * NS_PER_MS) /* of a busy machine */

struct fixture {
	struct bed bed;
	struct back_end be;
	struct be_options options;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct be_options options = BE_OPTIONS;

	bed_init(&f->bed, false);
	f->options = options;
	f->options.socket = f->bed.socket;
	f->options.image = f->bed.image;
	f->options.fault.kind = BE_LATE;
	f->options.fault.delay_ms = LATE_MS;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	bed_disk_free(&f->bed);
	be_end(&f->be);
	bed_fini(&f->bed);
	free(f);
	return 0;
}

/* After @skip right replies to @request there is one that is late. */
static void start(struct fixture *f, enum um_request request, unsigned int skip)
{
	f->options.fault.request = request;
	f->options.fault.skip = skip;
	assert_int_equal(be_start(&f->be, &f->options), 0);
}

static void disk(struct fixture *f)
{
	struct err err = ERR_INIT;

	if (bed_disk_new(&f->bed, 1, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(&f->bed);
}

static void net(struct fixture *f)
{
	struct err err = ERR_INIT;

	if (bed_net_new(&f->bed, 2, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(&f->bed);
}

/* All that a migration's switch does, which then fails. */
static void assert_stop_fails_in_time(struct fixture *f)
{
	uint64_t start_ns = clock_mono_ns();
	struct err err = ERR_INIT;

	vdev_pause_begin(f->bed.vdev);
	vdev_pause_ask(f->bed.vdev, start_ns + STOP_NS);
	assert_int_equal(vdev_pause(f->bed.vdev, start_ns + STOP_NS, &err),
			 -ETIMEDOUT);
	assert_true(clock_mono_ns() - start_ns < IN_TIME_NS);
	assert_true(err_msg(&err)[0]);
	vdev_run(f->bed.vdev);
}

static void assert_stops(struct fixture *f)
{
	vdev_pause_begin(f->bed.vdev);
	assert_int_equal(
		vdev_pause(f->bed.vdev, clock_mono_ns() + BED_LIMIT_NS, NULL),
		0);
	vdev_run(f->bed.vdev);
}

static bool write_once(struct fixture *f)
{
	return bed_do(&f->bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096);
}

static bool is_second_connection(void *opaque)
{
	struct fixture *f = opaque;

	return __atomic_load_n(&f->be.counts.connections, __ATOMIC_RELAXED) ==
		       2 &&
	       __atomic_load_n(&f->be.counts.starts, __ATOMIC_RELAXED) == 2;
}

static void
test_stop_is_in_time_though_a_back_end_came_back_silent(void **state)
{
	struct fixture *f = *state;

	f->options.death = BE_DIES_WRITTEN;
	f->options.die_at = 1;
	start(f, UM_GET_FEATURES,
	      3); /* two at each beginning; the last is late */
	disk(f);
	bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096);
	bed_kick(&f->bed, 0);
	assert_true(bed_until(is_second_connection, f));
	poll(NULL, 0, 20); /* until it is silent */
	assert_stop_fails_in_time(f);
	assert_true(bed_wait(&f->bed, 0, 1));
	assert_true(write_once(f));
	assert_stops(f);
	assert_true(write_once(f));
	assert_false(bed_needs_reset(&f->bed));
	assert_int_equal(f->be.counts.connections, 2);
}

/* Nor its machine, which has its run state meanwhile. */
static void
test_start_holds_up_no_vcpu_though_its_back_end_is_silent(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns = clock_mono_ns();

	start(f, UM_GET_FEATURES, 1); /* what is asked behind the kicks */
	disk(f);
	assert_true(clock_mono_ns() - start_ns < (LATE_MS - 200) * NS_PER_MS);
	assert_true(write_once(f));
	assert_stops(f);
	assert_true(write_once(f));
	assert_false(bed_needs_reset(&f->bed));
	assert_int_equal(f->be.counts.connections, 1);
}

/* What a source asks for its estimate. */
static void test_question_of_a_silent_back_end_has_a_limit(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns, took_ns;
	unsigned int messages;

	start(f, UM_GET_FEATURES, 2); /* two at its beginning */
	disk(f);
	assert_true(write_once(f));
	start_ns = clock_mono_ns();
	assert_int_equal(
		vh_board_time(f->bed.vhost, start_ns + STOP_NS, &took_ns),
		-ETIMEDOUT);
	assert_true(clock_mono_ns() - start_ns < IN_TIME_NS);
	assert_true(write_once(f));
	assert_int_equal(vh_board_time(f->bed.vhost,
				       clock_mono_ns() + BED_LIMIT_NS,
				       &took_ns),
			 0);
	assert_true(took_ns > 0 && took_ns < IN_TIME_NS);
	assert_stops(f);
	/* Nobody is at work: nobody is asked. */
	vdev_pause_begin(f->bed.vdev);
	assert_int_equal(
		vdev_pause(f->bed.vdev, clock_mono_ns() + BED_LIMIT_NS, NULL),
		0);
	messages = __atomic_load_n(&f->be.counts.messages, __ATOMIC_RELAXED);
	assert_int_equal(vh_board_time(f->bed.vhost, 0, &took_ns), 0);
	assert_int_equal(
		__atomic_load_n(&f->be.counts.messages, __ATOMIC_RELAXED),
		messages);
	vdev_run(f->bed.vdev);
	assert_true(write_once(f));
	assert_false(bed_needs_reset(&f->bed));
	assert_int_equal(f->be.counts.connections, 1);
}

static bool is_asked(void *opaque)
{
	struct fixture *f = opaque;

	return __atomic_load_n(&f->be.counts.faults, __ATOMIC_ACQUIRE) > 0;
}

static void
test_stop_is_in_time_though_the_configuration_is_not_told(void **state)
{
	struct fixture *f = *state;

	start(f, UM_GET_CONFIG, 1);
	disk(f);
	assert_true(write_once(f));
	be_resize(&f->be, 8192);
	assert_true(bed_until(is_asked, f));
	poll(NULL, 0, 20);
	assert_stop_fails_in_time(f);
	assert_true(write_once(f));
	assert_stops(f);
	assert_true(write_once(f));
	assert_false(bed_needs_reset(&f->bed));
}

/* A driver's reset holds up its vCPU no longer either. */
static void
test_reset_holds_up_no_vcpu_though_the_configuration_is_not_told(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns;

	start(f, UM_GET_CONFIG, 1);
	disk(f);
	be_resize(&f->be, 8192);
	assert_true(bed_until(is_asked, f));
	poll(NULL, 0, 20);
	start_ns = clock_mono_ns();
	board_store(&f->bed.board, f->bed.bar + VDEV_PCI_COMMON + 0x14, 0, 1);
	assert_true(clock_mono_ns() - start_ns < IN_TIME_NS);
	bed_reset(&f->bed);
	bed_drive(&f->bed);
	assert_true(write_once(f));
}

static uint16_t queue_register(struct fixture *f, unsigned int at)
{
	return (uint16_t)board_load(&f->bed.board,
				    f->bed.bar + VDEV_PCI_COMMON + at, 2);
}

static bool is_queue_reset(void *opaque)
{
	return queue_register(opaque, VIRTIO_PCI_COMMON_Q_RESET) == 0;
}

static void test_queue_reset_waits_for_a_stop_that_is_not_answered(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns;

	start(f, UM_GET_VRING_BASE, 0);
	assert_int_equal(bed_disk_new(&f->bed, 1, NULL), 0);
	f->bed.wanted |= 1ull << VIRTIO_F_RING_RESET;
	bed_drive(&f->bed);
	assert_true(write_once(f));
	start_ns = clock_mono_ns();
	board_store(&f->bed.board,
		    f->bed.bar + VDEV_PCI_COMMON + VIRTIO_PCI_COMMON_Q_SELECT,
		    0, 2);
	board_store(&f->bed.board,
		    f->bed.bar + VDEV_PCI_COMMON + VIRTIO_PCI_COMMON_Q_RESET, 1,
		    2);
	assert_false(is_queue_reset(f));
	assert_true(clock_mono_ns() - start_ns < IN_TIME_NS);
	assert_true(bed_until(is_queue_reset, f));
	assert_int_equal(queue_register(f, VIRTIO_PCI_COMMON_Q_ENABLE), 0);
	assert_false(bed_needs_reset(&f->bed));
	bed_reset(&f->bed);
	bed_drive(&f->bed);
	assert_true(write_once(f));
}

static void test_stop_is_in_time_though_a_command_is_not_done(void **state)
{
	struct fixture *f = *state;

	f->options.queues = 4;
	start(f, UM_SET_VRING_ENABLE, 4); /* of each ring one, at the start */
	net(f);
	bed_begin_pairs(&f->bed, 2);
	assert_true(bed_until(is_asked, f));
	poll(NULL, 0, 20);
	assert_stop_fails_in_time(f);
	assert_true(bed_until(bed_has_answer, &f->bed));
	assert_int_equal(f->bed.answer, VIRTIO_NET_OK);
	assert_stops(f);
	bed_begin_pairs(&f->bed, 1);
	assert_true(bed_until(bed_has_answer, &f->bed));
	assert_int_equal(f->bed.answer, VIRTIO_NET_OK);
	assert_false(bed_needs_reset(&f->bed));
}

static void
test_stop_is_in_time_though_an_announcement_is_not_answered(void **state)
{
	struct fixture *f = *state;

	f->options.queues = 4;
	f->options.has_rarp = true;
	start(f, UM_SEND_RARP, 0);
	net(f);
	vdev_arrived(f->bed.vdev);
	assert_true(bed_until(is_asked, f));
	poll(NULL, 0, 20);
	assert_stop_fails_in_time(f);
	bed_begin_pairs(&f->bed, 2);
	assert_true(bed_until(bed_has_answer, &f->bed));
	assert_stops(f);
	assert_false(bed_needs_reset(&f->bed));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_stop_is_in_time_though_a_back_end_came_back_silent),
		TEST(test_start_holds_up_no_vcpu_though_its_back_end_is_silent),
		TEST(test_question_of_a_silent_back_end_has_a_limit),
		TEST(test_stop_is_in_time_though_the_configuration_is_not_told),
		TEST(test_reset_holds_up_no_vcpu_though_the_configuration_is_not_told),
		TEST(test_queue_reset_waits_for_a_stop_that_is_not_answered),
		TEST(test_stop_is_in_time_though_a_command_is_not_done),
		TEST(test_stop_is_in_time_though_an_announcement_is_not_answered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
