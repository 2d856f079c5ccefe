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

/* A back end that takes as much as the test says. */
struct fake {
	struct chardev base;
	struct lock lock;
	size_t limit, size;
	uint8_t bytes[1 << 18];
	int full_fd; /* eventfd: asked for room and had none */
};

static size_t fake_room(struct chardev *chardev)
{
	struct fake *fake = (struct fake *)chardev;
	size_t room;

	lock_acquire(&fake->lock);
	room = fake->limit - fake->size;
	lock_release(&fake->lock);
	if (room == 0)
		driver_signal(fake->full_fd);
	return room;
}

static void fake_write(struct chardev *chardev, const uint8_t *bytes,
		       size_t size)
{
	struct fake *fake = (struct fake *)chardev;

	lock_acquire(&fake->lock);
	assert_true(size <= fake->limit - fake->size);
	memcpy(fake->bytes + fake->size, bytes, size);
	fake->size += size;
	lock_release(&fake->lock);
}

static void fake_free(struct chardev *chardev)
{
	struct fake *fake = (struct fake *)chardev;

	close(fake->full_fd);
	free(fake);
}

static const struct chardev_ops fake_ops = {
	.room = fake_room,
	.write = fake_write,
	.free = fake_free,
};

static struct fake *last_fake; /* that was made */

int __wrap_chardev_new(const char *spec, const struct chardev_options *options,
		       struct chardev **ret_chardev, struct err *err);
int __real_chardev_new(const char *spec, const struct chardev_options *options,
		       struct chardev **ret_chardev, struct err *err);

int __wrap_chardev_new(const char *spec, const struct chardev_options *options,
		       struct chardev **ret_chardev, struct err *err)
{
	struct fake *fake;

	if (strcmp(spec, "fake") != 0)
		return __real_chardev_new(spec, options, ret_chardev, err);
	fake = calloc(1, sizeof(*fake));
	fake->base.ops = &fake_ops;
	lock_init(&fake->lock, LOCK_EVENT);
	fake->full_fd = eventfd(0, EFD_CLOEXEC);
	last_fake = fake;
	*ret_chardev = &fake->base;
	return 0;
}

/* There is room for @limit bytes in all from now on. */
static void fake_allow(struct fake *fake, size_t limit)
{
	lock_acquire(&fake->lock);
	fake->limit = limit;
	lock_release(&fake->lock);
	fake->base.front->drained(fake->base.front_opaque);
}

/* Until it has @size bytes, and was asked for more room. */
static void fake_await(struct fake *fake, size_t size)
{
	size_t now;

	do {
		driver_await(fake->full_fd);
		lock_acquire(&fake->lock);
		now = fake->size;
		lock_release(&fake->lock);
	} while (now < size);
}

static void build(struct fixture *f, bool is_fake)
{
	snprintf(f->dir, sizeof(f->dir), "/tmp/godwit-console-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/hvc0", f->dir);
	snprintf(f->text, sizeof(f->text), "unix:%s", f->path);
	f->client = -1;
	driver_init(&f->driver, "console0");
	if (console_new(&f->driver.site, is_fake ? "fake" : f->text,
			&f->driver.dev, &f->driver.err))
		fail_msg("%s", err_msg(&f->driver.err));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	build(f, false);
	*state = f;
	return 0;
}

static int setup_fake(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	build(f, true);
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

#define LARGE  200000u /* bytes of one write */
#define WRITES 8u      /* more than socket and backlog take */

/* The @at-th byte of a large write. */
static uint8_t pattern(uint32_t at)
{
	return (uint8_t)(7 + at % 251);
}

/* Hand over the same large write @count times, and wait for none. */
static void write_large(struct fixture *f, unsigned int count)
{
	const struct driver_buffer buffer = { driver_buffer(OUT, 0), LARGE,
					      false };
	uint8_t *bytes = driver_at(&f->driver, buffer.gpa);

	for (uint32_t i = 0; i < LARGE; i++)
		bytes[i] = pattern(i);
	while (count--)
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

static void expect_writes(struct fixture *f, unsigned int count)
{
	uint8_t *bytes = malloc(LARGE);

	for (; count; count--) {
		assert_int_equal(recv(f->client, bytes, LARGE, MSG_WAITALL),
				 LARGE);
		for (uint32_t i = 0; i < LARGE; i++)
			assert_int_equal(bytes[i], pattern(i));
	}
	free(bytes);
}

static void test_slow_client_loses_nothing(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, 0));
	attach(f);
	write_large(f, WRITES);
	expect_writes(f, WRITES);
	for (unsigned int i = 0; i < WRITES; i++)
		driver_take(&f->driver, OUT, NULL);
}

static void test_client_that_leaves_holds_nobody_back(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, 0));
	attach(f);
	write_large(f, WRITES);
	close(f->client);
	for (unsigned int i = 0; i < WRITES; i++)
		driver_take(&f->driver, OUT, NULL);
	attach(f);
	write_text(f, "hello");
	expect_text(f, "hello");
}

/* ---- with a back end that says how much it takes ---- */

static void test_driver_is_held_back_by_a_reader_that_is_slow(void **state)
{
	struct fixture *f = *state;
	struct fake *fake = last_fake;

	assert_true(driver_start(&f->driver, 0));
	write_large(f, 1);
	driver_await(fake->full_fd);
	fake_allow(fake, 5000);
	fake_await(fake, 5000);
	assert_false(driver_has_used(&f->driver, OUT));
	assert_int_equal(fake->size, 5000);
	fake_allow(fake, LARGE);
	driver_take(&f->driver, OUT, NULL);
	for (uint32_t i = 0; i < LARGE; i++)
		assert_int_equal(fake->bytes[i], pattern(i));
}

static void test_half_a_write_and_half_an_input_go_on_elsewhere(void **state)
{
	struct fixture *f = *state, *to;
	struct fake *fake = last_fake, *other_fake;
	void *other;

	setup_fake(&other);
	to = other;
	other_fake = last_fake;
	assert_true(driver_start(&f->driver, 0));
	fake->base.front->receive(fake->base.front_opaque,
				  (const uint8_t *)"abc", 3);
	give_buffer(f, 1, 1);
	expect_driver(f, 1, "a");
	write_large(f, 1);
	driver_await(fake->full_fd);
	fake_allow(fake, 5000);
	fake_await(fake, 5000);
	driver_pause(&f->driver);
	driver_move(&f->driver, &to->driver);

	vdev_run(to->driver.dev);
	fake_allow(other_fake, LARGE);
	driver_take(&to->driver, OUT, NULL);
	assert_int_equal(other_fake->size, LARGE - 5000);
	for (uint32_t i = 0; i < LARGE - 5000; i++)
		assert_int_equal(other_fake->bytes[i], pattern(i + 5000));
	assert_int_equal(fake->size, 5000);
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
#define TEST_FAKE(name) \
	cmocka_unit_test_setup_teardown(name, setup_fake, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_bytes_pass_both_ways),
		TEST(test_input_waits_for_the_driver_s_buffers),
		TEST(test_client_is_held_back_while_the_driver_takes_nothing),
		TEST(test_slow_client_loses_nothing),
		TEST(test_client_that_leaves_holds_nobody_back),
		TEST_FAKE(test_driver_is_held_back_by_a_reader_that_is_slow),
		TEST_FAKE(test_half_a_write_and_half_an_input_go_on_elsewhere),
		TEST(test_byte_of_a_kernel_without_a_driver_is_shown),
		TEST(test_unknown_back_end_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
