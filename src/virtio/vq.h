/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtqueue, split or packed, for back ends in this process.
 *
 * The rings are the driver's, in guest memory, and hostile: each field is read
 * once, checked, then used.  A request is a chain of segments in host memory;
 * RAM stays mapped for as long as the machine lives, so segments remain valid
 * however long the request takes, even when the guest moves that RAM away
 * meanwhile.
 *
 *	while ((ret = vq_pop(vq, &request, &err)) > 0)
 *		... vq_push(vq, &request, written);
 *	vq_flush(vq);
 *	if (ret < 0)
 *		vdev_break(dev, &err);
 *
 * Pages that the device writes, buffers and rings, are marked dirty when they
 * have been written (D3: nothing is written after stop()).
 *
 * One thread at a time works on a vq: its owner between start and stop.  While the
 * driver is to notify, a vq_pop() that finds nothing makes sure that it will; who
 * has a lot to do calls vq_ignore_kicks() before and vq_want_kicks() behind it.
 *
 * Source: virtio 1.2, 2.7 (split) and 2.8 (packed).
 */
#ifndef GODWIT_VIRTIO_VQ_H
#define GODWIT_VIRTIO_VQ_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct err;
struct ram_block;
struct vdev;
struct vdev_queue;

/* Part of a request's memory, in one RAM range. */
struct vq_segment {
	uint8_t *host;
	uint32_t size;
	struct ram_block *block; /* of memory that the device may write */
	uint64_t offset;         /* in @block */
};

/* A request of the driver: @readable segments to read from, then @writable ones
 * to write to. */
struct vq_request {
	/* set by the caller, before the first vq_pop(): where segments go */
	struct vq_segment *segments;
	unsigned int room;

	/* Names it to the driver.  A hostile driver has several in flight that
	 * are named alike: key nothing by it. */
	uint16_t id;
	uint16_t count; /* of ring descriptors that it takes */
	unsigned int readable, writable;
	uint64_t readable_size, writable_size;
};

/* One of the three parts of a queue, in one RAM range. */
struct vq_ring {
	uint8_t *host;
	struct ram_block *block;
	uint64_t offset; /* in @block */
};

/* Fields are vq.c's. */
struct vq {
	struct vdev *dev;         /* borrowed */
	struct vdev_queue *queue; /* borrowed */
	bool is_packed, has_event_idx, has_indirect;
	bool wants_kicks; /* the driver is to notify */
	bool has_called;  /* decided since vq_start() whether to interrupt */

	struct vq_ring desc, driver, device;
	uint64_t mapped_at; /* mem_commit_count() when they were mapped */
	bool is_mapped;     /* false: they are in RAM no more */

	uint16_t avail_idx; /* as far as the driver is known to have come */
	uint16_t
		event_at; /* avail_idx when it was told to notify behind that */
	uint16_t called_at; /* next_used at the last decision to interrupt */
	uint16_t pushed; /* requests (packed: descriptors) not yet published */
	uint16_t in_flight; /* descriptors popped and not pushed */

	/* packed: what publishes all that was pushed, and where it goes */
	uint16_t first_used, first_flags;
	uint16_t unpopped; /* descriptors; then avail_idx is ahead */
};

/* Where the parts of @queue are: in RAM, each in one range and aligned, or
 * -EFAULT. */
int vq_rings_map(const struct vdev *dev, const struct vdev_queue *queue,
		 struct vq_ring *ret_desc, struct vq_ring *ret_driver,
		 struct vq_ring *ret_device, struct err *err);

/* To work on queue @index of @dev, which is enabled and DRIVER_OK; kicks are
 * wanted, and requests may be there already.  -EFAULT when its rings do not lie in RAM, -EBADMSG when its indices
 * make no sense. */
int vq_start(struct vq *vq, struct vdev *dev, unsigned int index,
	     struct err *err);

/*
 * The next request: 1, or 0 when there is none, or what the driver did wrong:
 * -EBADMSG (a loop, an index or a length out of bounds, a readable segment behind
 * a writable one), -EFAULT (memory that is no RAM), -E2BIG (more than @request has
 * room for).
 */
int vq_pop(struct vq *vq, struct vq_request *request, struct err *err);
/* Put back the last one that was popped, as if it had not been; then the one
 * before, and so on. */
void vq_unpop(struct vq *vq, const struct vq_request *request);

/* Done, in any order, with @written bytes (at most writable_size) from the start of
 * its writable part: those are marked dirty, so count all that were touched.  The
 * driver sees it after vq_flush(). */
void vq_push(struct vq *vq, const struct vq_request *request, uint32_t written);
/* Show the driver what was pushed, and interrupt if it asked for that. */
void vq_flush(struct vq *vq);

/* Whether the driver is to notify.  true of vq_want_kicks(): requests came since the
 * last vq_pop() looked, so look again before waiting.  Those that were put back do
 * not count: who waits for more is not called before there are more. */
bool vq_want_kicks(struct vq *vq);
void vq_ignore_kicks(struct vq *vq);

/* Copies between a request's readable (writable) part, from byte @at of it, and
 * @buf; returns how many bytes there were. */
size_t vq_read(const struct vq_request *request, uint64_t at, void *buf,
	       size_t size);
size_t vq_write(const struct vq_request *request, uint64_t at, const void *buf,
		size_t size);
/* Its readable (or writable) part from byte @at on as at most @room iovecs;
 * returns how many. */
unsigned int vq_iovecs(const struct vq_request *request, bool is_writable,
		       uint64_t at, struct iovec *iovecs, unsigned int room);

#endif
