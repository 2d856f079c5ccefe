// SPDX-License-Identifier: Apache-2.0
/*
 * The front end of vhost-user and a back end that answers what it likes: from the
 * connection over configuration, start, logging and stop to the end.  The input is
 * pieces, each behind a byte that says what it is (enum piece); one is said for each
 * request that comes, and when none comes for a while.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "vhost/user.h"
#include "vhost/user_msg.h"
#include "vhost/vhost_priv.h"
#include "virtio/vdev.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __wrap_vdev_call_fd(const struct vdev *dev, const struct vdev_queue *queue);
void __wrap_vdev_break(struct vdev *dev, const struct err *reason);

#define RINGS     2u
#define RING_SIZE 16u
#define RAM_SIZE  0x100000u

/* A hang is a fault: libFuzzer's own limit finds it. */
#define QUIET_MS 1

enum piece {
	RIGHT,       /* what the request wants to hear */
	RAW,         /* length, bytes */
	WITH_HEADER, /* length, bytes: behind the right header */
	WITH_FDS,    /* the same with so many fds: count, length, bytes */
	REQUEST,     /* length, bytes: on the back end's own channel */
	CLOSE,
	PIECE_COUNT,
};

struct liar {
	struct sockaddr_un addr;
	int listen_fd, fd, request_fd, memory_fd;
	struct bytes_reader input;
	struct um_header head; /* of the last request */
	uint8_t payload[UM_PAYLOAD_MAX];
};

struct world {
	struct mem *mem;
	struct mem_region *root, *region;
	struct ram_block *ram;
	struct addr_space *as;
	struct vh_board *board;
	struct vdev vdev;
	struct vdev_queue queues[RINGS];
};

static unsigned int breaks;

int __wrap_vdev_call_fd(const struct vdev *dev, const struct vdev_queue *queue)
{
	(void)dev;
	(void)queue;
	return -1;
}

void __wrap_vdev_break(struct vdev *dev, const struct err *reason)
{
	(void)dev;
	must(reason->code != 0 && reason->msg[0]);
	breaks++;
}

/* ---- the back end ---- */

static void say(struct liar *liar, const void *bytes, size_t size,
		unsigned int fds)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(16 * sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec part = { (void *)(uintptr_t)bytes, size };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	struct cmsghdr *rights;

	if (fds) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(fds * sizeof(int));
		rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(fds * sizeof(int));
		for (unsigned int i = 0; i < fds; i++)
			memcpy(CMSG_DATA(rights) + i * sizeof(int),
			       &liar->memory_fd, sizeof(int));
	}
	if (size)
		sendmsg(liar->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void say_with_header(struct liar *liar, const void *bytes, size_t size,
			    unsigned int fds)
{
	struct um_header head = { liar->head.request, UM_VERSION | UM_REPLY,
				  (uint32_t)size };
	uint8_t out[sizeof(head) + 256];

	must(size <= 256);
	memcpy(out, &head, sizeof(head));
	if (size)
		memcpy(out + sizeof(head), bytes, size);
	say(liar, out, sizeof(head) + size, fds);
}

static void say_right(struct liar *liar)
{
	struct um_inflight inflight = { .size = 4096 };
	uint64_t number = 0;

	switch (liar->head.request) {
	case UM_GET_CONFIG:
		say_with_header(liar, liar->payload,
				liar->head.size < 256 ? liar->head.size : 256,
				0);
		return;
	case UM_GET_VRING_BASE:
		say_with_header(liar, liar->payload, 8, 0);
		return;
	case UM_GET_INFLIGHT_FD:
		say_with_header(liar, &inflight, sizeof(inflight), 1);
		return;
	case UM_GET_FEATURES:
	case UM_GET_PROTOCOL_FEATURES:
		number = ~0ull;
		break;
	case UM_GET_QUEUE_NUM:
		number = RINGS;
		break;
	case UM_GET_MAX_MEM_SLOTS:
		number = 8;
		break;
	case UM_SET_LOG_BASE:
		break;
	default:
		if (!(liar->head.flags & UM_NEED_REPLY))
			return;
	}
	say_with_header(liar, &number, sizeof(number), 0);
}

static const void *take_bytes(struct liar *liar, size_t *ret_size)
{
	size_t size = bytes_take_u8(&liar->input);

	if (size > bytes_left(&liar->input))
		size = bytes_left(&liar->input);
	*ret_size = size;
	return bytes_take(&liar->input, size);
}

/* False at the end of the input. */
static bool say_next(struct liar *liar)
{
	enum piece piece = bytes_take_u8(&liar->input) % PIECE_COUNT;
	unsigned int fds = 0;
	const void *bytes;
	size_t size;

	if (liar->input.is_short)
		return false;
	if (piece == RIGHT) {
		say_right(liar);
		return true;
	}
	if (piece == CLOSE)
		shutdown(liar->fd, SHUT_RDWR);
	if (piece == WITH_FDS)
		fds = bytes_take_u8(&liar->input) % 16;
	bytes = take_bytes(liar, &size);
	if (piece == RAW)
		say(liar, bytes, size, 0);
	else if (piece == REQUEST && size && liar->request_fd >= 0)
		send(liar->request_fd, bytes, size,
		     MSG_NOSIGNAL | MSG_DONTWAIT);
	else if (piece == WITH_HEADER || piece == WITH_FDS)
		say_with_header(liar, bytes, size, fds);
	return true;
}

static void take_request_fd(struct liar *liar, struct msghdr *header)
{
	struct cmsghdr *part = CMSG_FIRSTHDR(header);
	size_t count;
	int fd;

	if (!part || part->cmsg_type != SCM_RIGHTS)
		return;
	count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (size_t i = 0; i < count; i++) {
		memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
		if (liar->head.request == UM_SET_BACKEND_REQ_FD &&
		    liar->request_fd < 0)
			liar->request_fd = fd;
		else
			close(fd);
	}
}

static bool hear(struct liar *liar)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(16 * sizeof(int))];
	} control;
	struct iovec part = { &liar->head, sizeof(liar->head) };
	struct msghdr header = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	if (recvmsg(liar->fd, &header, MSG_WAITALL | MSG_CMSG_CLOEXEC) !=
	    (ssize_t)sizeof(liar->head))
		return false;
	take_request_fd(liar, &header);
	must(liar->head.size <= sizeof(liar->payload));
	return !liar->head.size ||
	       recv(liar->fd, liar->payload, liar->head.size, MSG_WAITALL) ==
		       (ssize_t)liar->head.size;
}

static void hang_up(struct liar *liar)
{
	close(liar->fd);
	if (liar->request_fd >= 0)
		close(liar->request_fd);
	liar->fd = liar->request_fd = -1;
}

/* One connection; false at the end of the input. */
static bool talk(struct liar *liar)
{
	bool is_going_on = true;
	struct pollfd poll_fd = { .events = POLLIN };

	liar->fd = accept4(liar->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (liar->fd < 0)
		return false;
	poll_fd.fd = liar->fd;
	while (is_going_on) {
		if (poll(&poll_fd, 1, QUIET_MS) > 0 && !hear(liar))
			break;
		is_going_on = say_next(liar);
	}
	hang_up(liar);
	return is_going_on;
}

static void *lie(void *opaque)
{
	struct liar *liar = opaque;

	while (talk(liar))
		continue;
	unlink(liar->addr.sun_path);
	shutdown(liar->listen_fd, SHUT_RDWR); /* who connects is refused */
	return NULL;
}

static void liar_start(struct liar *liar, pthread_t *ret_thread,
		       const uint8_t *data, size_t size)
{
	*liar = (struct liar){ .fd = -1, .request_fd = -1 };
	liar->input = bytes_read(data, size);
	liar->addr.sun_family = AF_UNIX;
	snprintf(liar->addr.sun_path, sizeof(liar->addr.sun_path),
		 "/tmp/godwit-fuzz-%d", (int)getpid());
	unlink(liar->addr.sun_path);
	liar->memory_fd = memfd_create("inflight", MFD_CLOEXEC);
	must(ftruncate(liar->memory_fd, 4096) == 0);
	liar->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	must(bind(liar->listen_fd, (struct sockaddr *)&liar->addr,
		  sizeof(liar->addr)) == 0 &&
	     listen(liar->listen_fd, 4) == 0);
	must(pthread_create(ret_thread, NULL, lie, liar) == 0);
}

/* ---- the front end ---- */

static void world_init(struct world *world)
{
	memset(world, 0, sizeof(*world));
	world->mem = mem_new();
	must(ram_block_new(world->mem, "ram", RAM_SIZE, NULL, &world->ram,
			   NULL) == 0);
	world->root =
		mem_region_new_container(world->mem, "root", MEM_SIZE_2_64);
	world->region = mem_region_new_ram(world->mem, "ram", world->ram);
	mem_region_add(world->root, 0, world->region, 0);
	world->as = addr_space_new(world->mem, "memory", world->root);
	must(vh_board_new(world->mem, world->as, false, &world->board, NULL) ==
	     0);
	world->vdev.queues = world->queues;
	for (unsigned int i = 0; i < RINGS; i++)
		world->queues[i] = (struct vdev_queue){
			.size = RING_SIZE,
			.is_enabled = 1,
			.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
			.desc = 0x3000 * i,
			.driver = 0x3000 * i + 0x1000,
			.device = 0x3000 * i + 0x2000,
		};
}

static void world_fini(struct world *world)
{
	for (unsigned int i = 0; i < RINGS; i++)
		close(world->queues[i].kick_fd);
	vh_board_free(world->board);
	mem_region_del(world->region);
	mem_region_put(world->region);
	mem_synchronize(world->mem);
	ram_block_free(world->ram);
	addr_space_free(world->as);
	mem_region_put(world->root);
	mem_synchronize(world->mem);
	mem_free(world->mem);
}

static void work(struct world *world, struct vh_user *user)
{
	const struct vh_queues queues = { &world->vdev, 0, RINGS,
					  1ull << 32 | 1ull << 28 };
	struct vh_dev *dev = vh_user_dev(user);
	struct err err = ERR_INIT;
	uint8_t config[60];
	int ret;

	ret = vh_user_get_config(user, config, sizeof(config), &err);
	must(!ret || err.code);
	err_clear(&err);
	for (int stage = VDEV_AHEAD; stage <= VDEV_WHOLE; stage++) {
		ret = vh_dev_build(dev, &queues, (enum vdev_stage)stage, &err);
		must(!ret || err.code);
		err_clear(&err);
	}
	ret = vh_dev_start(dev, &queues, &err);
	if (!ret)
		ret = vh_dev_start_wait(dev, &err);
	must(!ret || err.code);
	if (mem_log_global_start(world->mem, NULL) == 0)
		mem_log_sync(world->mem, false);
	vh_dev_set_count(dev, 1, NULL);
	mem_region_set_size(world->region, RAM_SIZE / 2);
	mem_log_global_stop(world->mem, 0);
	vh_dev_stop_begin(dev);
	while (vh_dev_stop(dev, clock_mono_ns() + 5 * NS_PER_MS, NULL))
		world->vdev.is_resetting = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vh_user_config config = {
		.name = "dev0",
		.rings = RINGS,
		.features = ~0ull,
	};
	struct vh_user *user = NULL;
	struct err err = ERR_INIT;
	struct world world;
	struct liar liar;
	pthread_t thread;
	int ret;

	if (!size)
		return 0;
	config.needs_config = data[0] & 1;
	config.may_lose = data[0] & 2;
	world_init(&world);
	liar_start(&liar, &thread, data + 1, size - 1);
	config.path = liar.addr.sun_path;
	ret = vh_user_new(world.board, &config, &user, &err);
	must(!ret == !err.code);
	if (!ret)
		work(&world, user);
	vh_user_free(user);
	/* It may wait for a connection still. */
	shutdown(liar.listen_fd, SHUT_RDWR);
	pthread_join(thread, NULL);
	close(liar.listen_fd);
	close(liar.memory_fd);
	world_fini(&world);
	return 0;
}
