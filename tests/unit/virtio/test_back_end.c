// SPDX-License-Identifier: Apache-2.0
/* A device whose requests are completed by a thread, when a test lets it. */
#include <cmocka.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "toy.h"
#include "virtio/io_thread.h"

#define BUFFER 0x80000u
#define PAGES  (BUFFER / RAM_PAGE_SIZE)

/* What a driver wrote is answered with these, and one more each time. */
#define ANSWER 0xa5u

struct slow {
	struct toy toy; /* first */
	struct io_thread *thread;
	struct io_source kick, go;

	/* the thread's between start and stop */
	struct vq vq;
	struct vq_request request;
	struct vq_segment segments[4];
	bool is_on, is_busy;
	unsigned int done;
	/* told to who waits for a call */
	bool is_drained, was_busy;
};

static void complete(struct slow *slow)
{
	const uint8_t answer = ANSWER;

	vq_write(&slow->request, 0, &answer, 1);
	vq_push(&slow->vq, &slow->request, 1);
	vq_flush(&slow->vq);
	slow->is_busy = false;
	slow->done++;
}

static void take_next(struct slow *slow)
{
	struct err err = ERR_INIT;
	int ret;

	if (!slow->is_on || slow->is_busy)
		return;
	ret = vq_pop(&slow->vq, &slow->request, &err);
	slow->is_busy = ret > 0;
	if (ret < 0)
		vdev_break(&slow->toy.dev, &err);
}

static void kicked(void *opaque)
{
	struct slow *slow = opaque;
	eventfd_t seen;

	eventfd_read(slow->kick.fd, &seen);
	take_next(slow);
}

/* The disk, so to speak, has what was asked for. */
static void let_go(void *opaque)
{
	struct slow *slow = opaque;
	eventfd_t seen;

	eventfd_read(slow->go.fd, &seen);
	if (slow->is_busy)
		complete(slow);
	take_next(slow);
}

static void begin(void *opaque)
{
	struct slow *slow = opaque;

	slow->is_on = true;
	io_thread_add(slow->thread, &slow->kick);
	take_next(slow);
}

/* Only with nothing in flight. */
static void end(void *opaque)
{
	struct slow *slow = opaque;

	slow->is_drained = !slow->is_busy;
	if (!slow->is_drained)
		return;
	slow->is_on = false;
	io_thread_del(slow->thread, &slow->kick);
}

static int slow_start(struct vdev *dev, struct err *err)
{
	struct slow *slow = (struct slow *)dev;
	int ret = vq_start(&slow->vq, dev, 0, err);

	if (ret == 0)
		ret = io_thread_call(slow->thread, begin, slow, UINT64_MAX);
	return ret;
}

static int slow_stop(struct vdev *dev, uint64_t deadline_ns, struct err *err)
{
	struct slow *slow = (struct slow *)dev;

	do {
		if (io_thread_call(slow->thread, end, slow, UINT64_MAX) == 0 &&
		    slow->is_drained)
			return 0;
	} while (clock_mono_ns() < deadline_ns);
	return err_set(err, -ETIMEDOUT, "a request is in flight");
}

static const struct vdev_type slow_type = {
	.name = "virtio-slow",
	.id = 42,
	.start = slow_start,
	.stop = slow_stop,
};

static int setup(void **state)
{
	struct slow *slow = calloc(1, sizeof(*slow));
	struct err err = ERR_INIT;

	toy_init_with(&slow->toy, &slow_type);
	slow->request.segments = slow->segments;
	slow->request.room = array_size(slow->segments);
	slow->kick = (struct io_source){
		.fd = slow->toy.dev.queues[0].kick_fd,
		.events = EPOLLIN,
		.ready = kicked,
		.opaque = slow,
	};
	slow->go = (struct io_source){
		.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
		.events = EPOLLIN,
		.ready = let_go,
		.opaque = slow,
	};
	if (io_thread_new("slow", &slow->thread, &err))
		fail_msg("%s", err_msg(&err));
	io_thread_add(slow->thread, &slow->go);
	vdev_run(&slow->toy.dev);
	toy_set_up(&slow->toy, 0);
	*state = slow;
	return 0;
}

static int teardown(void **state)
{
	struct slow *slow = *state;

	eventfd_write(slow->go.fd, 1);
	toy_fini(&slow->toy);
	io_thread_free(slow->thread);
	close(slow->go.fd);
	free(slow);
	return 0;
}

static uint8_t *ram_at(struct slow *slow, uint64_t gpa)
{
	return slow->toy.ram->host + gpa;
}

/* Entry 0, of one byte to write, in the @nth place of the ring. */
static void ask(struct slow *slow, uint16_t nth)
{
	struct le64 address = le64_of(BUFFER);
	struct le32 size = le32_of(1);
	struct le16 flags = le16_of(VRING_DESC_F_WRITE);
	uint16_t *idx = (uint16_t *)ram_at(slow, toy_ring(0, 1) + 2);

	memcpy(ram_at(slow, toy_ring(0, 0)), &address, 8);
	memcpy(ram_at(slow, toy_ring(0, 0) + 8), &size, 4);
	memcpy(ram_at(slow, toy_ring(0, 0) + 12), &flags, 2);
	__atomic_store_n(idx, htole16((uint16_t)(nth + 1)), __ATOMIC_RELEASE);
	board_store(&slow->toy.board, slow->toy.bar + VDEV_PCI_NOTIFY, 0, 2);
}

static void do_nothing(void *opaque)
{
	(void)opaque;
}

/* What was posted to the thread before has been done. */
static void settle(struct slow *slow)
{
	assert_int_equal(
		io_thread_call(slow->thread, do_nothing, NULL, UINT64_MAX), 0);
}

static uint16_t used_idx(struct slow *slow)
{
	uint16_t *idx = (uint16_t *)ram_at(slow, toy_ring(0, 2) + 2);

	return le16toh(__atomic_load_n(idx, __ATOMIC_ACQUIRE));
}

static void look(void *opaque)
{
	struct slow *slow = opaque;

	slow->was_busy = slow->is_busy;
}

static void wait_until_taken(struct slow *slow)
{
	do {
		assert_int_equal(
			io_thread_call(slow->thread, look, slow, UINT64_MAX),
			0);
	} while (!slow->was_busy);
}

static void test_request_is_answered(void **state)
{
	struct slow *slow = *state;

	ask(slow, 0);
	wait_until_taken(slow);
	assert_int_equal(used_idx(slow), 0);
	eventfd_write(slow->go.fd, 1);
	while (used_idx(slow) == 0)
		settle(slow);
	assert_int_equal(*ram_at(slow, BUFFER), ANSWER);
}

static void test_pause_fails_while_a_request_is_in_flight(void **state)
{
	struct slow *slow = *state;
	struct err err = ERR_INIT;

	ask(slow, 0);
	wait_until_taken(slow);
	assert_int_equal(vdev_pause(&slow->toy.dev, clock_mono_ns(), &err),
			 -ETIMEDOUT);
	vdev_run(&slow->toy.dev);
	eventfd_write(slow->go.fd, 1);
	assert_int_equal(vdev_pause(&slow->toy.dev, UINT64_MAX, &err), 0);
	assert_int_equal(used_idx(slow), 1);
	assert_int_equal(slow->toy.dev.queues[0].next_avail, 1);
	assert_int_equal(slow->toy.dev.queues[0].next_used, 1);
}

static void test_lesson_no_dirty_page_comes_after_the_pause(void **state)
{
	struct slow *slow = *state;

	ask(slow, 0);
	wait_until_taken(slow);
	eventfd_write(slow->go.fd, 1);
	assert_int_equal(vdev_pause(&slow->toy.dev, UINT64_MAX, NULL), 0);
	assert_int_equal(*ram_at(slow, BUFFER), ANSWER);
	assert_true(slow->toy.ram->dirty[PAGES / 64] >> PAGES % 64 & 1);
	memset(slow->toy.ram->dirty, 0, TOY_RAM / RAM_PAGE_SIZE / 8);
	/* The driver's next one has to wait. */
	ask(slow, 1);
	eventfd_write(slow->go.fd, 1);
	settle(slow);
	for (unsigned int i = 0; i < TOY_RAM / RAM_PAGE_SIZE / 64; i++)
		assert_int_equal(slow->toy.ram->dirty[i], 0);
	vdev_run(&slow->toy.dev);
	settle(slow);
	eventfd_write(slow->go.fd, 1);
	while (used_idx(slow) != 2)
		settle(slow);
}

static void
test_lesson_request_completes_before_its_queue_is_reset(void **state)
{
	struct slow *slow = *state;

	ask(slow, 0);
	wait_until_taken(slow);
	toy_put(&slow->toy, STATUS, 0, 1);
	/* The driver may not take its memory back yet. */
	assert_int_not_equal(toy_status(&slow->toy), 0);
	assert_int_equal(slow->done, 0);
	eventfd_write(slow->go.fd, 1);
	while (toy_status(&slow->toy) != 0)
		;
	assert_int_equal(slow->done, 1);
	assert_int_equal(used_idx(slow), 1);
	/* Now it may, and nobody writes there. */
	memset(ram_at(slow, 0), 0, TOY_RAM);
	eventfd_write(slow->go.fd, 1);
	settle(slow);
	for (unsigned int i = 0; i < TOY_RAM; i++)
		assert_int_equal(*ram_at(slow, i), 0);
	toy_set_up(&slow->toy, 0);
	ask(slow, 0);
	wait_until_taken(slow);
}

static void test_driver_that_breaks_the_rules_gets_needs_reset(void **state)
{
	struct slow *slow = *state;

	ask(slow, 1000);
	while (!(toy_status(&slow->toy) & NEEDS_RESET))
		settle(slow);
	toy_put(&slow->toy, STATUS, 0, 1);
	assert_int_equal(toy_status(&slow->toy), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_request_is_answered),
		TEST(test_pause_fails_while_a_request_is_in_flight),
		TEST(test_lesson_no_dirty_page_comes_after_the_pause),
		TEST(test_lesson_request_completes_before_its_queue_is_reset),
		TEST(test_driver_that_breaks_the_rules_gets_needs_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
