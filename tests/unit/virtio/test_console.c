// SPDX-License-Identifier: Apache-2.0
/* The console between a driver and a client on a UNIX socket. */
#include <cmocka.h>
#include <errno.h>
#include <linux/virtio_console.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/unix_listen.h"
#include "dev/chardev.h"
#include "driver.h"
#include "virtio/console.h"

enum {
	IN,
	OUT,
};

struct fixture {
	struct driver driver;
	char dir[64], path[96], text[112];
	int client; /* -1: none */
};

static void build(struct fixture *f)
{
	snprintf(f->dir, sizeof(f->dir), "/tmp/godwit-console-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/hvc0", f->dir);
	snprintf(f->text, sizeof(f->text), "unix:%s", f->path);
	f->client = -1;
	driver_init(&f->driver, "console0");
	if (console_new(&f->driver.site, f->text, &f->driver.dev,
			&f->driver.err))
		fail_msg("%s", err_msg(&f->driver.err));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	build(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	driver_fini(&f->driver);
	if (f->client >= 0)
		close(f->client);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void send_text(struct fixture *f, const char *text)
{
	assert_int_equal(send(f->client, text, strlen(text), 0), strlen(text));
}

static void expect_text(struct fixture *f, const char *text)
{
	char bytes[256];
	size_t size = strlen(text);

	assert_int_equal(recv(f->client, bytes, size, MSG_WAITALL), size);
	assert_memory_equal(bytes, text, size);
}

/* Make a receive buffer available, the @index-th. */
static void give_buffer(struct fixture *f, unsigned int index, uint32_t size)
{
	const struct driver_buffer buffer = { driver_buffer(IN, index), size,
					      true };

	driver_add(&f->driver, IN, &buffer, 1);
	driver_kick(&f->driver, IN);
}

static void expect_driver(struct fixture *f, unsigned int index,
			  const char *text)
{
	assert_int_equal(driver_take(&f->driver, IN, NULL), strlen(text));
	assert_memory_equal(driver_at(&f->driver, driver_buffer(IN, index)),
			    text, strlen(text));
}

/* Hand over @size bytes of the pattern from @seed on, not waited for. */
static void write_pattern(struct fixture *f, uint32_t size, uint8_t seed)
{
	const struct driver_buffer buffer = { driver_buffer(OUT, 0), size,
					      false };
	uint8_t *bytes = driver_at(&f->driver, buffer.gpa);

	for (uint32_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(seed + i % 251);
	driver_add(&f->driver, OUT, &buffer, 1);
	driver_kick(&f->driver, OUT);
}

static void write_text(struct fixture *f, const char *text)
{
	const struct driver_buffer buffer = { driver_buffer(OUT, 0),
					      (uint32_t)strlen(text), false };

	memcpy(driver_at(&f->driver, buffer.gpa), text, strlen(text));
	driver_add(&f->driver, OUT, &buffer, 1);
	driver_kick(&f->driver, OUT);
	assert_int_equal(driver_take(&f->driver, OUT, NULL), 0);
}

/* The back end serves a client from when it has accepted it, which what comes in
 * proves. */
static void attach(struct fixture *f)
{
	const struct timeval limit = { .tv_sec = DRIVER_LIMIT_MS / 1000 };
	struct sockaddr_un address;

	assert_int_equal(unix_address(&address, f->path, NULL), 0);
	f->client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(f->client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(connect(f->client, (struct sockaddr *)&address,
				 sizeof(address)),
			 0);
	send_text(f, "!");
	give_buffer(f, 0, 1);
	expect_driver(f, 0, "!");
}

static void test_bytes_pass_both_ways(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, 0));
	attach(f);
	write_text(f, "login: ");
	expect_text(f, "login: ");
	give_buffer(f, 1, 64);
	send_text(f, "root\n");
	expect_driver(f, 1, "root\n");
}

static void test_input_waits_for_the_driver_s_buffers(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, 0));
	attach(f);
	send_text(f, "abcdefg");
	give_buffer(f, 1, 3);
	give_buffer(f, 2, 3);
	expect_driver(f, 1, "abc");
	expect_driver(f, 2, "def");
	give_buffer(f, 3, 3);
	expect_driver(f, 3, "g");
}

static void
test_client_is_held_back_while_the_driver_takes_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t sent = 0, taken = 0;
	uint8_t bytes[1000];
	ssize_t size;

	assert_true(driver_start(&f->driver, 0));
	attach(f);
	for (;;) {
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)((sent + i) % 251);
		size = send(f->client, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (size < 0)
			break;
		sent += (uint64_t)size;
	}
	assert_int_equal(errno, EAGAIN);
	while (taken < sent) {
		const uint8_t *got =
			driver_at(&f->driver, driver_buffer(IN, 1));
		uint32_t count;

		give_buffer(f, 1, 1500);
		count = driver_take(&f->driver, IN, NULL);
		for (uint32_t i = 0; i < count; i++)
			assert_int_equal(got[i], (taken + i) % 251);
		taken += count;
	}
}

#define LARGE 200000u /* bytes of one write */

/* Writes until the client, who does not read, keeps one waiting; returns how many
 * writes were done. */
static unsigned int fill_client(struct fixture *f)
{
	struct pollfd p = { .fd = f->driver.queues[OUT].call_fd,
			    .events = POLLIN };
	unsigned int done = 0;

	for (;;) {
		write_pattern(f, LARGE, 7);
		/* Long enough for any that goes through. */
		while (!driver_has_used(&f->driver, OUT)) {
			if (poll(&p, 1, 1000) == 0)
				return done;
			driver_await(p.fd);
		}
		driver_take(&f->driver, OUT, NULL);
		done++;
	}
}

/* Bytes [from, to) of a write. */
static void expect_part(struct fixture *f, uint64_t from, uint64_t to)
{
	uint8_t *bytes = malloc(LARGE);

	assert_int_equal(recv(f->client, bytes, to - from, MSG_WAITALL),
			 to - from);
	for (uint64_t i = from; i < to; i++)
		assert_int_equal(bytes[i - from], (uint8_t)(7 + i % 251));
	free(bytes);
}

static void expect_pattern(struct fixture *f, unsigned int writes)
{
	for (; writes; writes--)
		expect_part(f, 0, LARGE);
}

static void
test_driver_is_held_back_by_a_client_that_does_not_read(void **state)
{
	struct fixture *f = *state;
	unsigned int done;

	assert_true(driver_start(&f->driver, 0));
	attach(f);
	done = fill_client(f);
	/* What was taken so far is in the socket and the backlog. */
	assert_true(done * LARGE <= (1u << 20));
	expect_pattern(f, done + 1);
	driver_take(&f->driver, OUT, NULL);
}

static void test_client_that_leaves_holds_nobody_back(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, 0));
	attach(f);
	fill_client(f);
	close(f->client);
	f->client = -1;
	driver_take(&f->driver, OUT, NULL);
	write_text(f, "to nobody");
	attach(f);
	write_text(f, "hello");
	expect_text(f, "hello");
}

/* How much of the write under way has gone out, by the saved state. */
static uint64_t saved_written(struct fixture *f)
{
	struct state_entry *entry =
		state_find(&f->driver.board.state, "console0-port");
	struct bytes_writer bytes = { .data = NULL };
	uint64_t written;

	assert_int_equal(state_save(entry, &bytes, NULL), 0);
	memcpy(&written, bytes.data + bytes.size - 8, 8);
	bytes_writer_fini(&bytes);
	return written;
}

static void test_half_a_write_and_half_an_input_go_on_elsewhere(void **state)
{
	struct fixture *f = *state, *to;
	uint64_t written;
	unsigned int done;
	void *other;

	setup(&other);
	to = other;
	assert_true(driver_start(&to->driver, 0));
	attach(to);
	driver_pause(&to->driver);

	assert_true(driver_start(&f->driver, 0));
	attach(f);
	send_text(f, "abc");
	give_buffer(f, 1, 1);
	expect_driver(f, 1, "a");
	done = fill_client(f);
	driver_pause(&f->driver);
	written = saved_written(f);
	assert_true(written > 0 && written < LARGE);
	driver_move(&f->driver, &to->driver);
	expect_pattern(f, done);
	expect_part(f, 0, written);

	vdev_run(to->driver.dev);
	expect_part(to, written, LARGE);
	driver_take(&to->driver, OUT, NULL);
	give_buffer(to, 2, 64);
	expect_driver(to, 2, "bc");
	teardown(&other);
}

static void test_byte_of_a_kernel_without_a_driver_is_shown(void **state)
{
	struct fixture *f = *state;
	const uint8_t bytes[4] = { 'K' };

	assert_true(driver_start(&f->driver, 0));
	attach(f);
	driver_reset(&f->driver);
	lock_acquire(&f->driver.dev->lock);
	vdev_config_set(f->driver.dev,
			offsetof(struct virtio_console_config, emerg_wr), 4,
			bytes);
	vdev_config_set(f->driver.dev, 0, 2, bytes);
	lock_release(&f->driver.dev->lock);
	expect_text(f, "K");
	assert_true(driver_start(&f->driver, 0));
	write_text(f, "!");
	expect_text(f, "!");
}

static void test_unknown_back_end_is_named(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct vdev_site site = f->driver.site;
	struct vdev *dev;

	site.name = "console1";
	assert_int_equal(console_new(&site, "tcp", &dev, &err), -EINVAL);
	assert_string_equal(err_msg(&err),
			    "console1: 'tcp' is none of stdio, unix:PATH, "
			    "file:PATH, null");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_bytes_pass_both_ways),
		TEST(test_input_waits_for_the_driver_s_buffers),
		TEST(test_client_is_held_back_while_the_driver_takes_nothing),
		TEST(test_driver_is_held_back_by_a_client_that_does_not_read),
		TEST(test_client_that_leaves_holds_nobody_back),
		TEST(test_half_a_write_and_half_an_input_go_on_elsewhere),
		TEST(test_byte_of_a_kernel_without_a_driver_is_shown),
		TEST(test_unknown_back_end_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
