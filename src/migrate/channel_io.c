// SPDX-License-Identifier: Apache-2.0
/*
 * Bytes through a channel, in turns.  A thread that always has something to move does
 * not sleep; the scheduler looks at it only every tick (4 ms on many kernels) and not
 * at all inside a call, and a vCPU that shares its CPU stands still meanwhile.  So no
 * call moves more than CALL_SIZE, and after TURN_NS of them the thread offers the CPU.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "mem/ram.h"
#include "migrate/channel.h"

#define CALL_SIZE (256u << 10) /* 0.2 ms where all of it is new memory */
#define TURN_NS   (NS_PER_SEC / 2000)
/* Fewer bytes cost less by a copy than by one more system call on either side. */
#define SPLICED_SIZE (64u << 10)
#define PIPE_SIZE    (1 << 20) /* what anybody may have; a call in small pieces */

/* Step past @done bytes; false when all of it is done. */
static bool iov_advance(struct iovec **iov, unsigned int *count, size_t done)
{
	while (*count && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		(*count)--;
	}
	if (!*count)
		return false;
	(*iov)->iov_base = (char *)(*iov)->iov_base + done;
	(*iov)->iov_len -= done;
	return true;
}

static bool is_spliced(const struct channel_file *file, const struct iovec *iov)
{
	uintptr_t offset = (uintptr_t)iov->iov_base - (uintptr_t)file->host;

	return file->size && iov->iov_len >= SPLICED_SIZE &&
	       offset < file->size && iov->iov_len <= file->size - offset;
}

/* What of @iov one call copies, from its start: whole vectors, up to one to splice, or
 * some of the first. */
static struct iovec *call_of(const struct channel_file *file, struct iovec *iov,
			     unsigned int *count, struct iovec *ret_part)
{
	unsigned int fit = 0;
	size_t size = 0;

	while (fit < *count && fit < IOV_MAX &&
	       iov[fit].iov_len <= CALL_SIZE - size &&
	       !is_spliced(file, &iov[fit]))
		size += iov[fit++].iov_len;
	if (fit) {
		*count = fit;
		return iov;
	}
	*ret_part = (struct iovec){ iov->iov_base, CALL_SIZE };
	*count = 1;
	return ret_part;
}

/* Having the CPU to itself costs it nothing. */
static void end_call(struct channel *channel)
{
	if (clock_mono_ns() - channel->turn_ns < TURN_NS)
		return;
	sched_yield();
	channel->turn_ns = clock_mono_ns();
}

/* Sleeping is offering. */
static int await(struct channel *channel, short events)
{
	int ret = channel_wait(channel, events);

	channel->turn_ns = clock_mono_ns();
	return ret;
}

static bool open_pipe(struct channel *channel)
{
	if (channel->has_pipe)
		return true;
	if (pipe2(channel->pipe, O_CLOEXEC) < 0)
		return false;
	/* Smaller, it takes more calls. */
	fcntl(channel->pipe[1], F_SETPIPE_SZ, PIPE_SIZE);
	return channel->has_pipe = true;
}

static const struct channel_file *file_or_none(struct channel *channel,
					       const struct channel_file *file)
{
	static const struct channel_file none;

	return file && channel->is_socket && open_pipe(channel) ? file : &none;
}

/* The peer may be slow to take what is in the pipe: it is looked after first. */
static ssize_t splice_out(struct channel *channel,
			  const struct channel_file *file,
			  const struct iovec *iov)
{
	size_t size = iov->iov_len < CALL_SIZE ? iov->iov_len : CALL_SIZE;
	loff_t at = (const uint8_t *)iov->iov_base - file->host;
	ssize_t done;

	if (!channel->piped) {
		done = splice(file->fd, &at, channel->pipe[1], NULL, size,
			      SPLICE_F_MOVE);
		if (done == 0) /* a file shorter than its mapping */
			errno = EIO;
		if (done <= 0)
			return -1;
		channel->piped = (size_t)done;
	}
	done = splice(channel->pipe[0], NULL, channel->fd, NULL, channel->piped,
		      SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	if (done > 0)
		channel->piped -= (size_t)done;
	return done;
}

static ssize_t send_some(struct channel *channel,
			 const struct channel_file *file, struct iovec *iov,
			 unsigned int count)
{
	struct iovec part;
	struct msghdr msg = { 0 };

	if (channel->piped || is_spliced(file, iov))
		return splice_out(channel, file, iov);
	msg.msg_iov = call_of(file, iov, &count, &part);
	msg.msg_iovlen = count;
	return channel->is_socket
		       ? sendmsg(channel->fd, &msg, MSG_NOSIGNAL)
		       : writev(channel->fd, msg.msg_iov, (int)count);
}

static int failed(struct err *err, int code, const char *what)
{
	return code == -ECANCELED ? err_set(err, code, "stopped")
				  : err_set_errno(err, code, "%s", what);
}

int channel_send_mapped(struct channel *channel,
			const struct channel_file *file, struct iovec *iov,
			unsigned int count, struct err *err)
{
	uint64_t start = clock_mono_ns();
	bool is_more = iov_advance(&iov, &count, 0);
	int ret = 0;

	file = file_or_none(channel, file);
	while (is_more) {
		ssize_t done = send_some(channel, file, iov, count);

		if (done >= 0) {
			channel->sent += (uint64_t)done;
			is_more = iov_advance(&iov, &count, (size_t)done);
			end_call(channel);
			continue;
		}
		if (errno == EINTR)
			continue;
		ret = errno == EAGAIN ? await(channel, POLLOUT) : -errno;
		if (ret)
			break;
	}
	channel->busy_ns += clock_mono_ns() - start;
	return ret ? failed(err, ret,
			    channel->is_file ? "writing the stream"
					     : "sending to the peer")
		   : 0;
}

int channel_send(struct channel *channel, struct iovec *iov, unsigned int count,
		 struct err *err)
{
	return channel_send_mapped(channel, NULL, iov, count, err);
}

/* Hand out what was read ahead; false when all of @iov is filled. */
static bool take_ahead(struct channel *channel, struct iovec **iov,
		       unsigned int *count)
{
	bool is_more = iov_advance(iov, count, 0);

	while (is_more && channel->ahead_size) {
		size_t size = (*iov)->iov_len < channel->ahead_size
				      ? (*iov)->iov_len
				      : channel->ahead_size;

		memcpy((*iov)->iov_base, channel->ahead + channel->ahead_at,
		       size);
		channel->ahead_at += size;
		channel->ahead_size -= size;
		is_more = iov_advance(iov, count, size);
	}
	return is_more;
}

static int empty_pipe(struct channel *channel, int fd, loff_t at)
{
	while (channel->piped) {
		ssize_t done = splice(channel->pipe[0], NULL, fd, &at,
				      channel->piped, SPLICE_F_MOVE);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return -1;
		channel->piped -= (size_t)done;
	}
	return 0;
}

/* The pages are mapped at once, as a copy would have left them: each vCPU that touches
 * one later would pay for a fault of this process first. */
static ssize_t splice_in(struct channel *channel,
			 const struct channel_file *file,
			 const struct iovec *iov)
{
	uint8_t *to = iov->iov_base;
	size_t size = iov->iov_len < CALL_SIZE ? iov->iov_len : CALL_SIZE;
	size_t before = (uintptr_t)to % RAM_PAGE_SIZE;
	ssize_t done = splice(channel->fd, NULL, channel->pipe[1], NULL, size,
			      SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

	if (done <= 0)
		return done;
	channel->piped = (size_t)done;
	if (empty_pipe(channel, file->fd, to - file->host))
		return -1;
	madvise(to - before, before + (size_t)done, MADV_POPULATE_READ);
	return done;
}

static ssize_t recv_some(struct channel *channel,
			 const struct channel_file *file, struct iovec *iov,
			 unsigned int count)
{
	struct iovec both[2] = { iov[0],
				 { channel->ahead, CHANNEL_AHEAD_SIZE } };
	struct iovec part;
	ssize_t done;

	if (is_spliced(file, iov))
		return splice_in(channel, file, iov);
	if (!channel->ahead || count > 1 || iov->iov_len > CHANNEL_AHEAD_SIZE) {
		iov = call_of(file, iov, &count, &part);
		return readv(channel->fd, iov, (int)count);
	}
	done = readv(channel->fd, both, 2);
	if (done <= (ssize_t)iov->iov_len)
		return done;
	channel->ahead_at = 0;
	channel->ahead_size = (size_t)done - iov->iov_len;
	return (ssize_t)iov->iov_len;
}

/* @is_first: between two records. */
static int ended(const struct channel *channel, bool is_first, struct err *err)
{
	if (!is_first)
		return err_set(err, -EBADMSG,
			       "the stream ends inside a record");
	return err_set(err, -ENODATA, "%s",
		       channel->is_file ? "the stream ends"
					: "the peer closed the connection");
}

int channel_recv_mapped(struct channel *channel,
			const struct channel_file *file, struct iovec *iov,
			unsigned int count, struct err *err)
{
	uint64_t spin_until =
		channel->spin_ns ? clock_mono_ns() + channel->spin_ns : 0;
	bool is_first = !channel->ahead_size;
	bool is_more = take_ahead(channel, &iov, &count);
	int ret;

	file = file_or_none(channel, file);
	while (is_more) {
		ssize_t done = recv_some(channel, file, iov, count);

		if (done > 0) {
			is_first = false;
			is_more = iov_advance(&iov, &count, (size_t)done);
			end_call(channel);
			continue;
		}
		if (done == 0)
			return ended(channel, is_first, err);
		if (errno == EINTR || (errno == EAGAIN && spin_until &&
				       clock_mono_ns() < spin_until))
			continue;
		ret = errno == EAGAIN ? await(channel, POLLIN) : -errno;
		if (ret)
			return failed(err, ret,
				      channel->is_file
					      ? "reading the stream"
					      : "reading from the peer");
	}
	return 0;
}

int channel_recv(struct channel *channel, struct iovec *iov, unsigned int count,
		 struct err *err)
{
	return channel_recv_mapped(channel, NULL, iov, count, err);
}

int channel_recv_bytes(struct channel *channel, void *to, size_t size,
		       struct err *err)
{
	struct iovec iov = { .iov_base = to, .iov_len = size };

	return channel_recv(channel, &iov, 1, err);
}

bool channel_is_readable(const struct channel *channel)
{
	struct pollfd pfd = { .fd = channel->fd, .events = POLLIN };

	return !channel->is_file &&
	       (channel->ahead_size || poll(&pfd, 1, 0) > 0);
}
