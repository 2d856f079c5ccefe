// SPDX-License-Identifier: Apache-2.0
/* A save has its name once it is whole, and then for good; what could keep it
 * from that is found before the first byte. */
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
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "migrate/channel.h"

#define NOBODY 65534

struct fixture {
	char folder[32], path[64], part[72], uri[80];
	struct channel a, b;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->folder, "/tmp/godwit-test-XXXXXX");
	assert_non_null(mkdtemp(f->folder));
	snprintf(f->path, sizeof(f->path), "%s/s", f->folder);
	snprintf(f->part, sizeof(f->part), "%s.part", f->path);
	snprintf(f->uri, sizeof(f->uri), "file:%s", f->path);
	f->a = f->b = (struct channel)CHANNEL_INIT;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	channel_close(&f->a);
	channel_close(&f->b);
	unlink(f->path);
	assert_int_equal(rmdir(f->folder), 0); /* nothing else is left */
	free(f);
	return 0;
}

/* ---- what fails ---- */

static bool has_bad_disk;
static size_t refused_size;

int __real_fsync(int fd);
int __wrap_fsync(int fd);
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

/* Names are lost there, bytes are not. */
int __wrap_fsync(int fd)
{
	struct stat st;

	if (!has_bad_disk || fstat(fd, &st) || !S_ISDIR(st.st_mode))
		return __real_fsync(fd);
	errno = EIO;
	return -1;
}

void *__wrap_malloc(size_t size)
{
	return size && size == refused_size ? NULL : __real_malloc(size);
}

/* ---- the facts ---- */

static int start(struct fixture *f, struct channel *channel, struct err *err)
{
	return channel_connect(channel, f->uri, -1, NULL, NULL, err);
}

static void write_text(struct channel *channel, const char *text)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)text,
			     .iov_len = strlen(text) };

	assert_int_equal(channel_send(channel, &iov, 1, NULL), 0);
}

static void assert_holds(const char *path, const char *text)
{
	char bytes[32] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_true(read(fd, bytes, sizeof(bytes) - 1) >= 0);
	close(fd);
	assert_string_equal(bytes, text);
}

/* Its name is for good: whoever finds it may run the guest. */
static void test_save_with_its_name_has_not_failed(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	assert_int_equal(start(f, &f->a, NULL), 0);
	write_text(&f->a, "whole");
	has_bad_disk = true;
	assert_int_equal(channel_commit(&f->a, &err), 0);
	has_bad_disk = false;
	assert_int_equal(err.code, 0);
	channel_close(&f->a);
	assert_holds(f->path, "whole");
}

static void test_folder_that_cannot_be_synced_is_refused_first(void **state)
{
	struct fixture *f = *state;
	bool is_root = geteuid() == 0;
	int ret;

	assert_int_equal(chmod(f->folder, 0300), 0);
	if (is_root) {
		assert_int_equal(chown(f->folder, NOBODY, NOBODY), 0);
		assert_int_equal(seteuid(NOBODY), 0);
	}
	ret = start(f, &f->a, NULL);
	if (is_root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(ret, -EACCES);
	assert_int_equal(f->a.fd, -1);
	assert_int_equal(access(f->part, F_OK), -1);
}

static void test_second_save_to_one_path_is_refused(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	assert_int_equal(start(f, &f->a, NULL), 0);
	write_text(&f->a, "first");
	assert_int_equal(start(f, &f->b, &err), -EBUSY);
	assert_non_null(strstr(err_msg(&err), "s.part"));
	assert_int_equal(channel_commit(&f->a, NULL), 0);
	assert_holds(f->path, "first");
	/* Its descriptor is still open, and no part any more. */
	assert_int_equal(start(f, &f->b, NULL), 0);
	assert_holds(f->path, "first");
}

static void test_part_of_a_save_that_died_is_written_anew(void **state)
{
	struct fixture *f = *state;
	int fd = open(f->part, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, "what was left", 13), 13);
	close(fd);
	assert_int_equal(start(f, &f->a, NULL), 0);
	write_text(&f->a, "new");
	assert_int_equal(channel_commit(&f->a, NULL), 0);
	assert_holds(f->path, "new");
}

static void test_part_that_is_a_link_is_not_followed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(symlink("/dev/null", f->part), 0);
	assert_int_equal(start(f, &f->a, NULL), -ELOOP);
	assert_int_equal(unlink(f->part), 0);
}

static void test_save_without_a_channel_leaves_no_part(void **state)
{
	struct fixture *f = *state;

	refused_size = 16u << 10; /* what is read ahead */
	assert_int_equal(start(f, &f->a, NULL), -ENOMEM);
	refused_size = 0;
	assert_int_equal(access(f->part, F_OK), -1);
}

static void test_name_that_cannot_be_had_is_refused_first(void **state)
{
	struct fixture *f = *state;
	char uri[400];
	int size = snprintf(uri, sizeof(uri), "file:%s/", f->folder);

	/* .part would be too long for a file system */
	memset(uri + size, 'n', 251);
	uri[size + 251] = '\0';
	assert_int_equal(channel_connect(&f->a, uri, -1, NULL, NULL, NULL),
			 -ENAMETOOLONG);
	strcpy(uri + size, "no/");
	assert_int_equal(channel_connect(&f->a, uri, -1, NULL, NULL, NULL),
			 -EISDIR);
}

static void test_save_follows_its_folder(void **state)
{
	struct fixture *f = *state;
	char other[40], path[64];

	snprintf(other, sizeof(other), "%s.moved", f->folder);
	snprintf(path, sizeof(path), "%s/s", other);
	assert_int_equal(start(f, &f->a, NULL), 0);
	write_text(&f->a, "whole");
	assert_int_equal(rename(f->folder, other), 0);
	assert_int_equal(channel_commit(&f->a, NULL), 0);
	assert_holds(path, "whole");
	assert_int_equal(rename(other, f->folder), 0);
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_save_with_its_name_has_not_failed),
		fact(test_folder_that_cannot_be_synced_is_refused_first),
		fact(test_second_save_to_one_path_is_refused),
		fact(test_part_of_a_save_that_died_is_written_anew),
		fact(test_part_that_is_a_link_is_not_followed),
		fact(test_save_without_a_channel_leaves_no_part),
		fact(test_name_that_cannot_be_had_is_refused_first),
		fact(test_save_follows_its_folder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
