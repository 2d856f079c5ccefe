// SPDX-License-Identifier: Apache-2.0
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "virtio/io_thread.h"

struct fixture {
	struct io_thread *thread;
	struct io_source sources[2];
	unsigned int ready[2];
	char text[32];
	int gate; /* eventfd that hold() reads from */
	pthread_t seen;
	char name[16];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	f->gate = eventfd(0, EFD_CLOEXEC);
	if (io_thread_new("worker", &f->thread, &err))
		fail_msg("%s", err_msg(&err));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	io_thread_free(f->thread);
	close(f->gate);
	free(f);
	return 0;
}

static void put_a(void *opaque)
{
	strcat(((struct fixture *)opaque)->text, "a");
}

static void put_b(void *opaque)
{
	strcat(((struct fixture *)opaque)->text, "b");
}

static void who(void *opaque)
{
	struct fixture *f = opaque;

	f->seen = pthread_self();
	pthread_getname_np(f->seen, f->name, sizeof(f->name));
}

/* Until the test writes to the gate. */
static void hold(void *opaque)
{
	eventfd_t seen;

	eventfd_read(((struct fixture *)opaque)->gate, &seen);
}

static void test_work_is_called_in_order_by_the_thread(void **state)
{
	struct fixture *f = *state;

	io_thread_post(f->thread, hold, f);
	io_thread_post(f->thread, put_a, f);
	io_thread_post(f->thread, put_b, f);
	io_thread_post(f->thread, put_a, f);
	assert_string_equal(f->text, "");
	eventfd_write(f->gate, 1);
	assert_int_equal(io_thread_call(f->thread, who, f, UINT64_MAX), 0);
	assert_string_equal(f->text, "aba");
	assert_string_equal(f->name, "worker");
	assert_false(pthread_equal(f->seen, pthread_self()));
}

static void test_call_ends_at_its_deadline_and_is_made_still(void **state)
{
	struct fixture *f = *state;

	io_thread_post(f->thread, hold, f);
	assert_int_equal(io_thread_call(f->thread, put_a, f,
					clock_mono_ns() + NS_PER_MS),
			 -ETIMEDOUT);
	eventfd_write(f->gate, 1);
	assert_int_equal(io_thread_call(f->thread, put_b, f, UINT64_MAX), 0);
	assert_string_equal(f->text, "ab");
}

static void test_call_in_two_halves_is_made_meanwhile(void **state)
{
	struct fixture *f = *state;
	struct io_work *a, *b;

	io_thread_post(f->thread, hold, f);
	a = io_thread_begin(f->thread, put_a, f);
	b = io_thread_begin(f->thread, put_b, f);
	eventfd_write(f->gate, 1);
	assert_int_equal(io_thread_finish(f->thread, b, UINT64_MAX), 0);
	assert_string_equal(f->text, "ab");
	/* It was done before its deadline, though that has passed. */
	assert_int_equal(io_thread_finish(f->thread, a, 0), 0);
}

static void test_second_half_ends_at_its_deadline_for_good(void **state)
{
	struct fixture *f = *state;
	struct io_work *work;

	io_thread_post(f->thread, hold, f);
	work = io_thread_begin(f->thread, put_a, f);
	assert_int_equal(
		io_thread_finish(f->thread, work, clock_mono_ns() + NS_PER_MS),
		-ETIMEDOUT);
	eventfd_write(f->gate, 1);
	assert_int_equal(io_thread_call(f->thread, put_b, f, UINT64_MAX), 0);
	assert_string_equal(f->text, "b");
}

/* It has begun when the gate is not readable any more. */
static void put_a_late(void *opaque)
{
	struct fixture *f = opaque;

	hold(f);
	poll(NULL, 0, 20);
	put_a(f);
}

static void test_second_half_waits_for_what_has_begun(void **state)
{
	struct fixture *f = *state;
	struct io_work *work = io_thread_begin(f->thread, put_a_late, f);
	struct pollfd gate = { .fd = f->gate, .events = POLLIN };

	eventfd_write(f->gate, 1);
	while (poll(&gate, 1, 0) == 1)
		sched_yield();
	assert_int_equal(io_thread_finish(f->thread, work, 0), 0);
	assert_string_equal(f->text, "a");
}

static void test_work_that_waits_is_done_before_the_end(void **state)
{
	struct fixture *f = *state;

	io_thread_post(f->thread, hold, f);
	io_thread_post(f->thread, put_a, f);
	eventfd_write(f->gate, 1);
	io_thread_free(f->thread);
	f->thread = NULL;
	assert_string_equal(f->text, "a");
}

/* Each of two that are ready in one batch deletes the other. */
static void end_other(struct fixture *f, unsigned int mine)
{
	eventfd_t seen;

	f->ready[mine]++;
	eventfd_read(f->sources[mine].fd, &seen);
	io_thread_del(f->thread, &f->sources[1 - mine]);
}

static void ready_0(void *opaque)
{
	end_other(opaque, 0);
}

static void ready_1(void *opaque)
{
	end_other(opaque, 1);
}

static void test_deleted_source_is_not_called_by_its_batch(void **state)
{
	struct fixture *f = *state;

	io_thread_post(f->thread, hold, f);
	for (unsigned int i = 0; i < 2; i++) {
		f->sources[i] = (struct io_source){
			.fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK),
			.events = EPOLLIN,
			.ready = i ? ready_1 : ready_0,
			.opaque = f,
		};
		assert_int_equal(io_thread_add(f->thread, &f->sources[i]), 0);
	}
	eventfd_write(f->gate, 1);
	/* They are ready from the start, so the batch with this has them. */
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(io_thread_call(f->thread, who, f, UINT64_MAX),
				 0);
	assert_int_equal(f->ready[0] + f->ready[1], 1);
	assert_int_equal(
		io_thread_add(f->thread, &(struct io_source){ .fd = -1 }),
		-EBADF);
	for (unsigned int i = 0; i < 2; i++)
		close(f->sources[i].fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_work_is_called_in_order_by_the_thread),
		TEST(test_call_ends_at_its_deadline_and_is_made_still),
		TEST(test_call_in_two_halves_is_made_meanwhile),
		TEST(test_second_half_ends_at_its_deadline_for_good),
		TEST(test_second_half_waits_for_what_has_begun),
		TEST(test_work_that_waits_is_done_before_the_end),
		TEST(test_deleted_source_is_not_called_by_its_batch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
