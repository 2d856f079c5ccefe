/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The byte channel under a migration: `tcp:HOST:PORT`, `unix:PATH`,
 * `fd:NAME-OR-NUMBER`, `file:PATH`.
 *
 * Descriptors are non-blocking; every wait also watches a stop eventfd, so that
 * a cancelled migration gets out of any of them at once (-ECANCELED), and a
 * deadline (-ETIMEDOUT).  One thread uses a channel.
 */
#ifndef GODWIT_MIGRATE_CHANNEL_H
#define GODWIT_MIGRATE_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/unix_listen.h"
#include "migrate/save.h"

struct err;

#define CHANNEL_AHEAD_SIZE (16u << 10) /* the state of a small guest */

/* Descriptors handed in by name (QMP getfd). */
typedef int channel_fd_fn(void *opaque, const char *name);

struct channel {
	int fd;               /* owned; -1 when closed */
	int stop_fd;          /* borrowed eventfd: readable = give up */
	bool is_socket;       /* MSG_NOSIGNAL, MSG_DONTWAIT */
	bool is_file;         /* no return path; fsync at the end */
	bool is_kept;         /* a regular file: it has what it got for good */
	uint64_t deadline_ns; /* clock_mono_ns() time, 0: none */
	/* channel_recv() polls this long before it sleeps: for what a stopped
	 * guest waits for, it saves a wake-up of 25 us. */
	uint64_t spin_ns;
	struct save save; /* owned; borrows its name from the URI */

	/* What a read brought beyond what was asked for: short records take one
	 * system call together. */
	uint8_t *ahead; /* owned; NULL: never more than was asked for */
	size_t ahead_at, ahead_size;
	/* What goes straight from or to a file passes through a pipe; none is left in
	 * it when a call returns, unless that failed. */
	bool has_pipe;
	int pipe[2]; /* owned, if there is one */
	size_t piped;

	uint64_t turn_ns; /* since when its thread has the CPU (channel_io.c) */

	/* accounting, by channel_send() */
	uint64_t sent;    /* bytes */
	uint64_t busy_ns; /* time inside send calls and waits for room */
};

#define CHANNEL_INIT                    \
	{                               \
		.fd = -1, .stop_fd = -1 \
	}

/* -EINVAL unless @uri has one of the forms above, -ENAMETOOLONG. */
int channel_check_uri(const char *uri, struct err *err);

/* As a source.  @get_fd may be NULL.  @uri is borrowed until channel_close(). */
int channel_connect(struct channel *channel, const char *uri, int stop_fd,
		    channel_fd_fn *get_fd, void *opaque, struct err *err);

/* As a destination: listen, or open.  channel_accept() then waits for the
 * peer; it is at once done for fd: and file:. */
struct channel_listener {
	int fd;        /* owned, unless it is that of @bound */
	bool is_ready; /* the descriptor is the channel itself */
	struct unix_listener bound;
};

#define CHANNEL_LISTENER_INIT                         \
	{                                             \
		.fd = -1, .bound = UNIX_LISTENER_INIT \
	}

int channel_listen(struct channel_listener *listener, const char *uri,
		   channel_fd_fn *get_fd, void *opaque, struct err *err);
int channel_accept(struct channel *channel, struct channel_listener *listener,
		   int stop_fd, struct err *err);
void channel_listener_close(struct channel_listener *listener);

/* Until a peer has taken all that was sent, or @until_ns; it counts as busy, less the
 * @flight_ns of an acknowledgement.  Who sends little at a time sees else only how fast
 * that gets into the socket's buffer. */
void channel_await_taken(struct channel *channel, uint64_t until_ns,
			 uint64_t flight_ns);

/* All of it, or an error (-EPIPE, -ECONNRESET, -ECANCELED, -ETIMEDOUT...).
 * @iov is consumed. */
int channel_send(struct channel *channel, struct iovec *iov, unsigned int count,
		 struct err *err);
/* All of it; -ENODATA at the end of the stream before the first byte, -EBADMSG
 * after it. */
int channel_recv(struct channel *channel, struct iovec *iov, unsigned int count,
		 struct err *err);
int channel_recv_bytes(struct channel *channel, void *to, size_t size,
		       struct err *err);
/*
 * The same for @iov that lie, all or some, in the mapping of a file: 64 KiB and more of
 * it pass a socket by splice(2), without a copy on the source, and on the destination
 * with one into new pages that are neither cleared nor faulted in one by one before,
 * which is most of what receiving costs.
 *
 * What is sent so travels by reference: the peer gets what the pages hold when it
 * reads them.
 */
struct channel_file {
	int fd;
	const uint8_t *host; /* of its first byte */
	uint64_t size;       /* bytes mapped there */
};
int channel_send_mapped(struct channel *channel,
			const struct channel_file *file, struct iovec *iov,
			unsigned int count, struct err *err);
int channel_recv_mapped(struct channel *channel,
			const struct channel_file *file, struct iovec *iov,
			unsigned int count, struct err *err);
/* Wait for @events (poll(2)) until the deadline (-ETIMEDOUT) or a stop (-ECANCELED). */
int channel_wait(const struct channel *channel, short events);
/* Something can be read now (or the peer is gone). */
bool channel_is_readable(const struct channel *channel);
/* Sleep until @until_ns or until stopped (-ECANCELED). */
int channel_sleep(const struct channel *channel, uint64_t until_ns);
/* A file's bytes are on disk. */
int channel_sync(struct channel *channel, struct err *err);
/* Give a saved file its name (save.h); without one, channel_close() removes
 * it. */
int channel_commit(struct channel *channel, struct err *err);
void channel_close(struct channel *channel);

#endif
