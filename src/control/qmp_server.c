// SPDX-License-Identifier: Apache-2.0
/*
 * Peers are closed in two steps, as libuv wants it: the handle first, the memory
 * in its callback.  What a peer cannot take now waits in its queue.
 */
#include "control/qmp_server.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "base/log.h"
#include "base/trace.h"
#include "base/unix_listen.h"
#include "base/version.h"
#include "control/qmp_scan.h"

#define BACKLOG        16
#define READ_SIZE      (64u << 10)
#define FDS_MAX        16 /* in one SCM_RIGHTS message; all but the first close */
#define ACCEPT_REST_MS 1000 /* without descriptors, before the next try */
#define CLOSE_WAIT_MS  500u

/* All owned by the loop's thread. */
struct qmp_server {
	struct unix_listener listener;
	uv_loop_t *loop; /* borrowed until closed */
	uv_poll_t poll;
	uv_timer_t rest;      /* runs while accept() has no descriptors */
	unsigned int handles; /* of poll and rest that are not closed yet */
	qmp_execute_fn *on_execute;
	void *opaque; /* borrowed, for on_execute */
	struct list peers;
	unsigned int peer_count;
	bool is_closing;
};

/* Freed by the close callback of @poll. */
struct qmp_peer {
	struct qmp_server *server; /* NULL once closing */
	struct list link;          /* in server->peers */
	uv_poll_t poll;
	int fd;        /* owned; -1 once closing */
	int passed_fd; /* owned; -1 without one */
	struct qmp_scan scan;
	struct bytes_writer out; /* from out_at on: to be sent */
	size_t out_at;
	bool is_negotiated;
	bool is_ending; /* reads no more; closes when all is sent */
	bool is_dead;   /* to be closed by whoever called in */
};

/* JSON pieces that every answer needs */

json_t *qmp_string_new(const char *text)
{
	json_t *string = json_string(text);
	char *copy, *c;

	if (string)
		return string;
	copy = strdup(text);
	if (!copy)
		return NULL;
	for (c = copy; *c; c++) {
		if (*c & 0x80)
			*c = '?';
	}
	string = json_string(copy);
	free(copy);
	return string;
}

json_t *qmp_error_new(const char *class, const char *desc)
{
	return json_pack("{s:{s:s, s:o}}", "error", "class", class, "desc",
			 qmp_string_new(desc));
}

json_t *qmp_version_new(void)
{
	return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "micro",
			 GODWIT_VERSION_MICRO, "minor", GODWIT_VERSION_MINOR,
			 "major", GODWIT_VERSION_MAJOR, "package",
			 "godwit " GODWIT_VERSION);
}

json_t *qmp_timestamp_new(uint64_t real_ns)
{
	return json_pack("{s:I, s:I}", "seconds",
			 (json_int_t)(real_ns / NS_PER_SEC), "microseconds",
			 (json_int_t)(real_ns % NS_PER_SEC / NS_PER_US));
}

/* Closing */

static void drop_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void peer_closed(uv_handle_t *handle)
{
	struct qmp_peer *peer = handle->data;

	drop_fd(&peer->fd);
	drop_fd(&peer->passed_fd);
	qmp_scan_fini(&peer->scan);
	bytes_writer_fini(&peer->out);
	free(peer);
}

static void peer_close(struct qmp_peer *peer)
{
	struct qmp_server *server = peer->server;

	if (!server)
		return;
	trace(qmp_peer_close, "fd %d", peer->fd);
	peer->server = NULL;
	list_del(&peer->link);
	server->peer_count--;
	uv_close((uv_handle_t *)&peer->poll, peer_closed);
}

/* Sending */

static size_t peer_queued(const struct qmp_peer *peer)
{
	return peer->out.size - peer->out_at;
}

/* As much as the socket takes; marks the peer dead when it is gone. */
static void peer_flush(struct qmp_peer *peer)
{
	ssize_t sent;

	while (peer_queued(peer) && !peer->is_dead) {
		sent = send(peer->fd, peer->out.data + peer->out_at,
			    peer_queued(peer), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent >= 0)
			peer->out_at += (size_t)sent;
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			break;
		else if (errno != EINTR)
			peer->is_dead = true;
	}
	if (!peer_queued(peer))
		peer->out.size = peer->out_at = 0;
	if (peer->out_at > QMP_PEER_QUEUE_MAX) {
		memmove(peer->out.data, peer->out.data + peer->out_at,
			peer_queued(peer));
		peer->out.size -= peer->out_at;
		peer->out_at = 0;
	}
	if (peer->is_ending && !peer_queued(peer))
		peer->is_dead = true;
}

/* Consumes @message; NULL (no memory for it) drops the peer. */
static void peer_send(struct qmp_peer *peer, json_t *message)
{
	char *text = json_dumps(message, QMP_DUMP_FLAGS);
	size_t size = text ? strlen(text) : 0;

	json_decref(message);
	if (!text || peer->is_dead) {
		peer->is_dead = true;
	} else if (peer_queued(peer) + size + 2 > QMP_PEER_QUEUE_MAX) {
		log_warn("dropped a QMP client that does not read its answers");
		peer->is_dead = true;
	} else {
		bytes_put(&peer->out, text, size);
		bytes_put(&peer->out, "\r\n", 2);
		if (peer->out.is_failed)
			peer->is_dead = true;
		else
			peer_flush(peer);
	}
	free(text);
}

/* Receiving */

static void on_peer(uv_poll_t *handle, int status, int events);

/* To be called last by everything that may have queued or ended something. */
static void peer_settle(struct qmp_peer *peer)
{
	int events = (peer->is_ending ? 0 : UV_READABLE) |
		     (peer_queued(peer) ? UV_WRITABLE : 0);

	if (peer->is_dead)
		peer_close(peer);
	else
		uv_poll_start(&peer->poll, events, on_peer);
}

static void peer_execute(struct qmp_peer *peer)
{
	json_error_t error;
	json_t *request = json_loadb(peer->scan.text, peer->scan.size,
				     JSON_REJECT_DUPLICATES, &error);
	char desc[JSON_ERROR_TEXT_LENGTH + 32];

	if (request) {
		peer_send(peer, peer->server->on_execute(peer->server->opaque,
							 peer, request));
		json_decref(request);
		return;
	}
	snprintf(desc, sizeof(desc), "JSON parse error, %s", error.text);
	peer_send(peer, qmp_error_new("GenericError", desc));
}

static void peer_take_bytes(struct qmp_peer *peer, const char *data,
			    size_t size)
{
	enum qmp_scan_result result;
	size_t used;

	for (; size && !peer->is_dead && !peer->is_ending; size -= used) {
		used = qmp_scan_feed(&peer->scan, data, size, &result);
		data += used;
		if (result == QMP_SCAN_MORE)
			continue;
		if (result == QMP_SCAN_VALUE) {
			peer_execute(peer);
			continue;
		}
		if (result != QMP_SCAN_GARBAGE)
			peer->is_ending = true;
		peer_send(peer, qmp_error_new("GenericError",
					      qmp_scan_reason(result)));
	}
}

/* Keep the first descriptor that came, instead of an older one. */
static void peer_take_fds(struct qmp_peer *peer, struct msghdr *msg)
{
	struct cmsghdr *cmsg;
	size_t i, count;
	int fd;

	for (cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		if (cmsg->cmsg_level != SOL_SOCKET ||
		    cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		drop_fd(&peer->passed_fd);
		count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(fd);
		for (i = 0; i < count; i++) {
			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(fd),
			       sizeof(fd));
			if (peer->passed_fd < 0)
				peer->passed_fd = fd;
			else
				close(fd);
		}
	}
}

static void peer_read(struct qmp_peer *peer)
{
	union {
		char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	char data[READ_SIZE];
	struct iovec iov = { .iov_base = data, .iov_len = sizeof(data) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space),
	};
	ssize_t size = recvmsg(peer->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (size > 0) {
		peer_take_fds(peer, &msg);
		peer_take_bytes(peer, data, (size_t)size);
	} else if (size == 0) {
		/* It may still read what is queued for it. */
		peer->is_ending = true;
		peer->is_dead = !peer_queued(peer);
	} else if (errno != EAGAIN && errno != EINTR) {
		peer->is_dead = true;
	}
}

static void on_peer(uv_poll_t *handle, int status, int events)
{
	struct qmp_peer *peer = handle->data;

	if (status < 0)
		peer->is_dead = true;
	if (!peer->is_dead && events & UV_WRITABLE)
		peer_flush(peer);
	if (!peer->is_dead && !peer->is_ending && events & UV_READABLE)
		peer_read(peer);
	peer_settle(peer);
}

/* Listening */

static void server_add_peer(struct qmp_server *server, int fd)
{
	struct qmp_peer *peer = calloc(1, sizeof(*peer));

	if (!peer || uv_poll_init(server->loop, &peer->poll, fd) < 0) {
		free(peer);
		close(fd);
		return;
	}
	trace(qmp_peer_open, "fd %d", fd);
	peer->server = server;
	peer->fd = fd;
	peer->passed_fd = -1;
	peer->poll.data = peer;
	list_add_tail(&server->peers, &peer->link);
	server->peer_count++;
	if (server->peer_count > QMP_PEERS_MAX) {
		peer->is_ending = true;
		peer_send(peer, qmp_error_new("GenericError",
					      "too many QMP clients"));
	} else {
		peer_send(peer, json_pack("{s:{s:o, s:[]}}", "QMP", "version",
					  qmp_version_new(), "capabilities"));
	}
	peer_settle(peer);
}

static void on_listener(uv_poll_t *handle, int status, int events);

static void on_rested(uv_timer_t *timer)
{
	struct qmp_server *server = timer->data;

	uv_poll_start(&server->poll, UV_READABLE, on_listener);
}

static void on_listener(uv_poll_t *handle, int status, int events)
{
	struct qmp_server *server = handle->data;
	int fd;

	(void)status;
	(void)events;
	fd = accept4(server->listener.fd, NULL, NULL,
		     SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd >= 0) {
		server_add_peer(server, fd);
	} else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		/* The connection stays in the backlog: polling on would spin. */
		log_warn("cannot accept a QMP client: %s", strerror(errno));
		uv_poll_stop(&server->poll);
		uv_timer_start(&server->rest, on_rested, ACCEPT_REST_MS, 0);
	}
}

static void server_handle_closed(uv_handle_t *handle)
{
	struct qmp_server *server = handle->data;

	if (--server->handles == 0) {
		unix_listener_close(&server->listener);
		free(server);
	}
}

int qmp_server_open(uv_loop_t *loop, const char *path,
		    qmp_execute_fn *on_execute, void *opaque,
		    struct qmp_server **ret_server, struct err *err)
{
	struct qmp_server *server = calloc(1, sizeof(*server));
	int ret;

	if (!server)
		return err_set(err, -ENOMEM, "out of memory");
	server->loop = loop;
	server->on_execute = on_execute;
	server->opaque = opaque;
	list_init(&server->peers);
	ret = unix_listener_open(&server->listener, path, BACKLOG, err);
	if (ret)
		goto out;
	ret = uv_poll_init(loop, &server->poll, server->listener.fd);
	if (ret) {
		err_set_errno(err, ret, "watching %s", path);
		goto out;
	}
	uv_timer_init(loop, &server->rest); /* never fails */
	server->handles = 2;
	server->poll.data = server->rest.data = server;
	uv_poll_start(&server->poll, UV_READABLE, on_listener);
	*ret_server = server;
	return 0;
out:
	unix_listener_close(&server->listener);
	free(server);
	return ret;
}

/* Give @peer until @deadline_ns to take what is queued. */
static void peer_drain(struct qmp_peer *peer, uint64_t deadline_ns)
{
	struct pollfd pfd = { .fd = peer->fd, .events = POLLOUT };
	uint64_t now;

	for (peer_flush(peer); peer_queued(peer) && !peer->is_dead;
	     peer_flush(peer)) {
		now = clock_mono_ns();
		if (now >= deadline_ns)
			return;
		poll(&pfd, 1, (int)((deadline_ns - now) / NS_PER_MS) + 1);
	}
}

void qmp_server_close(struct qmp_server *server)
{
	uint64_t deadline = clock_mono_ns() + CLOSE_WAIT_MS * NS_PER_MS;
	struct qmp_peer *peer, *next;

	if (!server || server->is_closing)
		return;
	server->is_closing = true;
	list_for_each_safe (peer, next, &server->peers, link) {
		peer_drain(peer, deadline);
		peer_close(peer);
	}
	uv_close((uv_handle_t *)&server->poll, server_handle_closed);
	uv_close((uv_handle_t *)&server->rest, server_handle_closed);
}

void qmp_server_broadcast(struct qmp_server *server, const json_t *event)
{
	struct qmp_peer *peer, *next;

	list_for_each_safe (peer, next, &server->peers, link) {
		if (!peer->is_negotiated || peer->is_ending || peer->is_dead)
			continue;
		peer_send(peer, json_incref((json_t *)event));
		peer_settle(peer);
	}
}

bool qmp_peer_is_negotiated(const struct qmp_peer *peer)
{
	return peer->is_negotiated;
}

void qmp_peer_set_negotiated(struct qmp_peer *peer)
{
	peer->is_negotiated = true;
}

int qmp_peer_take_fd(struct qmp_peer *peer)
{
	int fd = peer->passed_fd;

	peer->passed_fd = -1;
	return fd;
}
