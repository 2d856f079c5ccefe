// SPDX-License-Identifier: Apache-2.0
/* Listening sockets: whose file is replaced, refused, removed. */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/unix_listen.h"

struct fixture {
	char folder[32], path[64];
	struct unix_listener listener;
	struct err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->folder, "/tmp/godwit-XXXXXX");
	assert_non_null(mkdtemp(f->folder));
	snprintf(f->path, sizeof(f->path), "%s/s", f->folder);
	f->listener = (struct unix_listener)UNIX_LISTENER_INIT;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unix_listener_close(&f->listener);
	unlink(f->path);
	rmdir(f->folder);
	free(f);
	return 0;
}

static int open_it(struct fixture *f)
{
	return unix_listener_open(&f->listener, f->path, 1, &f->err);
}

static int connect_it(struct fixture *f)
{
	struct sockaddr_un addr;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int ret;

	assert_int_equal(unix_address(&addr, f->path, NULL), 0);
	ret = connect(fd, (struct sockaddr *)&addr, sizeof(addr)) ? -errno : fd;
	if (ret < 0)
		close(fd);
	return ret;
}

static void test_only_the_owner_may_connect_and_no_child_inherits(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	assert_int_equal(open_it(f), 0);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(fcntl(f->listener.fd, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(f->listener.fd, F_GETFL) & O_NONBLOCK);
	close(connect_it(f));
}

static void test_file_goes_with_its_listener(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(open_it(f), 0);
	unix_listener_close(&f->listener);
	assert_int_equal(f->listener.fd, -1);
	assert_int_equal(access(f->path, F_OK), -1);
	unix_listener_close(&f->listener);
}

static void test_file_that_took_its_place_stays(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(open_it(f), 0);
	unlink(f->path);
	fd = open(f->path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	unix_listener_close(&f->listener);
	assert_int_equal(access(f->path, F_OK), 0);
}

static void test_socket_that_nobody_listens_on_is_replaced(void **state)
{
	struct fixture *f = *state;
	int kept;

	assert_int_equal(open_it(f), 0);
	/* As if its process had been killed. */
	close(f->listener.fd);
	assert_int_equal(connect_it(f), -ECONNREFUSED);
	assert_int_equal(open_it(f), 0);
	kept = connect_it(f);
	assert_true(kept >= 0);
	close(kept);
}

static void test_live_listener_is_refused_however_busy(void **state)
{
	struct fixture *f = *state;
	struct unix_listener second;
	int waiting[3];

	assert_int_equal(open_it(f), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(
			unix_listener_open(&second, f->path, 1, &f->err),
			-EADDRINUSE);
		assert_int_equal(second.fd, -1);
		assert_non_null(strstr(err_msg(&f->err), f->path));
		/* In the end its queue is full: EAGAIN. */
		waiting[i] = connect_it(f);
	}
	for (int i = 0; i < 3; i++) {
		if (waiting[i] >= 0)
			close(waiting[i]);
	}
	assert_int_equal(access(f->path, F_OK), 0);
}

static void test_files_of_other_kinds_are_refused(void **state)
{
	struct fixture *f = *state;

	close(open(f->path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(open_it(f), -EEXIST);
	assert_int_equal(access(f->path, F_OK), 0);
	unlink(f->path);
	assert_int_equal(symlink("/dev/null", f->path), 0);
	err_clear(&f->err);
	assert_int_equal(open_it(f), -EEXIST);
}

static void test_paths_that_do_not_fit_are_refused(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un addr;
	char path[109];

	memset(path, 'x', sizeof(path));
	path[108] = '\0';
	assert_int_equal(unix_address(&addr, path, &f->err), -ENAMETOOLONG);
	assert_non_null(strstr(err_msg(&f->err), "at most 107"));
	path[107] = '\0';
	assert_int_equal(unix_address(&addr, path, NULL), 0);
	assert_string_equal(addr.sun_path, path);
	assert_int_equal(unix_address(&addr, "", NULL), -EINVAL);
	strcpy(f->path, "/nonexistent/s");
	err_clear(&f->err);
	assert_int_equal(open_it(f), -ENOENT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_only_the_owner_may_connect_and_no_child_inherits),
		TEST(test_file_goes_with_its_listener),
		TEST(test_file_that_took_its_place_stays),
		TEST(test_socket_that_nobody_listens_on_is_replaced),
		TEST(test_live_listener_is_refused_however_busy),
		TEST(test_files_of_other_kinds_are_refused),
		TEST(test_paths_that_do_not_fit_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
