// SPDX-License-Identifier: Apache-2.0
/* The byte channel: addresses, whole sends and receives, and every way out of
 * a wait. */
#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "migrate/channel.h"

/* "At once" on a machine with other things to do. */
#define SOON_NS (2 * NS_PER_SEC)

struct fixture {
	char folder[32], path[64], uri[80];
	int stop_fd;
	struct channel a, b; /* connected by pair_up() */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->folder, "/tmp/godwit-test-XXXXXX");
	assert_non_null(mkdtemp(f->folder));
	snprintf(f->path, sizeof(f->path), "%s/s", f->folder);
	snprintf(f->uri, sizeof(f->uri), "unix:%s", f->path);
	f->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
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
	unlink(f->path);
	rmdir(f->folder);
	free(f);
	return 0;
}

static void stop(const struct fixture *f)
{
	const uint64_t one = 1;

	assert_int_equal(write(f->stop_fd, &one, sizeof(one)), sizeof(one));
}

static void connect_fd(struct channel *channel, int fd, int stop_fd)
{
	struct err err = ERR_INIT;
	char uri[32];

	snprintf(uri, sizeof(uri), "fd:%d", fd);
	if (channel_connect(channel, uri, stop_fd, NULL, NULL, &err))
		fail_msg("%s", err_msg(&err));
}

static void pair_up(struct fixture *f)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	connect_fd(&f->a, fds[0], f->stop_fd);
	connect_fd(&f->b, fds[1], f->stop_fd);
}

static int send_bytes(struct channel *channel, const void *data, size_t size,
		      struct err *err)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data,
			     .iov_len = size };

	return channel_send(channel, &iov, 1, err);
}

static void assert_talks(struct channel *from, struct channel *to)
{
	char text[6] = "";
	struct err err = ERR_INIT;

	if (send_bytes(from, "hello", 6, &err) ||
	    channel_recv_bytes(to, text, 6, &err))
		fail_msg("%s", err_msg(&err));
	assert_string_equal(text, "hello");
}

/* ---- addresses ---- */

static void test_good_addresses_are_taken(void **state)
{
	static const char *const good[] = {
		"tcp:localhost:4444",
		"tcp:127.0.0.1:1",
		"tcp:[::1]:65535",
		"tcp:::1:4444",
		"tcp::4444",
		"unix:/run/x",
		"unix:relative",
		"fd:7",
		"fd:name",
		"file:/tmp/x",
		"file:with:colons",
		"tcp:h:0",
	};

	(void)state;
	for (size_t i = 0; i < array_size(good); i++) {
		struct err err = ERR_INIT;

		if (channel_check_uri(good[i], &err))
			fail_msg("%s: %s", good[i], err_msg(&err));
	}
}

static void
test_bad_addresses_are_refused_with_what_would_be_right(void **state)
{
	static const struct {
		const char *uri, *reason;
	} bad[] = {
		{ "", "use tcp:" },
		{ "tcp", "use tcp:" },
		{ "tcp:", "use tcp:" },
		{ "tcp:host", "HOST:PORT" },
		{ "tcp:host:", "HOST:PORT" },
		{ "tcp:host:01234567890123456", "HOST:PORT" },
		{ "tcp:host:65536", "port" },
		{ "tcp:host:4294967376", "port" },
		{ "tcp:host:-1", "port" },
		{ "tcp:host:+80", "port" },
		{ "tcp:host: 80", "port" },
		{ "unix:", "unix:PATH" },
		{ "fd:", "fd:NAME" },
		{ "file:", "file:PATH" },
		{ "http://host", "use tcp:" },
		{ " tcp:h:1", "use tcp:" },
		{ "TCP:h:1", "use tcp:" },
		{ "exec:cat", "use tcp:" },
	};
	char text[400];

	(void)state;
	for (size_t i = 0; i < array_size(bad); i++) {
		struct err err = ERR_INIT;
		int ret = channel_check_uri(bad[i].uri, &err);

		if (ret != -EINVAL || !strstr(err_msg(&err), bad[i].reason))
			fail_msg("'%s': %d, '%s' has no '%s'", bad[i].uri, ret,
				 err_msg(&err), bad[i].reason);
	}
	memset(text, 'h', sizeof(text));
	memcpy(text, "tcp:", 4);
	strcpy(text + 300, ":1");
	assert_int_equal(channel_check_uri(text, NULL), -EINVAL);
	memcpy(text, "unix:", 5);
	assert_int_equal(channel_check_uri(text, NULL), -ENAMETOOLONG);
	text[5 + 107] = '\0'; /* what fits with its NUL */
	assert_int_equal(channel_check_uri(text, NULL), 0);
}

/* ---- descriptors ---- */

static int only_mig0(void *opaque, const char *name)
{
	int *fd = opaque, taken = *fd;

	if (strcmp(name, "mig0") != 0)
		return -1;
	*fd = -1;
	return taken;
}

static void test_descriptors_come_by_number_or_by_name(void **state)
{
	struct fixture *f = *state;
	struct channel_listener listener;
	int fds[2], number;
	char uri[32];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	number = fds[0];
	assert_int_equal(channel_connect(&f->a, "fd:other", -1, only_mig0,
					 &number, NULL),
			 -ENOENT);
	assert_int_equal(
		channel_connect(&f->a, "fd:mig0", -1, NULL, NULL, NULL),
		-ENOENT);
	assert_int_equal(channel_connect(&f->a, "fd:mig0", f->stop_fd,
					 only_mig0, &number, NULL),
			 0);
	assert_int_equal(number, -1);
	snprintf(uri, sizeof(uri), "fd:%d", fds[1]);
	assert_int_equal(channel_listen(&listener, uri, NULL, NULL, NULL), 0);
	assert_int_equal(channel_accept(&f->b, &listener, f->stop_fd, NULL), 0);
	channel_listener_close(&listener);
	assert_true(fcntl(f->b.fd, F_GETFD) & FD_CLOEXEC);
	assert_false(f->b.is_file);
	assert_talks(&f->a, &f->b);
	assert_talks(&f->b, &f->a);
}

static void test_godwits_own_descriptors_are_not_taken_by_number(void **state)
{
	struct fixture *f = *state;
	char uri[32];

	snprintf(uri, sizeof(uri), "fd:%d", f->stop_fd);
	assert_int_equal(channel_connect(&f->a, uri, -1, NULL, NULL, NULL),
			 -EBADF);
	assert_true(fcntl(f->stop_fd, F_GETFD) >= 0);
}

static void test_descriptors_that_are_not_ours_to_use_are_refused(void **state)
{
	static const char *const bad[] = { "fd:0",  "fd:1",
					   "fd:2",  "fd:1000000",
					   "fd:3x", "fd:4294967299",
					   "fd:-1", "fd:99999999999999999999",
					   "fd: 3" };
	struct fixture *f = *state;

	for (size_t i = 0; i < array_size(bad); i++) {
		struct channel_listener listener;
		struct err err = ERR_INIT;

		assert_true(channel_connect(&f->a, bad[i], -1, NULL, NULL,
					    &err) < 0);
		assert_int_equal(f->a.fd, -1);
		assert_true(*err_msg(&err));
		assert_true(channel_listen(&listener, bad[i], NULL, NULL,
					   NULL) < 0);
		channel_listener_close(&listener);
	}
}

/* ---- unix ---- */

static int listen_at(struct channel_listener *listener, const char *uri)
{
	return channel_listen(listener, uri, NULL, NULL, NULL);
}

static void connect_and_accept(struct fixture *f,
			       struct channel_listener *listener,
			       const char *uri)
{
	struct err err = ERR_INIT;

	if (channel_connect(&f->a, uri, f->stop_fd, NULL, NULL, &err) ||
	    channel_accept(&f->b, listener, f->stop_fd, &err))
		fail_msg("%s: %s", uri, err_msg(&err));
	assert_talks(&f->a, &f->b);
	assert_talks(&f->b, &f->a);
}

static void test_a_socket_file_lives_as_long_as_its_listener(void **state)
{
	struct fixture *f = *state;
	struct channel_listener listener;

	assert_int_equal(listen_at(&listener, f->uri), 0);
	connect_and_accept(f, &listener, f->uri);
	assert_int_equal(access(f->path, F_OK), 0);
	channel_listener_close(&listener);
	assert_int_equal(access(f->path, F_OK), -1);
	assert_int_equal(channel_connect(&f->b, f->uri, -1, NULL, NULL, NULL),
			 -ENOENT);
}

static void leave_stale_socket(const struct fixture *f)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(addr.sun_path, f->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
}

static void test_a_stale_socket_is_replaced_and_a_live_one_refused(void **state)
{
	struct fixture *f = *state;
	struct channel_listener listener, second;

	leave_stale_socket(f);
	assert_int_equal(listen_at(&listener, f->uri), 0);
	assert_int_equal(listen_at(&second, f->uri), -EADDRINUSE);
	channel_listener_close(&second);
	assert_int_equal(access(f->path, F_OK), 0);
	channel_listener_close(&listener);
}

static void test_a_file_in_the_way_of_a_socket_is_not_removed(void **state)
{
	struct fixture *f = *state;
	struct channel_listener listener;
	struct stat st;
	int fd = open(f->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, "thesis", 6), 6);
	close(fd);
	assert_int_equal(listen_at(&listener, f->uri), -EEXIST);
	channel_listener_close(&listener);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_size, 6);
}

static void test_who_is_connected_is_connected(void **state)
{
	struct fixture *f = *state;
	struct channel_listener listener, second;
	struct sockaddr_un addr;
	struct channel many[32]; /* more than wait in the listener */
	int connected = 0;

	assert_int_equal(listen_at(&listener, f->uri), 0);
	for (int i = 0; i < 32; i++) {
		socklen_t size = sizeof(addr);
		struct err err = ERR_INIT;
		int ret = channel_connect(&many[connected], f->uri, f->stop_fd,
					  NULL, NULL, &err);

		if (ret) {
			assert_int_equal(ret, -EAGAIN);
			assert_non_null(strstr(err_msg(&err), "is busy with"));
			continue;
		}
		assert_int_equal(getpeername(many[connected].fd,
					     (struct sockaddr *)&addr, &size),
				 0);
		connected++;
	}
	assert_in_range(connected, 1, 31);
	/* A listener that is slow to accept is alive. */
	assert_int_equal(listen_at(&second, f->uri), -EADDRINUSE);
	channel_listener_close(&second);
	while (connected)
		channel_close(&many[--connected]);
	channel_listener_close(&listener);
}

/* ---- tcp ---- */

static void talk_over_tcp(struct fixture *f, const char *host)
{
	struct channel_listener listener, second;
	struct sockaddr_storage addr;
	socklen_t size = sizeof(addr);
	char uri[64];

	snprintf(uri, sizeof(uri), "tcp:%s:0", host);
	assert_int_equal(listen_at(&listener, uri), 0);
	assert_int_equal(
		getsockname(listener.fd, (struct sockaddr *)&addr, &size), 0);
	/* sin6_port is at the same place */
	snprintf(uri, sizeof(uri), "tcp:%s:%u", host,
		 ntohs(((struct sockaddr_in *)&addr)->sin_port));
	connect_and_accept(f, &listener, uri);
	assert_int_equal(listen_at(&second, uri), -EADDRINUSE);
	channel_listener_close(&second);
	channel_listener_close(&listener);
	channel_close(&f->a);
	channel_close(&f->b);
	assert_int_equal(channel_connect(&f->a, uri, -1, NULL, NULL, NULL),
			 -ECONNREFUSED);
}

static void test_tcp_reaches_a_name_and_an_ipv4_address(void **state)
{
	talk_over_tcp(*state, "127.0.0.1");
	talk_over_tcp(*state, "localhost");
}

static void test_tcp_reaches_an_ipv6_address_in_brackets(void **state)
{
	struct sockaddr_in6 addr = { .sin6_family = AF_INET6,
				     .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	bool has_ipv6 = fd >= 0 &&
			bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0;

	if (fd >= 0)
		close(fd);
	if (!has_ipv6) {
		print_message("skipped: no IPv6 loopback address\n");
		skip();
	}
	talk_over_tcp(*state, "[::1]");
}

/* Name servers that answer once a test lets them. */
static sem_t name_servers;

int __real_getaddrinfo(const char *host, const char *port,
		       const struct addrinfo *hints, struct addrinfo **info);
int __wrap_getaddrinfo(const char *host, const char *port,
		       const struct addrinfo *hints, struct addrinfo **info);

int __wrap_getaddrinfo(const char *host, const char *port,
		       const struct addrinfo *hints, struct addrinfo **info)
{
	if (host && strcmp(host, "slow-host") == 0) {
		while (sem_wait(&name_servers))
			;
		host = "127.0.0.1";
	}
	if (host && strcmp(host, "host-without-its-first-address") == 0) {
		int ret = __real_getaddrinfo("192.0.2.1", port, hints, info);

		return ret ? ret
			   : __real_getaddrinfo("127.0.0.1", port, hints,
						&(*info)->ai_next);
	}
	return __real_getaddrinfo(host, port, hints, info);
}

static void test_a_name_is_listened_on_at_the_address_that_is_here(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_in addr;
	socklen_t size = sizeof(addr);
	struct channel_listener listener;
	struct err err = ERR_INIT;
	char uri[64];

	if (channel_listen(&listener, "tcp:host-without-its-first-address:0",
			   NULL, NULL, &err))
		fail_msg("%s", err_msg(&err));
	assert_int_equal(
		getsockname(listener.fd, (struct sockaddr *)&addr, &size), 0);
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", ntohs(addr.sin_port));
	connect_and_accept(f, &listener, uri);
	channel_listener_close(&listener);
}

static void test_to_listen_where_this_host_is_not_says_what_to_do(void **state)
{
	struct channel_listener listener;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(channel_listen(&listener, "tcp:192.0.2.1:4444", NULL,
					NULL, &err),
			 -EADDRNOTAVAIL);
	assert_string_equal(err_msg(&err),
			    "cannot listen on tcp:192.0.2.1:4444: this host "
			    "has no such address; tcp::4444 is all that it "
			    "has");
}

static void *let_name_servers_answer(void *opaque)
{
	(void)opaque;
	usleep(20000);
	sem_post(&name_servers);
	return NULL;
}

static void test_a_name_that_is_found_late_is_connected_to(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_in addr;
	socklen_t size = sizeof(addr);
	struct channel_listener listener;
	pthread_t thread;
	char uri[64];

	assert_int_equal(listen_at(&listener, "tcp:127.0.0.1:0"), 0);
	assert_int_equal(
		getsockname(listener.fd, (struct sockaddr *)&addr, &size), 0);
	snprintf(uri, sizeof(uri), "tcp:slow-host:%u", ntohs(addr.sin_port));
	pthread_create(&thread, NULL, let_name_servers_answer, NULL);
	connect_and_accept(f, &listener, uri);
	pthread_join(thread, NULL);
	channel_listener_close(&listener);
}

static void test_to_listen_on_a_name_does_not_wait_for_ever(void **state)
{
	struct channel_listener listener;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(
		channel_listen(&listener, "tcp:slow-host:0", NULL, NULL, &err),
		-ETIMEDOUT);
	assert_non_null(strstr(err_msg(&err), "slow-host: no name server"));
	sem_post(&name_servers); /* ends the thread left behind */
}

static void test_a_host_that_does_not_exist_is_named(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	assert_int_equal(channel_connect(&f->a, "tcp:999.1.1.1:1", f->stop_fd,
					 NULL, NULL, &err),
			 -EHOSTUNREACH);
	assert_non_null(strstr(err_msg(&err), "999.1.1.1"));
}

/* ---- ways out of a wait ---- */

static void *stop_later(void *opaque)
{
	usleep(20000);
	stop(opaque);
	return NULL;
}

/* Until the socket takes no more. */
static void fill(struct channel *channel)
{
	static uint8_t bytes[65536];

	while (send(channel->fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	assert_int_equal(errno, EAGAIN);
}

static int wait_in_recv(struct fixture *f, struct err *err)
{
	uint8_t byte;

	return channel_recv_bytes(&f->a, &byte, 1, err);
}

static int wait_in_send(struct fixture *f, struct err *err)
{
	return send_bytes(&f->a, "x", 1, err);
}

static int wait_in_sleep(struct fixture *f, struct err *err)
{
	(void)err;
	return channel_sleep(&f->a, clock_mono_ns() + 100 * NS_PER_SEC);
}

static int wait_in_accept(struct fixture *f, struct err *err)
{
	struct channel_listener listener;
	struct channel channel;
	int ret;

	assert_int_equal(listen_at(&listener, f->uri), 0);
	ret = channel_accept(&channel, &listener, f->stop_fd, err);
	channel_listener_close(&listener);
	return ret;
}

static int wait_for_name(struct fixture *f, struct err *err)
{
	struct channel channel;
	int ret = channel_connect(&channel, "tcp:slow-host:1", f->stop_fd, NULL,
				  NULL, err);

	sem_post(&name_servers);
	return ret;
}

static void test_a_stop_ends_every_wait_at_once(void **state)
{
	static int (*const waits[])(struct fixture *, struct err *) = {
		wait_in_recv,   wait_in_send,  wait_in_sleep,
		wait_in_accept, wait_for_name,
	};
	struct fixture *f = *state;

	pair_up(f);
	fill(&f->a);
	for (size_t i = 0; i < array_size(waits); i++) {
		uint64_t start = clock_mono_ns(), drained;
		pthread_t thread;

		pthread_create(&thread, NULL, stop_later, f);
		assert_int_equal(waits[i](f, NULL), -ECANCELED);
		assert_true(clock_mono_ns() - start < SOON_NS);
		pthread_join(thread, NULL);
		/* It stays stopped until the event is taken. */
		assert_int_equal(waits[i](f, NULL), -ECANCELED);
		assert_int_equal(read(f->stop_fd, &drained, sizeof(drained)),
				 sizeof(drained));
	}
}

static void test_a_deadline_ends_sends_and_receives(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	uint64_t start = clock_mono_ns();

	pair_up(f);
	fill(&f->a);
	f->a.deadline_ns = start + 20 * NS_PER_MS;
	assert_int_equal(wait_in_recv(f, &err), -ETIMEDOUT);
	assert_int_equal(err.code, -ETIMEDOUT);
	assert_int_equal(wait_in_send(f, NULL), -ETIMEDOUT);
	assert_true(clock_mono_ns() >= start + 20 * NS_PER_MS);
	assert_true(clock_mono_ns() - start < SOON_NS);
	f->a.deadline_ns = 1; /* long ago: only what goes at once */
	assert_int_equal(wait_in_recv(f, NULL), -ETIMEDOUT);
	assert_talks(&f->b, &f->a);
}

static void test_sleep_lasts_until_its_time(void **state)
{
	struct fixture *f = *state;
	uint64_t until = clock_mono_ns() + 20 * NS_PER_MS;

	pair_up(f);
	assert_int_equal(channel_sleep(&f->a, until), 0);
	assert_true(clock_mono_ns() >= until);
	assert_int_equal(channel_sleep(&f->a, until), 0);
}

/* ---- the peer ---- */

static void *take_late(void *opaque)
{
	struct fixture *f = opaque;
	char text[6];

	usleep(20000);
	assert_int_equal(channel_recv_bytes(&f->b, text, 6, NULL), 0);
	return NULL;
}

/* Who sends little at a time would else know only how fast the socket's buffer is. */
static void test_what_the_peer_has_not_taken_counts_as_busy(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;
	uint64_t before;

	pair_up(f);
	assert_int_equal(send_bytes(&f->a, "hello", 6, NULL), 0);
	before = f->a.busy_ns;
	assert_int_equal(pthread_create(&thread, NULL, take_late, f), 0);
	channel_await_taken(&f->a, clock_mono_ns() + 10 * NS_PER_SEC, 0);
	pthread_join(thread, NULL);
	assert_in_range(f->a.busy_ns - before, 15 * NS_PER_MS, 5 * NS_PER_SEC);

	/* There is nothing left. */
	before = f->a.busy_ns;
	channel_await_taken(&f->a, clock_mono_ns() + 10 * NS_PER_SEC, 0);
	assert_true(f->a.busy_ns - before < 5 * NS_PER_SEC);

	/* Of one that takes nothing only so long, less the way back. */
	assert_int_equal(send_bytes(&f->a, "hello", 6, NULL), 0);
	before = f->a.busy_ns;
	channel_await_taken(&f->a, clock_mono_ns() + 10 * NS_PER_MS,
			    10 * NS_PER_SEC);
	assert_true(f->a.busy_ns == before);
}

static void test_a_closed_peer_is_told_by_how_much_arrived(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[8];
	struct err err = ERR_INIT;

	pair_up(f);
	assert_false(channel_is_readable(&f->a));
	assert_int_equal(send_bytes(&f->b, "1234", 4, NULL), 0);
	assert_true(channel_is_readable(&f->a));
	channel_close(&f->b);
	assert_int_equal(send_bytes(&f->a, "x", 1, NULL), -EPIPE);
	assert_int_equal(channel_recv_bytes(&f->a, bytes, 8, &err), -EBADMSG);
	assert_non_null(strstr(err_msg(&err), "inside"));
	assert_true(channel_is_readable(&f->a));
	assert_int_equal(channel_recv_bytes(&f->a, bytes, 8, NULL), -ENODATA);
	assert_int_equal(channel_recv_bytes(&f->a, bytes, 0, NULL), 0);
}

static void test_what_was_read_ahead_comes_before_what_follows(void **state)
{
	struct fixture *f = *state;
	char big[32 << 10], got[32 << 10];
	struct iovec two[] = { { got, 3 }, { got + 3, 20000 } };

	pair_up(f);
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7 + i / 256);
	assert_int_equal(send_bytes(&f->b, big, 10, NULL), 0);
	assert_int_equal(channel_recv_bytes(&f->a, got, 1, NULL), 0);
	/* Nine bytes are in no socket any more. */
	assert_int_equal(f->a.ahead_size, 9);
	assert_true(channel_is_readable(&f->a));
	assert_int_equal(channel_recv_bytes(&f->a, got + 1, 4, NULL), 0);
	assert_memory_equal(got, big, 5);
	/* From both, into more than one place. */
	assert_int_equal(send_bytes(&f->b, big + 10, 20001, NULL), 0);
	assert_int_equal(channel_recv(&f->a, two, 2, NULL), 0);
	assert_memory_equal(got, big + 5, 20003);
	assert_true(channel_is_readable(&f->a));
	assert_int_equal(channel_recv_bytes(&f->a, got, 3, NULL), 0);
	assert_memory_equal(got, big + 20008, 3);
	assert_false(channel_is_readable(&f->a));
	channel_close(&f->b);
	assert_int_equal(channel_recv_bytes(&f->a, got, 1, NULL), -ENODATA);
}

/* ---- whole sends and receives ---- */

#define BIG (3u << 20)

struct transfer {
	struct channel *to;
	uint8_t *bytes;
	int ret;
};

/* In other pieces than they were sent in. */
static void *receive_big(void *opaque)
{
	struct transfer *t = opaque;
	struct iovec iov[1500];
	size_t piece = BIG / 1500, at = 0;

	for (size_t i = 0; i < array_size(iov); i++) {
		size_t size = i + 1 < array_size(iov) ? piece : BIG - at;

		iov[i] = (struct iovec){ t->bytes + at, size };
		at += size;
	}
	t->ret = channel_recv(t->to, iov, array_size(iov), NULL);
	return NULL;
}

static void test_all_of_many_pieces_arrives_through_a_small_buffer(void **state)
{
	struct fixture *f = *state;
	uint8_t *sent = malloc(BIG), *received = calloc(BIG, 1);
	struct transfer transfer = { &f->b, received, -1 };
	struct iovec iov[3000];
	int small = 4096;
	size_t at = 0;
	pthread_t thread;

	pair_up(f);
	setsockopt(f->a.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	srand(1);
	for (size_t i = 0; i < BIG; i++)
		sent[i] = (uint8_t)rand();
	for (size_t i = 0; i < array_size(iov); i++) {
		size_t size = i % 7 == 3 ? 0 : (size_t)rand() % 1000;

		if (i + 1 == array_size(iov))
			size = BIG - at;
		iov[i] = (struct iovec){ sent + at, size };
		at += size;
	}
	pthread_create(&thread, NULL, receive_big, &transfer);
	assert_int_equal(channel_send(&f->a, iov, array_size(iov), NULL), 0);
	pthread_join(thread, NULL);
	assert_int_equal(transfer.ret, 0);
	assert_memory_equal(sent, received, BIG);
	assert_int_equal(f->a.sent, BIG);
	assert_true(f->a.busy_ns > 0);
	assert_false(channel_is_readable(&f->b));
	free(sent);
	free(received);
}

/* ---- files ---- */

/* The channel to save to borrows f->uri. */
static void start_save(struct fixture *f)
{
	snprintf(f->uri, sizeof(f->uri), "file:%s", f->path);
	assert_int_equal(
		channel_connect(&f->a, f->uri, f->stop_fd, NULL, NULL, NULL),
		0);
	assert_true(f->a.is_file);
	assert_false(channel_is_readable(&f->a));
}

static void open_save(struct fixture *f)
{
	struct channel_listener listener;

	assert_int_equal(listen_at(&listener, f->uri), 0);
	assert_int_equal(channel_accept(&f->b, &listener, f->stop_fd, NULL), 0);
	channel_listener_close(&listener);
	assert_true(f->b.is_file);
}

static void test_a_save_has_its_name_once_it_is_whole(void **state)
{
	struct fixture *f = *state;
	struct channel_listener listener;
	char bytes[8];

	start_save(f);
	assert_int_equal(send_bytes(&f->a, "hello", 6, NULL), 0);
	assert_int_equal(listen_at(&listener, f->uri), -ENOENT);
	assert_int_equal(channel_sync(&f->a, NULL), 0);
	assert_int_equal(channel_commit(&f->a, NULL), 0);
	channel_close(&f->a);
	open_save(f);
	assert_int_equal(access(f->path, F_OK), 0);
	assert_int_equal(channel_recv_bytes(&f->b, bytes, 6, NULL), 0);
	assert_string_equal(bytes, "hello");
	assert_int_equal(channel_recv_bytes(&f->b, bytes, 8, NULL), -ENODATA);
}

static void test_a_save_that_failed_leaves_the_one_before(void **state)
{
	struct fixture *f = *state;
	char bytes[8];

	start_save(f);
	assert_int_equal(send_bytes(&f->a, "first", 6, NULL), 0);
	assert_int_equal(channel_sync(&f->a, NULL), 0);
	assert_int_equal(channel_commit(&f->a, NULL), 0);
	channel_close(&f->a);
	start_save(f);
	assert_int_equal(send_bytes(&f->a, "secon", 5, NULL), 0);
	channel_close(&f->a);
	open_save(f);
	assert_int_equal(channel_recv_bytes(&f->b, bytes, 6, NULL), 0);
	assert_string_equal(bytes, "first");
	/* nothing else is left in the folder */
	unlink(f->path);
	assert_int_equal(rmdir(f->folder), 0);
}

static void test_a_fifo_is_refused_and_not_waited_for(void **state)
{
	struct fixture *f = *state;
	struct channel_listener listener;

	assert_int_equal(mkfifo(f->path, 0600), 0);
	snprintf(f->uri, sizeof(f->uri), "file:%s", f->path);
	assert_int_equal(
		channel_connect(&f->a, f->uri, f->stop_fd, NULL, NULL, NULL),
		-EINVAL);
	assert_int_equal(listen_at(&listener, f->uri), -EINVAL);
	channel_listener_close(&listener);
}

static void test_a_missing_file_is_refused_when_listening(void **state)
{
	struct fixture *f = *state;
	struct channel_listener listener;
	struct err err = ERR_INIT;
	char uri[80];

	snprintf(uri, sizeof(uri), "file:%s", f->path);
	assert_int_equal(channel_listen(&listener, uri, NULL, NULL, &err),
			 -ENOENT);
	assert_non_null(strstr(err_msg(&err), f->path));
	channel_listener_close(&listener);
}

static void test_a_pipe_has_no_way_back(void **state)
{
	struct fixture *f = *state;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	connect_fd(&f->a, fds[1], f->stop_fd);
	connect_fd(&f->b, fds[0], f->stop_fd);
	assert_true(f->a.is_file && f->b.is_file);
	assert_talks(&f->a, &f->b);
	assert_int_equal(channel_sync(&f->a, NULL), 0);
	assert_int_equal(channel_commit(&f->a, NULL), 0);
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_good_addresses_are_taken),
		fact(test_bad_addresses_are_refused_with_what_would_be_right),
		fact(test_descriptors_come_by_number_or_by_name),
		fact(test_godwits_own_descriptors_are_not_taken_by_number),
		fact(test_descriptors_that_are_not_ours_to_use_are_refused),
		fact(test_a_socket_file_lives_as_long_as_its_listener),
		fact(test_a_stale_socket_is_replaced_and_a_live_one_refused),
		fact(test_a_file_in_the_way_of_a_socket_is_not_removed),
		fact(test_who_is_connected_is_connected),
		fact(test_tcp_reaches_a_name_and_an_ipv4_address),
		fact(test_tcp_reaches_an_ipv6_address_in_brackets),
		fact(test_a_name_is_listened_on_at_the_address_that_is_here),
		fact(test_to_listen_where_this_host_is_not_says_what_to_do),
		fact(test_a_name_that_is_found_late_is_connected_to),
		fact(test_to_listen_on_a_name_does_not_wait_for_ever),
		fact(test_a_host_that_does_not_exist_is_named),
		fact(test_a_stop_ends_every_wait_at_once),
		fact(test_a_deadline_ends_sends_and_receives),
		fact(test_sleep_lasts_until_its_time),
		fact(test_what_the_peer_has_not_taken_counts_as_busy),
		fact(test_a_closed_peer_is_told_by_how_much_arrived),
		fact(test_what_was_read_ahead_comes_before_what_follows),
		fact(test_all_of_many_pieces_arrives_through_a_small_buffer),
		fact(test_a_save_has_its_name_once_it_is_whole),
		fact(test_a_save_that_failed_leaves_the_one_before),
		fact(test_a_fifo_is_refused_and_not_waited_for),
		fact(test_a_missing_file_is_refused_when_listening),
		fact(test_a_pipe_has_no_way_back),
	};

	sem_init(&name_servers, 0, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
