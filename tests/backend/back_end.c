// SPDX-License-Identifier: Apache-2.0
/* The connection of a test's back end: messages, memory, faults. */
#include "back_end.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BIT(n)      (1ull << (n))
#define HEADER_SIZE sizeof(struct um_header)
#define CONFIG_SIZE 60u

struct message {
	struct um_header head;
	union {
		uint64_t u64;
		struct um_state state;
		struct um_addr addr;
		struct um_memory memory;
		struct um_log log;
		struct um_config config;
		struct um_inflight inflight;
		uint8_t bytes[sizeof(struct um_config)];
	} u;
	int fds[UM_REGIONS_MAX];
	unsigned int fd_count;
	bool has_reply;
	int reply_fd; /* -1 */
};

/* ---- memory ---- */

void *be_gpa(struct back_end *be, uint64_t gpa, uint64_t size)
{
	for (unsigned int i = 0; i < be->region_count; i++) {
		const struct um_region *at = &be->regions[i].at;

		if (gpa >= at->gpa && gpa - at->gpa < at->size &&
		    size <= at->size - (gpa - at->gpa))
			return be->regions[i].host + (gpa - at->gpa);
	}
	return NULL;
}

void *be_hva(struct back_end *be, uint64_t hva, uint64_t size)
{
	for (unsigned int i = 0; i < be->region_count; i++) {
		const struct um_region *at = &be->regions[i].at;

		if (hva >= at->hva && hva - at->hva < at->size &&
		    size <= at->size - (hva - at->hva))
			return be->regions[i].host + (hva - at->hva);
	}
	return NULL;
}

void be_log_write(struct back_end *be, uint64_t gpa, uint64_t size)
{
	if (!be->log || !(be->features & BIT(VHOST_F_LOG_ALL)))
		return;
	for (uint64_t page = gpa >> 12; page <= (gpa + size - 1) >> 12;
	     page++) {
		if (page / 8 >= be->log_size)
			abort(); /* a log too small is a bug that must show */
		__atomic_fetch_or(&be->log[page / 8], (uint8_t)(1u << page % 8),
				  __ATOMIC_SEQ_CST);
	}
}

static void unmap_all(struct back_end *be)
{
	for (unsigned int i = 0; i < be->region_count; i++)
		munmap(be->regions[i].host, be->regions[i].at.size);
	be->region_count = 0;
}

static bool set_table(struct back_end *be, const struct message *message)
{
	const struct um_memory *memory = &message->u.memory;

	unmap_all(be);
	if (memory->count > UM_REGIONS_MAX ||
	    memory->count != message->fd_count)
		return false;
	for (unsigned int i = 0; i < memory->count; i++) {
		const struct um_region *at = &memory->regions[i];
		void *host =
			mmap(NULL, at->size, PROT_READ | PROT_WRITE, MAP_SHARED,
			     message->fds[i], (off_t)at->offset);

		if (host == MAP_FAILED)
			return false;
		be->regions[be->region_count++] =
			(struct be_region){ .at = *at, .host = host };
	}
	__atomic_fetch_add(&be->counts.tables, 1, __ATOMIC_RELAXED);
	return true;
}

static void unmap_log(struct back_end *be)
{
	if (be->log)
		munmap(be->log, be->log_size);
	be->log = NULL;
}

static bool set_log(struct back_end *be, const struct message *message)
{
	void *log;

	unmap_log(be);
	if (message->fd_count != 1)
		return false;
	log = mmap(NULL, message->u.log.size, PROT_READ | PROT_WRITE,
		   MAP_SHARED, message->fds[0], (off_t)message->u.log.offset);
	if (log == MAP_FAILED)
		return false;
	be->log = log;
	be->log_size = message->u.log.size;
	__atomic_fetch_add(&be->counts.logs, 1, __ATOMIC_RELAXED);
	return true;
}

static void unmap_inflight(struct back_end *be)
{
	if (be->inflight)
		munmap(be->inflight, be->inflight_at.size);
	be->inflight = NULL;
}

static bool map_inflight(struct back_end *be, const struct um_inflight *at,
			 int fd)
{
	void *map;

	unmap_inflight(be);
	map = mmap(NULL, at->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		   (off_t)at->offset);
	if (map == MAP_FAILED)
		return false;
	be->inflight = map;
	be->inflight_at = *at;
	return true;
}

static bool get_inflight(struct message *message)
{
	struct um_inflight *at = &message->u.inflight;
	int fd = memfd_create("inflight", MFD_CLOEXEC);

	at->size = be_inflight_size(at->queues, at->queue_size);
	at->offset = 0;
	message->reply_fd = fd;
	return fd >= 0 && ftruncate(fd, (off_t)at->size) == 0;
}

/* ---- what the front end asks ---- */

static uint64_t features(const struct back_end *be)
{
	return BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |
	       BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
	       BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_MQ) |
	       BIT(UM_F_PROTOCOL_FEATURES) |
	       (be->options.has_log ? BIT(VHOST_F_LOG_ALL) : 0);
}

static uint64_t protocol(const struct back_end *be)
{
	const struct be_options *o = &be->options;

	return BIT(UM_PROTOCOL_MQ) |
	       (o->has_log ? BIT(UM_PROTOCOL_LOG_SHMFD) : 0) |
	       (o->has_reply_ack ? BIT(UM_PROTOCOL_REPLY_ACK) : 0) |
	       (o->has_requests ? BIT(UM_PROTOCOL_BACKEND_REQ) : 0) |
	       (o->has_config ? BIT(UM_PROTOCOL_CONFIG) : 0) |
	       (o->has_inflight ? BIT(UM_PROTOCOL_INFLIGHT_SHMFD) : 0);
}

static void get_config(struct back_end *be, struct message *message)
{
	struct virtio_blk_config config = { .capacity = be->sectors };
	uint32_t size = message->u.config.size;

	config.seg_max = 60;
	config.blk_size = BE_SECTOR;
	config.num_queues = (uint16_t)be->options.queues;
	if (size > CONFIG_SIZE)
		message->head.size = 0;
	else
		memcpy(message->u.config.bytes, &config, size);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Takes the message's fd, if it has one. */
static bool take_fd(struct message *message, int *to)
{
	close_fd(to);
	if (message->fd_count > 1)
		return false;
	if (message->fd_count)
		*to = message->fds[0];
	message->fd_count = 0;
	return true;
}

static struct be_ring *ring_of(struct back_end *be, uint64_t index)
{
	if (index >= be->options.queues) {
		be->is_failed = true;
		index = 0;
	}
	return &be->rings[index];
}

static void start_ring(struct back_end *be, struct message *message)
{
	unsigned int index = message->u.u64 & 0xff;
	struct be_ring *ring = ring_of(be, index);

	if (!take_fd(message, &ring->kick_fd))
		be->is_failed = true;
	ring->is_started = true;
	__atomic_fetch_add(&be->counts.starts, 1, __ATOMIC_RELAXED);
	if (!be->is_failed)
		be_ring_recover(be, index);
}

static void stop_ring(struct back_end *be, struct message *message)
{
	struct be_ring *ring = ring_of(be, message->u.state.index);

	ring->is_started = false;
	close_fd(&ring->kick_fd);
	message->u.state.num = ring->last_avail;
	__atomic_fetch_add(&be->counts.stops, 1, __ATOMIC_RELAXED);
}

static bool reply_u64(struct message *message, uint64_t value)
{
	message->u.u64 = value;
	message->head.size = sizeof(value);
	message->has_reply = true;
	return true;
}

static bool answer_state(struct back_end *be, struct message *message)
{
	const struct um_state state = message->u.state;

	switch (message->head.request) {
	case UM_SET_VRING_NUM:
		ring_of(be, state.index)->size = state.num;
		return true;
	case UM_SET_VRING_BASE:
		ring_of(be, state.index)->last_avail = (uint16_t)state.num;
		return true;
	case UM_SET_VRING_ENABLE:
		ring_of(be, state.index)->is_enabled = state.num;
		if (!be->is_failed)
			be_ring_work(be, state.index);
		return true;
	case UM_GET_VRING_BASE:
		stop_ring(be, message);
		message->has_reply = true;
		return true;
	default:
		return false;
	}
}

static bool answer_ring(struct back_end *be, struct message *message)
{
	struct be_ring *ring;

	switch (message->head.request) {
	case UM_SET_VRING_ADDR:
		ring = ring_of(be, message->u.addr.index);
		ring->addr = message->u.addr;
		ring->is_logged = message->u.addr.flags & UM_ADDR_LOG;
		return true;
	case UM_SET_VRING_KICK:
		start_ring(be, message);
		return true;
	case UM_SET_VRING_CALL:
		ring = ring_of(be, message->u.u64 & 0xff);
		return take_fd(message, &ring->call_fd);
	default:
		return answer_state(be, message);
	}
}

static bool answer_device(struct back_end *be, struct message *message)
{
	switch (message->head.request) {
	case UM_SET_MEM_TABLE:
		return set_table(be, message);
	case UM_SET_LOG_BASE:
		return set_log(be, message) && reply_u64(message, 0);
	case UM_GET_CONFIG:
		get_config(be, message);
		message->has_reply = true;
		return true;
	case UM_GET_INFLIGHT_FD:
		message->has_reply = true;
		return get_inflight(message);
	case UM_SET_INFLIGHT_FD:
		return message->fd_count == 1 &&
		       map_inflight(be, &message->u.inflight, message->fds[0]);
	case UM_SET_BACKEND_REQ_FD:
		return take_fd(message, &be->request_fd);
	default:
		return answer_ring(be, message);
	}
}

/* False: the connection ends. */
static bool answer(struct back_end *be, struct message *message)
{
	switch (message->head.request) {
	case UM_SET_OWNER:
	case UM_SET_CONFIG:
	case UM_SEND_RARP:
		return true;
	case UM_GET_FEATURES:
		return reply_u64(message, features(be));
	case UM_GET_PROTOCOL_FEATURES:
		return reply_u64(message, protocol(be));
	case UM_GET_QUEUE_NUM:
		return reply_u64(message, be->options.queues);
	case UM_SET_FEATURES:
		be->features = message->u.u64;
		__atomic_fetch_add(&be->counts.features, 1, __ATOMIC_RELAXED);
		return true;
	case UM_SET_PROTOCOL_FEATURES:
		be->protocol = message->u.u64;
		return true;
	default:
		return answer_device(be, message);
	}
}

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
				    const struct message *message)
{
	struct be_fault *fault = &be->options.fault;
	enum be_fault_kind kind = fault->kind;

	if (kind == BE_RIGHT || fault->request != message->head.request)
		return BE_RIGHT;
	if (fault->skip) {
		fault->skip--;
		return BE_RIGHT;
	}
	if (!fault->is_lasting)
		fault->kind = BE_RIGHT;
	return kind;
}

static void wait_ms(struct back_end *be, unsigned int ms)
{
	struct pollfd poll_fd = { .fd = be->stop_fd, .events = POLLIN };

	poll(&poll_fd, 1, (int)ms);
}

static void reply(struct back_end *be, struct message *message)
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

/* ---- messages ---- */

static void take_rights(struct message *message, struct msghdr *header)
{
	struct cmsghdr *part = CMSG_FIRSTHDR(header);

	if (!part || part->cmsg_type != SCM_RIGHTS)
		return;
	message->fd_count =
		(unsigned int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	memcpy(message->fds, CMSG_DATA(part), message->fd_count * sizeof(int));
}

static bool read_message(struct back_end *be, struct message *message)
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
	struct message message = { .reply_fd = -1 };
	bool is_good;

	if (!read_message(be, &message)) {
		be->is_failed = true;
	} else {
		bool wants_ack = message.head.flags & UM_NEED_REPLY;

		__atomic_fetch_add(&be->counts.messages, 1, __ATOMIC_RELAXED);
		is_good = answer(be, &message);
		if (!is_good)
			be->is_failed = true;
		else if (!message.has_reply && wants_ack)
			reply_u64(&message, 0);
		if (message.has_reply && !be->is_failed)
			reply(be, &message);
	}
	for (unsigned int i = 0; i < message.fd_count; i++)
		close(message.fds[i]);
	close_fd(&message.reply_fd);
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
	close_fd(&be->conn_fd);
	close_fd(&be->request_fd);
	for (unsigned int i = 0; i < BE_QUEUES_MAX; i++) {
		struct be_ring *ring = &be->rings[i];

		close_fd(&ring->kick_fd);
		close_fd(&ring->call_fd);
		*ring = (struct be_ring){ .kick_fd = -1, .call_fd = -1 };
	}
	unmap_all(be);
	unmap_log(be);
	unmap_inflight(be);
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

/* False: be_stop() was called. */
static bool serve_once(struct back_end *be)
{
	struct pollfd polls[BE_QUEUES_MAX + 2] = {
		{ .fd = be->stop_fd, .events = POLLIN },
		{ .fd = be->conn_fd >= 0 ? be->conn_fd : be->listen_fd,
		  .events = POLLIN },
	};
	eventfd_t value;

	for (unsigned int i = 0; i < be->options.queues; i++)
		polls[i + 2] = (struct pollfd){ .fd = be->rings[i].kick_fd,
						.events = POLLIN };
	poll(polls, be->options.queues + 2, -1);
	if (polls[0].revents) {
		/* 1: look at all rings again; more: the end */
		eventfd_read(be->stop_fd, &value);
		if (value > UINT32_MAX)
			return false;
		for (unsigned int i = 0; i < be->options.queues; i++)
			be_ring_work(be, i);
	}
	if (polls[1].revents && be->conn_fd < 0)
		welcome(be);
	else if (polls[1].revents)
		read_and_answer(be);
	for (unsigned int i = 0; i < be->options.queues; i++) {
		if (polls[i + 2].revents & POLLIN && be->rings[i].kick_fd >= 0)
			kicked(be, i);
	}
	if (be->is_failed)
		hang_up(be);
	return true;
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

int be_resize(struct back_end *be, uint64_t sectors)
{
	const struct um_header head = { UM_BACKEND_CONFIG_CHANGE, UM_VERSION,
					0 };

	be->sectors = sectors;
	return send(be->request_fd, &head, sizeof(head), MSG_NOSIGNAL) ==
			       sizeof(head)
		       ? 0
		       : -errno;
}

int be_open(struct back_end *be, const struct be_options *options)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct stat stat;

	memset(be, 0, sizeof(*be));
	be->options = *options;
	be->listen_fd = be->conn_fd = be->request_fd = -1;
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
	close_fd(&be->listen_fd);
	close_fd(&be->image_fd);
	close_fd(&be->stop_fd);
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
