// SPDX-License-Identifier: Apache-2.0
/*
 * The connection to an NBD server, and its return.  libnbd does the talking; the
 * thread waits for its socket, and for a timer that starts attempts and ends those
 * that take too long.
 *
 * libnbd looks up host names without a way to interrupt it; that blocks this
 * device's thread, and nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"
#include "virtio/blk_nbd_priv.h"

#define PAUSE_MIN_NS   (10 * NS_PER_MS)
#define PAUSE_MAX_NS   NS_PER_SEC
#define ATTEMPT_MAX_NS (5 * NS_PER_SEC)

#define BLOCK_MIN 512u
#define BLOCK_MAX 4096u       /* what every driver can have */
#define PART_MAX  (32u << 20) /* what every server can take */

static bool is_connecting(const struct blk_nbd *nbd)
{
	return nbd->lib.aio_is_connecting(nbd->handle) > 0;
}

static int start_connecting(struct blk_nbd *nbd, struct err *err)
{
	nbd->handle = nbd->lib.create();
	if (!nbd->handle)
		return err_set(err, -ENOMEM, "%s: %s", nbd->uri,
			       nbd->lib.get_error());
	/* What a failed read leaves is not looked at. */
	nbd->lib.set_pread_initialize(nbd->handle, false);
	if (nbd->lib.aio_connect_uri(nbd->handle, nbd->uri) == 0)
		return 0;
	err_set(err, -ENOTCONN, "%s: %s; is the server there?", nbd->uri,
		nbd->lib.get_error());
	nbd->lib.close(nbd->handle);
	nbd->handle = NULL;
	return -ENOTCONN;
}

static int block_size_of(const struct blk_nbd *nbd, int kind, uint32_t limit)
{
	int64_t size = nbd->lib.get_block_size(nbd->handle, kind);

	return size > 0 && size < limit ? (int)size : (int)limit;
}

static int read_export(const struct blk_nbd *nbd, struct blk_nbd_export *export,
		       struct err *err)
{
	struct nbd_handle *handle = nbd->handle;
	int64_t size = nbd->lib.get_size(handle);
	int64_t block = nbd->lib.get_block_size(handle, LIBNBD_SIZE_MINIMUM);

	if (size <= 0)
		return err_set(err, -EINVAL, "the export is empty");
	if (block < BLOCK_MIN)
		block = BLOCK_MIN;
	if (block > BLOCK_MAX)
		return err_set(err, -EINVAL,
			       "the server takes blocks of %lld bytes, at most "
			       "%u can be had",
			       (long long)block, BLOCK_MAX);
	if (size % block)
		return err_set(
			err, -EINVAL,
			"the export has %lld bytes, no multiple of %lld; "
			"have the server round it up",
			(long long)size, (long long)block);
	*export = (struct blk_nbd_export){
		.size = (uint64_t)size,
		.block_size = (uint32_t)block,
		.part_max = (uint32_t)block_size_of(nbd, LIBNBD_SIZE_MAXIMUM,
						    PART_MAX),
		.is_readonly = nbd->lib.is_read_only(handle) > 0,
		.can_flush = nbd->lib.can_flush(handle) > 0,
		.can_fua = nbd->lib.can_fua(handle) > 0,
		.can_trim = nbd->lib.can_trim(handle) > 0,
		.can_zero = nbd->lib.can_zero(handle) > 0,
		.can_multi_conn = nbd->lib.can_multi_conn(handle) > 0,
	};
	export->part_max -= export->part_max % export->block_size;
	return 0;
}

/* The guest has seen the first one. */
static int check_export(const struct blk_nbd *nbd,
			const struct blk_nbd_export *export, struct err *err)
{
	const struct blk_info *info = &nbd->base.info;

	if (export->is_readonly && !info->is_readonly)
		return err_set(err, -EROFS,
			       "the server exports it read-only; give "
			       "readonly=on, or change the server");
	if (info->size == 0)
		return 0;
	if (export->size != info->size || export->block_size > info->block_size)
		return err_set(err, -EINVAL,
			       "the export changed from %llu to %llu bytes",
			       (unsigned long long)info->size,
			       (unsigned long long)export->size);
	return 0;
}

static int examine(struct blk_nbd *nbd, struct err *err)
{
	struct blk_nbd_export export;
	int ret = read_export(nbd, &export, err);

	if (ret == 0)
		ret = check_export(nbd, &export, err);
	if (ret) {
		err_prefix(err, "%s", nbd->uri);
		return ret;
	}
	nbd->export = export;
	nbd->is_ready = true;
	nbd->pause_ns = PAUSE_MIN_NS;
	trace(nbd_connect, "%s: %llu bytes", nbd->uri,
	      (unsigned long long)export.size);
	return 0;
}

int blk_nbd_connect_now(struct blk_nbd *nbd, uint64_t deadline_ns,
			struct err *err)
{
	int ret = start_connecting(nbd, err);

	while (ret == 0 && is_connecting(nbd)) {
		uint64_t now = clock_mono_ns();

		if (now >= deadline_ns)
			ret = err_set(err, -ETIMEDOUT,
				      "%s: the server does not answer",
				      nbd->uri);
		else if (nbd->lib.poll(nbd->handle,
				       (int)((deadline_ns - now) / NS_PER_MS) +
					       1) < 0)
			break;
	}
	if (ret)
		return ret;
	if (nbd->lib.aio_is_ready(nbd->handle) <= 0)
		return err_set(err, -ENOTCONN, "%s: %s", nbd->uri,
			       nbd->lib.get_error() ? nbd->lib.get_error()
						    : "the server hung up");
	return examine(nbd, err);
}

static void set_timer(struct blk_nbd *nbd, uint64_t ns)
{
	struct itimerspec spec = {
		.it_value = { .tv_sec = (time_t)(ns / NS_PER_SEC),
			      .tv_nsec = (long)(ns % NS_PER_SEC) },
	};

	timerfd_settime(nbd->timer.fd, 0, &spec, NULL);
}

static void unwatch(struct blk_nbd *nbd)
{
	if (nbd->has_socket) {
		io_thread_del(nbd->thread, &nbd->socket);
		close(nbd->socket.fd);
	}
	nbd->has_socket = false;
}

void blk_nbd_watch(struct blk_nbd *nbd)
{
	unsigned int direction = nbd->lib.aio_get_direction(nbd->handle);
	int fd = nbd->lib.aio_get_fd(nbd->handle);
	uint32_t events = 0;

	if (direction & LIBNBD_AIO_DIRECTION_READ)
		events |= EPOLLIN;
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		events |= EPOLLOUT;
	/* While it connects, it may have closed one socket and opened another
	 * of the same number. */
	if (nbd->has_socket && nbd->is_ready && nbd->watched_fd == fd &&
	    nbd->socket.events == events)
		return;
	unwatch(nbd);
	/* A descriptor of our own: libnbd closes its one when it likes, and the
	 * number may be somebody else's by the time that it is not watched any
	 * more. */
	nbd->watched_fd = fd;
	nbd->socket.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	nbd->socket.events = events;
	nbd->has_socket = nbd->socket.fd >= 0 &&
			  io_thread_add(nbd->thread, &nbd->socket) == 0;
	if (!nbd->has_socket) {
		if (nbd->socket.fd >= 0)
			close(nbd->socket.fd);
		nbd->is_broken = true;
	}
}

void blk_nbd_disconnect(struct blk_nbd *nbd)
{
	if (!nbd->handle)
		return;
	unwatch(nbd);
	if (nbd->is_ready && !nbd->is_broken)
		nbd->lib.aio_disconnect(nbd->handle, 0);
	nbd->lib.close(nbd->handle);
	nbd->handle = NULL;
	nbd->is_ready = nbd->is_broken = false;
	blk_nbd_requeue(nbd);
}

/* And try again in a while. */
static void lose(struct blk_nbd *nbd, const char *reason)
{
	trace(nbd_disconnect, "%s: %s; again in %llu ms", nbd->uri,
	      reason ? reason : "",
	      (unsigned long long)(nbd->pause_ns / NS_PER_MS));
	if (nbd->handle)
		nbd->is_broken = true;
	blk_nbd_disconnect(nbd);
	set_timer(nbd, nbd->pause_ns);
	nbd->pause_ns *= 2;
	if (nbd->pause_ns > PAUSE_MAX_NS)
		nbd->pause_ns = PAUSE_MAX_NS;
}

static bool is_lost(const struct blk_nbd *nbd)
{
	return nbd->is_broken || nbd->lib.aio_is_dead(nbd->handle) > 0 ||
	       nbd->lib.aio_is_closed(nbd->handle) > 0;
}

void blk_nbd_notice(struct blk_nbd *nbd)
{
	struct err err = ERR_INIT;

	if (!nbd->handle)
		return;
	if (is_lost(nbd)) {
		lose(nbd, nbd->lib.get_error());
		return;
	}
	if (!nbd->is_ready && nbd->lib.aio_is_ready(nbd->handle) > 0) {
		if (examine(nbd, &err)) {
			lose(nbd, err_msg(&err));
			return;
		}
		set_timer(nbd, 0);
	}
	blk_nbd_watch(nbd);
	if (nbd->is_broken)
		lose(nbd, "epoll");
}

void blk_nbd_timer(void *opaque)
{
	struct blk_nbd *nbd = opaque;
	struct err err = ERR_INIT;
	uint64_t count;

	if (read(nbd->timer.fd, &count, sizeof(count)) < 0)
		return;
	if (nbd->is_ready)
		return;
	if (nbd->handle) {
		lose(nbd, "the server does not answer");
	} else if (start_connecting(nbd, &err)) {
		lose(nbd, err_msg(&err));
	} else {
		set_timer(nbd, ATTEMPT_MAX_NS);
		blk_nbd_notice(nbd);
	}
	nbd->base.front.ready(nbd->base.front.opaque);
}
