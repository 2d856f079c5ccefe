/* SPDX-License-Identifier: Apache-2.0 */
/* A file's back end: opened and locked by blk_file_open.c, worked on by blk_file.c. */
#ifndef GODWIT_VIRTIO_BLK_FILE_PRIV_H
#define GODWIT_VIRTIO_BLK_FILE_PRIV_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

#include "virtio/blk_backend.h"
#include "virtio/io_thread.h"

struct blk_file {
	struct blk_backend base;

	/* immutable after init */
	char *path;  /* owned */
	int fd;      /* owned */
	int lock_fd; /* owned; the same file: see open_lock_fd() */
	bool is_direct;
	uint32_t memory_align; /* a power of two; 1 unless is_direct */
	bool may_be_stale;     /* another host wrote; see blk_file_claim() */

	/* owned by the thread */
	struct io_thread *thread; /* borrowed; NULL: not attached */
	struct io_uring ring;
	int event_fd; /* owned; signalled by the ring while armed */
	struct io_source source;
	struct blk_bounce bounce;
	struct list waiting;            /* blk_io: for a bounce buffer */
	bool has_unmap, has_zero_range; /* until the file system says no */
};

extern const struct blk_backend_ops blk_file_ops;

int blk_file_claim(struct blk_backend *backend, struct err *err);
void blk_file_disclaim(struct blk_backend *backend);
void blk_file_free(struct blk_backend *backend);

#endif
