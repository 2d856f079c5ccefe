/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block device's parts: blk.c builds, starts and stops it, blk_options.c
 * reads --disk, blk_thread.c is its thread's work, blk_request.c understands
 * requests.
 */
#ifndef GODWIT_VIRTIO_BLK_PRIV_H
#define GODWIT_VIRTIO_BLK_PRIV_H

#include <linux/virtio_blk.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "state/state.h"
#include "virtio/blk.h"
#include "virtio/blk_backend.h"
#include "virtio/io_thread.h"
#include "virtio/vdev.h"
#include "virtio/vq.h"

#define BLK_SECTOR_SHIFT 9
#define BLK_SECTOR_SIZE  512u
#define BLK_QUEUE_SIZE   256u
#define BLK_SEG_MAX      (BLK_QUEUE_SIZE - 2) /* but for header and status */
/* A descriptor of the driver's that crosses RAM ranges is several segments. */
#define BLK_SEGMENTS    (BLK_QUEUE_SIZE + 8)
#define BLK_DISCARD_MAX (1u << 21) /* sectors: 1 GiB */
/* 128 MiB: it may have to be written, and a stop waits for it. */
#define BLK_ZERO_MAX (1u << 18)

struct blk_options {
	char path[4096], nbd[4096]; /* one of them is "" */
	char serial[VIRTIO_BLK_ID_BYTES + 1];
	unsigned int queues;
	bool is_readonly, is_direct, has_discard;
};

struct blk_queue {
	struct blk *blk; /* borrowed: its device */
	struct vdev_queue *queue;
	struct vq vq;
	struct io_source kick;
	bool is_working;
	bool is_touched; /* pushed to since the last vq_flush() */
};

struct blk_request {
	struct blk_request *next; /* free */
	struct blk_queue *queue;
	struct vq_request vq;
	struct blk_io io;
	struct iovec iovecs[BLK_SEGMENTS];
	struct vq_segment segments[BLK_SEGMENTS];
};

struct blk {
	struct vdev dev;

	/* immutable after init */
	struct blk_backend *backend; /* owned */
	struct io_thread *thread;    /* owned */
	unsigned int queue_count;
	struct blk_queue *queues;     /* owned */
	struct blk_request *requests; /* owned: BLK_REQUESTS_MAX of them */
	uint8_t serial[VIRTIO_BLK_ID_BYTES];
	bool has_discard;

	/* protected by dev.lock */
	uint64_t stopping_since;                   /* 0: no stop is begun */
	bool has_given_up;                         /* in this stop */
	uint8_t saved_serial[VIRTIO_BLK_ID_BYTES]; /* what comes with a move */
	struct state_entry state;

	/* owned by the thread */
	struct blk_request *free;
	unsigned int in_flight; /* of the driver's */
	unsigned int first;     /* the queue whose turn it is */
	bool is_working;        /* between start() and stop() */
	bool is_stopping;       /* takes no more requests */
	bool is_written;        /* since the last flush of a stop */
	bool is_sharing;        /* that flush, share, is under way, */
	bool has_shared;        /* or was, in this stop */
	struct blk_io share;
	uint64_t spin_ns;  /* how long waiting is spinning */
	uint64_t slept_at; /* 0: it does not sleep */
	unsigned int calls_seen;

	/* atomic */
	unsigned int
		calls; /* of the thread by others; it sees them while spinning */
	bool is_durable; /* no write cache: writes are flushed when done */
	struct disk_counts counts;

	/* for stop(); lock is a LOCK_DEVICE */
	struct lock lock;
	pthread_cond_t drained;
	bool is_drained;  /* protected by lock, as is share_result */
	int share_result; /* of the flush at the end */
};

/* ---- blk_options.c ---- */

int blk_options_read(const char *text, struct blk_options *ret_options,
		     struct err *err);

/* ---- blk_request.c ---- */

/*
 * What to do about a request that was popped: 1, and request->io is to be
 * submitted; 0, and it is to be answered with *@ret_status; -EBADMSG: nothing can
 * be answered, the device is to be broken.
 */
int blk_request_read(const struct blk *blk, struct blk_request *request,
		     uint8_t *ret_status, struct err *err);

/* ---- blk_thread.c; work for io_thread_call() and _post(), @opaque a struct
 * blk ---- */

void blk_thread_start(void *opaque);
void blk_thread_stop(void *opaque);
/* The stop was given up: go on. */
void blk_thread_resume(void *opaque);
void blk_thread_give_up(void *opaque);

extern const struct blk_front blk_thread_front; /* but for opaque */

#endif
