// SPDX-License-Identifier: Apache-2.0
/*
 * Disks in files and block devices, by io_uring.
 *
 * The ring belongs to the device's io_thread alone.  What the kernel finishes at
 * once (cached reads) is seen by the io_uring_enter() that submitted it; the
 * rest is told by an eventfd, which is signalled while armed only.
 *
 * The file is registered with the ring; guest memory is not: that would pin it,
 * and so touch all of it, and a migration would send what the guest never used.
 *
 * O_DIRECT asks for aligned memory.  A request whose memory is not goes through a
 * bounce buffer, part by part; offsets and sizes are multiples of the block size
 * that the guest was told.
 *
 * A BLK_ZERO is tried in three ways, as far as the file system knows them:
 *
 *	unmapping (if it may) -> zeroing a range -> writing zeroes
 */
#include <assert.h>
#include <errno.h>
#include <linux/falloc.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/trace.h"
#include "virtio/blk_file_priv.h"

#define FILE_INDEX 0 /* of the registered file */

enum stage { /* blk_io.stage */
	STAGE_FIRST,
	STAGE_UNMAP,
	STAGE_ZERO_RANGE,
	STAGE_WRITE,
	STAGE_SYNC, /* a durable BLK_ZERO is done, and not flushed */
};

static struct blk_file *of(struct blk_backend *backend)
{
	return container_of(backend, struct blk_file, base);
}

static struct io_uring_sqe *new_sqe(struct blk_file *file)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&file->ring);

	/* There are as many as requests, and each needs one at a time. */
	assert(sqe);
	return sqe;
}

/* After the prep function, some of which clear these. */
static void send_sqe(struct io_uring_sqe *sqe, struct blk_io *io)
{
	io_uring_sqe_set_data(sqe, io);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
}

static bool is_aligned(const struct blk_file *file, const struct blk_io *io)
{
	uintptr_t bits = 0;

	for (unsigned int i = 0; i < io->iovec_count; i++)
		bits |= (uintptr_t)io->iovecs[i].iov_base |
			io->iovecs[i].iov_len;
	return (bits & (file->memory_align - 1)) == 0;
}

static size_t part_of(const struct blk_io *io)
{
	return io->size < BLK_BOUNCE_SIZE ? io->size : BLK_BOUNCE_SIZE;
}

/* False: no bounce buffer is free. */
static bool bounce_begin(struct blk_file *file, struct blk_io *io)
{
	if (!io->bounce)
		io->bounce = blk_bounce_get(&file->bounce);
	if (!io->bounce)
		return false;
	io->part = part_of(io);
	if (io->op == BLK_WRITE)
		blk_io_gather(io, io->bounce, io->part);
	return true;
}

static void queue_transfer(struct blk_file *file, struct blk_io *io)
{
	const struct iovec *iovec = io->iovecs;
	struct iovec bounced;
	struct io_uring_sqe *sqe;
	unsigned int count = io->iovec_count;

	if (io->bounce || !is_aligned(file, io)) {
		if (!bounce_begin(file, io)) {
			list_add_tail(&file->waiting, &io->link);
			return;
		}
		bounced = (struct iovec){ io->bounce, io->part };
		iovec = &bounced;
		count = 1;
	}
	sqe = new_sqe(file);
	if (io->op == BLK_READ && count == 1)
		io_uring_prep_read(sqe, FILE_INDEX, iovec->iov_base,
				   (unsigned int)iovec->iov_len, io->offset);
	else if (io->op == BLK_READ)
		io_uring_prep_readv(sqe, FILE_INDEX, iovec, count, io->offset);
	else if (count == 1)
		io_uring_prep_write(sqe, FILE_INDEX, iovec->iov_base,
				    (unsigned int)iovec->iov_len, io->offset);
	else
		io_uring_prep_writev(sqe, FILE_INDEX, iovec, count, io->offset);
	if (io->op == BLK_WRITE && io->is_durable)
		sqe->rw_flags = RWF_DSYNC;
	send_sqe(sqe, io);
}

static void queue_sync(struct blk_file *file, struct blk_io *io)
{
	struct io_uring_sqe *sqe = new_sqe(file);

	io_uring_prep_fsync(sqe, FILE_INDEX, IORING_FSYNC_DATASYNC);
	send_sqe(sqe, io);
}

static void queue_fallocate(struct blk_file *file, struct blk_io *io, int mode)
{
	struct io_uring_sqe *sqe = new_sqe(file);

	io_uring_prep_fallocate(sqe, FILE_INDEX, mode | FALLOC_FL_KEEP_SIZE,
				(off_t)io->offset, (off_t)io->size);
	send_sqe(sqe, io);
}

static void queue_zero_write(struct blk_file *file, struct blk_io *io)
{
	struct io_uring_sqe *sqe = new_sqe(file);

	io_uring_prep_write(sqe, FILE_INDEX, file->bounce.zeroes,
			    (unsigned int)part_of(io), io->offset);
	send_sqe(sqe, io);
}

static void queue_zero(struct blk_file *file, struct blk_io *io)
{
	if (io->stage == STAGE_FIRST)
		io->stage = io->may_unmap ? STAGE_UNMAP : STAGE_ZERO_RANGE;
	if (io->stage == STAGE_UNMAP && !file->has_unmap)
		io->stage = STAGE_ZERO_RANGE;
	if (io->stage == STAGE_ZERO_RANGE && !file->has_zero_range)
		io->stage = STAGE_WRITE;
	if (io->stage == STAGE_UNMAP)
		queue_fallocate(file, io, FALLOC_FL_PUNCH_HOLE);
	else if (io->stage == STAGE_ZERO_RANGE)
		queue_fallocate(file, io, FALLOC_FL_ZERO_RANGE);
	else if (io->stage == STAGE_WRITE)
		queue_zero_write(file, io);
	else
		queue_sync(file, io);
}

/* The next thing to do of a request. */
static void queue(struct blk_file *file, struct blk_io *io)
{
	switch (io->op) {
	case BLK_READ:
	case BLK_WRITE:
		queue_transfer(file, io);
		break;
	case BLK_FLUSH:
		queue_sync(file, io);
		break;
	case BLK_DISCARD:
		queue_fallocate(file, io, FALLOC_FL_PUNCH_HOLE);
		break;
	case BLK_ZERO:
		queue_zero(file, io);
		break;
	}
}

static void finish(struct blk_file *file, struct blk_io *io, int result)
{
	struct blk_io *next;

	if (io->bounce) {
		blk_bounce_put(&file->bounce, io->bounce);
		io->bounce = NULL;
		if (!list_is_empty(&file->waiting)) {
			next = list_entry(file->waiting.next, struct blk_io,
					  link);
			list_del(&next->link);
			queue(file, next);
		}
	}
	file->base.front.done(file->base.front.opaque, io, result);
}

static void transferred(struct blk_file *file, struct blk_io *io, int result)
{
	if (result == 0) {
		/* Somebody made the file shorter. */
		trace(blk_truncated, "%s: nothing at %llu", file->path,
		      (unsigned long long)io->offset);
		finish(file, io, -EIO);
		return;
	}
	if (io->bounce && io->op == BLK_READ)
		blk_io_scatter(io, io->bounce, (size_t)result);
	blk_io_advance(io, (size_t)result);
	if (io->size > 0)
		queue(file, io);
	else
		finish(file, io, 0);
}

static bool is_unsupported(int result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV;
}

static void zeroed(struct blk_file *file, struct blk_io *io, int result)
{
	if (is_unsupported(result) && io->stage < STAGE_WRITE) {
		trace(blk_unsupported, "%s: stage %u", file->path, io->stage);
		if (io->stage == STAGE_UNMAP)
			file->has_unmap = false;
		else
			file->has_zero_range = false;
	} else if (result < 0) {
		finish(file, io, result);
		return;
	} else if (io->stage == STAGE_WRITE && (size_t)result < io->size) {
		blk_io_advance(io, (size_t)result);
	} else if (io->is_durable && io->stage != STAGE_SYNC) {
		io->stage = STAGE_SYNC;
	} else {
		finish(file, io, 0);
		return;
	}
	queue(file, io);
}

static void complete(struct blk_file *file, struct blk_io *io, int result)
{
	if (result == -EINTR || result == -EAGAIN) {
		queue(file, io);
		return;
	}
	if (io->op == BLK_ZERO)
		zeroed(file, io, result);
	else if (result < 0)
		finish(file, io,
		       io->op == BLK_DISCARD && is_unsupported(result)
			       ? 0
			       : result);
	else if (io->op == BLK_READ || io->op == BLK_WRITE)
		transferred(file, io, result);
	else
		finish(file, io, 0);
}

static void file_submit(struct blk_backend *backend, struct blk_io *io)
{
	io->bounce = NULL;
	io->stage = STAGE_FIRST;
	queue(of(backend), io);
}

/* Completions that the kernel has ready, but not yet put into the ring. */
static bool has_deferred(struct blk_file *file)
{
	return __atomic_load_n(file->ring.sq.kflags, __ATOMIC_RELAXED) &
	       (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static unsigned int file_poll(struct blk_backend *backend)
{
	struct blk_file *file = of(backend);
	struct io_uring *ring = &file->ring;
	struct io_uring_cqe *cqe;
	unsigned int head, count = 0;

	io_uring_cq_eventfd_toggle(ring, false);
	/* What it refuses for now (-EAGAIN, -EBUSY) stays queued. */
	if (io_uring_sq_ready(ring) > 0)
		io_uring_submit_and_get_events(ring);
	else if (has_deferred(file))
		io_uring_get_events(ring);
	io_uring_for_each_cqe(ring, head, cqe)
	{
		complete(file, io_uring_cqe_get_data(cqe), cqe->res);
		count++;
	}
	io_uring_cq_advance(ring, count);
	return count;
}

static bool file_arm(struct blk_backend *backend)
{
	struct blk_file *file = of(backend);

	io_uring_cq_eventfd_toggle(&file->ring, true);
	/* Pairs with the kernel's, between a completion and its look at the
	 * toggle. */
	atomic_thread_fence(memory_order_seq_cst);
	return io_uring_sq_ready(&file->ring) == 0 && !has_deferred(file) &&
	       io_uring_cq_ready(&file->ring) == 0;
}

/* ---- the ring ---- */

static void signalled(void *opaque)
{
	struct blk_file *file = opaque;
	uint64_t count;

	/* Fails when another ready() emptied it meanwhile. */
	if (read(file->event_fd, &count, sizeof(count)) < 0)
		return;
	file->base.front.ready(file->base.front.opaque);
}

/* Completions as task work of this thread, when it enters the kernel anyway:
 * since Linux 6.1; then 5.19; then by interrupting it. */
static int ring_init(struct blk_file *file)
{
	static const unsigned int flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		0,
	};
	int ret = -EINVAL;

	for (unsigned int i = 0; i < array_size(flags) && ret == -EINVAL; i++)
		ret = io_uring_queue_init(BLK_REQUESTS_MAX, &file->ring,
					  flags[i]);
	return ret;
}

static void file_detach(struct blk_backend *backend)
{
	struct blk_file *file = of(backend);

	if (!file->thread)
		return;
	io_thread_del(file->thread, &file->source);
	io_uring_queue_exit(&file->ring);
	file->thread = NULL;
}

static int file_attach(struct blk_backend *backend, struct io_thread *thread,
		       struct err *err)
{
	struct blk_file *file = of(backend);
	int ret = ring_init(file);

	if (ret)
		return err_set_errno(err, ret,
				     "%s: io_uring is not to be had (see the "
				     "sysctl kernel.io_uring_disabled)",
				     file->path);
	ret = io_uring_register_files(&file->ring, &file->fd, 1);
	if (ret == 0)
		ret = io_uring_register_eventfd(&file->ring, file->event_fd);
	if (ret) {
		io_uring_queue_exit(&file->ring);
		return err_set_errno(err, ret, "%s: io_uring", file->path);
	}
	/* Only spares the kernel a look-up. */
	io_uring_register_ring_fd(&file->ring);
	file->thread = thread;
	file->source = (struct io_source){ .fd = file->event_fd,
					   .events = EPOLLIN,
					   .ready = signalled,
					   .opaque = file };
	ret = io_thread_add(thread, &file->source);
	if (ret) {
		file_detach(backend);
		return err_set_errno(err, ret, "%s: epoll", file->path);
	}
	return 0;
}

const struct blk_backend_ops blk_file_ops = {
	.attach = file_attach,
	.detach = file_detach,
	.submit = file_submit,
	.poll = file_poll,
	.arm = file_arm,
	.claim = blk_file_claim,
	.disclaim = blk_file_disclaim,
	.free = blk_file_free,
};
