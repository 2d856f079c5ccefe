/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the bytes of a disk are: a file or block device (blk_file.c), an NBD
 * server (blk_nbd.c).  A back end knows nothing of virtio; the device in front
 * (blk.c) knows nothing of files.
 *
 * One io_thread works with a back end.  Requests are queued by submit(), and sent
 * together by the next poll(), which also tells of those that are done:
 *
 *	submit(a), submit(b), ...  poll() ---> done(b), done(a)
 *	                              \--> arm(), wait for descriptors, poll() ...
 *
 * A request that was submitted is done exactly once, and its memory is not
 * touched after that.
 */
#ifndef GODWIT_VIRTIO_BLK_BACKEND_H
#define GODWIT_VIRTIO_BLK_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"

/* At a time, in one back end. */
#define BLK_REQUESTS_MAX 256u

struct blk_backend;
struct err;
struct io_thread;

enum blk_op {
	BLK_READ,
	BLK_WRITE,
	BLK_FLUSH,   /* all writes done by now are on stable storage */
	BLK_DISCARD, /* contents are not needed any more; a hint */
	BLK_ZERO,
};

/* One request; the caller's until it is submitted and after it is done. */
struct blk_io {
	enum blk_op op;
	bool is_durable;      /* a write that is flushed when it is done */
	bool may_unmap;       /* BLK_ZERO: and need not stay allocated */
	uint64_t offset;      /* a multiple of info.block_size, as is size */
	uint64_t size;        /* within the disk; 0 of a flush */
	struct iovec *iovecs; /* @size bytes in all, of a read or write; the
				 back end uses the array up */
	unsigned int iovec_count;

	/* the back end's meanwhile; offset and size are what is left to do */
	uint8_t *bounce; /* the buffer between, of @part bytes */
	size_t part;     /* that are under way */
	unsigned int stage;
	int result;
	struct list link;
};

/* Whoever is in front. */
struct blk_front {
	/* @result: 0 or -errno.  Called inside poll() only. */
	void (*done)(void *opaque, struct blk_io *io, int result);
	/* Something happened: call poll().  By the thread, not inside poll(). */
	void (*ready)(void *opaque);
	void *opaque;
};

/* Of an open disk; constant. */
struct blk_info {
	uint64_t size;       /* bytes */
	uint32_t block_size; /* 512 to 4096: what requests are multiples of */
	bool is_readonly;    /* as asked for */
	/* poll() without requests costs no system call: it may be spun on. */
	bool is_poll_cheap;
	/* Another host sees what was written only after a flush. */
	bool needs_flush_to_share;
};

struct blk_backend_ops {
	/* All but the last three are the thread's. */

	/* From here on @thread works with it: descriptors are added to it. */
	int (*attach)(struct blk_backend *backend, struct io_thread *thread,
		      struct err *err);
	/* The end of that, with no requests left but those that hang. */
	void (*detach)(struct blk_backend *backend);
	void (*submit)(struct blk_backend *backend, struct blk_io *io);
	/* Send what was submitted, deliver what is done; returns how many were. */
	unsigned int (*poll)(struct blk_backend *backend);
	/* Have ready() called from now on; false: something is done already, poll
	 * again. */
	bool (*arm)(struct blk_backend *backend);
	/* Fail what waits for somebody who may never come back; NULL: nothing
	 * does. */
	void (*give_up)(struct blk_backend *backend);

	/* See struct vdev_type. */
	int (*claim)(struct blk_backend *backend, struct err *err);
	void (*disclaim)(struct blk_backend *backend);
	void (*free)(struct blk_backend *backend);
};

/* Embedded first in a back end's own struct. */
struct blk_backend {
	const struct blk_backend_ops *ops;
	struct blk_info info;
	struct blk_front front; /* the device's, set before attach() */
};

/* What --disk says of its back end; strings are borrowed during the call. */
struct blk_where {
	const char *path; /* of an image or block device; or NULL */
	const char *nbd;  /* an URI; or NULL */
	bool is_readonly;
	bool is_direct; /* O_DIRECT */
};

/* -ENOENT, -EACCES and so on, with a message that says what to do. */
int blk_file_open(const struct blk_where *where,
		  struct blk_backend **ret_backend, struct err *err);
int blk_nbd_open(const struct blk_where *where,
		 struct blk_backend **ret_backend, struct err *err);

/* ---- blk_io.c: what back ends do with a request's memory ---- */

/* Copy the first @size bytes that are left into @buf, or from it. */
void blk_io_gather(const struct blk_io *io, uint8_t *buf, size_t size);
void blk_io_scatter(const struct blk_io *io, const uint8_t *buf, size_t size);
/* The first @size bytes that are left are done. */
void blk_io_advance(struct blk_io *io, size_t size);

/* Buffers to copy through, so that a request needs no allocation: those that find
 * none free wait for one. */
#define BLK_BOUNCE_SIZE  (256u << 10)
#define BLK_BOUNCE_COUNT 16u

struct blk_bounce {
	uint8_t *memory; /* owned mapping, page aligned; NULL without buffers */
	uint8_t *free[BLK_BOUNCE_COUNT];
	unsigned int free_count;
	uint8_t *zeroes; /* owned mapping of BLK_BOUNCE_SIZE bytes, to write */
};

int blk_bounce_init(struct blk_bounce *bounce, bool has_buffers);
void blk_bounce_fini(struct blk_bounce *bounce);
/* Of BLK_BOUNCE_SIZE bytes; NULL when all are taken. */
uint8_t *blk_bounce_get(struct blk_bounce *bounce);
void blk_bounce_put(struct blk_bounce *bounce, uint8_t *buf);

#endif
