// SPDX-License-Identifier: Apache-2.0
/* Who has which queues of a tap: several of them, stop and start, moves within a
 * host, taps that others made. */
#include <cmocka.h>

#include "net_card.h"

static void set_pairs(struct card *f, uint16_t pairs)
{
	unsigned int queue = f->driver.dev->queue_count - 1;
	uint64_t gpa = driver_buffer(queue, 0);
	const struct driver_buffer buffers[] = { { gpa, 4, false },
						 { gpa + 64, 1, true } };
	uint8_t *bytes = driver_at(&f->driver, gpa);

	bytes[0] = VIRTIO_NET_CTRL_MQ;
	bytes[1] = VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
	memcpy(bytes + 2, &pairs, 2);
	driver_add(&f->driver, queue, buffers, 2);
	driver_kick(&f->driver, queue);
	driver_take(&f->driver, queue, NULL);
	assert_int_equal(bytes[64], VIRTIO_NET_OK);
}

/* ---- queues ---- */

static void test_only_queues_in_use_are_attached(void **state)
{
	struct card *f = *state;
	uint8_t frame[60];

	assert_int_equal(tap_net_queues(TAP), 1);
	assert_true(driver_start(&f->driver, CONTROL | BIT(MRG_RXBUF)));
	assert_int_equal(tap_net_queues(TAP), 1);
	set_pairs(f, 4);
	assert_int_equal(tap_net_queues(TAP), 4);
	for (unsigned int pair = 0; pair < 4; pair++) {
		frame_fill(frame, sizeof(frame), mac, (uint8_t)pair);
		send_driver(f, 2 * pair + 1, frame, sizeof(frame));
		expect_wire(f, frame, sizeof(frame));
	}
	set_pairs(f, 2);
	assert_int_equal(tap_net_queues(TAP), 2);
	set_pairs(f, 3);
	assert_int_equal(tap_net_queues(TAP), 3);
	driver_pause(&f->driver);
	vdev_run(f->driver.dev);
	assert_int_equal(tap_net_queues(TAP), 3);
	frame_fill(frame, sizeof(frame), mac, 9);
	send_driver(f, 5, frame, sizeof(frame));
	expect_wire(f, frame, sizeof(frame));
	/* After a reset it begins with one again. */
	driver_reset(&f->driver);
	assert_true(driver_start(&f->driver, CONTROL));
	assert_int_equal(tap_net_queues(TAP), 1);
}

static void test_packets_are_spread_over_the_pairs(void **state)
{
	struct card *f = *state;
	uint8_t frame[200];
	unsigned int used = 0;

	assert_true(driver_start(&f->driver, CONTROL | BIT(MRG_RXBUF)));
	set_pairs(f, 4);
	for (unsigned int pair = 0; pair < 4; pair++)
		give_buffers(f, 2 * pair, 100, 1600);
	datagram_fill(frame, sizeof(frame), mac);
	for (unsigned int i = 0; i < 64; i++) {
		frame[14 + 20] = (uint8_t)i; /* source port */
		send_wire(f, frame, sizeof(frame));
	}
	while (counts_of(f).received < 64)
		sched_yield();
	for (unsigned int pair = 0; pair < 4; pair++)
		used += driver_has_used(&f->driver, 2 * pair);
	assert_true(used > 1);
}

/* ---- stop and start, moves ---- */

static void
test_packets_sent_while_it_stops_and_starts_go_out_once(void **state)
{
	struct card *f = *state;
	const uint8_t header[HEADER] = { 0 };
	const unsigned int rounds = 40, burst = 50;
	unsigned int sent = 0, seen = 0;
	uint8_t frame[64], bytes[2048];

	assert_true(driver_start(&f->driver, 0));
	for (unsigned int round = 0; round < rounds; round++) {
		for (unsigned int i = 0; i < burst; i++, sent++) {
			frame_fill(frame, 60, mac, 0);
			memcpy(frame + 20, &sent, sizeof(sent));
			send_driver_as(f, 1, i, header, frame, 60);
		}
		driver_kick(&f->driver, 1);
		driver_pause(&f->driver);
		vdev_run(f->driver.dev);
		for (unsigned int i = 0; i < burst; i++)
			driver_take(&f->driver, 1, NULL);
	}
	for (; seen < sent; seen++) {
		unsigned int number;

		assert_int_equal(recv(f->wire, bytes, sizeof(bytes), 0), 60);
		memcpy(&number, bytes + 20, sizeof(number));
		assert_int_equal(number, seen);
	}
}

static void test_packets_that_come_while_it_is_stopped_wait(void **state)
{
	struct card *f = *state;
	uint8_t frame[60];

	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	give_buffers(f, 0, 64, 1600);
	driver_pause(&f->driver);
	frame_fill(frame, sizeof(frame), mac, 1);
	send_wire(f, frame, sizeof(frame));
	assert_false(driver_has_used(&f->driver, 0));
	vdev_run(f->driver.dev);
	expect_driver(f, 0, frame, sizeof(frame), 1600);
}

static int claim(struct card *f)
{
	return f->driver.dev->type->claim(f->driver.dev, &f->driver.err);
}

/* disclaim is not waited for, but by a claim. */
static void await_queues(unsigned int count)
{
	while (tap_net_queues(TAP) != count)
		sched_yield();
}

static void test_move_within_a_host_hands_the_tap_over(void **state)
{
	struct card *f = *state, *to = calloc(1, sizeof(*to));
	uint8_t frame[60];

	assert_true(driver_start(&f->driver, CONTROL | BIT(MRG_RXBUF)));
	set_pairs(f, 2);
	give_buffers(f, 0, 64, 1600);
	give_buffers(f, 2, 64, 1600);
	if (build(to, "tap=" TAP ",queues=4", true))
		fail_msg("%s", err_msg(&to->driver.err));
	/* It takes nothing from the source yet. */
	assert_int_equal(tap_net_queues(TAP), 2);
	driver_pause(&f->driver);
	driver_move(&f->driver, &to->driver);
	f->driver.dev->type->disclaim(f->driver.dev);
	await_queues(0);
	assert_int_equal(claim(to), 0);
	assert_int_equal(tap_net_queues(TAP), 2);
	vdev_run(to->driver.dev);
	for (unsigned int i = 0; i < 20; i++) {
		frame_fill(frame, sizeof(frame), mac, (uint8_t)i);
		send_wire(f, frame, sizeof(frame));
	}
	while (counts_of(to).received < 20)
		sched_yield();
	frame_fill(frame, sizeof(frame), mac, 77);
	send_driver(to, 1, frame, sizeof(frame));
	expect_wire(f, frame, sizeof(frame));
	fixture_fini(to);
	free(to);
}

static void test_move_that_fails_gives_the_tap_back(void **state)
{
	struct card *f = *state, *to = calloc(1, sizeof(*to));
	uint8_t frame[60];

	assert_true(driver_start(&f->driver, CONTROL | BIT(MRG_RXBUF)));
	give_buffers(f, 0, 64, 1600);
	assert_int_equal(build(to, "tap=" TAP ",queues=4", true), 0);
	driver_pause(&f->driver);
	driver_move(&f->driver, &to->driver);
	f->driver.dev->type->disclaim(f->driver.dev);
	assert_int_equal(claim(to), 0);
	to->driver.dev->type->disclaim(to->driver.dev);
	assert_int_equal(claim(f), 0);
	await_queues(1);
	vdev_run(f->driver.dev);
	for (unsigned int i = 0; i < 20; i++) {
		frame_fill(frame, sizeof(frame), mac, (uint8_t)i);
		send_wire(f, frame, sizeof(frame));
		expect_driver(f, 0, frame, sizeof(frame), 1600);
	}
	fixture_fini(to);
	free(to);
	send_wire(f, frame, sizeof(frame));
	expect_driver(f, 0, frame, sizeof(frame), 1600);
}

static void test_lesson_switches_learn_where_the_guest_is(void **state)
{
	struct card *f = *state;
	uint8_t bytes[2048];
	const uint8_t head[] = { 255,  255,  255,  255, 255,  255,  0x52,
				 0x54, 0,    0x67, 0,   0,    0x80, 0x35,
				 0,    1,    8,    0,   6,    4,    0,
				 3,    0x52, 0x54, 0,   0x67, 0,    0 };

	assert_true(driver_start(&f->driver, 0));
	f->driver.dev->type->arrived(f->driver.dev);
	for (unsigned int i = 0; i < 5; i++) {
		assert_int_equal(recv(f->wire, bytes, sizeof(bytes), 0), 60);
		assert_memory_equal(bytes, head, sizeof(head));
	}
}

/* ---- taps that are there ---- */

static void expect_refused(const char *text, bool is_incoming, int code,
			   const char *message)
{
	struct card f;

	assert_int_equal(build(&f, text, is_incoming), code);
	assert_string_equal(err_msg(&f.driver.err), message);
	fixture_fini(&f);
}

static void test_tap_with_one_queue_is_one_process_s(void **state)
{
	int fd = tap_net_make("single", IFF_TAP | IFF_NO_PI);
	struct card f;

	(void)state;
	tap_net_persist(fd, true);
	expect_refused("tap=single", true, -EBUSY,
		       "single is in use, and has one queue only (made "
		       "without multi_queue)");
	close(fd);
	expect_refused("tap=single,queues=2", false, -EINVAL,
		       "single has one queue (made without multi_queue), "
		       "not 2");
	tap_net_up("single");
	assert_int_equal(build(&f, "tap=single", true), 0);
	assert_int_equal(claim(&f), 0);
	assert_true(driver_start(&f.driver, BIT(MRG_RXBUF)));
	f.driver.dev->type->disclaim(f.driver.dev);
	assert_int_equal(claim(&f), 0);
	fixture_fini(&f);
	fd = tap_net_make("single", IFF_TAP | IFF_NO_PI);
	tap_net_persist(fd, false);
	close(fd);
}

static void test_tap_that_stays_is_left_with_no_queue_attached(void **state)
{
	int fd = tap_net_make("many", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE);
	struct card f;

	(void)state;
	tap_net_persist(fd, true);
	close(fd);
	assert_int_equal(build(&f, "tap=many,queues=3", true), 0);
	assert_int_equal(tap_net_queues("many"), 0);
	assert_int_equal(claim(&f), 0);
	assert_int_equal(tap_net_queues("many"), 1);
	fixture_fini(&f);
	assert_true(if_nametoindex("many") != 0);
	assert_int_equal(tap_net_queues("many"), 0);
	fd = tap_net_make("many", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE);
	tap_net_persist(fd, false);
	close(fd);
}

static void test_tap_in_use_is_refused_without_a_move(void **state)
{
	int fd = tap_net_make("many", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE);

	(void)state;
	expect_refused("tap=many,queues=2", false, -EBUSY, "many is in use");
	close(fd);
}

static void test_what_is_no_tap_is_refused(void **state)
{
	int fd = tap_net_make("tun", IFF_TUN | IFF_NO_PI);

	(void)state;
	expect_refused("tap=lo", false, -EINVAL, "lo is no tap");
	expect_refused("tap=tun", true, -EINVAL, "tun is no tap");
	expect_refused("tap=a-name-too-long-for-it", false, -EINVAL,
		       "'a-name-too-long-for-it' is no name of an interface "
		       "(1 to 15 characters)");
	expect_refused("tap=tap%d", false, -EINVAL,
		       "'tap%d' is no name of an interface (1 to 15 "
		       "characters)");
	close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_only_queues_in_use_are_attached),
		TEST(test_packets_are_spread_over_the_pairs),
		TEST(test_packets_sent_while_it_stops_and_starts_go_out_once),
		TEST(test_packets_that_come_while_it_is_stopped_wait),
		TEST(test_move_within_a_host_hands_the_tap_over),
		TEST(test_move_that_fails_gives_the_tap_back),
		TEST(test_lesson_switches_learn_where_the_guest_is),
		cmocka_unit_test(test_tap_with_one_queue_is_one_process_s),
		cmocka_unit_test(
			test_tap_that_stays_is_left_with_no_queue_attached),
		cmocka_unit_test(test_tap_in_use_is_refused_without_a_move),
		cmocka_unit_test(test_what_is_no_tap_is_refused),
	};

	if (!tap_net_enter())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
