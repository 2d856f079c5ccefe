/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk behind an NBD server: the connection is blk_nbd_connect.c's, requests
 * are blk_nbd.c's.
 *
 *	            connected, the export is as before
 *	     away ------------------------------------> ready
 *	      ^  \                                        |
 *	      |   -- timer: try again, ever more rarely   | the connection broke
 *	      +-------------------------------------------+
 *
 * Requests wait while the server is away.  Those that were sent and not answered
 * are sent again: reads, writes, trims and zeroes may be done twice.  What the
 * server answered is its own to keep; a flush is answered by the server that got
 * it.
 */
#ifndef GODWIT_VIRTIO_BLK_NBD_PRIV_H
#define GODWIT_VIRTIO_BLK_NBD_PRIV_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/blk_backend.h"
#include "virtio/blk_nbd_lib.h"
#include "virtio/io_thread.h"

/* What an export can do. */
struct blk_nbd_export {
	uint64_t size;
	uint32_t block_size, part_max; /* bytes of one command */
	bool is_readonly, can_flush, can_fua, can_trim, can_zero;
	bool can_multi_conn; /* one connection sees another's writes at once */
};

struct blk_nbd {
	struct blk_backend base;

	/* immutable after init */
	char *uri; /* owned */
	struct blk_nbd_lib lib;

	/* owned by the thread */
	struct io_thread *thread;  /* borrowed; NULL: not attached */
	struct nbd_handle *handle; /* owned; NULL between attempts */
	bool is_ready;             /* requests may be sent */
	bool is_broken;            /* the connection is to be given up */
	struct blk_nbd_export export;
	struct io_source socket; /* of an owned copy of libnbd's watched_fd */
	int watched_fd;
	bool has_socket; /* it is added */
	struct io_source timer;
	uint64_t pause_ns; /* before the next attempt */
	struct blk_bounce bounce;

	struct list waiting; /* blk_io: for a connection, or a bounce buffer */
	struct list sent;
	struct list finished; /* to be told of in poll() */
};

/* ---- blk_nbd_connect.c ---- */

/* Connect at last until @deadline_ns and learn of the export. */
int blk_nbd_connect_now(struct blk_nbd *nbd, uint64_t deadline_ns,
			struct err *err);
/* Wait for the socket as libnbd wants it now. */
void blk_nbd_watch(struct blk_nbd *nbd);
/* After anything that libnbd did: notice what became of the connection. */
void blk_nbd_notice(struct blk_nbd *nbd);
/* Without a connection nothing touches a request's memory. */
void blk_nbd_disconnect(struct blk_nbd *nbd);
/* Try to connect when the timer rings; @timer's ready(). */
void blk_nbd_timer(void *opaque);

/* ---- blk_nbd.c ---- */

/* What was sent waits again. */
void blk_nbd_requeue(struct blk_nbd *nbd);

#endif
