// SPDX-License-Identifier: Apache-2.0
/* The connection of a test's back end: messages and faults. */
#include "back_end.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define HEADER_SIZE sizeof(struct um_header)

/* ---- replies, right and wrong ---- */

static void send_bytes(struct back_end *be, const void *bytes, size_t size,
		       const int *fds, unsigned int fd_count)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(3 * sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec part = { (void *)(uintptr_t)bytes, size };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	struct cmsghdr *rights;

	if (fd_count) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(rights), fds, fd_count * sizeof(int));
	}
	if (sendmsg(be->conn_fd, &header, MSG_NOSIGNAL) < 0)
		be->is_failed = true;
}

static enum be_fault_kind fault_for(struct back_end *be,
				    const struct be_message *message)
{
	struct be_fault *fault = &be->options.fault;
	enum be_fault_kind kind = fault->kind;

	if (kind == BE_RIGHT || fault->request != message->head.request)
		return BE_RIGHT;
	if (fault->skip) {
		fault->skip--;
		return BE_RIGHT;
	}
	if (fault->again)
		fault->again--;
	else
		fault->kind = BE_RIGHT;
	__atomic_fetch_add(&be->counts.faults, 1, __ATOMIC_RELEASE);
	if (kind != BE_EXIT)
		return kind;
	if (be->options.is_process)
		_exit(9);
	return BE_GONE;
}

static void wait_ms(struct back_end *be, unsigned int ms)
{
	struct pollfd poll_fd = { .fd = be->stop_fd, .events = POLLIN };

	poll(&poll_fd, 1, (int)ms);
}

static void reply(struct back_end *be, struct be_message *message)
{
	enum be_fault_kind kind = fault_for(be, message);
	uint8_t out[HEADER_SIZE + sizeof(message->u) + 8] = { 0 };
	int fds[3] = { message->reply_fd, be->image_fd, be->image_fd };
	unsigned int fd_count = message->reply_fd >= 0;
	size_t size;

	message->head.flags = UM_VERSION | UM_REPLY;
	size = message->head.size;
	if (kind == BE_SHORT && size >= 4)
		size = message->head.size -= 4;
	else if (kind == BE_LONG)
		size = message->head.size += 8;
	else if (kind == BE_HUGE)
		message->head.size = UINT32_MAX;
	else if (kind == BE_OTHER)
		message->head.request++;
	else if (kind == BE_NO_FLAG)
		message->head.flags = UM_VERSION;
	else if (kind == BE_REFUSED)
		message->u.u64 = 1;
	else if (kind == BE_LATE)
		wait_ms(be, be->options.fault.delay_ms);
	else if (kind == BE_NO_FD)
		fd_count = 0;
	else if (kind == BE_PLAIN_FD)
		fds[0] = be->plain_fd;
	else if (kind == BE_WITH_FDS) {
		fds[fd_count] = be->image_fd;
		fd_count += 2;
	}
	memcpy(out, &message->head, HEADER_SIZE);
	memcpy(out + HEADER_SIZE, &message->u, sizeof(message->u));
	if (kind == BE_TORN)
		send_bytes(be, out, HEADER_SIZE / 2, NULL, 0);
	if (kind == BE_GONE || kind == BE_TORN) {
		be->is_failed = true;
		return;
	}
	if (kind == BE_SILENT)
		return;
	send_bytes(be, out, HEADER_SIZE + size, fds, fd_count);
	if (kind == BE_TWICE)
		send_bytes(be, out, HEADER_SIZE + size, fds, fd_count);
}

/* Where no reply is due. */
static void say_nothing(struct back_end *be, const struct be_message *message)
{
	enum be_fault_kind kind = fault_for(be, message);

	if (kind == BE_GONE)
		be->is_failed = true;
	else if (kind == BE_LATE)
		wait_ms(be, be->options.fault.delay_ms);
}

/* ---- messages ---- */

static void take_rights(struct be_message *message, struct msghdr *header)
{
	struct cmsghdr *part = CMSG_FIRSTHDR(header);

	if (!part || part->cmsg_type != SCM_RIGHTS)
		return;
	message->fd_count =
		(unsigned int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	memcpy(message->fds, CMSG_DATA(part), message->fd_count * sizeof(int));
}

static bool read_message(struct back_end *be, struct be_message *message)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(UM_REGIONS_MAX * sizeof(int))];
	} control;
	struct iovec part = { &message->head, HEADER_SIZE };
	struct msghdr header = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	if (recvmsg(be->conn_fd, &header, MSG_WAITALL | MSG_CMSG_CLOEXEC) !=
	    (ssize_t)HEADER_SIZE)
		return false;
	take_rights(message, &header);
	if (message->head.size > sizeof(message->u))
		return false;
	return message->head.size == 0 ||
	       recv(be->conn_fd, &message->u, message->head.size,
		    MSG_WAITALL) == (ssize_t)message->head.size;
}

static void read_and_answer(struct back_end *be)
{
	struct be_message message = { .reply_fd = -1 };
	bool is_good;

	if (!read_message(be, &message)) {
		be->is_failed = true;
	} else {
		bool wants_ack = message.head.flags & UM_NEED_REPLY;

		__atomic_fetch_add(&be->counts.messages, 1, __ATOMIC_RELAXED);
		is_good = be_answer(be, &message);
		if (!is_good)
			be->is_failed = true;
		else if (!message.has_reply && wants_ack)
			be_reply_u64(&message, 0);
		if (message.has_reply && !be->is_failed)
			reply(be, &message);
		else
			say_nothing(be, &message);
	}
	for (unsigned int i = 0; i < message.fd_count; i++)
		close(message.fds[i]);
	be_close_fd(&message.reply_fd);
}

/* ---- life ---- */

void be_die(struct back_end *be, enum be_death where)
{
	if (be->options.death != where)
		return;
	if (be->options.is_process)
		_exit(9);
	be->options.die_at = 0;
	be->is_failed = true;
}

static void hang_up(struct back_end *be)
{
	be_close_fd(&be->conn_fd);
	be_close_fd(&be->request_fd);
	for (unsigned int i = 0; i < BE_QUEUES_MAX; i++) {
		struct be_ring *ring = &be->rings[i];

		be_close_fd(&ring->kick_fd);
		be_close_fd(&ring->call_fd);
		*ring = (struct be_ring){ .kick_fd = -1, .call_fd = -1 };
	}
	be_unmap(be);
	be->features = be->protocol = 0;
	be->is_failed = false;
}

static void welcome(struct back_end *be)
{
	be->conn_fd = accept4(be->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (be->conn_fd >= 0)
		__atomic_fetch_add(&be->counts.connections, 1,
				   __ATOMIC_RELAXED);
}

static void kicked(struct back_end *be, unsigned int index)
{
	eventfd_t value;

	eventfd_read(be->rings[index].kick_fd, &value);
	be_ring_work(be, index);
}

bool be_has_room(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLOUT };

	poll(&poll_fd, 1, 0);
	return poll_fd.revents & POLLOUT;
}

/* One that is full stays so throughout.  Nothing of it waits: the flag is there while it
 * is needed. */
void be_spoil(int fd)
{
	eventfd_t value;

	if (!be_has_room(fd))
		return;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	eventfd_read(fd, &value);
	eventfd_write(fd, UINT64_MAX - 1);
	fcntl(fd, F_SETFL, 0);
}

static void resize(struct back_end *be)
{
	const struct um_header head = { UM_BACKEND_CONFIG_CHANGE, UM_VERSION,
					0 };
	uint64_t sectors =
		__atomic_exchange_n(&be->resize_to, 0, __ATOMIC_ACQ_REL);

	if (!sectors)
		return;
	be->sectors = sectors;
	if (send(be->request_fd, &head, sizeof(head), MSG_NOSIGNAL) < 0)
		be->is_failed = true;
}

static void work_all(struct back_end *be)
{
	for (unsigned int i = 0; i < be->options.queues; i++)
		be_ring_work(be, i);
}

/* False: be_stop() was called, or it has served. */
static bool serve_once(struct back_end *be)
{
	bool is_polling = be->options.spoils_eventfds;
	struct pollfd polls[BE_QUEUES_MAX + 2] = {
		{ .fd = be->stop_fd, .events = POLLIN },
		{ .fd = be->conn_fd >= 0 ? be->conn_fd : be->listen_fd,
		  .events = POLLIN },
	};
	eventfd_t value;

	for (unsigned int i = 0; i < be->options.queues; i++)
		polls[i + 2] = (struct pollfd){
			.fd = is_polling ? -1 : be->rings[i].kick_fd,
			.events = POLLIN
		};
	poll(polls, be->options.queues + 2, is_polling ? 1 : -1);
	if (polls[0].revents) {
		/* 1: look at all rings again; more: the end */
		eventfd_read(be->stop_fd, &value);
		if (value > UINT32_MAX)
			return false;
		resize(be);
		work_all(be);
	}
	if (polls[1].revents && be->conn_fd < 0)
		welcome(be);
	else if (polls[1].revents)
		read_and_answer(be);
	for (unsigned int i = 0; i < be->options.queues; i++) {
		if (polls[i + 2].revents & POLLIN && be->rings[i].kick_fd >= 0)
			kicked(be, i);
	}
	if (is_polling)
		work_all(be);
	if (!be->is_failed)
		return true;
	hang_up(be);
	return !be->options.is_single;
}

void be_serve(struct back_end *be)
{
	while (serve_once(be))
		continue;
	hang_up(be);
}

void be_stop(struct back_end *be)
{
	eventfd_write(be->stop_fd, 1ull << 40);
}

void be_hold(struct back_end *be, bool is_held)
{
	__atomic_store_n(&be->is_held, is_held, __ATOMIC_RELEASE);
	eventfd_write(be->stop_fd, 1);
}

void be_resize(struct back_end *be, uint64_t sectors)
{
	__atomic_store_n(&be->resize_to, sectors, __ATOMIC_RELEASE);
	eventfd_write(be->stop_fd, 1);
}

int be_open(struct back_end *be, const struct be_options *options)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct stat stat;

	memset(be, 0, sizeof(*be));
	be->options = *options;
	be->listen_fd = be->conn_fd = be->request_fd = -1;
	be->plain_fd = open(BE_PLAIN_FILE, O_RDONLY | O_CLOEXEC);
	be->image_fd = open(options->image, O_RDWR | O_CLOEXEC);
	be->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (unsigned int i = 0; i < BE_QUEUES_MAX; i++)
		be->rings[i].kick_fd = be->rings[i].call_fd = -1;
	if (be->image_fd < 0 || be->stop_fd < 0 ||
	    fstat(be->image_fd, &stat) < 0 ||
	    strlen(options->socket) >= sizeof(addr.sun_path))
		return -errno;
	be->sectors = (uint64_t)stat.st_size / BE_SECTOR;
	strcpy(addr.sun_path, options->socket);
	unlink(options->socket);
	be->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (be->listen_fd < 0 ||
	    bind(be->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    listen(be->listen_fd, 4) < 0)
		return -errno;
	return 0;
}

void be_close(struct back_end *be)
{
	be_close_fd(&be->listen_fd);
	be_close_fd(&be->image_fd);
	be_close_fd(&be->plain_fd);
	be_close_fd(&be->stop_fd);
}

static void *thread_main(void *opaque)
{
	be_serve(opaque);
	return NULL;
}

int be_start(struct back_end *be, const struct be_options *options)
{
	int ret = be_open(be, options);

	return ret ? ret : -pthread_create(&be->thread, NULL, thread_main, be);
}

void be_end(struct back_end *be)
{
	be_stop(be);
	pthread_join(be->thread, NULL);
	be_close(be);
}
