// SPDX-License-Identifier: Apache-2.0
/* See chardev_priv.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "base/trace.h"
#include "dev/chardev_priv.h"

#define ESCAPE 0x01  /* Ctrl-A */
#define CHUNK  256u  /* bytes read at once */
#define PIECE  4096u /* bytes drained under one hold of the lock */

static struct fd_chardev *of(struct chardev *chardev)
{
	return container_of(chardev, struct fd_chardev, base);
}

static void kick(struct fd_chardev *cd)
{
	uint64_t one = 1;

	/* Fails only while the counter is full: then a wake-up is pending. */
	if (write(cd->wake_fd, &one, sizeof(one)) < 0)
		return;
}

/* Write what goes without waiting; returns how many bytes are done with.  An
 * output that is broken swallows all. */
static size_t write_now(struct fd_chardev *cd, const uint8_t *bytes,
			size_t size)
{
	struct pollfd poll_out = { .fd = cd->out_fd, .events = POLLOUT };
	size_t done = 0;
	ssize_t n;

	lock_assert_held(&cd->lock);
	while (done < size) {
		if (cd->out_kind == OUT_SOCKET) {
			n = send(cd->out_fd, bytes + done, size - done,
				 MSG_DONTWAIT | MSG_NOSIGNAL);
		} else if (cd->out_kind == OUT_NONBLOCK) {
			n = write(cd->out_fd, bytes + done, size - done);
		} else {
			/* Ready means room for one byte, no more. */
			if (poll(&poll_out, 1, 0) != 1)
				break;
			n = write(cd->out_fd, bytes + done, 1);
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			return size;
		done += (size_t)n;
	}
	return done;
}

static void backlog_put(struct fd_chardev *cd, const uint8_t *bytes,
			size_t size)
{
	size_t room = cd->has_thread ? CHARDEV_BACKLOG - cd->backlog_size : 0;

	if (size > room) {
		cd->dropped += size - room;
		size = room;
	}
	for (size_t i = 0; i < size; i++) {
		size_t at = cd->backlog_at + cd->backlog_size++;

		cd->backlog[at % CHARDEV_BACKLOG] = bytes[i];
	}
}

/* One piece, so that the writer never waits long for the lock; true when the
 * next one may go too. */
static bool drain_piece(struct fd_chardev *cd)
{
	size_t size, done = 0;

	lock_acquire(&cd->lock);
	size = CHARDEV_BACKLOG - cd->backlog_at;
	if (size > cd->backlog_size)
		size = cd->backlog_size;
	if (size > PIECE)
		size = PIECE;
	if (cd->out_fd >= 0 && size > 0) {
		done = write_now(cd, cd->backlog + cd->backlog_at, size);
		cd->backlog_at = (cd->backlog_at + done) % CHARDEV_BACKLOG;
		cd->backlog_size -= done;
	}
	lock_release(&cd->lock);
	return done > 0 && done == size;
}

static void backlog_drain(struct fd_chardev *cd)
{
	while (drain_piece(cd))
		continue;
}

static void fd_write(struct chardev *chardev, const uint8_t *bytes, size_t size)
{
	struct fd_chardev *cd = of(chardev);
	bool was_empty;
	size_t done = 0;

	lock_acquire(&cd->lock);
	was_empty = cd->backlog_size == 0;
	if (cd->out_fd < 0)
		done = size;
	else if (was_empty)
		done = write_now(cd, bytes, size);
	if (done < size) {
		backlog_put(cd, bytes + done, size - done);
		if (was_empty && cd->has_thread)
			kick(cd);
	}
	lock_release(&cd->lock);
}

static size_t fd_room(struct chardev *chardev)
{
	struct fd_chardev *cd = of(chardev);
	size_t room = SIZE_MAX;

	lock_acquire(&cd->lock);
	if (cd->out_fd >= 0 && cd->has_thread)
		room = CHARDEV_BACKLOG - cd->backlog_size;
	cd->is_awaited = room == 0;
	lock_release(&cd->lock);
	return room;
}

/* By the thread, after the backlog became less. */
static void tell_drained(struct fd_chardev *cd)
{
	const struct chardev_front_ops *front = cd->base.front;
	bool is_awaited;

	lock_acquire(&cd->lock);
	is_awaited = cd->is_awaited && cd->backlog_size < CHARDEV_BACKLOG;
	if (is_awaited)
		cd->is_awaited = false;
	lock_release(&cd->lock);
	if (is_awaited && front && front->drained)
		front->drained(cd->base.front_opaque);
}

static void fd_start(struct chardev *chardev)
{
	struct fd_chardev *cd = of(chardev);

	lock_acquire(&cd->lock);
	cd->is_started = true;
	lock_release(&cd->lock);
	if (cd->has_thread)
		kick(cd);
}

static void fd_stop(struct chardev *chardev)
{
	struct fd_chardev *cd = of(chardev);

	lock_acquire(&cd->lock);
	cd->is_started = false;
	while (cd->is_feeding)
		lock_wait(&cd->lock, &cd->idle);
	lock_release(&cd->lock);
}

static void fd_wake(struct chardev *chardev)
{
	struct fd_chardev *cd = of(chardev);

	if (atomic_load(&cd->is_waiting) &&
	    atomic_exchange(&cd->is_waiting, false))
		kick(cd);
}

static uint64_t fd_dropped(struct chardev *chardev)
{
	struct fd_chardev *cd = of(chardev);
	uint64_t dropped;

	lock_acquire(&cd->lock);
	dropped = cd->dropped;
	lock_release(&cd->lock);
	return dropped;
}

/* The device may be called until feed_end(); false while input is stopped. */
static bool feed_begin(struct fd_chardev *cd)
{
	bool may_feed;

	lock_acquire(&cd->lock);
	may_feed = cd->is_started && !cd->is_ending && cd->base.front;
	cd->is_feeding = may_feed;
	lock_release(&cd->lock);
	return may_feed;
}

static void feed_end(struct fd_chardev *cd)
{
	lock_acquire(&cd->lock);
	cd->is_feeding = false;
	pthread_cond_broadcast(&cd->idle);
	lock_release(&cd->lock);
}

/* Room in the device, having asked to be woken when there is none.  Between
 * feed_begin() and feed_end(). */
static size_t ask_room(struct fd_chardev *cd)
{
	size_t room;

	atomic_store(&cd->is_waiting, true);
	room = cd->base.front->room(cd->base.front_opaque);
	if (room > 0)
		atomic_store(&cd->is_waiting, false);
	return room;
}

static bool has_room(struct fd_chardev *cd)
{
	size_t room = 0;

	if (feed_begin(cd)) {
		room = ask_room(cd);
		feed_end(cd);
	}
	return room > 0;
}

static void disconnect(struct fd_chardev *cd)
{
	lock_acquire(&cd->lock);
	cd->out_fd = -1;
	cd->dropped += cd->backlog_size;
	cd->backlog_size = 0;
	lock_release(&cd->lock);
	close(cd->in_fd);
	cd->in_fd = -1;
	trace(chardev_disconnect, "%s", cd->listener.addr.sun_path);
	tell_drained(cd);
}

static void accept_client(struct fd_chardev *cd)
{
	int fd = accept4(cd->listener.fd, NULL, NULL,
			 SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			cd->accept_after_ns = clock_mono_ns() + NS_PER_SEC;
		return;
	}
	if (cd->in_fd >= 0)
		disconnect(cd);
	cd->in_fd = fd;
	cd->is_in_done = false;
	cd->is_hup = false;
	trace(chardev_connect, "%s", cd->listener.addr.sun_path);
	lock_acquire(&cd->lock);
	cd->out_fd = fd;
	lock_release(&cd->lock);
}

/* Take the escapes out of what was typed; returns the bytes that are left. */
static size_t filter_escapes(struct fd_chardev *cd, uint8_t *bytes, size_t size)
{
	size_t left = 0;

	for (size_t i = 0; i < size; i++) {
		if (!cd->is_escaped && bytes[i] == ESCAPE) {
			cd->is_escaped = true;
			continue;
		}
		if (cd->is_escaped && bytes[i] == 'x')
			cd->options.quit(cd->options.opaque);
		else
			bytes[left++] = bytes[i];
		cd->is_escaped = false;
	}
	return left;
}

/* Read once, as much as the device has room for. */
static void feed(struct fd_chardev *cd)
{
	uint8_t bytes[CHUNK];
	size_t room;
	ssize_t n;

	if (!feed_begin(cd))
		return;
	room = ask_room(cd);
	if (room == 0)
		goto out;
	n = read(cd->in_fd, bytes, room < CHUNK ? room : CHUNK);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		cd->is_in_done = true;
	if (n > 0)
		cd->base.front->receive(cd->base.front_opaque, bytes,
					(size_t)n);
out:
	feed_end(cd);
}

/* What was typed, as far as the device has room. */
static void feed_typed(struct fd_chardev *cd)
{
	size_t size;

	if (cd->typed_size == 0 || !feed_begin(cd))
		return;
	while (cd->typed_size > 0 && (size = ask_room(cd)) > 0) {
		if (size > cd->typed_size)
			size = cd->typed_size;
		cd->base.front->receive(cd->base.front_opaque, cd->typed, size);
		cd->typed_size -= size;
		memmove(cd->typed, cd->typed + size, cd->typed_size);
	}
	feed_end(cd);
}

/* Keys past the room for typing ahead are lost, as a terminal does it. */
static void read_terminal(struct fd_chardev *cd)
{
	uint8_t bytes[CHUNK];
	ssize_t n = read(cd->in_fd, bytes, sizeof(bytes));
	size_t size = n > 0 ? (size_t)n : 0;

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		cd->is_in_done = true;
	if (cd->options.quit)
		size = filter_escapes(cd, bytes, size);
	if (size > CHARDEV_TYPED - cd->typed_size)
		size = CHARDEV_TYPED - cd->typed_size;
	memcpy(cd->typed + cd->typed_size, bytes, size);
	cd->typed_size += size;
}

static void input_ready(struct fd_chardev *cd, int revents, bool may_read)
{
	if ((revents & POLLIN) && cd->is_raw)
		read_terminal(cd);
	else if ((revents & POLLIN) && may_read && !cd->is_in_done)
		feed(cd);
	else if ((revents & (POLLHUP | POLLERR | POLLNVAL)) && may_read)
		cd->is_in_done = true;
	if (!(revents & (POLLHUP | POLLERR)))
		return;
	/* What the client sent before it left is still to be read. */
	cd->is_hup = true;
	if (cd->is_in_done && cd->listener.fd >= 0)
		disconnect(cd);
}

/* Descriptors of one poll(). */
enum {
	SLOT_WAKE,
	SLOT_IN,
	SLOT_OUT,
	SLOT_LISTEN,
	SLOT_COUNT
};

/* Fills @fds; returns the timeout in ms. */
static int prepare(struct fd_chardev *cd, struct pollfd *fds, bool may_read)
{
	bool is_client = cd->listener.fd >= 0;
	bool wants_client = is_client && (cd->in_fd < 0 || cd->is_hup);
	bool is_early = cd->accept_after_ns > clock_mono_ns();
	bool is_watched = !cd->is_hup || may_read;

	for (unsigned int i = 0; i < SLOT_COUNT; i++)
		fds[i] = (struct pollfd){ .fd = -1 };
	fds[SLOT_WAKE].fd = cd->wake_fd;
	fds[SLOT_WAKE].events = POLLIN;
	/* Without events it still reports that the client is gone. */
	if (is_watched && (is_client || (may_read && !cd->is_in_done)))
		fds[SLOT_IN].fd = cd->in_fd;
	if (may_read && !cd->is_in_done)
		fds[SLOT_IN].events = POLLIN;
	lock_acquire(&cd->lock);
	if (cd->backlog_size > 0)
		fds[SLOT_OUT].fd = cd->out_fd;
	fds[SLOT_OUT].events = POLLOUT;
	lock_release(&cd->lock);
	if (wants_client && !is_early)
		fds[SLOT_LISTEN].fd = cd->listener.fd;
	fds[SLOT_LISTEN].events = POLLIN;
	return wants_client && is_early ? 1000 : -1;
}

static bool is_ending(struct fd_chardev *cd)
{
	bool ret;

	lock_acquire(&cd->lock);
	ret = cd->is_ending;
	lock_release(&cd->lock);
	return ret;
}

static void *run(void *opaque)
{
	struct fd_chardev *cd = opaque;
	struct pollfd fds[SLOT_COUNT];
	uint64_t kicks;

	pthread_setname_np(pthread_self(), "chardev");
	while (!is_ending(cd)) {
		bool is_open = cd->in_fd >= 0 && !cd->is_in_done;
		bool may_read = is_open && (cd->is_raw || has_room(cd));

		feed_typed(cd);
		if (poll(fds, SLOT_COUNT, prepare(cd, fds, may_read)) < 0)
			continue;
		if ((fds[SLOT_WAKE].revents & POLLIN) &&
		    read(cd->wake_fd, &kicks, sizeof(kicks)) < 0)
			continue;
		if (fds[SLOT_OUT].revents) {
			backlog_drain(cd);
			tell_drained(cd);
		}
		if (fds[SLOT_IN].revents)
			input_ready(cd, fds[SLOT_IN].revents, may_read);
		if (fds[SLOT_LISTEN].revents)
			accept_client(cd);
	}
	return NULL;
}

/* Signals are the main thread's. */
int fd_chardev_start_thread(struct fd_chardev *cd, struct err *err)
{
	sigset_t all, old;
	int ret;

	cd->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	cd->backlog = malloc(CHARDEV_BACKLOG);
	if (cd->wake_fd < 0 || !cd->backlog)
		return err_set(err, -ENOMEM, "no memory");
	cd->has_thread = true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&cd->thread, NULL, run, cd);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret) {
		cd->has_thread = false;
		return err_set_errno(err, -ret, "no thread");
	}
	return 0;
}

void fd_chardev_end_thread(struct fd_chardev *cd)
{
	if (!cd->has_thread)
		return;
	lock_acquire(&cd->lock);
	cd->is_ending = true;
	lock_release(&cd->lock);
	kick(cd);
	pthread_join(cd->thread, NULL);
	backlog_drain(cd);
}

const struct chardev_ops fd_chardev_ops = {
	.start = fd_start,
	.stop = fd_stop,
	.write = fd_write,
	.room = fd_room,
	.wake = fd_wake,
	.dropped = fd_dropped,
	.free = fd_chardev_free,
};
