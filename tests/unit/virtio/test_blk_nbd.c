// SPDX-License-Identifier: Apache-2.0
/*
 * Disks behind real NBD servers, nbdkit and qemu-nbd, that are killed, stopped and
 * started again under them.
 */
#include <cmocka.h>
#include <errno.h>
#include <unistd.h>

#include "blk_front.h"
#include "nbd_server.h"

#define SIZE (8u << 20)

struct scene {
	struct server server;
	struct front front;
	struct err err;
	uint8_t *memory; /* SIZE */
};

static const char *const nbdkit_readonly[] = { "nbdkit", "-f",   "-r",
					       "file",   "disk", NULL };
/* A server that can do nothing but read and write. */
static const char *const nbdkit_plain[] = {
	"nbdkit", "-f", "--filter=nozero", "--filter=fua", "file", "disk", NULL
};
static const char *const qemu_nbd[] = { "qemu-nbd", "-t", "-f",
					"raw",      "-x", "",
					"-e",       "4",  "--discard=unmap",
					"disk",     NULL };

static int setup_with(void **state, const char *const *argv)
{
	struct scene *s = calloc(1, sizeof(*s));

	s->memory = malloc(SIZE);
	for (size_t i = 0; i < SIZE; i++)
		s->memory[i] = (uint8_t)(i * 11 + (i >> 9));
	*state = s;
	return server_init(&s->server, argv, SIZE);
}

static int setup(void **state)
{
	return setup_with(state, nbdkit);
}

static int setup_readonly(void **state)
{
	return setup_with(state, nbdkit_readonly);
}

static int setup_plain(void **state)
{
	return setup_with(state, nbdkit_plain);
}

static int setup_qemu(void **state)
{
	return setup_with(state, qemu_nbd);
}

static int teardown(void **state)
{
	struct scene *s = *state;

	front_fini(&s->front);
	server_fini(&s->server);
	free(s->memory);
	free(s);
	return 0;
}

static int try_open(struct scene *s, bool is_readonly)
{
	struct blk_where where = { .nbd = s->server.uri,
				   .is_readonly = is_readonly };
	struct blk_backend *backend;
	int ret;

	err_clear(&s->err);
	ret = blk_nbd_open(&where, &backend, &s->err);
	if (ret == 0)
		front_init(&s->front, backend);
	return ret;
}

static void open_disk(struct scene *s)
{
	if (try_open(s, false))
		fail_msg("%s", err_msg(&s->err));
}

static void read_file(struct scene *s, uint64_t offset, void *buf, size_t size)
{
	int fd = open(s->server.path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, buf, size, (off_t)offset), size);
	close(fd);
}

static int flush(struct scene *s)
{
	return front_do(&s->front, BLK_FLUSH, 0, NULL, 0);
}

/* ---- requests ---- */

static void test_written_bytes_are_the_servers_and_read_back(void **state)
{
	struct scene *s = *state;
	uint8_t *buf = malloc(SIZE);

	open_disk(s);
	assert_int_equal(s->front.backend->info.size, SIZE);
	assert_int_equal(front_do(&s->front, BLK_WRITE, 0, s->memory, SIZE), 0);
	assert_int_equal(flush(s), 0);
	read_file(s, 0, buf, SIZE);
	assert_memory_equal(buf, s->memory, SIZE);
	memset(buf, 0, SIZE);
	assert_int_equal(front_do(&s->front, BLK_READ, 0, buf, SIZE), 0);
	assert_memory_equal(buf, s->memory, SIZE);
	free(buf);
}

static void begin_pieces(struct scene *s, struct front_io *request,
			 enum blk_op op, uint8_t *at)
{
	size_t half = BLK_BOUNCE_SIZE + 100;

	*request = (struct front_io){ .io = { .op = op,
					      .offset = 4096,
					      .size = 1 << 20,
					      .is_durable = true,
					      .iovec_count = 3 } };
	request->iovecs[0] = (struct iovec){ at, 3 };
	request->iovecs[1] = (struct iovec){ at + 3, half };
	request->iovecs[2] =
		(struct iovec){ at + 3 + half, (1 << 20) - 3 - half };
	front_begin(&s->front, request);
}

static void test_pieces_of_any_size_make_one_request(void **state)
{
	struct scene *s = *state;
	struct front_io request;
	uint8_t *buf = calloc(1, 1 << 20);

	open_disk(s);
	begin_pieces(s, &request, BLK_WRITE, s->memory);
	assert_int_equal(front_wait(&request), 0);
	begin_pieces(s, &request, BLK_READ, buf);
	assert_int_equal(front_wait(&request), 0);
	assert_memory_equal(buf, s->memory, 1 << 20);
	free(buf);
}

static void test_discarded_and_zeroed_ranges_are(void **state)
{
	struct scene *s = *state;
	struct front_io request = { .io = { .op = BLK_ZERO,
					    .offset = 4096,
					    .size = 1 << 20,
					    .is_durable = true } };
	uint8_t *buf = malloc(2 << 20);

	open_disk(s);
	for (unsigned int unmap = 0; unmap < 2; unmap++) {
		assert_int_equal(
			front_do(&s->front, BLK_WRITE, 0, s->memory, 2 << 20),
			0);
		request.io.offset = 4096;
		request.io.size = 1 << 20;
		request.io.may_unmap = unmap;
		front_begin(&s->front, &request);
		assert_int_equal(front_wait(&request), 0);
		assert_int_equal(front_do(&s->front, BLK_READ, 0, buf, 2 << 20),
				 0);
		assert_memory_equal(buf, s->memory, 4096);
		for (size_t i = 4096; i < 4096 + (1 << 20); i++)
			assert_int_equal(buf[i], 0);
		assert_memory_equal(buf + 4096 + (1 << 20),
				    s->memory + 4096 + (1 << 20),
				    (1 << 20) - 4096);
	}
	assert_int_equal(front_do(&s->front, BLK_DISCARD, 0, NULL, 2 << 20), 0);
	free(buf);
}

/* ---- a server that goes away ---- */

static void test_requests_wait_for_a_server_that_is_away(void **state)
{
	struct scene *s = *state;
	struct front_io write = {
		.io = { .op = BLK_WRITE, .size = 65536, .iovec_count = 1 }
	};
	struct front_io sync = { .io = { .op = BLK_FLUSH } };
	uint8_t buf[65536];

	open_disk(s);
	server_kill(&s->server);
	write.iovecs[0] = (struct iovec){ s->memory, 65536 };
	front_begin(&s->front, &write);
	front_begin(&s->front, &sync);
	server_start(&s->server);
	assert_int_equal(front_wait(&write), 0);
	assert_int_equal(front_wait(&sync), 0);
	read_file(s, 0, buf, sizeof(buf));
	assert_memory_equal(buf, s->memory, sizeof(buf));
}

#define STORM 128u

/* Killed with anything from none to all of them done. */
static void test_no_write_is_lost_when_the_server_is_killed(void **state)
{
	struct scene *s = *state;
	struct front_io *requests = calloc(STORM, sizeof(*requests));
	uint8_t *buf = malloc(SIZE);
	size_t piece = SIZE / STORM;

	open_disk(s);
	for (unsigned int round = 0; round < 8; round++) {
		for (size_t i = 0; i < SIZE; i += 512)
			s->memory[i] =
				(uint8_t)(s->memory[i] + round + i / 512);
		for (unsigned int i = 0; i < STORM; i++) {
			requests[i].io = (struct blk_io){ .op = BLK_WRITE,
							  .offset = i * piece,
							  .size = piece,
							  .iovec_count = 2 };
			requests[i].iovecs[0] =
				(struct iovec){ s->memory + i * piece, 512 };
			requests[i].iovecs[1] =
				(struct iovec){ s->memory + i * piece + 512,
						piece - 512 };
			front_begin(&s->front, &requests[i]);
		}
		/* Rounds differ in how far the server came. */
		if (round > 0)
			front_wait(&requests[round * 15]);
		server_kill(&s->server);
		server_start(&s->server);
		for (unsigned int i = 0; i < STORM; i++)
			assert_int_equal(front_wait(&requests[i]), 0);
		assert_int_equal(flush(s), 0);
		read_file(s, 0, buf, SIZE);
		assert_memory_equal(buf, s->memory, SIZE);
	}
	free(buf);
	free(requests);
}

static void test_reads_survive_a_killed_server(void **state)
{
	struct scene *s = *state;
	struct front_io *requests = calloc(STORM, sizeof(*requests));
	uint8_t *buf = malloc(SIZE);
	size_t piece = SIZE / STORM;

	open_disk(s);
	assert_int_equal(front_do(&s->front, BLK_WRITE, 0, s->memory, SIZE), 0);
	for (unsigned int i = 0; i < STORM; i++) {
		requests[i].io = (struct blk_io){ .op = BLK_READ,
						  .offset = i * piece,
						  .size = piece,
						  .iovec_count = 1 };
		requests[i].iovecs[0] =
			(struct iovec){ buf + i * piece, piece };
		front_begin(&s->front, &requests[i]);
	}
	front_wait(&requests[3]);
	server_kill(&s->server);
	server_start(&s->server);
	for (unsigned int i = 0; i < STORM; i++)
		assert_int_equal(front_wait(&requests[i]), 0);
	assert_memory_equal(buf, s->memory, SIZE);
	free(buf);
	free(requests);
}

static void test_a_server_with_another_disk_is_not_used(void **state)
{
	struct scene *s = *state;
	struct front_io write = {
		.io = { .op = BLK_WRITE, .size = 4096, .iovec_count = 1 }
	};
	uint8_t buf[4096], zeroes[4096] = { 0 };

	open_disk(s);
	server_kill(&s->server);
	assert_int_equal(truncate(s->server.path, SIZE / 2), 0);
	server_start(&s->server);
	write.iovecs[0] = (struct iovec){ s->memory, 4096 };
	front_begin(&s->front, &write);
	server_kill(&s->server);
	read_file(s, 0, buf, sizeof(buf));
	assert_memory_equal(buf, zeroes, sizeof(buf));
	assert_int_equal(truncate(s->server.path, SIZE), 0);
	server_start(&s->server);
	assert_int_equal(front_wait(&write), 0);
	read_file(s, 0, buf, sizeof(buf));
	assert_memory_equal(buf, s->memory, sizeof(buf));
}

static void give_up(void *opaque)
{
	struct front *front = opaque;

	front->backend->ops->give_up(front->backend);
	front_poll(front);
}

static void test_what_waits_for_a_hung_server_can_be_given_up(void **state)
{
	struct scene *s = *state;
	struct front_io read = {
		.io = { .op = BLK_READ, .size = 65536, .iovec_count = 1 }
	};
	uint8_t *buf = calloc(1, 65536), *zeroes = calloc(1, 65536);

	open_disk(s);
	assert_int_equal(front_do(&s->front, BLK_WRITE, 0, s->memory, 65536),
			 0);
	server_hang(&s->server);
	read.iovecs[0] = (struct iovec){ buf, 65536 };
	front_begin(&s->front, &read);
	io_thread_call(s->front.thread, give_up, &s->front, UINT64_MAX);
	assert_int_equal(front_wait(&read), -EIO);
	/* The memory is its owner's again: a late answer finds nobody. */
	server_go_on(&s->server);
	assert_int_equal(front_do(&s->front, BLK_READ, 65536, s->memory, 4096),
			 0);
	assert_memory_equal(buf, zeroes, 65536);
	free(buf);
	free(zeroes);
}

/* ---- what is refused ---- */

static void test_an_absent_server_is_refused_at_the_start(void **state)
{
	struct scene *s = *state;

	server_kill(&s->server);
	assert_int_equal(try_open(s, false), -ENOTCONN);
	assert_non_null(strstr(err_msg(&s->err), s->server.uri));
}

static void test_a_silent_server_is_refused_after_a_while(void **state)
{
	struct scene *s = *state;

	server_hang(&s->server);
	assert_int_equal(try_open(s, false), -ETIMEDOUT);
	assert_non_null(strstr(err_msg(&s->err), "does not answer"));
}

static void test_a_readonly_export_needs_readonly(void **state)
{
	struct scene *s = *state;

	assert_int_equal(try_open(s, false), -EROFS);
	assert_non_null(strstr(err_msg(&s->err), "give readonly=on"));
	assert_int_equal(try_open(s, true), 0);
	assert_int_equal(front_do(&s->front, BLK_READ, 0, s->memory, 4096), 0);
}

static void test_an_export_of_half_a_sector_is_refused(void **state)
{
	struct scene *s = *state;

	server_kill(&s->server);
	assert_int_equal(truncate(s->server.path, SIZE + 100), 0);
	server_start(&s->server);
	assert_int_equal(try_open(s, false), -EINVAL);
	assert_non_null(strstr(err_msg(&s->err), "round it up"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_ON(name, with)                                              \
	{                                                                \
#name " (" #with ")", name, setup_##with, teardown, NULL \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_written_bytes_are_the_servers_and_read_back),
		TEST_ON(test_written_bytes_are_the_servers_and_read_back, qemu),
		TEST_ON(test_written_bytes_are_the_servers_and_read_back,
			plain),
		TEST(test_pieces_of_any_size_make_one_request),
		TEST_ON(test_pieces_of_any_size_make_one_request, qemu),
		TEST_ON(test_pieces_of_any_size_make_one_request, plain),
		TEST(test_discarded_and_zeroed_ranges_are),
		TEST_ON(test_discarded_and_zeroed_ranges_are, qemu),
		TEST_ON(test_discarded_and_zeroed_ranges_are, plain),
		TEST(test_requests_wait_for_a_server_that_is_away),
		TEST(test_no_write_is_lost_when_the_server_is_killed),
		TEST_ON(test_no_write_is_lost_when_the_server_is_killed, qemu),
		TEST(test_reads_survive_a_killed_server),
		TEST(test_a_server_with_another_disk_is_not_used),
		TEST(test_what_waits_for_a_hung_server_can_be_given_up),
		TEST(test_an_absent_server_is_refused_at_the_start),
		TEST(test_a_silent_server_is_refused_after_a_while),
		TEST_ON(test_a_readonly_export_needs_readonly, readonly),
		TEST(test_an_export_of_half_a_sector_is_refused),
	};

	if (!server_is_there())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
