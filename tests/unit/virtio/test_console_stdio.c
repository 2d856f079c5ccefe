// SPDX-License-Identifier: Apache-2.0
/* The console between a driver and what this process has for standard input and
 * output, which are pipes here while a test runs. */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "driver.h"
#include "virtio/console.h"

enum {
	IN,
	OUT,
};

enum {
	READ_END,
	WRITE_END,
};

struct fixture {
	struct driver driver;
	int typed[2], printed[2]; /* pipes */
	int saved[2];             /* what was standard input and output */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(pipe2(f->typed, O_CLOEXEC), 0);
	assert_int_equal(pipe2(f->printed, O_CLOEXEC), 0);
	fflush(stdout);
	for (int fd = 0; fd < 2; fd++)
		f->saved[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	dup2(f->typed[READ_END], 0);
	dup2(f->printed[WRITE_END], 1);
	driver_init(&f->driver, "console0");
	*state = f;
	return console_new(&f->driver.site, "stdio", &f->driver.dev,
			   &f->driver.err);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	driver_fini(&f->driver);
	for (int fd = 0; fd < 2; fd++) {
		dup2(f->saved[fd], fd);
		close(f->saved[fd]);
		close(f->typed[fd]);
		close(f->printed[fd]);
	}
	free(f);
	return 0;
}

static void
test_what_is_typed_is_input_and_what_is_output_is_printed(void **state)
{
	struct fixture *f = *state;
	const struct driver_buffer in = { driver_buffer(IN, 0), 64, true };
	const struct driver_buffer out = { driver_buffer(OUT, 0), 7, false };
	struct pollfd poll_fd = { .fd = f->printed[READ_END],
				  .events = POLLIN };
	char bytes[64];

	assert_true(driver_start(&f->driver, 0));
	driver_add(&f->driver, IN, &in, 1);
	driver_kick(&f->driver, IN);
	assert_int_equal(write(f->typed[WRITE_END], "root\n", 5), 5);
	assert_int_equal(driver_take(&f->driver, IN, NULL), 5);
	assert_memory_equal(driver_at(&f->driver, in.gpa), "root\n", 5);
	memcpy(driver_at(&f->driver, out.gpa), "login: ", out.size);
	driver_add(&f->driver, OUT, &out, 1);
	driver_kick(&f->driver, OUT);
	assert_int_equal(driver_take(&f->driver, OUT, NULL), 0);
	assert_int_equal(poll(&poll_fd, 1, DRIVER_LIMIT_MS), 1);
	assert_int_equal(read(f->printed[READ_END], bytes, sizeof(bytes)), 7);
	assert_memory_equal(bytes, "login: ", 7);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_what_is_typed_is_input_and_what_is_output_is_printed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
