// SPDX-License-Identifier: Apache-2.0
/*
 * vhost-user messages over a UNIX socket: the socket, and what goes out.  Called by
 * user.c and user_session.c.
 */
#include "vhost/conn.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/unix_listen.h"
#include "conn_priv.h"

void conn_init(struct conn *conn, const char *name)
{
	memset(conn, 0, sizeof(*conn));
	conn->name = name;
	conn->fd = -1;
}

void conn_close(struct conn *conn)
{
	if (conn->fd >= 0)
		close(conn->fd);
	conn->fd = -1;
	conn->has_ack = conn->wants_peer = false;
	conn->in_size = conn->out_size = 0;
	conn->pending_count = 0;
}

bool conn_wait_end(int fd, uint64_t deadline_ns)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLRDHUP };
	uint64_t now = clock_mono_ns();
	int ret;

	do {
		uint64_t left = deadline_ns > now ? deadline_ns - now : 0;

		ret = poll(&poll_fd, 1, (int)(left / NS_PER_MS) + 1);
		now = clock_mono_ns();
	} while (ret < 0 && errno == EINTR && now < deadline_ns);
	return ret > 0;
}

int conn_leave(struct conn *conn, uint64_t deadline_ns)
{
	int fd = -1;

	if (conn->fd >= 0 && !shutdown(conn->fd, SHUT_WR) &&
	    !conn_wait_end(conn->fd, deadline_ns)) {
		fd = conn->fd;
		conn->fd = -1;
	}
	conn_close(conn);
	return fd;
}

void conn_open(struct conn *conn, int fd)
{
	conn_close(conn);
	conn->fd = fd;
}

int conn_wait_for(struct conn *conn, short events, uint64_t deadline_ns,
		  const char *what, struct err *err)
{
	struct pollfd poll_fd = { .fd = conn->fd, .events = events };
	uint64_t now = clock_mono_ns();
	struct timespec left;
	int ret;

	if (now >= deadline_ns)
		return err_set(err, -ETIMEDOUT,
			       "%s: its back end does not %s in time",
			       conn->name, what);
	left.tv_sec = (time_t)((deadline_ns - now) / NS_PER_SEC);
	left.tv_nsec = (long)((deadline_ns - now) % NS_PER_SEC);
	ret = ppoll(&poll_fd, 1, &left, NULL);
	return ret < 0 && errno != EINTR
		       ? err_set_errno(err, -errno, "%s: poll", conn->name)
		       : 0;
}

/* With what the peer sends from here on.  Before it connects, that would give the socket
 * a name. */
static int ask_for_peer(struct conn *conn, struct err *err)
{
	const int is_on = 1;

	if (setsockopt(conn->fd, SOL_SOCKET, SO_PASSCRED, &is_on,
		       sizeof(is_on)) < 0)
		return err_set_errno(err, -errno, "%s: SO_PASSCRED",
				     conn->name);
	conn->wants_peer = true;
	return 0;
}

/* A UNIX socket connects at once, or its backlog is full (-EAGAIN). */
int conn_connect(struct conn *conn, const char *path, struct err *err)
{
	struct sockaddr_un addr;
	int ret = unix_address(&addr, path, err);

	if (ret)
		return ret;
	conn_open(conn, socket(AF_UNIX,
			       SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	if (conn->fd < 0)
		return err_set_errno(err, -errno, "%s: socket", conn->name);
	if (!connect(conn->fd, (struct sockaddr *)&addr, sizeof(addr)))
		return ask_for_peer(conn, err);
	ret = -errno;
	conn_close(conn);
	return err_set_errno(err, ret, "%s: back end at %s", conn->name, path);
}

/* ---- out ---- */

static void put_fds(struct msghdr *header, const struct conn_message *message,
		    void *control)
{
	size_t size = message->fd_count * sizeof(int);
	struct cmsghdr *fds;

	if (!message->fd_count)
		return;
	header->msg_control = control;
	header->msg_controllen = CMSG_SPACE(size);
	fds = CMSG_FIRSTHDR(header);
	fds->cmsg_level = SOL_SOCKET;
	fds->cmsg_type = SCM_RIGHTS;
	fds->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(fds), message->fds, size);
}

/* With the fds of @header, if there are any.  @*ret_sent of the bytes have gone, also
 * after an error. */
static int write_bytes(struct conn *conn, struct msghdr *header, uint8_t *bytes,
		       size_t size, size_t *ret_sent, uint64_t deadline_ns,
		       struct err *err)
{
	struct iovec part;
	int ret;

	header->msg_iov = &part;
	header->msg_iovlen = 1;
	*ret_sent = 0;
	while (*ret_sent < size) {
		ssize_t sent;

		part = (struct iovec){ bytes + *ret_sent, size - *ret_sent };
		sent = sendmsg(conn->fd, header, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent > 0) {
			*ret_sent += (size_t)sent;
			header->msg_control = NULL; /* they went with it */
			header->msg_controllen = 0;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return err_set_errno(err, -errno,
					     "%s: its back end has gone",
					     conn->name);
		ret = conn_wait_for(conn, POLLOUT, deadline_ns, "take requests",
				    err);
		if (ret)
			return ret;
	}
	return 0;
}

/* What waited: on its own, since fds belong to the first message of a write. */
int conn_flush(struct conn *conn, uint64_t deadline_ns, struct err *err)
{
	struct msghdr header = { .msg_iovlen = 0 };
	size_t sent;
	int ret = write_bytes(conn, &header, conn->out, conn->out_size, &sent,
			      deadline_ns, err);

	conn->out_size -= sent;
	memmove(conn->out, conn->out + sent, conn->out_size);
	return ret;
}

static size_t pack(const struct conn_message *message, uint32_t flags,
		   uint8_t *to)
{
	const struct um_header head = { message->request, UM_VERSION | flags,
					(uint32_t)message->size };

	memcpy(to, &head, CONN_HEADER_SIZE);
	if (message->size)
		memcpy(to + CONN_HEADER_SIZE, message->payload, message->size);
	return CONN_HEADER_SIZE + message->size;
}

static int write_later(struct conn *conn, const struct conn_message *message,
		       uint64_t deadline_ns, struct err *err)
{
	size_t size = CONN_HEADER_SIZE + message->size;
	int ret = 0;

	assert(size <= sizeof(conn->out) && !message->fd_count);
	if (size > sizeof(conn->out) - conn->out_size)
		ret = conn_flush(conn, deadline_ns, err);
	if (!ret)
		conn->out_size += pack(message, 0, conn->out + conn->out_size);
	return ret;
}

int conn_write_message(struct conn *conn, const struct conn_message *message,
		       uint32_t flags, uint64_t deadline_ns, struct err *err)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(CONN_FDS_MAX * sizeof(int))];
	} control = { .bytes = { 0 } };
	uint8_t out[CONN_HEADER_SIZE + UM_PAYLOAD_MAX];
	struct msghdr header = { .msg_iovlen = 0 };
	struct err why = ERR_INIT;
	size_t size, sent;
	int ret = conn_flush(conn, deadline_ns, err);

	_Static_assert(sizeof(out) <= sizeof(conn->out), "a rest has room");
	assert(message->size <= UM_PAYLOAD_MAX &&
	       message->fd_count <= CONN_FDS_MAX);
	if (ret)
		return ret;
	put_fds(&header, message, &control);
	size = pack(message, flags, out);
	ret = write_bytes(conn, &header, out, size, &sent, deadline_ns, &why);
	if (ret != -ETIMEDOUT || !sent)
		return ret ? err_set(err, ret, "%s", err_msg(&why)) : 0;
	/* Its fds have gone with the beginning: it is sent, and the rest waits. */
	conn->out_size = size - sent;
	memcpy(conn->out, out + sent, conn->out_size);
	return 0;
}

/* What it answers may not have gone out yet. */
static int settle_one_now(struct conn *conn, uint64_t deadline_ns,
			  struct err *err)
{
	int ret = conn_flush(conn, deadline_ns, err);

	return ret ? ret : conn_settle_one(conn, deadline_ns, err);
}

int conn_send(struct conn *conn, const struct conn_message *message,
	      uint64_t deadline_ns, struct err *err)
{
	enum conn_reply kind = message->reply;
	unsigned int last;
	int ret;

	if (message->may_wait && kind == CONN_NO_REPLY)
		return write_later(conn, message, deadline_ns, err);
	ret = conn_check_quiet(conn, err);
	if (kind == CONN_ACK && !conn->has_ack)
		kind = CONN_NO_REPLY;
	if (!ret && kind != CONN_NO_REPLY &&
	    conn->pending_count == CONN_PENDING_MAX)
		ret = settle_one_now(conn, deadline_ns, err);
	if (!ret && message->may_wait)
		ret = write_later(conn, message, deadline_ns, err);
	else if (!ret)
		ret = conn_write_message(conn, message,
					 kind == CONN_ACK ? UM_NEED_REPLY : 0,
					 deadline_ns, err);
	if (ret || kind == CONN_NO_REPLY)
		return ret;
	last = (conn->pending_first + conn->pending_count++) % CONN_PENDING_MAX;
	conn->pending[last] = (struct conn_pending){
		.kind = kind,
		.request = message->request,
		.index = message->index,
		.ret_base = message->ret_base,
	};
	return 0;
}
