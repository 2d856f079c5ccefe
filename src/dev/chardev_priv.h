/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What chardev.c (opens and closes) and chardev_fd.c (moves bytes) share.
 *
 * The four back ends share one struct, since they differ only in where their
 * two descriptors come from.  Those with input have a thread; it alone reads,
 * accepts, and empties the backlog.
 *
 * Three parties meet under `lock` (rank LOCK_EVENT: the writer holds its
 * device's): the writer, the thread, and whoever starts and stops input.  The
 * thread calls the device without it, having said so in is_feeding.
 */
#ifndef GODWIT_DEV_CHARDEV_PRIV_H
#define GODWIT_DEV_CHARDEV_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <termios.h>

#include "base/lock.h"
#include "base/unix_listen.h"
#include "dev/chardev.h"

#define CHARDEV_TYPED 1024u /* bytes typed ahead of the guest */

/* How bytes go out without blocking. */
enum out_kind {
	OUT_NONBLOCK, /* the descriptor is O_NONBLOCK, or a regular file */
	OUT_SOCKET,
	OUT_POLLED, /* shared with others, so not O_NONBLOCK: ask first */
};

struct fd_chardev {
	struct chardev base;

	/* immutable after init */
	struct chardev_options options;
	enum out_kind out_kind;
	int wake_fd;                   /* owned eventfd, or -1 */
	struct unix_listener listener; /* of unix: */
	int own_fd; /* owned file, or terminal opened again; or -1 */
	bool has_thread, is_raw;
	struct termios termios; /* what to put back */
	pthread_t thread;

	/* protected by lock */
	struct lock lock;
	pthread_cond_t idle; /* is_feeding became false */
	bool is_started, is_feeding, is_ending;
	int out_fd; /* borrowed: own_fd, in_fd or options.out_fd; -1: nobody */
	uint8_t *backlog; /* owned ring of CHARDEV_BACKLOG bytes */
	size_t backlog_at, backlog_size;
	bool is_awaited; /* chardev_room() said 0 */
	uint64_t dropped;

	/* owned by the thread */
	int in_fd; /* the client (owned), or options.in_fd; -1: none */
	bool is_in_done, is_hup, is_escaped;
	uint8_t typed
		[CHARDEV_TYPED]; /* a terminal is read even while the device has
				 no room: Ctrl-A x always works */
	size_t typed_size;
	uint64_t accept_after_ns; /* accept() failed: not before this */

	/* Set by the thread before it asks for room and finds none, taken by
	 * chardev_wake(); the device's lock orders the two. */
	atomic_bool is_waiting;
};

extern const struct chardev_ops fd_chardev_ops;

/* A thread for @cd, whose descriptors are set.  -ENOMEM, or what
 * pthread_create() said. */
int fd_chardev_start_thread(struct fd_chardev *cd, struct err *err);
/* Ends it and offers the backlog once more; nothing without a thread. */
void fd_chardev_end_thread(struct fd_chardev *cd);
/* Closes and frees what there is (chardev.c). */
void fd_chardev_free(struct chardev *chardev);

#endif
