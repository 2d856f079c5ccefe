// SPDX-License-Identifier: Apache-2.0
/* Memory that is a file's, through a channel: what is spliced and what is copied arrive
 * as one stream, by every kind of socket, to a peer of either kind. */
#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "migrate/channel.h"

#define SIZE    (9u << 20)
#define SOON_NS (2 * NS_PER_SEC)

struct memory {
	struct channel_file file;
	uint8_t *host;
};

struct fixture {
	int stop_fd;
	struct memory from, to;
	struct channel a, b;
};

static struct memory memory_new(void)
{
	struct memory memory;
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, SIZE), 0);
	memory.host =
		mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(memory.host, MAP_FAILED);
	memory.file = (struct channel_file){ fd, memory.host, SIZE };
	return memory;
}

static void memory_free(struct memory *memory)
{
	munmap(memory->host, SIZE);
	close(memory->file.fd);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	signal(SIGPIPE,
	       SIG_IGN); /* as godwit does: splice() has no flag for it */
	f->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f->from = memory_new();
	f->to = memory_new();
	for (size_t i = 0; i < SIZE / 8; i++)
		((uint64_t *)(void *)f->from.host)[i] =
			i * 0x9e3779b97f4a7c15u + 1;
	f->a = f->b = (struct channel)CHANNEL_INIT;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	channel_close(&f->a);
	channel_close(&f->b);
	close(f->stop_fd);
	memory_free(&f->from);
	memory_free(&f->to);
	free(f);
	return 0;
}

static void unix_pair(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
}

static void tcp_pair(int fds[2])
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t size = sizeof(at);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(listener, (void *)&at, size), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (void *)&at, &size), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fds[0], (void *)&at, size), 0);
	fds[1] = accept(listener, NULL, NULL);
	assert_true(fds[1] >= 0);
	close(listener);
}

static void no_socket_pair(int fds[2])
{
	int pipe_fds[2];

	assert_int_equal(pipe(pipe_fds), 0);
	fds[0] = pipe_fds[1];
	fds[1] = pipe_fds[0];
}

static void pair_up(struct fixture *f, void (*make)(int fds[2]))
{
	struct channel *channels[2] = { &f->a, &f->b };
	int fds[2];

	make(fds);
	for (int i = 0; i < 2; i++) {
		struct err err = ERR_INIT;
		char uri[32];

		channel_close(channels[i]);
		snprintf(uri, sizeof(uri), "fd:%d", fds[i]);
		if (channel_connect(channels[i], uri, f->stop_fd, NULL, NULL,
				    &err))
			fail_msg("%s", err_msg(&err));
	}
}

/* Runs of pages and, between them, some that begin and end anywhere. */
static unsigned int random_iov(uint8_t *host, size_t size, struct iovec *iov)
{
	unsigned int count = 0;
	size_t at = 0;

	while (at < size) {
		size_t length = (size_t)rand() % 64 << 12;

		if (rand() % 4 == 0)
			length = (size_t)rand() % 300000;
		if (length > size - at)
			length = size - at;
		iov[count++] = (struct iovec){ host + at, length };
		at += length;
	}
	return count;
}

struct receiver {
	struct fixture *f;
	bool is_mapped;
	int ret;
};

static void *receive(void *opaque)
{
	struct receiver *receiver = opaque;
	struct fixture *f = receiver->f;
	struct iovec *iov = calloc(SIZE / 4096, sizeof(*iov));
	char first;

	/* Some of what follows is read ahead. */
	receiver->ret = channel_recv_bytes(&f->b, &first, 1, NULL);
	if (!receiver->ret)
		receiver->ret = channel_recv_mapped(
			&f->b, receiver->is_mapped ? &f->to.file : NULL, iov,
			random_iov(f->to.host, SIZE, iov), NULL);
	free(iov);
	return NULL;
}

static void assert_arrives(struct fixture *f, bool from_mapped, bool to_mapped)
{
	struct receiver receiver = { .f = f, .is_mapped = to_mapped };
	struct iovec *iov = calloc(SIZE / 4096, sizeof(*iov));
	pthread_t thread;

	memset(f->to.host, 0x5a, SIZE);
	/* From holes, too. */
	fallocate(f->to.file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		  SIZE / 2);
	pthread_create(&thread, NULL, receive, &receiver);
	iov[0] = (struct iovec){ (void *)(uintptr_t) "!", 1 };
	assert_int_equal(channel_send_mapped(
				 &f->a, from_mapped ? &f->from.file : NULL, iov,
				 1 + random_iov(f->from.host, SIZE, iov + 1),
				 NULL),
			 0);
	pthread_join(thread, NULL);
	assert_int_equal(receiver.ret, 0);
	assert_memory_equal(f->from.host, f->to.host, SIZE);
	free(iov);
}

static void
test_memory_arrives_whole_spliced_or_copied_on_either_side(void **state)
{
	static void (*const kinds[])(int[2]) = { unix_pair, tcp_pair,
						 no_socket_pair };
	struct fixture *f = *state;

	srand(7);
	for (size_t kind = 0; kind < array_size(kinds); kind++) {
		for (int how = 0; how < 4; how++) {
			uint64_t before;

			pair_up(f, kinds[kind]);
			before = f->a.sent;
			assert_arrives(f, how & 1, how & 2);
			assert_int_equal(f->a.sent - before, SIZE + 1);
			assert_int_equal(f->a.has_pipe,
					 (how & 1) && f->a.is_socket);
			assert_int_equal(f->b.has_pipe,
					 (how & 2) && f->b.is_socket);
			assert_int_equal(f->a.piped + f->b.piped, 0);
		}
	}
}

static void
test_without_a_descriptor_for_the_pipe_memory_is_copied(void **state)
{
	struct fixture *f = *state;
	struct rlimit limit, tight;

	pair_up(f, unix_pair);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	/* Three are taken, and poll() asks for two to be allowed. */
	tight = (struct rlimit){ 3, limit.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
	assert_arrives(f, true, true);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_false(f->a.has_pipe || f->b.has_pipe);
}

/* Else what follows the vector in the file would travel in its place. */
static void test_only_what_lies_in_the_mapping_is_spliced(void **state)
{
	struct fixture *f = *state;
	size_t size = 1 << 20;
	uint8_t *other = malloc(size);
	const struct channel_file half = { f->from.file.fd, f->from.host,
					   SIZE / 2 };
	struct iovec out[] = { { other, size },
			       { f->from.host + SIZE / 2 - 4096, size } };
	struct iovec to = { f->to.host, 2 * size };

	memset(other, 0xa5, size);
	pair_up(f, unix_pair);
	for (size_t i = 0; i < array_size(out); i++) {
		struct iovec one = out[i];

		assert_int_equal(
			channel_send_mapped(&f->a, &half, &one, 1, NULL), 0);
	}
	assert_int_equal(channel_recv(&f->b, &to, 1, NULL), 0);
	assert_memory_equal(f->to.host, other, size);
	assert_memory_equal(f->to.host + size, f->from.host + SIZE / 2 - 4096,
			    size);
	free(other);
}

static void test_a_file_shorter_than_its_mapping_is_an_error(void **state)
{
	struct fixture *f = *state;
	struct iovec iov = { f->from.host, 1 << 20 };

	pair_up(f, unix_pair);
	assert_int_equal(ftruncate(f->from.file.fd, 512 << 10), 0);
	assert_int_equal(
		channel_send_mapped(&f->a, &f->from.file, &iov, 1, NULL), -EIO);
}

/* More than any socket holds. */
static int send_for_ever(struct fixture *f)
{
	int ret = 0;

	for (int i = 0; !ret && i < 100; i++) {
		struct iovec iov = { f->from.host, SIZE };

		ret = channel_send_mapped(&f->a, &f->from.file, &iov, 1, NULL);
	}
	return ret;
}

static void
test_a_peer_that_does_not_read_ends_a_splice_by_deadline_or_stop(void **state)
{
	struct fixture *f = *state;
	const uint64_t one = 1;
	uint64_t start = clock_mono_ns(), drained;

	pair_up(f, unix_pair);
	f->a.deadline_ns = start + 20 * NS_PER_MS;
	assert_int_equal(send_for_ever(f), -ETIMEDOUT);
	assert_true(clock_mono_ns() - start < SOON_NS);

	pair_up(f, tcp_pair);
	assert_int_equal(write(f->stop_fd, &one, sizeof(one)), sizeof(one));
	start = clock_mono_ns();
	assert_int_equal(send_for_ever(f), -ECANCELED);
	assert_true(clock_mono_ns() - start < SOON_NS);
	assert_int_equal(read(f->stop_fd, &drained, sizeof(drained)),
			 sizeof(drained));
}

static void test_a_peer_that_ends_inside_a_splice_is_told_of(void **state)
{
	struct fixture *f = *state;
	struct iovec half = { f->from.host, SIZE / 4 };
	struct iovec whole = { f->to.host, SIZE };

	pair_up(f, unix_pair);
	assert_int_equal(
		channel_send_mapped(&f->a, &f->from.file, &half, 1, NULL), 0);
	channel_close(&f->a);
	assert_int_equal(
		channel_recv_mapped(&f->b, &f->to.file, &whole, 1, NULL),
		-EBADMSG);
	assert_memory_equal(f->to.host, f->from.host, SIZE / 4);

	pair_up(f, unix_pair);
	channel_close(&f->b);
	assert_int_equal(send_for_ever(f), -EPIPE);
}

/* As memory that was copied would be: a vCPU's first touch is no fault of ours. */
static void test_pages_that_were_spliced_are_mapped(void **state)
{
	struct fixture *f = *state;
	struct iovec out = { f->from.host, 1 << 20 };
	struct iovec in = { f->to.host, 1 << 20 };
	uint64_t entries[256] = { 0 };
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	pair_up(f, unix_pair);
	assert_int_equal(
		channel_send_mapped(&f->a, &f->from.file, &out, 1, NULL), 0);
	assert_int_equal(channel_recv_mapped(&f->b, &f->to.file, &in, 1, NULL),
			 0);
	assert_int_equal(pread(pagemap, entries, sizeof(entries),
			       (off_t)((uintptr_t)f->to.host / 4096 * 8)),
			 sizeof(entries));
	for (size_t i = 0; i < array_size(entries); i++)
		assert_true(entries[i] >> 63); /* present */
	close(pagemap);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_memory_arrives_whole_spliced_or_copied_on_either_side,
			setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_without_a_descriptor_for_the_pipe_memory_is_copied,
			setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_only_what_lies_in_the_mapping_is_spliced, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_a_file_shorter_than_its_mapping_is_an_error, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_a_peer_that_does_not_read_ends_a_splice_by_deadline_or_stop,
			setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_a_peer_that_ends_inside_a_splice_is_told_of, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_pages_that_were_spliced_are_mapped, setup,
			teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
