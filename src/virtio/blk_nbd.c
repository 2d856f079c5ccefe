// SPDX-License-Identifier: Apache-2.0
/*
 * Requests to an NBD server.
 *
 * A command of NBD has one piece of memory.  A request in several pieces, and one
 * that is larger than a command may be, goes out part by part, through a bounce
 * buffer where need be.
 *
 * libnbd calls back with its lock held, so that the callback only notes what came.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"
#include "virtio/blk_nbd_priv.h"

#define CONNECT_MAX_NS (5 * NS_PER_SEC)

#define RESULT_NONE 1 /* blk_io.result: not answered */

enum stage { /* blk_io.stage */
	STAGE_FIRST,
	STAGE_WRITE, /* zeroes, to a server that has no such command */
	STAGE_SYNC,  /* a durable write is done, and not flushed */
};

static struct blk_nbd *of(struct blk_backend *backend)
{
	return container_of(backend, struct blk_nbd, base);
}

static void move(struct list *to, struct blk_io *io)
{
	list_del(&io->link);
	list_add_tail(to, &io->link);
}

static void finish(struct blk_nbd *nbd, struct blk_io *io, int result)
{
	if (io->bounce)
		blk_bounce_put(&nbd->bounce, io->bounce);
	io->bounce = NULL;
	io->result = result;
	move(&nbd->finished, io);
}

/* ---- sending ---- */

static int answered(void *opaque, int *error)
{
	struct blk_io *io = opaque;

	/* Only noted: nbd_close() may be the one who calls. */
	io->result = -*error;
	return 1;
}

static uint8_t *memory_of(struct blk_nbd *nbd, struct blk_io *io)
{
	size_t max = nbd->export.part_max;

	if (io->op == BLK_ZERO || io->iovec_count > 1) {
		if (max > BLK_BOUNCE_SIZE)
			max = BLK_BOUNCE_SIZE;
	}
	io->part = io->size < max ? io->size : max;
	if (io->op == BLK_ZERO)
		return nbd->bounce.zeroes;
	if (io->iovec_count == 1 && !io->bounce)
		return io->iovecs->iov_base;
	if (!io->bounce)
		io->bounce = blk_bounce_get(&nbd->bounce);
	if (io->bounce && io->part > BLK_BOUNCE_SIZE)
		io->part = BLK_BOUNCE_SIZE;
	if (io->bounce && io->op == BLK_WRITE)
		blk_io_gather(io, io->bounce, io->part);
	return io->bounce;
}

static int64_t send_transfer(struct blk_nbd *nbd, struct blk_io *io,
			     uint8_t *memory)
{
	nbd_completion_callback callback = { .callback = answered,
					     .user_data = io };
	bool has_fua = io->is_durable && nbd->export.can_fua;

	if (io->op == BLK_READ)
		return nbd->lib.aio_pread(nbd->handle, memory, io->part,
					  io->offset, callback, 0);
	return nbd->lib.aio_pwrite(nbd->handle, memory, io->part, io->offset,
				   callback, has_fua ? LIBNBD_CMD_FLAG_FUA : 0);
}

static int64_t send_range(struct blk_nbd *nbd, struct blk_io *io)
{
	nbd_completion_callback callback = { .callback = answered,
					     .user_data = io };
	uint32_t flags =
		io->is_durable && nbd->export.can_fua ? LIBNBD_CMD_FLAG_FUA : 0;

	io->part = io->size;
	if (io->op == BLK_DISCARD)
		return nbd->lib.aio_trim(nbd->handle, io->size, io->offset,
					 callback, flags);
	if (!io->may_unmap)
		flags |= LIBNBD_CMD_FLAG_NO_HOLE;
	return nbd->lib.aio_zero(nbd->handle, io->size, io->offset, callback,
				 flags);
}

static int64_t send_flush(struct blk_nbd *nbd, struct blk_io *io)
{
	nbd_completion_callback callback = { .callback = answered,
					     .user_data = io };

	return nbd->lib.aio_flush(nbd->handle, callback, 0);
}

/* Whether there is nothing to tell the server. */
static bool is_moot(const struct blk_nbd *nbd, const struct blk_io *io)
{
	if (io->op == BLK_FLUSH || io->stage == STAGE_SYNC)
		return !nbd->export.can_flush;
	return io->op == BLK_DISCARD && !nbd->export.can_trim;
}

static void not_sent(struct blk_nbd *nbd, struct blk_io *io)
{
	trace(nbd_error, "%s: %s", nbd->uri, nbd->lib.get_error());
	if (nbd->lib.aio_is_dead(nbd->handle) > 0 ||
	    nbd->lib.aio_is_closed(nbd->handle) > 0)
		nbd->is_broken = true; /* it stays with those to send again */
	else
		finish(nbd, io, -EIO);
}

/* The first of those that wait; false: it has to wait on. */
static bool send_one(struct blk_nbd *nbd, struct blk_io *io)
{
	uint8_t *memory = NULL;
	int64_t cookie;

	if (is_moot(nbd, io)) {
		finish(nbd, io, 0);
		return true;
	}
	if (io->op == BLK_ZERO && !nbd->export.can_zero &&
	    io->stage == STAGE_FIRST)
		io->stage = STAGE_WRITE;
	if (io->stage != STAGE_SYNC &&
	    (io->op == BLK_READ || io->op == BLK_WRITE ||
	     io->stage == STAGE_WRITE)) {
		memory = memory_of(nbd, io);
		if (!memory)
			return false;
	}
	io->result = RESULT_NONE;
	move(&nbd->sent, io);
	if (memory)
		cookie = send_transfer(nbd, io, memory);
	else if (io->op == BLK_FLUSH || io->stage == STAGE_SYNC)
		cookie = send_flush(nbd, io);
	else
		cookie = send_range(nbd, io);
	if (cookie < 0)
		not_sent(nbd, io);
	return true;
}

static void send_waiting(struct blk_nbd *nbd)
{
	while (nbd->is_ready && !nbd->is_broken &&
	       !list_is_empty(&nbd->waiting)) {
		struct blk_io *io =
			list_entry(nbd->waiting.next, struct blk_io, link);

		if (!send_one(nbd, io))
			return;
	}
}

void blk_nbd_requeue(struct blk_nbd *nbd)
{
	/* In front of those that were never sent, in their order. */
	while (!list_is_empty(&nbd->sent)) {
		struct list *last = nbd->sent.prev;

		list_del(last);
		list_add_before(nbd->waiting.next, last);
	}
}

/* ---- answers ---- */

static bool is_connections_fault(int result)
{
	return result == -ENOTCONN || result == -ESHUTDOWN ||
	       result == -ECONNRESET || result == -EPIPE;
}

static void part_done(struct blk_nbd *nbd, struct blk_io *io)
{
	bool needs_flush = (io->op == BLK_WRITE || io->op == BLK_ZERO) &&
			   io->is_durable && !nbd->export.can_fua &&
			   io->stage != STAGE_SYNC;

	if (io->bounce && io->op == BLK_READ)
		blk_io_scatter(io, io->bounce, io->part);
	if (io->op != BLK_FLUSH && io->stage != STAGE_SYNC)
		blk_io_advance(io, io->part);
	if (io->size == 0 && !needs_flush) {
		finish(nbd, io, 0);
		return;
	}
	if (io->size == 0)
		io->stage = STAGE_SYNC;
	move(&nbd->waiting, io);
}

static void take_answer(struct blk_nbd *nbd, struct blk_io *io)
{
	bool is_unsupported = io->result == -EOPNOTSUPP;

	if (is_connections_fault(io->result)) {
		nbd->is_broken = true; /* and all that was sent waits */
	} else if (is_unsupported && io->op == BLK_DISCARD) {
		finish(nbd, io, 0);
	} else if (is_unsupported && io->op == BLK_ZERO &&
		   io->stage == STAGE_FIRST) {
		io->stage = STAGE_WRITE;
		move(&nbd->waiting, io);
	} else if (io->result < 0) {
		finish(nbd, io, io->result);
	} else {
		part_done(nbd, io);
	}
}

static void take_answers(struct blk_nbd *nbd)
{
	struct blk_io *io, *next;

	list_for_each_safe (io, next, &nbd->sent, link) {
		if (io->result != RESULT_NONE)
			take_answer(nbd, io);
	}
}

static void backend_submit(struct blk_backend *backend, struct blk_io *io)
{
	io->bounce = NULL;
	io->stage = STAGE_FIRST;
	list_add_tail(&of(backend)->waiting, &io->link);
}

static unsigned int deliver(struct blk_nbd *nbd)
{
	unsigned int count = 0;

	while (!list_is_empty(&nbd->finished)) {
		struct blk_io *io =
			list_entry(nbd->finished.next, struct blk_io, link);

		list_del(&io->link);
		nbd->base.front.done(nbd->base.front.opaque, io, io->result);
		count++;
	}
	return count;
}

static unsigned int backend_poll(struct blk_backend *backend)
{
	struct blk_nbd *nbd = of(backend);

	take_answers(nbd);
	/* It may have come back; and sending may find that it is gone. */
	blk_nbd_notice(nbd);
	send_waiting(nbd);
	blk_nbd_notice(nbd);
	return deliver(nbd);
}

static bool backend_arm(struct blk_backend *backend)
{
	struct blk_nbd *nbd = of(backend);
	struct blk_io *io;

	list_for_each (io, &nbd->sent, link) {
		if (io->result != RESULT_NONE)
			return false;
	}
	return list_is_empty(&nbd->finished);
}

/* It may answer later, or never; its connection is given up first, so that it
 * cannot write into memory that is the guest's again. */
static void backend_give_up(struct blk_backend *backend)
{
	struct blk_nbd *nbd = of(backend);

	take_answers(nbd);
	if (!list_is_empty(&nbd->sent)) {
		nbd->is_broken = true;
		blk_nbd_notice(nbd);
	}
	while (!list_is_empty(&nbd->waiting))
		finish(nbd, list_entry(nbd->waiting.next, struct blk_io, link),
		       -EIO);
}

/* ---- the thread ---- */

static void socket_ready(void *opaque)
{
	struct blk_nbd *nbd = opaque;

	/* It asks which of its events there are, and does not wait. */
	if (nbd->lib.poll(nbd->handle, 0) < 0)
		nbd->is_broken = true;
	nbd->base.front.ready(nbd->base.front.opaque);
}

static int backend_attach(struct blk_backend *backend, struct io_thread *thread,
			  struct err *err)
{
	struct blk_nbd *nbd = of(backend);
	int ret;

	nbd->socket.ready = socket_ready;
	nbd->socket.opaque = nbd;
	nbd->timer.events = EPOLLIN;
	nbd->timer.ready = blk_nbd_timer;
	nbd->timer.opaque = nbd;
	ret = io_thread_add(thread, &nbd->timer);
	if (ret)
		return err_set_errno(err, ret, "%s: epoll", nbd->uri);
	nbd->thread = thread;
	blk_nbd_notice(nbd);
	return 0;
}

static void backend_detach(struct blk_backend *backend)
{
	struct blk_nbd *nbd = of(backend);

	if (!nbd->thread)
		return;
	blk_nbd_disconnect(nbd);
	io_thread_del(nbd->thread, &nbd->timer);
	nbd->thread = NULL;
}

static void backend_free(struct blk_backend *backend)
{
	struct blk_nbd *nbd = of(backend);

	if (nbd->handle)
		nbd->lib.close(nbd->handle);
	if (nbd->timer.fd >= 0)
		close(nbd->timer.fd);
	blk_bounce_fini(&nbd->bounce);
	free(nbd->uri);
	free(nbd);
}

static const struct blk_backend_ops backend_ops = {
	.attach = backend_attach,
	.detach = backend_detach,
	.submit = backend_submit,
	.poll = backend_poll,
	.arm = backend_arm,
	.give_up = backend_give_up,
	.free = backend_free,
};

static int connect_first(struct blk_nbd *nbd, bool is_readonly, struct err *err)
{
	struct blk_info *info = &nbd->base.info;
	int ret;

	info->is_readonly = is_readonly;
	nbd->timer.fd =
		timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (nbd->timer.fd < 0)
		return err_set_errno(err, -errno, "%s: timerfd", nbd->uri);
	ret = blk_nbd_connect_now(nbd, clock_mono_ns() + CONNECT_MAX_NS, err);
	if (ret)
		return ret;
	info->size = nbd->export.size;
	info->block_size = nbd->export.block_size;
	info->needs_flush_to_share =
		nbd->export.can_flush && !nbd->export.can_multi_conn;
	return 0;
}

int blk_nbd_open(const struct blk_where *where,
		 struct blk_backend **ret_backend, struct err *err)
{
	struct blk_nbd *nbd = calloc(1, sizeof(*nbd));
	int ret = -ENOMEM;

	if (!nbd)
		return err_set(err, -ENOMEM, "%s: no memory", where->nbd);
	nbd->base.ops = &backend_ops;
	nbd->timer.fd = -1;
	list_init(&nbd->waiting);
	list_init(&nbd->sent);
	list_init(&nbd->finished);
	nbd->uri = strdup(where->nbd);
	if (!nbd->uri || blk_bounce_init(&nbd->bounce, true))
		err_set(err, -ENOMEM, "%s: no memory", where->nbd);
	else
		ret = blk_nbd_lib_load(&nbd->lib, err);
	if (!ret)
		ret = connect_first(nbd, where->is_readonly, err);
	if (ret) {
		backend_free(&nbd->base);
		return ret;
	}
	*ret_backend = &nbd->base;
	return 0;
}
