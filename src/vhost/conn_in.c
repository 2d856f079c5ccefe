// SPDX-License-Identifier: Apache-2.0
/*
 * vhost-user messages over a UNIX socket: what comes in.  Each byte is the peer's choice.
 * A reply that is cut short by a deadline stays in conn->in, and the next call goes on
 * with it.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/err.h"
#include "conn_priv.h"

/* What may come beside bytes. */
union control {
	struct cmsghdr align;
	uint8_t fd[CMSG_SPACE(sizeof(int))];
	uint8_t peer[CMSG_SPACE(sizeof(struct ucred))];
};

/* Room for one thing that is due, and else for none: the kernel lets go of fds by itself,
 * which waits for no file system.  Who sends comes before them. */
static void make_room(const struct conn *conn, const int *ret_fd,
		      union control *control, struct msghdr *header)
{
	if (conn->wants_peer)
		header->msg_controllen = CMSG_LEN(sizeof(struct ucred));
	else if (ret_fd && *ret_fd < 0)
		header->msg_controllen = CMSG_LEN(sizeof(int));
	else
		return;
	header->msg_control = control;
}

static bool take_control(struct msghdr *header, int type, void *to, size_t size)
{
	const struct cmsghdr *part = CMSG_FIRSTHDR(header);

	if (!part || part->cmsg_level != SOL_SOCKET ||
	    part->cmsg_type != type || part->cmsg_len != CMSG_LEN(size))
		return false;
	memcpy(to, CMSG_DATA(part), size);
	return true;
}

static void take_peer(struct conn *conn, struct msghdr *header)
{
	const int is_on = 0;
	struct ucred peer;

	if (take_control(header, SCM_CREDENTIALS, &peer, sizeof(peer)))
		conn->peer = peer.pid;
	conn->wants_peer = false;
	setsockopt(conn->fd, SOL_SOCKET, SO_PASSCRED, &is_on, sizeof(is_on));
}

/* Some of the next @size bytes: how many; 0 when it has to be waited for.  @ret_fd: as of
 * conn_ask(). */
static ssize_t read_some(struct conn *conn, size_t size, int *ret_fd,
			 struct err *err)
{
	struct iovec part = { conn->in + conn->in_size, size };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	union control control;
	ssize_t got;

	make_room(conn, ret_fd, &control, &header);
	got = recvmsg(conn->fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got < 0)
		return err_set_errno(err, -errno, "%s: its back end has gone",
				     conn->name);
	if (got == 0)
		return err_set(err, -ECONNRESET, "%s: its back end has gone",
			       conn->name);
	if (conn->wants_peer)
		take_peer(conn, &header);
	else if (ret_fd)
		take_control(&header, SCM_RIGHTS, ret_fd, sizeof(*ret_fd));
	if (header.msg_flags & MSG_CTRUNC)
		return err_set(
			err, -EBADMSG,
			"%s: its back end sent fds that nobody asked for",
			conn->name);
	return got;
}

static struct um_header in_header(const struct conn *conn)
{
	struct um_header head;

	memcpy(&head, conn->in, sizeof(head));
	return head;
}

static int check_header(const struct conn *conn, uint32_t request,
			struct err *err)
{
	struct um_header head = in_header(conn);

	if (head.request != request)
		return err_set(err, -EBADMSG,
			       "%s: its back end answered request %u instead "
			       "of %u",
			       conn->name, head.request, request);
	if ((head.flags & UM_VERSION_MASK) != UM_VERSION ||
	    !(head.flags & UM_REPLY))
		return err_set(err, -EBADMSG,
			       "%s: its back end answered request %u with "
			       "flags 0x%x",
			       conn->name, request, head.flags);
	if (head.size > UM_PAYLOAD_MAX)
		return err_set(err, -EBADMSG,
			       "%s: its back end answered request %u with %u "
			       "bytes, at most %zu",
			       conn->name, request, head.size, UM_PAYLOAD_MAX);
	return 0;
}

/* The next message whole, which answers @request. */
static int read_message(struct conn *conn, uint32_t request, int *ret_fd,
			uint64_t deadline_ns, struct err *err)
{
	for (;;) {
		size_t end = CONN_HEADER_SIZE;
		ssize_t got;
		int ret = 0;

		if (conn->in_size >= CONN_HEADER_SIZE) {
			ret = check_header(conn, request, err);
			end += in_header(conn).size;
		}
		if (ret || conn->in_size >= end)
			return ret;
		got = read_some(conn, end - conn->in_size, ret_fd, err);
		if (got < 0)
			return (int)got;
		conn->in_size += (size_t)got;
		if (!got)
			ret = conn_wait_for(conn, POLLIN, deadline_ns, "answer",
					    err);
		if (ret)
			return ret;
	}
}

static int check_size(const struct conn *conn, size_t size, struct err *err)
{
	struct um_header head = in_header(conn);

	if (head.size != size)
		return err_set(err, -EBADMSG,
			       "%s: its back end answered request %u with %u "
			       "bytes, not %zu",
			       conn->name, head.request, head.size, size);
	return 0;
}

static uint64_t in_u64(const struct conn *conn)
{
	uint64_t value;

	memcpy(&value, conn->in + CONN_HEADER_SIZE, sizeof(value));
	return value;
}

static int take_base(const struct conn *conn,
		     const struct conn_pending *pending, struct err *err)
{
	struct um_state state;

	memcpy(&state, conn->in + CONN_HEADER_SIZE, sizeof(state));
	if (state.index != pending->index || state.num > UINT16_MAX)
		return err_set(err, -EBADMSG,
			       "%s: its back end says that ring %u is at %u; "
			       "ring %u was asked for",
			       conn->name, state.index, state.num,
			       pending->index);
	*pending->ret_base = state.num;
	return 0;
}

static int take_reply(const struct conn *conn,
		      const struct conn_pending *pending, struct err *err)
{
	struct um_header head = in_header(conn);
	int ret;

	/* What is in this one is specified nowhere, and differs. */
	if (pending->kind == CONN_LOG)
		return 0;
	ret = check_size(conn, sizeof(uint64_t), err);
	if (ret)
		return ret;
	if (pending->kind == CONN_BASE)
		return take_base(conn, pending, err);
	if (pending->kind == CONN_ACK && in_u64(conn))
		return err_set(err, -EPROTO,
			       "%s: its back end refuses request %u with %lu",
			       conn->name, head.request, in_u64(conn));
	return 0;
}

int conn_settle_one(struct conn *conn, uint64_t deadline_ns, struct err *err)
{
	const struct conn_pending *pending =
		&conn->pending[conn->pending_first];
	int ret = read_message(conn, pending->request, NULL, deadline_ns, err);

	if (ret)
		return ret;
	ret = take_reply(conn, pending, err);
	conn->in_size = 0;
	conn->pending_first = (conn->pending_first + 1) % CONN_PENDING_MAX;
	conn->pending_count--;
	return ret;
}

int conn_settle(struct conn *conn, uint64_t deadline_ns, struct err *err)
{
	int ret = conn_flush(conn, deadline_ns, err);

	while (conn->pending_count && !ret)
		ret = conn_settle_one(conn, deadline_ns, err);
	return ret;
}

int conn_check_quiet(const struct conn *conn, struct err *err)
{
	uint8_t byte;

	if (conn->pending_count ||
	    recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
		return 0;
	return err_set(err, -EBADMSG,
		       "%s: its back end answers what nobody asked",
		       conn->name);
}

int conn_ask(struct conn *conn, const struct conn_message *message, void *reply,
	     size_t reply_size, int *ret_fd, uint64_t deadline_ns,
	     struct err *err)
{
	int ret = conn_settle(conn, deadline_ns, err);

	if (ret_fd)
		*ret_fd = -1;
	if (!ret)
		ret = conn_check_quiet(conn, err);
	if (!ret)
		ret = conn_write_message(conn, message, 0, deadline_ns, err);
	if (!ret)
		ret = read_message(conn, message->request, ret_fd, deadline_ns,
				   err);
	if (!ret)
		ret = check_size(conn, reply_size, err);
	if (!ret && ret_fd && *ret_fd < 0)
		ret = err_set(err, -EBADMSG,
			      "%s: its back end answered request %u without "
			      "an fd",
			      conn->name, (unsigned int)message->request);
	if (!ret)
		memcpy(reply, conn->in + CONN_HEADER_SIZE, reply_size);
	conn->in_size = 0;
	return ret;
}
