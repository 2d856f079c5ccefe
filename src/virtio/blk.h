/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block device (virtio 1.2, 5.2) over a back end in this process.
 *
 *	--disk path=FILE[,direct=on] [,queues=N][,readonly=on][,discard=off]
 *	--disk nbd=URI               [,serial=TEXT]
 *
 * One io_thread a device serves all of its queues: with one ring of the back end,
 * what is found in all queues goes out in one system call, and every queue is
 * published, and its driver interrupted, once for all that came back meanwhile.
 *
 * A disk has one writer.  The back end's lock is taken when the device is built,
 * or in a migration by claim(), and while it cannot be had the device is not
 * started.
 */
#ifndef GODWIT_VIRTIO_BLK_H
#define GODWIT_VIRTIO_BLK_H

#include <stdint.h>

struct err;
struct vdev;
struct vdev_site;

#define DISK_QUEUES_MAX 64u

/* -EINVAL for @text; else what blk_file_open() or blk_nbd_open() said, or -EBUSY:
 * somebody else holds the disk. */
int disk_new(const struct vdev_site *site, const char *text,
	     struct vdev **ret_dev, struct err *err);

/* Since the device was built; any thread. */
struct disk_counts {
	uint64_t reads, writes, flushes, others; /* requests done */
	uint64_t refused; /* answered UNSUPP, or IOERR as they made no sense */
	uint64_t failed;  /* answered IOERR for the back end's sake */
	uint64_t rounds;  /* batches of them */
};

void disk_counts(struct vdev *dev, struct disk_counts *ret_counts);

#endif
