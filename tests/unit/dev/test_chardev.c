// SPDX-License-Identifier: Apache-2.0
/* Back ends against real files, sockets, pipes and a terminal.  Nothing here
 * waits by the clock: each step waits for the event it needs, and a deadline
 * only turns a hang into a failure. */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/lock.h"
#include "dev/chardev.h"

#define DEADLINE_MS 20000

struct fixture {
	char dir[64], path[96], spec[112];
	struct chardev *chardev;
	struct chardev_options options;
	struct err err;

	struct lock lock;
	pthread_cond_t changed;
	size_t limit; /* what the device takes before it is full */
	size_t size;
	uint8_t received[4096];
	unsigned int quits, drained;
};

static size_t front_room(void *opaque)
{
	struct fixture *f = opaque;
	size_t room;

	lock_acquire(&f->lock);
	room = f->limit - f->size;
	lock_release(&f->lock);
	return room;
}

static void front_receive(void *opaque, const uint8_t *bytes, size_t size)
{
	struct fixture *f = opaque;

	lock_acquire(&f->lock);
	assert_true(size > 0 && size <= f->limit - f->size);
	memcpy(f->received + f->size, bytes, size);
	f->size += size;
	pthread_cond_broadcast(&f->changed);
	lock_release(&f->lock);
}

static void front_drained(void *opaque)
{
	struct fixture *f = opaque;

	lock_acquire(&f->lock);
	f->drained++;
	pthread_cond_broadcast(&f->changed);
	lock_release(&f->lock);
}

static const struct chardev_front_ops front = {
	.room = front_room,
	.receive = front_receive,
	.drained = front_drained,
};

static void on_quit(void *opaque)
{
	struct fixture *f = opaque;

	lock_acquire(&f->lock);
	f->quits++;
	pthread_cond_broadcast(&f->changed);
	lock_release(&f->lock);
}

static void wait_received(struct fixture *f, const char *text)
{
	uint64_t deadline = clock_mono_ns() + DEADLINE_MS * NS_PER_MS;
	size_t size = strlen(text);
	int ret = 0;

	lock_acquire(&f->lock);
	while (f->size < size && ret == 0)
		ret = lock_wait_until(&f->lock, &f->changed, deadline);
	assert_int_equal(ret, 0);
	assert_int_equal(f->size, size);
	assert_memory_equal(f->received, text, size);
	lock_release(&f->lock);
}

/* The device has handed on what it had. */
static void take_received(struct fixture *f)
{
	lock_acquire(&f->lock);
	f->size = 0;
	lock_release(&f->lock);
	chardev_wake(f->chardev);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/godwit-chardev-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/serial", f->dir);
	lock_init(&f->lock, LOCK_DEVICE);
	lock_cond_init(&f->changed);
	f->limit = sizeof(f->received);
	f->options = (struct chardev_options){
		.quit = on_quit, .opaque = f, .in_fd = 0, .out_fd = 1
	};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	chardev_free(f->chardev);
	unlink(f->path);
	assert_int_equal(rmdir(f->dir), 0);
	pthread_cond_destroy(&f->changed);
	lock_fini(&f->lock);
	free(f);
	return 0;
}

static int open_chardev(struct fixture *f, const char *kind)
{
	int ret;

	snprintf(f->spec, sizeof(f->spec), "%s%s", kind,
		 strchr(kind, ':') ? f->path : "");
	err_clear(&f->err);
	ret = chardev_new(f->spec, &f->options, &f->chardev, &f->err);
	if (ret == 0) {
		chardev_attach(f->chardev, &front, f);
		chardev_start(f->chardev);
	}
	return ret;
}

static void print(struct fixture *f, const char *text)
{
	chardev_write(f->chardev, (const uint8_t *)text, strlen(text));
}

static int connect_client(struct fixture *f)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path, f->path, strlen(f->path) + 1);
	assert_int_equal(
		connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void type(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

/* A client whose first byte has arrived is the one that output goes to. */
static int connect_served(struct fixture *f)
{
	int fd = connect_client(f);

	type(fd, "+");
	wait_received(f, "+");
	take_received(f);
	return fd;
}

static void expect(int fd, const char *text)
{
	char got[256];
	size_t size = 0, want = strlen(text);

	assert_true(want <= sizeof(got));
	while (size < want) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n;

		assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
		n = read(fd, got + size, want - size);
		assert_true(n > 0);
		size += (size_t)n;
	}
	assert_memory_equal(got, text, want);
}

static void expect_end(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char byte;

	assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
	assert_int_equal(read(fd, &byte, 1), 0);
}

static void test_unknown_back_end_is_refused(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(open_chardev(f, "tcp"), -EINVAL);
	assert_string_equal(err_msg(&f->err),
			    "serial: 'tcp' is none of stdio, unix:PATH, "
			    "file:PATH, null");
}

static void test_null_swallows_output(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(open_chardev(f, "null"), 0);
	print(f, "nobody reads this");
	assert_int_equal(chardev_dropped(f->chardev), 0);
	chardev_stop(f->chardev);
}

static void test_file_is_appended_to(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(open_chardev(f, "file:"), 0);
	print(f, "one ");
	chardev_free(f->chardev);
	assert_int_equal(open_chardev(f, "file:"), 0);
	print(f, "two");
	fd = open(f->path, O_RDONLY);
	expect(fd, "one two");
	close(fd);
}

static void test_file_that_cannot_be_made_says_why(void **state)
{
	struct fixture *f = *state;

	snprintf(f->path, sizeof(f->path), "%s/no/serial", f->dir);
	assert_int_equal(open_chardev(f, "file:"), -ENOENT);
	assert_non_null(strstr(err_msg(&f->err), "No such file"));
}

static void test_client_and_device_talk(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	fd = connect_served(f);
	print(f, "login: ");
	expect(fd, "login: ");
	type(fd, "root\n");
	wait_received(f, "root\n");
	close(fd);
}

static void test_output_without_client_is_dropped(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	print(f, "early");
	fd = connect_served(f);
	print(f, "late");
	expect(fd, "late");
	assert_int_equal(chardev_dropped(f->chardev), 0);
	close(fd);
}

static void test_next_client_is_served_after_the_first_left(void **state)
{
	struct fixture *f = *state;
	int first, second;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	first = connect_served(f);
	second = connect_client(f);
	print(f, "a");
	expect(first, "a");
	close(first);
	type(second, "2");
	wait_received(f, "2");
	print(f, "b");
	expect(second, "b");
	close(second);
}

static void test_input_waits_for_room(void **state)
{
	struct fixture *f = *state;
	int fd, unread = 0;

	f->limit = 4;
	assert_int_equal(open_chardev(f, "unix:"), 0);
	fd = connect_client(f);
	type(fd, "123456789");
	wait_received(f, "1234");
	ioctl(fd, TIOCOUTQ, &unread);
	assert_true(unread > 0);
	take_received(f);
	wait_received(f, "5678");
	take_received(f);
	wait_received(f, "9");
	close(fd);
}

static void test_input_of_a_client_that_left_still_arrives(void **state)
{
	struct fixture *f = *state;
	int fd;

	f->limit = 4;
	assert_int_equal(open_chardev(f, "unix:"), 0);
	fd = connect_client(f);
	type(fd, "12345678");
	wait_received(f, "1234");
	close(fd);
	take_received(f);
	wait_received(f, "5678");
	take_received(f);
	fd = connect_client(f);
	type(fd, "n");
	wait_received(f, "n");
	close(fd);
}

static void test_client_that_left_does_not_lock_out_the_next(void **state)
{
	struct fixture *f = *state;
	int first, second;

	f->limit = 1;
	assert_int_equal(open_chardev(f, "unix:"), 0);
	first = connect_client(f);
	type(first, "abc");
	wait_received(f, "a");
	close(first);
	/* The device takes nothing, and yet: output reaches the second. */
	second = connect_client(f);
	for (int left = DEADLINE_MS;; left--) {
		struct pollfd p = { .fd = second, .events = POLLIN };

		assert_true(left > 0);
		print(f, "x");
		if (poll(&p, 1, 1) == 1)
			break;
	}
	expect(second, "x");
	close(second);
}

static void test_half_closed_client_still_gets_output(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	fd = connect_client(f);
	type(fd, "date\n");
	shutdown(fd, SHUT_WR);
	wait_received(f, "date\n");
	print(f, "today");
	expect(fd, "today");
	close(fd);
}

static void test_nothing_arrives_while_stopped(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	fd = connect_served(f);
	chardev_stop(f->chardev);
	chardev_stop(f->chardev);
	type(fd, "kept");
	take_received(f); /* wakes the thread: it may look, not read */
	print(f, "out");
	expect(fd, "out");
	assert_int_equal(front_room(f), f->limit);
	chardev_start(f->chardev);
	wait_received(f, "kept");
	close(fd);
}

static void test_slow_client_never_blocks_and_loses_nothing_early(void **state)
{
	struct fixture *f = *state;
	size_t total = CHARDEV_BACKLOG / 2;
	int fd;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	fd = connect_served(f);
	/* Single bytes, as a guest sends them: the socket alone would take
	 * some hundreds. */
	for (size_t i = 0; i < total; i++)
		print(f, i % 2 ? "b" : "a");
	assert_int_equal(chardev_dropped(f->chardev), 0);
	for (size_t i = 0; i < total; i += 64)
		expect(fd, "abababababababababababababababab"
			   "abababababababababababababababab");
	print(f, "end");
	expect(fd, "end");
	close(fd);
}

static void test_output_past_the_backlog_is_dropped_and_counted(void **state)
{
	struct fixture *f = *state;
	char line[1025];
	int fd;

	memset(line, 'x', 1024);
	line[1024] = '\0';
	assert_int_equal(open_chardev(f, "unix:"), 0);
	fd = connect_served(f);
	for (int i = 0; i < 4096 && !chardev_dropped(f->chardev); i++)
		print(f, line);
	assert_true(chardev_dropped(f->chardev) > 0);
	close(fd);
}

/* Writes as long as there is room, and no more; returns how much it was. */
static size_t write_until_full(struct fixture *f)
{
	uint8_t bytes[4096] = { 0 };
	size_t written = 0, room;

	while ((room = chardev_room(f->chardev)) > 0) {
		assert_true(room <= CHARDEV_BACKLOG);
		if (room > sizeof(bytes))
			room = sizeof(bytes);
		chardev_write(f->chardev, bytes, room);
		written += room;
	}
	return written;
}

static void wait_drained(struct fixture *f)
{
	uint64_t deadline = clock_mono_ns() + DEADLINE_MS * NS_PER_MS;

	lock_acquire(&f->lock);
	while (f->drained == 0)
		assert_int_equal(
			lock_wait_until(&f->lock, &f->changed, deadline), 0);
	lock_release(&f->lock);
}

static void test_device_that_asks_for_room_loses_nothing(void **state)
{
	struct fixture *f = *state;
	size_t written, seen = 0;
	uint8_t bytes[4096];
	int fd;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	/* Nobody listens: all of it goes nowhere. */
	assert_true(chardev_room(f->chardev) > CHARDEV_BACKLOG);
	fd = connect_served(f);
	written = write_until_full(f);
	while (seen < written) {
		ssize_t size = read(fd, bytes, sizeof(bytes));

		assert_true(size > 0);
		seen += (size_t)size;
	}
	wait_drained(f);
	assert_int_equal(chardev_dropped(f->chardev), 0);
	close(fd);
}

static void
test_device_that_waits_for_room_hears_that_the_client_left(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	fd = connect_served(f);
	write_until_full(f);
	close(fd);
	wait_drained(f);
}

static void test_path_in_use_is_refused(void **state)
{
	struct fixture *f = *state;
	struct chardev *other = NULL;
	int fd;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	assert_int_equal(chardev_new(f->spec, &f->options, &other, &f->err),
			 -EADDRINUSE);
	assert_non_null(strstr(err_msg(&f->err), "another process listens"));
	/* The one that was there first works on. */
	fd = connect_served(f);
	print(f, "still here");
	expect(fd, "still here");
	close(fd);
}

static void test_socket_file_that_nobody_listens_on_is_replaced(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	memcpy(address.sun_path, f->path, strlen(f->path) + 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)),
			 0);
	close(fd);
	assert_int_equal(open_chardev(f, "unix:"), 0);
	fd = connect_served(f);
	close(fd);
}

static void test_other_files_are_not_replaced(void **state)
{
	struct fixture *f = *state;
	int fd = open(f->path, O_CREAT | O_WRONLY, 0600);

	close(fd);
	assert_int_equal(open_chardev(f, "unix:"), -EEXIST);
	assert_int_equal(access(f->path, F_OK), 0);
}

static void test_path_too_long_is_refused(void **state)
{
	struct fixture *f = *state;
	char spec[5 + 108 + 1] = "unix:";

	memset(spec + 5, 'x', 108);
	spec[5 + 108] = '\0';
	assert_int_equal(chardev_new(spec, &f->options, &f->chardev, &f->err),
			 -ENAMETOOLONG);
	assert_int_equal(chardev_new("unix:", &f->options, &f->chardev, NULL),
			 -EINVAL);
}

static void test_socket_is_unlinked_only_by_who_made_it(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	chardev_free(f->chardev);
	assert_int_equal(access(f->path, F_OK), -1);

	assert_int_equal(open_chardev(f, "unix:"), 0);
	unlink(f->path);
	fd = open(f->path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	chardev_free(f->chardev);
	f->chardev = NULL;
	assert_int_equal(access(f->path, F_OK), 0);
}

static void test_free_while_a_client_is_connected_ends_it(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(open_chardev(f, "unix:"), 0);
	fd = connect_served(f);
	chardev_free(f->chardev);
	f->chardev = NULL;
	expect_end(fd);
	close(fd);
}

static void test_pipes_as_stdio(void **state)
{
	struct fixture *f = *state;
	int in[2], out[2];

	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	f->options.in_fd = in[0];
	f->options.out_fd = out[1];
	assert_int_equal(open_chardev(f, "stdio"), 0);
	print(f, "hello");
	expect(out[0], "hello");
	/* Not a terminal: Ctrl-A is a byte like any other. */
	type(in[1], "a\001xb");
	wait_received(f, "a\001xb");
	close(in[1]);
	print(f, "after end of input");
	expect(out[0], "after end of input");
	assert_int_equal(f->quits, 0);
	chardev_free(f->chardev);
	f->chardev = NULL;
	close(in[0]);
	close(out[0]);
	close(out[1]);
}

static void test_full_pipe_does_not_block(void **state)
{
	struct fixture *f = *state;
	int in[2], out[2];
	char line[1025];

	memset(line, 'x', 1024);
	line[1024] = '\0';
	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	f->options.in_fd = in[0];
	f->options.out_fd = out[1];
	assert_int_equal(open_chardev(f, "stdio"), 0);
	/* The shell's end stays as it was. */
	assert_int_equal(fcntl(out[1], F_GETFL) & O_NONBLOCK, 0);
	for (int i = 0; i < 1024; i++)
		print(f, line);
	assert_true(chardev_dropped(f->chardev) > 0);
	chardev_free(f->chardev);
	f->chardev = NULL;
	for (int i = 0; i < 2; i++) {
		close(in[i]);
		close(out[i]);
	}
}

static int open_terminal(struct fixture *f, int *ret_terminal)
{
	int keyboard = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

	assert_true(keyboard >= 0);
	assert_int_equal(grantpt(keyboard) | unlockpt(keyboard), 0);
	*ret_terminal = open(ptsname(keyboard), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(*ret_terminal >= 0);
	f->options.in_fd = f->options.out_fd = *ret_terminal;
	return keyboard;
}

static void test_terminal_is_raw_until_freed(void **state)
{
	struct fixture *f = *state;
	struct termios before, during, after;
	int terminal, keyboard = open_terminal(f, &terminal);

	tcgetattr(terminal, &before);
	assert_true(before.c_lflag & ICANON);
	assert_int_equal(open_chardev(f, "stdio"), 0);
	tcgetattr(terminal, &during);
	assert_false(during.c_lflag & (ICANON | ECHO | ISIG));
	assert_true(during.c_oflag & OPOST);
	type(keyboard, "\003q"); /* Ctrl-C is the guest's */
	wait_received(f, "\003q");
	print(f, "out");
	expect(keyboard, "out");
	chardev_free(f->chardev);
	f->chardev = NULL;
	tcgetattr(terminal, &after);
	assert_int_equal(after.c_lflag, before.c_lflag);
	close(terminal);
	close(keyboard);
}

static void test_ctrl_a_escapes_on_a_terminal(void **state)
{
	struct fixture *f = *state;
	int terminal, keyboard = open_terminal(f, &terminal);

	assert_int_equal(open_chardev(f, "stdio"), 0);
	type(keyboard, "a\001\001b\001cx");
	wait_received(f, "a\001bcx");
	assert_int_equal(f->quits, 0);
	chardev_free(f->chardev);
	f->chardev = NULL;
	close(terminal);
	close(keyboard);
}

static void test_ctrl_a_x_quits_even_if_the_guest_does_not_read(void **state)
{
	struct fixture *f = *state;
	int terminal, keyboard = open_terminal(f, &terminal);
	int ret = 0;

	f->limit = 0;
	assert_int_equal(open_chardev(f, "stdio"), 0);
	chardev_stop(f->chardev);
	type(keyboard, "ls\001x");
	lock_acquire(&f->lock);
	while (f->quits == 0 && ret == 0)
		ret = lock_wait_until(&f->lock, &f->changed,
				      clock_mono_ns() +
					      DEADLINE_MS * NS_PER_MS);
	assert_int_equal(ret, 0);
	f->limit = 8;
	lock_release(&f->lock);
	chardev_start(f->chardev);
	wait_received(f, "ls");
	chardev_free(f->chardev);
	f->chardev = NULL;
	close(terminal);
	close(keyboard);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_unknown_back_end_is_refused),
		TEST(test_null_swallows_output),
		TEST(test_file_is_appended_to),
		TEST(test_file_that_cannot_be_made_says_why),
		TEST(test_client_and_device_talk),
		TEST(test_output_without_client_is_dropped),
		TEST(test_next_client_is_served_after_the_first_left),
		TEST(test_input_waits_for_room),
		TEST(test_input_of_a_client_that_left_still_arrives),
		TEST(test_client_that_left_does_not_lock_out_the_next),
		TEST(test_half_closed_client_still_gets_output),
		TEST(test_nothing_arrives_while_stopped),
		TEST(test_slow_client_never_blocks_and_loses_nothing_early),
		TEST(test_output_past_the_backlog_is_dropped_and_counted),
		TEST(test_device_that_asks_for_room_loses_nothing),
		TEST(test_device_that_waits_for_room_hears_that_the_client_left),
		TEST(test_path_in_use_is_refused),
		TEST(test_socket_file_that_nobody_listens_on_is_replaced),
		TEST(test_other_files_are_not_replaced),
		TEST(test_path_too_long_is_refused),
		TEST(test_socket_is_unlinked_only_by_who_made_it),
		TEST(test_free_while_a_client_is_connected_ends_it),
		TEST(test_pipes_as_stdio),
		TEST(test_full_pipe_does_not_block),
		TEST(test_terminal_is_raw_until_freed),
		TEST(test_ctrl_a_escapes_on_a_terminal),
		TEST(test_ctrl_a_x_quits_even_if_the_guest_does_not_read),
	};

	return cmocka_run_group_tests_name("chardev", tests, NULL, NULL);
}
