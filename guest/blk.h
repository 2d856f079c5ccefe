/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest program `blk`: its options and what it knows of a disk.
 *
 * The part of a disk that is used is cut into one slice a queue, so that no
 * other vCPU has anything to do with a sector.  For each sector of a slice a
 * word says what it must read as, and whether a request for it is in flight.
 */
#ifndef GODWIT_GUEST_BLK_H
#define GODWIT_GUEST_BLK_H

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest/io.h"
#include "guest/sector.h"

#define BLK_SEGMENTS_MAX (VIRTQ_SEGMENTS_MAX - 2) /* of data */

/* Words of blk_slice.expected. */
#define EXPECT_UNKNOWN 0
#define EXPECT_ZERO    1
#define EXPECT_FIRST   2 /* sequences: from here on */
#define EXPECT_MAX     0x3fffffff
#define EXPECT_BUSY    0x80000000 /* beside one of these */

enum blk_pattern {
	BLK_SEQ,
	BLK_RANDOM
};

struct blk_config {
	struct io_config io;
	uint64_t span;     /* bytes of each disk; 0 = as much as is there */
	uint64_t pattern;  /* enum blk_pattern */
	uint64_t reads;    /* of a hundred requests */
	uint64_t segments; /* of the data of one request */
	uint64_t flush, discard, zeroes; /* one in so many requests; 0 = none */
};

/* What the device reads and writes beside the data. */
struct blk_dma {
	struct virtio_blk_outhdr header;
	struct virtio_blk_discard_write_zeroes range;
	uint8_t status;
} __attribute__((aligned(64)));

struct blk_request {
	uint32_t type;     /* VIRTIO_BLK_T_... */
	uint32_t sequence; /* of a write */
	uint64_t sector;   /* of the slice */
	uint32_t sectors;  /* 0 for a flush */
	bool is_busy, is_late;
	bool is_waiting; /* busy, but not in the queue yet, or not any more */
	uint64_t begun;  /* TSC */
	uint8_t *data;
	struct blk_dma *dma;
};

struct blk_counts {
	uint64_t reads, writes, flushes, discards, zeroes;
	uint64_t checked; /* sectors */
};

struct blk_disk {
	struct vdev *dev; /* borrowed */
	uint64_t sectors;
	uint32_t unit; /* sectors that a request is a multiple of */
	uint32_t discard_max, discard_unit, zeroes_max; /* sectors; 0: cannot */
	bool is_read_only, can_flush;
	unsigned int queues;
};

struct blk_slice {
	/* immutable after setup */
	struct blk_disk *disk;
	struct vdev_queue *queue;
	struct io_cpu *cpu; /* that works on it */
	uint64_t first, sectors;
	uint32_t *expected;
	struct blk_request *requests;
	uint16_t *idle; /* stack of numbers of requests that are not busy */

	/* owned by @cpu */
	unsigned int idle_count, depth;
	unsigned int waiting;  /* requests that are */
	uint64_t random, next; /* BLK_SEQ: sector */
	uint32_t sequence;
	bool is_checking;
	uint64_t check_at;  /* sector */
	uint64_t next_late; /* TSC: looks for requests that are late */
	struct pace pace;
	struct blk_counts counts; /* CPU 0 reads them */
};

extern const struct option_table blk_options;
void blk_config_init(struct blk_config *config);

/* Decides on a next request, and marks its sectors busy.  False: not now. */
bool blk_choose(struct blk_slice *slice, const struct blk_config *config,
		struct blk_request *request);

/* Puts it into the queue.  False when there is no room. */
bool blk_offer(struct blk_slice *slice, const struct blk_config *config,
	       uint16_t number);

/* It has come back: judges status and data. */
void blk_complete(struct blk_slice *slice, struct blk_request *request,
		  uint32_t written);

/* Disks as their configuration describes them; prints "@disk". */
void blk_describe(struct io *io, struct blk_disk *disk);

#endif
