// SPDX-License-Identifier: Apache-2.0
/* What a test's back end does for each request, and the memory that it shares. */
#include <fcntl.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "back_end.h"

#define BIT(n)      (1ull << (n))
#define CONFIG_SIZE 60u

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

static void count(unsigned int *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static void unmap_all(struct back_end *be)
{
	for (unsigned int i = 0; i < be->region_count; i++)
		munmap(be->regions[i].host, be->regions[i].at.size);
	be->region_count = 0;
}

/* What is not to be: one that another one overlaps, in either address. */
static bool overlaps(const struct back_end *be, const struct um_region *at)
{
	for (unsigned int i = 0; i < be->region_count; i++) {
		const struct um_region *other = &be->regions[i].at;

		if ((at->gpa < other->gpa + other->size &&
		     other->gpa < at->gpa + at->size) ||
		    (at->hva < other->hva + other->size &&
		     other->hva < at->hva + at->size))
			return true;
	}
	return false;
}

static bool map_region(struct back_end *be, const struct um_region *at, int fd)
{
	void *host = mmap(NULL, at->size, PROT_READ | PROT_WRITE, MAP_SHARED,
			  fd, (off_t)at->offset);

	if (host == MAP_FAILED)
		return false;
	be->regions[be->region_count++] =
		(struct be_region){ .at = *at, .host = host };
	return true;
}

static bool add_region(struct back_end *be, const struct be_message *message)
{
	const struct um_region *at = &message->u.single.region;

	if (message->head.size != sizeof(message->u.single) ||
	    message->fd_count != 1 || be->region_count >= be->options.slots ||
	    be->region_count == BE_SLOTS_MAX || overlaps(be, at) ||
	    !map_region(be, at, message->fds[0]))
		return false;
	count(&be->counts.regions_added);
	return true;
}

static bool holds_ring(const struct be_region *region,
		       const struct be_ring *ring)
{
	return ring->is_started && ring->addr.desc >= region->at.hva &&
	       ring->addr.desc - region->at.hva < region->at.size;
}

/* A ring that works may not lose its memory. */
static bool remove_region(struct back_end *be, const struct be_message *message)
{
	const struct um_region *at = &message->u.single.region;
	unsigned int i = 0;

	while (i < be->region_count && (be->regions[i].at.gpa != at->gpa ||
					be->regions[i].at.hva != at->hva ||
					be->regions[i].at.size != at->size))
		i++;
	if (message->head.size != sizeof(message->u.single) ||
	    message->fd_count || i == be->region_count)
		return false;
	for (unsigned int r = 0; r < be->options.queues; r++) {
		if (holds_ring(&be->regions[i], &be->rings[r]))
			return false;
	}
	munmap(be->regions[i].host, be->regions[i].at.size);
	be->regions[i] = be->regions[--be->region_count];
	count(&be->counts.regions_removed);
	return true;
}

static bool set_table(struct back_end *be, const struct be_message *message)
{
	const struct um_memory *memory = &message->u.memory;

	unmap_all(be);
	if (memory->count > UM_REGIONS_MAX || be->options.has_slots ||
	    memory->count != message->fd_count)
		return false;
	for (unsigned int i = 0; i < memory->count; i++) {
		if (!map_region(be, &memory->regions[i], message->fds[i]))
			return false;
	}
	count(&be->counts.tables);
	return true;
}

static void unmap_log(struct back_end *be)
{
	if (be->log)
		munmap(be->log, be->log_size);
	be->log = NULL;
}

/* Of a file that others have mapped. */
static void cut(struct back_end *be, int fd)
{
	bool was_cut = !ftruncate(fd, 0);

	if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) < 0 && !was_cut)
		count(&be->counts.refused_cuts);
}

static bool set_log(struct back_end *be, const struct be_message *message)
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
	if (be->options.cuts_log)
		cut(be, message->fds[0]);
	count(&be->counts.logs);
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

static bool get_inflight(struct be_message *message)
{
	struct um_inflight *at = &message->u.inflight;
	int fd = memfd_create("inflight", MFD_CLOEXEC);

	at->size = be_inflight_size(at->queues, at->queue_size);
	at->offset = 0;
	message->reply_fd = fd;
	return fd >= 0 && ftruncate(fd, (off_t)at->size) == 0;
}

void be_unmap(struct back_end *be)
{
	unmap_all(be);
	unmap_log(be);
	unmap_inflight(be);
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
	       (o->has_rarp ? BIT(UM_PROTOCOL_RARP) : 0) |
	       (o->has_slots ? BIT(UM_PROTOCOL_CONFIGURE_MEM_SLOTS) : 0) |
	       (o->has_inflight ? BIT(UM_PROTOCOL_INFLIGHT_SHMFD) : 0);
}

static void get_config(struct back_end *be, struct be_message *message)
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

void be_close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Takes the message's fd, if it has one. */
static bool take_fd(struct be_message *message, int *to)
{
	be_close_fd(to);
	if (message->fd_count > 1)
		return false;
	if (message->fd_count)
		*to = message->fds[0];
	message->fd_count = 0;
	return true;
}

static bool take_eventfd(struct back_end *be, struct be_message *message,
			 int *to)
{
	bool is_good = take_fd(message, to);

	if (is_good && *to >= 0 && be->options.spoils_eventfds)
		be_spoil(*to);
	return is_good;
}

static struct be_ring *ring_of(struct back_end *be, uint64_t index)
{
	if (index >= be->options.queues) {
		be->is_failed = true;
		index = 0;
	}
	return &be->rings[index];
}

static void start_ring(struct back_end *be, struct be_message *message)
{
	unsigned int index = message->u.u64 & 0xff;
	struct be_ring *ring = ring_of(be, index);

	if (!take_eventfd(be, message, &ring->kick_fd))
		be->is_failed = true;
	ring->is_started = true;
	count(&be->counts.starts);
	if (!be->is_failed)
		be_ring_recover(be, index);
}

static void stop_ring(struct back_end *be, struct be_message *message)
{
	struct be_ring *ring = ring_of(be, message->u.state.index);

	ring->is_started = false;
	be_close_fd(&ring->kick_fd);
	message->u.state.num = ring->last_avail;
	count(&be->counts.stops);
}

bool be_reply_u64(struct be_message *message, uint64_t value)
{
	message->u.u64 = value;
	message->head.size = sizeof(value);
	message->has_reply = true;
	return true;
}

static bool answer_state(struct back_end *be, struct be_message *message)
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

static bool answer_ring(struct back_end *be, struct be_message *message)
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
		return take_eventfd(be, message, &ring->call_fd);
	default:
		return answer_state(be, message);
	}
}

static bool answer_device(struct back_end *be, struct be_message *message)
{
	switch (message->head.request) {
	case UM_SET_MEM_TABLE:
		return set_table(be, message);
	case UM_ADD_MEM_REG:
		return add_region(be, message);
	case UM_REM_MEM_REG:
		return remove_region(be, message);
	case UM_SET_LOG_BASE:
		return set_log(be, message) && be_reply_u64(message, 0);
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

/* The guest's address in the first six bytes. */
static bool take_announcement(struct back_end *be,
			      const struct be_message *message)
{
	if (message->head.size != sizeof(uint64_t))
		return false;
	__atomic_store_n(&be->counts.announced, message->u.u64,
			 __ATOMIC_RELAXED);
	__atomic_fetch_add(&be->counts.announcements, 1, __ATOMIC_RELEASE);
	return true;
}

bool be_answer(struct back_end *be, struct be_message *message)
{
	switch (message->head.request) {
	case UM_SET_OWNER:
	case UM_SET_CONFIG:
		return true;
	case UM_SEND_RARP:
		return take_announcement(be, message);
	case UM_GET_FEATURES:
		return be_reply_u64(message, features(be));
	case UM_GET_PROTOCOL_FEATURES:
		return be_reply_u64(message, protocol(be));
	case UM_GET_QUEUE_NUM:
		return be_reply_u64(message, be->options.queues);
	case UM_GET_MAX_MEM_SLOTS:
		return be_reply_u64(message, be->options.slots);
	case UM_SET_FEATURES:
		be->features = message->u.u64;
		count(&be->counts.features);
		return true;
	case UM_SET_PROTOCOL_FEATURES:
		be->protocol = message->u.u64;
		return true;
	default:
		return answer_device(be, message);
	}
}
