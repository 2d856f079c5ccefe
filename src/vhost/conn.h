/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vhost-user connection: messages and their replies.  The peer is another
 * process and may be hostile: each reply is matched with the request that waits for
 * it, bounded before it is read, and due at a deadline.  The first one that is wrong
 * ends the connection's use (its caller closes it).
 *
 * Requests are sent ahead (conn_send()); their replies, in the same order, are
 * collected by conn_settle(), so that a device of many rings costs one round trip and
 * not one for each message.
 *
 * Errors: -ECONNRESET, -EPIPE: the peer has gone; -ETIMEDOUT; -EBADMSG: the reply is
 * none that can be; -EPROTO: the peer refuses.  After -ETIMEDOUT of all but conn_ask() the
 * connection is in step: a message was not sent, or the rest of it goes out with the next.
 *
 * One thread at a time.
 */
#ifndef GODWIT_VHOST_CONN_H
#define GODWIT_VHOST_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "vhost/user_msg.h"

struct err;

/* Replies under way are bounded, so that both sockets always have room; a stop, which
 * asks up to 128 rings and waits for nobody before all were asked, has it too. */
#define CONN_PENDING_MAX 160u
#define CONN_FDS_MAX     8u /* of what is sent */

enum conn_reply {
	CONN_NO_REPLY,
	CONN_ACK,  /* zero, and only where REPLY_ACK was negotiated */
	CONN_LOG,  /* of UM_SET_LOG_BASE: that it came */
	CONN_BASE, /* of UM_GET_VRING_BASE */
	CONN_ANY,  /* a number that does not matter: all before it is done */
};

struct conn_pending {
	enum conn_reply kind;
	uint32_t request;
	uint32_t index;     /* CONN_BASE */
	uint32_t *ret_base; /* borrowed; CONN_BASE */
};

struct conn {
	const char *name; /* of the device, for messages; borrowed */
	int fd;           /* owned; -1: closed */
	bool has_ack;     /* REPLY_ACK was negotiated */
	/* The process that gave the first answer; 0: none has yet, or it cannot be seen
	 * from here.  Who made the socket may be another one (socket activation). */
	pid_t peer;
	bool wants_peer; /* the kernel tells it with the first bytes */

	/* messages that wait */
	uint8_t out[4096];
	size_t out_size;

	/* the message that is being received */
	uint8_t in[sizeof(struct um_header) + UM_PAYLOAD_MAX];
	size_t in_size;

	struct conn_pending pending[CONN_PENDING_MAX]; /* a ring */
	unsigned int pending_first, pending_count;
};

struct conn_message {
	enum um_request request;
	const void *payload;
	size_t size;
	const int *fds;
	unsigned int fd_count;
	/* for the next one that may not, or a flush; it has no fds and no ACK */
	bool may_wait;

	enum conn_reply reply;
	uint32_t index;     /* CONN_BASE */
	uint32_t *ret_base; /* CONN_BASE: set by conn_settle() */
};

void conn_init(struct conn *conn, const char *name);
/* To the socket at @path. */
int conn_connect(struct conn *conn, const char *path, struct err *err);
/* Takes over a socket that is connected. */
void conn_open(struct conn *conn, int fd);
void conn_close(struct conn *conn);
/* Tell the peer that this was all, and close when it has closed its side: then it
 * works on nothing any more, and -1.  At @deadline_ns the connection's fd, for the
 * caller to own and to look at for POLLRDHUP. */
int conn_leave(struct conn *conn, uint64_t deadline_ns);
/* The peer of @fd, which was told so, has closed its side; false at @deadline_ns. */
bool conn_wait_end(int fd, uint64_t deadline_ns);

int conn_send(struct conn *conn, const struct conn_message *message,
	      uint64_t deadline_ns, struct err *err);
/* Send what waits. */
int conn_flush(struct conn *conn, uint64_t deadline_ns, struct err *err);
/* That, and all replies that are due.  After -ETIMEDOUT it may be called again. */
int conn_settle(struct conn *conn, uint64_t deadline_ns, struct err *err);
/*
 * A message and its reply: exactly @reply_size bytes, and one fd where @ret_fd is not NULL,
 * none otherwise.  *@ret_fd is the caller's to own, also after a failure; -1: none came.
 * It is any file that the peer likes: even to look at it, or to close it, may wait for a
 * file system of the peer's.
 */
int conn_ask(struct conn *conn, const struct conn_message *message, void *reply,
	     size_t reply_size, int *ret_fd, uint64_t deadline_ns,
	     struct err *err);

#endif
