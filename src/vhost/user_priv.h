/* SPDX-License-Identifier: Apache-2.0 */
/* What user.c (the device), user_ops.c (what its back end is told), user_session.c
 * (negotiation) and user_request.c (what the back end asks) share. */
#ifndef GODWIT_VHOST_USER_PRIV_H
#define GODWIT_VHOST_USER_PRIV_H

#include "vhost/closer.h"
#include "vhost/conn.h"
#include "vhost/user.h"
#include "vhost_priv.h"

/* A connection that is negotiated and not yet a device's. */
struct session {
	struct conn conn;
	uint64_t features, protocol;
	unsigned int regions_max; /* of RAM */
	int request_fd;           /* owned; -1: the back end asks nothing */
};

/* The back end's own requests, on their own socket. */
struct request_channel {
	int fd; /* owned; -1 */
	uint8_t in[sizeof(struct um_header) + sizeof(uint64_t)];
	size_t in_size;
};

struct vh_user {
	struct vh_dev dev; /* first */

	/* immutable after init */
	struct vh_user_config config;
	char name[32];
	char path[108];
	uint64_t offered; /* to the driver */
	int wake_fd;      /* owned eventfd: the thread is to look */
	int null_fd;      /* owned eventfd: for a ring that interrupts nobody */
	pthread_t thread;
	bool has_thread;

	/* atomic */
	bool is_ending;
	bool wants_resume; /* the back end has not answered all that it has to */

	/* owned by the thread */
	struct request_channel requests;
	uint64_t pause_ns;        /* before the next attempt to connect */
	uint64_t resume_until_ns; /* it is let go then; 0: it does not resume */

	/* protected by dev.lock */
	struct conn conn;
	int leaving_fd; /* owned; of a connection that its peer has not ended; -1 */
	int request_fd; /* owned; of a new session, for the thread; -1 */
	bool has_parted; /* it was let go to finish; the thread has not seen it */
	uint64_t protocol;
	pid_t peer; /* of the last session */
	struct um_inflight inflight;
	int inflight_fd;       /* owned; -1: none yet */
	struct closer *closer; /* owned; of files of the back end's */
};

static inline bool user_has(const struct vh_user *user, unsigned int feature)
{
	return user->protocol >> feature & 1;
}

extern const struct vh_ops user_ops;

/* @session is filled in and owned by the caller, also after a failure. */
int session_open(struct session *session, const struct vh_user *user,
		 struct err *err);
void session_close(struct session *session);
/* With the device's lock, before it is @user's: it cannot finish what the last one took.
 * A record is finished by whoever knows records, and what one took that was let go to
 * finish it, by that process: then it has.  One that cannot be seen is none that was seen
 * before. */
bool session_is_stranger(const struct session *session,
			 const struct vh_user *user);

/* Its fd is readable.  Calls @changed for a change of configuration.  -ECONNRESET,
 * -EBADMSG: it is of no use any more. */
int request_channel_read(struct request_channel *channel, const char *name,
			 void (*changed)(void *opaque), void *opaque,
			 struct err *err);
void request_channel_open(struct request_channel *channel, int fd);
void request_channel_close(struct request_channel *channel);

#endif
