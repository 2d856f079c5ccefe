// SPDX-License-Identifier: Apache-2.0
/* Disks in files: what io_uring does to real ones, locks, and what is refused. */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "blk_front.h"

#define SIZE (8u << 20)

struct scene {
	char folder[64], path[96];
	struct front front;
	struct err err;
	uint8_t *memory; /* SIZE, page aligned */
};

/* @place: a folder to have it in; of another file system each. */
static int setup_in(void **state, const char *place)
{
	struct scene *s = calloc(1, sizeof(*s));
	int fd;

	snprintf(s->folder, sizeof(s->folder), "%s/godwit-blk-XXXXXX", place);
	if (!mkdtemp(s->folder))
		return -1;
	snprintf(s->path, sizeof(s->path), "%s/disk", s->folder);
	fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, SIZE) < 0 ||
	    posix_memalign((void **)&s->memory, 4096, SIZE))
		return -1;
	for (size_t i = 0; i < SIZE; i++)
		s->memory[i] = (uint8_t)(i * 7 + (i >> 9));
	close(fd);
	*state = s;
	return 0;
}

static int setup(void **state)
{
	return setup_in(state, "/var/tmp");
}

static int setup_shm(void **state)
{
	return setup_in(state, "/dev/shm");
}

static int teardown(void **state)
{
	struct scene *s = *state;

	front_fini(&s->front);
	unlink(s->path);
	rmdir(s->folder);
	free(s->memory);
	free(s);
	return 0;
}

static struct blk_where where_of(const struct scene *s)
{
	return (struct blk_where){ .path = s->path };
}

static int try_open(struct scene *s, const struct blk_where *where)
{
	struct blk_backend *backend;
	int ret;

	err_clear(&s->err);
	ret = blk_file_open(where, &backend, &s->err);
	if (ret == 0)
		front_init(&s->front, backend);
	return ret;
}

static void open_disk(struct scene *s)
{
	struct blk_where where = where_of(s);

	assert_int_equal(try_open(s, &where), 0);
}

/* False, said aloud, where the file system has no O_DIRECT. */
static bool open_direct(struct scene *s)
{
	struct blk_where where = where_of(s);

	where.is_direct = true;
	if (try_open(s, &where) == 0)
		return true;
	assert_non_null(strstr(err_msg(&s->err), "direct=on"));
	print_message("skipped: no direct I/O in %s\n", s->folder);
	return false;
}

/* The file as another process sees it. */
static void read_file(struct scene *s, uint64_t offset, void *buf, size_t size)
{
	int fd = open(s->path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, buf, size, (off_t)offset), size);
	close(fd);
}

static void assert_zero(const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		assert_int_equal(bytes[i], 0);
}

/* ---- requests ---- */

static void test_written_bytes_are_in_the_file_and_read_back(void **state)
{
	struct scene *s = *state;
	uint8_t *buf = malloc(1 << 20);

	open_disk(s);
	assert_int_equal(s->front.backend->info.size, SIZE);
	assert_int_equal(s->front.backend->info.block_size, 512);
	assert_int_equal(
		front_do(&s->front, BLK_WRITE, 512, s->memory, 1 << 20), 0);
	assert_int_equal(front_do(&s->front, BLK_FLUSH, 0, NULL, 0), 0);
	read_file(s, 512, buf, 1 << 20);
	assert_memory_equal(buf, s->memory, 1 << 20);
	memset(buf, 0, 1 << 20);
	assert_int_equal(front_do(&s->front, BLK_READ, 512, buf, 1 << 20), 0);
	assert_memory_equal(buf, s->memory, 1 << 20);
	free(buf);
}

static void test_pieces_of_any_size_make_one_request(void **state)
{
	struct scene *s = *state;
	struct front_io write = { .io = { .op = BLK_WRITE,
					  .offset = 4096,
					  .size = 4096,
					  .is_durable = true,
					  .iovec_count = 4 } };
	uint8_t buf[4096];

	open_disk(s);
	write.iovecs[0] = (struct iovec){ s->memory, 1 };
	write.iovecs[1] = (struct iovec){ s->memory + 1, 510 };
	write.iovecs[2] = (struct iovec){ s->memory + 511, 3000 };
	write.iovecs[3] = (struct iovec){ s->memory + 3511, 585 };
	front_begin(&s->front, &write);
	assert_int_equal(front_wait(&write), 0);
	read_file(s, 4096, buf, sizeof(buf));
	assert_memory_equal(buf, s->memory, sizeof(buf));
}

static void test_many_requests_are_all_done_once(void **state)
{
	struct scene *s = *state;
	struct front_io *requests = calloc(BLK_REQUESTS_MAX, sizeof(*requests));
	uint8_t *buf = malloc(SIZE);
	size_t piece = SIZE / BLK_REQUESTS_MAX;

	open_disk(s);
	for (unsigned int round = 0; round < 2; round++) {
		for (unsigned int i = 0; i < BLK_REQUESTS_MAX; i++) {
			uint8_t *at = round ? buf : s->memory;

			requests[i].io = (struct blk_io){
				.op = round ? BLK_READ : BLK_WRITE,
				.offset = i * piece,
				.size = piece,
				.iovec_count = 1,
			};
			requests[i].iovecs[0] =
				(struct iovec){ at + i * piece, piece };
			front_begin(&s->front, &requests[i]);
		}
		for (unsigned int i = 0; i < BLK_REQUESTS_MAX; i++)
			assert_int_equal(front_wait(&requests[i]), 0);
	}
	assert_memory_equal(buf, s->memory, SIZE);
	free(buf);
	free(requests);
}

static void test_direct_requests_need_no_aligned_memory(void **state)
{
	struct scene *s = *state;
	size_t size = 3 * BLK_BOUNCE_SIZE + 4096;
	uint8_t *buf = malloc(size + 1);

	if (!open_direct(s))
		goto out;
	assert_int_equal(
		front_do(&s->front, BLK_WRITE, 4096, s->memory + 1, size), 0);
	assert_int_equal(front_do(&s->front, BLK_READ, 4096, buf + 1, size), 0);
	assert_memory_equal(buf + 1, s->memory + 1, size);
	/* And aligned ones go straight. */
	assert_int_equal(front_do(&s->front, BLK_READ, 4096, s->memory, 65536),
			 0);
	assert_memory_equal(s->memory, buf + 1, 65536);
out:
	free(buf);
}

static void test_requests_wait_for_bounce_buffers(void **state)
{
	struct scene *s = *state;
	unsigned int count = 4 * BLK_BOUNCE_COUNT;
	struct front_io *requests = calloc(count, sizeof(*requests));
	uint8_t *buf = malloc(SIZE);

	if (!open_direct(s))
		goto out;
	for (unsigned int i = 0; i < count; i++) {
		requests[i].io = (struct blk_io){ .op = BLK_WRITE,
						  .offset = i * 8192ull,
						  .size = 8192,
						  .iovec_count = 1 };
		requests[i].iovecs[0] =
			(struct iovec){ s->memory + i * 8192 + 3, 8192 };
		front_begin(&s->front, &requests[i]);
	}
	for (unsigned int i = 0; i < count; i++)
		assert_int_equal(front_wait(&requests[i]), 0);
	read_file(s, 0, buf, count * 8192);
	assert_memory_equal(buf, s->memory + 3, count * 8192);
out:
	free(buf);
	free(requests);
}

static uint64_t blocks_of(struct scene *s)
{
	struct stat st;

	assert_int_equal(stat(s->path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_discarded_ranges_free_their_blocks(void **state)
{
	struct scene *s = *state;

	open_disk(s);
	assert_int_equal(front_do(&s->front, BLK_WRITE, 0, s->memory, 1 << 20),
			 0);
	assert_int_equal(front_do(&s->front, BLK_FLUSH, 0, NULL, 0), 0);
	assert_true(blocks_of(s) >= 1 << 20);
	assert_int_equal(front_do(&s->front, BLK_DISCARD, 0, NULL, 1 << 20), 0);
	assert_true(blocks_of(s) < 65536);
}

static void zero(struct scene *s, bool may_unmap, bool is_durable)
{
	struct front_io request = { .io = { .op = BLK_ZERO,
					    .offset = 65536,
					    .size = 1 << 20,
					    .may_unmap = may_unmap,
					    .is_durable = is_durable } };
	uint8_t *buf = malloc(2 << 20);

	assert_int_equal(front_do(&s->front, BLK_WRITE, 0, s->memory, 2 << 20),
			 0);
	front_begin(&s->front, &request);
	assert_int_equal(front_wait(&request), 0);
	read_file(s, 0, buf, 2 << 20);
	assert_memory_equal(buf, s->memory, 65536);
	assert_zero(buf + 65536, 1 << 20);
	assert_memory_equal(buf + 65536 + (1 << 20),
			    s->memory + 65536 + (1 << 20), (1 << 20) - 65536);
	free(buf);
}

static void test_zeroed_ranges_read_as_zeroes(void **state)
{
	struct scene *s = *state;

	open_disk(s);
	zero(s, false, false);
	zero(s, false, true);
	zero(s, true, false);
	zero(s, true, true);
}

static void test_zeroes_that_may_not_be_unmapped_stay_allocated(void **state)
{
	struct scene *s = *state;

	open_disk(s);
	zero(s, false, true);
	assert_true(blocks_of(s) >= 2 << 20);
	zero(s, true, true);
	assert_true(blocks_of(s) < (1 << 20) + 65536 * 2);
}

static void
test_a_file_cut_short_while_used_fails_reads_behind_its_end(void **state)
{
	struct scene *s = *state;
	uint8_t buf[8192];

	open_disk(s);
	assert_int_equal(truncate(s->path, 4096), 0);
	assert_int_equal(front_do(&s->front, BLK_READ, 0, buf, 4096), 0);
	assert_int_equal(front_do(&s->front, BLK_READ, 0, buf, 8192), -EIO);
	assert_int_equal(front_do(&s->front, BLK_READ, 1 << 20, buf, 512),
			 -EIO);
}

static void test_a_full_file_system_is_told(void **state)
{
	struct scene *s = *state;
	struct rlimit limit, old;

	open_disk(s);
	/* As ENOSPC is to be had: no byte behind the limit can be written. */
	getrlimit(RLIMIT_FSIZE, &old);
	limit = old;
	limit.rlim_cur = 65536;
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &limit);
	assert_int_equal(
		front_do(&s->front, BLK_WRITE, 1 << 20, s->memory, 4096),
		-EFBIG);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(
		front_do(&s->front, BLK_WRITE, 1 << 20, s->memory, 4096), 0);
}

/* ---- what is refused ---- */

static void assert_refused(struct scene *s, const struct blk_where *where,
			   int code, const char *advice)
{
	assert_int_equal(try_open(s, where), code);
	if (!strstr(err_msg(&s->err), advice))
		print_message("'%s' lacks '%s'\n", err_msg(&s->err), advice);
	assert_non_null(strstr(err_msg(&s->err), advice));
	assert_non_null(strstr(err_msg(&s->err), where->path));
}

static void test_what_is_no_image_is_refused_with_advice(void **state)
{
	struct scene *s = *state;
	struct blk_where where = where_of(s);

	where.path = s->folder;
	assert_refused(s, &where, -EISDIR, "is a directory");
	where.path = "/dev/null";
	assert_refused(s, &where, -EINVAL, "neither a file nor a block device");
	where.path = "/nonexistent/disk";
	assert_refused(s, &where, -ENOENT, "does not exist; make it with");
	where.path = s->path;
	assert_int_equal(truncate(s->path, 1000), 0);
	assert_refused(s, &where, -EINVAL, "truncate -s %512");
	assert_int_equal(truncate(s->path, 0), 0);
	assert_refused(s, &where, -EINVAL, "is empty");
}

/* In a child, as another user. */
static int open_as_nobody(struct scene *s, bool is_readonly)
{
	struct blk_where where = where_of(s);
	int status;
	pid_t pid;

	where.is_readonly = is_readonly;
	pid = fork();
	if (pid == 0) {
		struct blk_backend *backend;
		const char *want = is_readonly ? "owner or permissions"
					       : "give readonly=on";

		if (setgid(65534) || setuid(65534))
			_exit(77);
		err_clear(&s->err);
		if (blk_file_open(&where, &backend, &s->err) != -EACCES)
			_exit(1);
		_exit(strstr(err_msg(&s->err), want) ? 0 : 2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_missing_permissions_are_refused_with_advice(void **state)
{
	struct scene *s = *state;

	if (getuid() != 0) {
		print_message("skipped: needs root, to be somebody else\n");
		skip();
	}
	chmod(s->folder, 0755);
	chmod(s->path, 0644);
	assert_int_equal(open_as_nobody(s, false), 0);
	chmod(s->path, 0600);
	assert_int_equal(open_as_nobody(s, true), 0);
}

/* ---- locks ---- */

static int claim(struct scene *s)
{
	err_clear(&s->err);
	return s->front.backend->ops->claim(s->front.backend, &s->err);
}

static void disclaim(struct scene *s)
{
	s->front.backend->ops->disclaim(s->front.backend);
}

/* What another process finds: 0 or the error of its claim. */
static int claim_elsewhere(struct scene *s, bool is_readonly)
{
	struct blk_where where = where_of(s);
	int status;
	pid_t pid;

	where.is_readonly = is_readonly;
	pid = fork();
	if (pid == 0) {
		struct blk_backend *backend;
		struct err err = ERR_INIT;

		if (blk_file_open(&where, &backend, &err))
			_exit(255);
		_exit(-backend->ops->claim(backend, &err));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return -WEXITSTATUS(status);
}

static void test_a_disk_that_is_written_is_nobody_elses(void **state)
{
	struct scene *s = *state;

	open_disk(s);
	assert_int_equal(claim_elsewhere(s, false), 0);
	assert_int_equal(claim(s), 0);
	assert_int_equal(claim_elsewhere(s, false), -EBUSY);
	assert_int_equal(claim_elsewhere(s, true), -EBUSY);
	/* As a source does whose move failed. */
	assert_int_equal(claim(s), 0);
	disclaim(s);
	assert_int_equal(claim_elsewhere(s, false), 0);
	assert_int_equal(claim(s), 0);
	assert_int_equal(claim_elsewhere(s, false), -EBUSY);
}

static void test_readers_share_a_disk(void **state)
{
	struct scene *s = *state;
	struct blk_where where = where_of(s);

	where.is_readonly = true;
	assert_int_equal(try_open(s, &where), 0);
	assert_int_equal(claim(s), 0);
	assert_int_equal(claim_elsewhere(s, true), 0);
	assert_int_equal(claim_elsewhere(s, false), -EBUSY);
}

static void test_two_machines_of_one_process_exclude_each_other(void **state)
{
	struct scene *s = *state;
	struct blk_where where = where_of(s);
	struct blk_backend *other;

	open_disk(s);
	assert_int_equal(blk_file_open(&where, &other, NULL), 0);
	assert_int_equal(claim(s), 0);
	assert_int_equal(other->ops->claim(other, &s->err), -EBUSY);
	assert_non_null(strstr(err_msg(&s->err), "another process uses it"));
	other->ops->free(other);
	/* Another descriptor of the file that is closed takes no lock away. */
	assert_int_equal(claim_elsewhere(s, false), -EBUSY);
}

static void test_the_owner_of_a_process_lock_is_named(void **state)
{
	struct scene *s = *state;
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char want[64];
	int fds[2], status;
	pid_t pid;
	char byte;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	open_disk(s);
	pid = fork();
	if (pid == 0) {
		int fd = open(s->path, O_RDWR | O_CLOEXEC);

		fcntl(fd, F_SETLK, &lock);
		if (write(fds[1], "", 1) != 1)
			_exit(1);
		pause();
	}
	assert_int_equal(read(fds[0], &byte, 1), 1);
	assert_int_equal(claim(s), -EBUSY);
	snprintf(want, sizeof(want), "locked by process %d", (int)pid);
	assert_non_null(strstr(err_msg(&s->err), want));
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	assert_int_equal(claim(s), 0);
	close(fds[0]);
	close(fds[1]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
/* tmpfs cannot zero a range, and knows neither blocks nor direct I/O alike. */
#define TEST_SHM(name)                                            \
	{                                                         \
#name " (tmpfs)", name, setup_shm, teardown, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_written_bytes_are_in_the_file_and_read_back),
		TEST_SHM(test_written_bytes_are_in_the_file_and_read_back),
		TEST(test_pieces_of_any_size_make_one_request),
		TEST(test_many_requests_are_all_done_once),
		TEST_SHM(test_many_requests_are_all_done_once),
		TEST(test_direct_requests_need_no_aligned_memory),
		TEST_SHM(test_direct_requests_need_no_aligned_memory),
		TEST(test_requests_wait_for_bounce_buffers),
		TEST(test_discarded_ranges_free_their_blocks),
		TEST_SHM(test_discarded_ranges_free_their_blocks),
		TEST(test_zeroed_ranges_read_as_zeroes),
		TEST_SHM(test_zeroed_ranges_read_as_zeroes),
		TEST(test_zeroes_that_may_not_be_unmapped_stay_allocated),
		TEST(test_a_file_cut_short_while_used_fails_reads_behind_its_end),
		TEST(test_a_full_file_system_is_told),
		TEST(test_what_is_no_image_is_refused_with_advice),
		TEST(test_missing_permissions_are_refused_with_advice),
		TEST(test_a_disk_that_is_written_is_nobody_elses),
		TEST(test_readers_share_a_disk),
		TEST(test_two_machines_of_one_process_exclude_each_other),
		TEST(test_the_owner_of_a_process_lock_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
