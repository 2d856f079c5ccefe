// SPDX-License-Identifier: Apache-2.0
/*
 * Every wait for a peer goes through channel_wait(), which also watches the stop
 * eventfd and the deadline; the rest is how a channel comes to be, one scheme of URI
 * after the other.  channel_io.c moves the bytes.
 */
#include "migrate/channel.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/parse.h"
#include "migrate/resolve.h"

/* Room for one RAM record and more, so that the sender prepares the next one
 * while the receiver copies. */
#define SOCKET_BUFFER      (4 << 20)
#define TAKEN_LOOK_NS      (20 * NS_PER_US)
#define CONNECT_TIMEOUT_NS (10 * NS_PER_SEC)
/* As long as the C library asks by default, and then some. */
#define RESOLVE_TIMEOUT_NS (40 * NS_PER_SEC)
/* To listen on: an address of this host, which should know it by itself.  The
 * caller waits, QMP and all. */
#define OWN_NAME_TIMEOUT_NS (2 * NS_PER_SEC)
/* One source comes; before it maybe some who only look whether somebody listens,
 * and on a busy host they are not seen off at once. */
#define BACKLOG 16
/* A peer host that vanished is noticed after this. */
#define TCP_DEAD_MS 20000
#define TCP_ALIVE_S 5 /* between probes of a silent one */

enum uri_kind {
	URI_TCP,
	URI_UNIX,
	URI_FD,
	URI_FILE,
};

struct uri {
	enum uri_kind kind;
	const char *rest;         /* after the scheme */
	char host[256], port[16]; /* tcp */
	struct sockaddr_un addr;  /* unix */
};

/* A number or the name of a service.  getaddrinfo() would take any number, and
 * keep its low 16 bits. */
static bool is_port(const char *text)
{
	uint64_t port;

	return isalpha((unsigned char)*text) ||
	       parse_u64(text, 0, UINT16_MAX, &port, NULL) == 0;
}

static int uri_parse_tcp(struct uri *uri, const char *text, struct err *err)
{
	const char *colon = strrchr(uri->rest, ':');
	const char *host = uri->rest;
	size_t size;

	if (!colon || !colon[1] || strlen(colon + 1) >= sizeof(uri->port))
		return err_set(err, -EINVAL, "'%s': use tcp:HOST:PORT", text);
	if (!is_port(colon + 1))
		return err_set(err, -EINVAL, "'%s': port '%s', at most 65535",
			       text, colon + 1);
	size = (size_t)(colon - host);
	if (size >= 2 && host[0] == '[' && host[size - 1] == ']') {
		host++;
		size -= 2;
	}
	if (size >= sizeof(uri->host))
		return err_set(err, -EINVAL, "'%s': host name too long", text);
	memcpy(uri->host, host, size);
	uri->host[size] = '\0';
	snprintf(uri->port, sizeof(uri->port), "%s", colon + 1);
	return 0;
}

static int uri_parse(struct uri *uri, const char *text, struct err *err)
{
	static const struct {
		const char *scheme;
		enum uri_kind kind;
	} schemes[] = {
		{ "tcp:", URI_TCP },
		{ "unix:", URI_UNIX },
		{ "fd:", URI_FD },
		{ "file:", URI_FILE },
	};

	for (size_t i = 0; i < array_size(schemes); i++) {
		size_t size = strlen(schemes[i].scheme);

		if (strncmp(text, schemes[i].scheme, size) != 0)
			continue;
		uri->kind = schemes[i].kind;
		uri->rest = text + size;
		if (!*uri->rest)
			break;
		if (uri->kind == URI_TCP)
			return uri_parse_tcp(uri, text, err);
		return uri->kind == URI_UNIX
			       ? unix_address(&uri->addr, uri->rest, err)
			       : 0;
	}
	return err_set(err, -EINVAL,
		       "'%s': use tcp:HOST:PORT, unix:PATH, fd:NAME or "
		       "file:PATH",
		       text);
}

int channel_check_uri(const char *text, struct err *err)
{
	struct uri uri;

	return uri_parse(&uri, text, err);
}

int channel_wait(const struct channel *channel, short events)
{
	struct pollfd fds[2] = {
		{ .fd = channel->fd, .events = events },
		{ .fd = channel->stop_fd, .events = POLLIN },
	};

	for (;;) {
		struct timespec timeout, *wait = NULL;
		int ret;

		if (channel->deadline_ns) {
			uint64_t now = clock_mono_ns();
			uint64_t left = channel->deadline_ns > now
						? channel->deadline_ns - now
						: 0;

			timeout.tv_sec = (time_t)(left / NS_PER_SEC);
			timeout.tv_nsec = (long)(left % NS_PER_SEC);
			wait = &timeout;
		}
		ret = ppoll(fds, 2, wait, NULL);
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret < 0)
			return -errno;
		if (ret == 0)
			return -ETIMEDOUT;
		if (fds[1].revents)
			return -ECANCELED;
		return 0;
	}
}

int channel_sleep(const struct channel *channel, uint64_t until_ns)
{
	struct channel sleeper = { .fd = -1,
				   .stop_fd = channel->stop_fd,
				   .deadline_ns = until_ns };
	int ret = channel_wait(&sleeper, 0);

	return ret == -ETIMEDOUT ? 0 : ret;
}

void channel_await_taken(struct channel *channel, uint64_t until_ns,
			 uint64_t flight_ns)
{
	uint64_t start = clock_mono_ns(), now = start;
	int left;

	while (channel->is_socket && now < until_ns &&
	       ioctl(channel->fd, SIOCOUTQ, &left) == 0 && left &&
	       channel_sleep(channel, now + TAKEN_LOOK_NS) == 0)
		now = clock_mono_ns();
	if (now - start > flight_ns)
		channel->busy_ns += now - start - flight_ns;
}

static void tune_socket(int fd, int family)
{
	int size = SOCKET_BUFFER, on = 1, dead_ms = TCP_DEAD_MS;
	int alive_s = TCP_ALIVE_S;

	/* Past the system's limit where we may; what is refused only costs
	 * speed. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (family == AF_UNIX)
		return;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &alive_s, sizeof(alive_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &alive_s, sizeof(alive_s));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms,
		   sizeof(dead_ms));
}

/* Take @fd over as the channel's descriptor, with @save if it is one. */
static int adopt(struct channel *channel, int fd, const struct save *save,
		 int stop_fd, struct err *err)
{
	struct sockaddr_storage addr;
	socklen_t addr_size = sizeof(addr);
	int flags = fcntl(fd, F_GETFL);
	struct stat st;

	*channel = (struct channel){
		.fd = fd,
		.ahead = malloc(CHANNEL_AHEAD_SIZE),
		.stop_fd = stop_fd,
		.save = *save,
	};
	if (!channel->ahead) {
		channel_close(channel);
		return err_set(err, -ENOMEM, "no memory for the channel");
	}
	if (flags < 0 || fstat(fd, &st) < 0 ||
	    fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
		int code = -errno;

		channel_close(channel);
		return err_set_errno(err, code, "migration channel");
	}
	channel->is_socket = S_ISSOCK(st.st_mode);
	channel->is_kept = S_ISREG(st.st_mode);
	channel->is_file = channel->is_kept || S_ISBLK(st.st_mode) ||
			   (flags & O_ACCMODE) != O_RDWR;
	if (channel->is_socket &&
	    getsockname(fd, (struct sockaddr *)&addr, &addr_size) == 0)
		tune_socket(fd, addr.ss_family);
	return 0;
}

/* A connect() that is under way becomes done, refused, or timed out. */
static int finish_connect(int fd, int stop_fd)
{
	struct channel waiter = { .fd = fd,
				  .stop_fd = stop_fd,
				  .deadline_ns = clock_mono_ns() +
						 CONNECT_TIMEOUT_NS };
	int code = 0, ret;
	socklen_t size = sizeof(code);

	ret = channel_wait(&waiter, POLLOUT);
	if (!ret && getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0)
		ret = -errno;
	return ret ? ret : -code;
}

static int connect_one(int fd, const struct sockaddr *addr, socklen_t size,
		       int stop_fd)
{
	int ret = connect(fd, addr, size) < 0 ? -errno : 0;

	return ret == -EINPROGRESS ? finish_connect(fd, stop_fd) : ret;
}

static int connect_unix(const struct uri *uri, int stop_fd, int *ret_fd,
			struct err *err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int ret;

	if (fd < 0)
		return -errno;
	ret = connect_one(fd, (const struct sockaddr *)&uri->addr,
			  sizeof(uri->addr), stop_fd);
	if (ret)
		close(fd);
	else
		*ret_fd = fd;
	/* All the peers wait that it lets wait. */
	if (ret == -EAGAIN)
		err_set(err, ret,
			"unix:%s is busy with another source; try again once "
			"that has ended",
			uri->rest);
	return ret;
}

/* -ECANCELED by @stop_fd, -ETIMEDOUT; -EHOSTUNREACH says why. */
static int find_host(const struct uri *uri, int flags, int stop_fd,
		     uint64_t timeout_ns, struct addrinfo **ret_info,
		     struct err *err)
{
	struct channel waiter = { .stop_fd = stop_fd,
				  .deadline_ns = clock_mono_ns() + timeout_ns };
	struct resolve *resolve;
	int ret;

	ret = resolve_start(uri->host, uri->port, flags, &resolve, err);
	if (ret)
		return ret;
	waiter.fd = resolve_fd(resolve);
	ret = channel_wait(&waiter, POLLIN);
	if (ret == -ETIMEDOUT)
		err_set(err, ret,
			"%s: no name server answers; give an address instead of the name",
			uri->host);
	if (!ret)
		ret = resolve_take(resolve, ret_info, err);
	resolve_put(resolve);
	return ret;
}

static int connect_tcp(const struct uri *uri, int stop_fd, int *ret_fd,
		       struct err *err)
{
	struct addrinfo *info, *at;
	int ret = find_host(uri, 0, stop_fd, RESOLVE_TIMEOUT_NS, &info, err);

	if (ret)
		return ret;
	ret = -EHOSTUNREACH;
	for (at = info; at; at = at->ai_next) {
		int fd = socket(at->ai_family,
				at->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
				at->ai_protocol);

		if (fd < 0) {
			ret = -errno;
			continue;
		}
		ret = connect_one(fd, at->ai_addr, at->ai_addrlen, stop_fd);
		if (!ret) {
			*ret_fd = fd;
			break;
		}
		close(fd);
	}
	freeaddrinfo(info);
	return ret;
}

/* A named descriptor, or a number: in both cases the channel owns it now. */
static int take_fd(const struct uri *uri, channel_fd_fn *get_fd, void *opaque,
		   int *ret_fd, struct err *err)
{
	char *end;
	long number;

	if (!isdigit((unsigned char)uri->rest[0])) {
		int fd = get_fd ? get_fd(opaque, uri->rest) : -1;

		if (fd < 0)
			return err_set(
				err, -ENOENT,
				"no descriptor named '%s'; send one with "
				"getfd",
				uri->rest);
		*ret_fd = fd;
		return 0;
	}
	errno = 0;
	number = strtol(uri->rest, &end, 10);
	/* All of godwit's own are close-on-exec; an inherited one is not. */
	if (*end || errno || number > INT32_MAX || number <= 2 ||
	    fcntl((int)number, F_GETFD) != 0)
		return err_set(err, -EBADF,
			       "fd:%s is not a descriptor that was handed in",
			       uri->rest);
	fcntl((int)number, F_SETFD, FD_CLOEXEC);
	*ret_fd = (int)number;
	return 0;
}

/* A save, or a device to save to.  Opening a FIFO would wait. */
static int create_file(const struct uri *uri, struct save *save, int *ret_fd,
		       struct err *err)
{
	struct stat st;

	if (stat(uri->rest, &st) < 0 || S_ISREG(st.st_mode))
		return save_open(save, uri->rest, ret_fd, err);
	if (S_ISFIFO(st.st_mode))
		return err_set(err, -EINVAL,
			       "%s is a FIFO; use fd:", uri->rest);
	*ret_fd = open(uri->rest, O_WRONLY | O_CLOEXEC);
	return *ret_fd < 0 ? -errno : 0;
}

static int open_file(const struct uri *uri, int *ret_fd, struct err *err)
{
	struct stat st;

	if (stat(uri->rest, &st) < 0)
		return -errno;
	if (S_ISFIFO(st.st_mode))
		return err_set(err, -EINVAL,
			       "%s is a FIFO; use fd:", uri->rest);
	*ret_fd = open(uri->rest, O_RDONLY | O_CLOEXEC);
	return *ret_fd < 0 ? -errno : 0;
}

int channel_connect(struct channel *channel, const char *text, int stop_fd,
		    channel_fd_fn *get_fd, void *opaque, struct err *err)
{
	struct uri uri;
	struct save save = { .name = NULL };
	int fd = -1, ret;

	ret = uri_parse(&uri, text, err);
	if (ret)
		return ret;
	switch (uri.kind) {
	case URI_TCP:
		ret = connect_tcp(&uri, stop_fd, &fd, err);
		break;
	case URI_UNIX:
		ret = connect_unix(&uri, stop_fd, &fd, err);
		break;
	case URI_FD:
		ret = take_fd(&uri, get_fd, opaque, &fd, err);
		break;
	case URI_FILE:
		ret = create_file(&uri, &save, &fd, err);
		break;
	}
	if (ret)
		return err_set_errno(
			err, ret, "cannot %s %s",
			uri.kind == URI_FILE ? "write" : "connect to", text);
	return adopt(channel, fd, &save, stop_fd, err);
}

static int bind_unix(const struct uri *uri, struct channel_listener *listener,
		     struct err *err)
{
	int ret = unix_listener_open(&listener->bound, uri->rest, BACKLOG, err);

	listener->fd = listener->bound.fd;
	return ret;
}

static int bind_one(const struct addrinfo *at, int *ret_fd)
{
	int fd = socket(at->ai_family,
			at->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
			at->ai_protocol);
	int on = 1, ret = 0;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, at->ai_addr, at->ai_addrlen) < 0 ||
	    listen(fd, BACKLOG) < 0)
		ret = -errno;
	if (ret)
		close(fd);
	else
		*ret_fd = fd;
	return ret;
}

static int bind_tcp(const struct uri *uri, struct channel_listener *listener,
		    struct err *err)
{
	struct addrinfo *info, *at;
	int ret =
		find_host(uri, AI_PASSIVE, -1, OWN_NAME_TIMEOUT_NS, &info, err);

	if (ret)
		return ret;
	/* A name may have an address that this host has not, such as ::1 where
	 * IPv6 is off.  One that is in use is not passed over: a source would
	 * find whoever uses it. */
	ret = -EADDRNOTAVAIL;
	for (at = info; at && (ret == -EADDRNOTAVAIL || ret == -EAFNOSUPPORT);
	     at = at->ai_next)
		ret = bind_one(at, &listener->fd);
	freeaddrinfo(info);
	if (ret == -EADDRNOTAVAIL)
		err_set(err, ret,
			"cannot listen on tcp:%s:%s: this host has no such "
			"address; tcp::%s is all that it has",
			uri->host, uri->port, uri->port);
	return ret;
}

int channel_listen(struct channel_listener *listener, const char *text,
		   channel_fd_fn *get_fd, void *opaque, struct err *err)
{
	struct uri uri;
	int ret = uri_parse(&uri, text, err);

	*listener = (struct channel_listener)CHANNEL_LISTENER_INIT;
	if (ret)
		return ret;
	switch (uri.kind) {
	case URI_TCP:
		ret = bind_tcp(&uri, listener, err);
		break;
	case URI_UNIX:
		ret = bind_unix(&uri, listener, err);
		break;
	case URI_FD:
		ret = take_fd(&uri, get_fd, opaque, &listener->fd, err);
		listener->is_ready = true;
		break;
	case URI_FILE:
		ret = open_file(&uri, &listener->fd, err);
		listener->is_ready = true;
		break;
	}
	if (ret && uri.kind == URI_FILE)
		return err_set_errno(err, ret, "cannot open %s", uri.rest);
	return ret ? err_set_errno(err, ret, "cannot listen on %s", text) : 0;
}

int channel_accept(struct channel *channel, struct channel_listener *listener,
		   int stop_fd, struct err *err)
{
	struct channel waiter = { .fd = listener->fd, .stop_fd = stop_fd };
	const struct save no_save = { .name = NULL };
	int fd = listener->fd;
	int ret;

	if (listener->is_ready) {
		listener->fd = -1;
		return adopt(channel, fd, &no_save, stop_fd, err);
	}
	do {
		ret = channel_wait(&waiter, POLLIN);
		if (ret)
			return err_set_errno(err, ret, "waiting for a source");
		fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
	} while (fd < 0 &&
		 (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR));
	if (fd < 0)
		return err_set_errno(err, -errno, "accepting a source");
	return adopt(channel, fd, &no_save, stop_fd, err);
}

void channel_listener_close(struct channel_listener *listener)
{
	if (listener->bound.fd >= 0)
		unix_listener_close(&listener->bound);
	else if (listener->fd >= 0)
		close(listener->fd);
	*listener = (struct channel_listener)CHANNEL_LISTENER_INIT;
}

int channel_sync(struct channel *channel, struct err *err)
{
	if (!channel->is_file)
		return 0;
	if (fsync(channel->fd) < 0 && errno != EINVAL)
		return err_set_errno(err, -errno, "writing to disk");
	return 0;
}

int channel_commit(struct channel *channel, struct err *err)
{
	return channel->save.name ? save_commit(&channel->save, err) : 0;
}

void channel_close(struct channel *channel)
{
	save_drop(&channel->save);
	free(channel->ahead);
	if (channel->has_pipe) {
		close(channel->pipe[0]);
		close(channel->pipe[1]);
	}
	channel->has_pipe = false;
	channel->piped = 0;
	channel->ahead = NULL;
	channel->ahead_size = 0;
	if (channel->fd >= 0)
		close(channel->fd);
	channel->fd = -1;
}
