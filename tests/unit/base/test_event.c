// SPDX-License-Identifier: Apache-2.0
/* Eventfds whose flags and counters are somebody else's as well. */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/event.h"

#define FULL (UINT64_MAX - 1) /* of what write() adds */

#define THREADS 4u
#define WRITES  2000u
#define LIMIT_S 30 /* SIGALRM ends a test that waits */

struct fixture {
	struct event_writer *writer;
	int fd; /* it blocks */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	if (event_writer_new(&f->writer, &err))
		fail_msg("%s", err_msg(&err));
	f->fd = eventfd(0, EFD_CLOEXEC);
	assert_true(f->fd >= 0);
	alarm(LIMIT_S);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	alarm(0);
	event_writer_free(f->writer);
	close(f->fd);
	free(f);
	return 0;
}

static void test_eventfd_that_is_empty_and_blocks_is_read_at_once(void **state)
{
	struct fixture *f = *state;

	assert_false(event_take(f->fd));
	assert_int_equal(eventfd_write(f->fd, 5), 0);
	assert_true(event_take(f->fd));
	assert_false(event_take(f->fd));
	assert_false(event_take(-1));
}

static void
test_eventfd_that_is_full_and_blocks_is_written_at_once(void **state)
{
	struct fixture *f = *state;
	eventfd_t count;

	assert_int_equal(eventfd_write(f->fd, FULL), 0);
	for (int i = 0; i < 100; i++)
		event_write(f->writer, f->fd);
	assert_int_equal(eventfd_read(f->fd, &count), 0);
	assert_true(count >= FULL);
	event_write(f->writer, f->fd);
	assert_int_equal(eventfd_read(f->fd, &count), 0);
	assert_int_equal(count, 1);
}

static void test_what_is_no_eventfd_is_left_alone(void **state)
{
	struct fixture *f = *state;
	eventfd_t count;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	event_write(f->writer, fds[1]);
	event_write(f->writer, -1);
	assert_int_equal(read(fds[0], &count, sizeof(count)), -1);
	event_write(f->writer, f->fd);
	assert_int_equal(eventfd_read(f->fd, &count), 0);
	assert_int_equal(count, 1);
	close(fds[0]);
	close(fds[1]);
}

#define MANY 100u

static void test_many_are_written_each_once_whatever_is_among_them(void **state)
{
	struct fixture *f = *state;
	int fds[MANY], room[2];
	eventfd_t count;

	assert_int_equal(pipe2(room, O_CLOEXEC | O_NONBLOCK), 0);
	for (unsigned int i = 1; i < MANY - 1; i++)
		fds[i] = i % 7 == 6 ? -1 : eventfd(0, EFD_CLOEXEC);
	fds[0] = room[1];
	fds[MANY - 1] = fds[1];
	for (unsigned int i = 0; i < 3; i++)
		event_write_all(i ? f->writer : NULL, fds, MANY);
	event_write_all(f->writer, NULL, 0);
	for (unsigned int i = 1; i < MANY - 1; i++) {
		if (fds[i] < 0)
			continue;
		assert_int_equal(eventfd_read(fds[i], &count), 0);
		assert_int_equal(count, i == 1 ? 6 : 3);
		close(fds[i]);
	}
	close(room[0]);
	close(room[1]);
}

static void *write_on(void *opaque)
{
	struct fixture *f = opaque;

	for (unsigned int i = 0; i < WRITES; i++)
		event_write(f->writer, f->fd);
	return NULL;
}

static void test_no_write_of_several_threads_is_lost(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[THREADS];
	eventfd_t count;

	for (unsigned int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, write_on, f);
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(eventfd_read(f->fd, &count), 0);
	assert_int_equal(count, THREADS * WRITES);
}

static void test_without_a_writer_it_is_a_plain_write(void **state)
{
	struct fixture *f = *state;
	eventfd_t count;

	event_write(NULL, f->fd);
	assert_int_equal(eventfd_read(f->fd, &count), 0);
	assert_int_equal(count, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_eventfd_that_is_empty_and_blocks_is_read_at_once),
		TEST(test_eventfd_that_is_full_and_blocks_is_written_at_once),
		TEST(test_what_is_no_eventfd_is_left_alone),
		TEST(test_many_are_written_each_once_whatever_is_among_them),
		TEST(test_no_write_of_several_threads_is_lost),
		TEST(test_without_a_writer_it_is_a_plain_write),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
