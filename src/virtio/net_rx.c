// SPDX-License-Identifier: Apache-2.0
/* From the tap to the guest; see struct net_rx. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "mem/grace.h"
#include "mem/ram.h"
#include "virtio/net_queue.h"
#include "virtio/tap.h"
#include "virtio/vdev.h"

#define BURST   64u /* packets before the other direction has its turn */
#define PUBLISH 16u /* packets that the driver sees at a time */

/* A packet of an Ethernet without offloads, and of one with. */
#define USUAL_SMALL 1600u
#define USUAL_LARGE NET_PACKET_MAX
/* Packets in a row after which it is an Ethernet without again. */
#define SMALLER_MAX 64u

#define NUM_BUFFERS_AT offsetof(struct virtio_net_hdr_v1, num_buffers)

int net_rx_init(struct net_rx *rx, struct net_rx_filter *const *filter)
{
	rx->filter = filter;
	rx->rest = malloc(NET_PACKET_MAX);
	return rx->rest ? 0 : -ENOMEM;
}

void net_rx_fini(struct net_rx *rx)
{
	free(rx->rest);
}

int net_rx_start(struct net_rx *rx, struct vdev *dev, unsigned int index,
		 struct err *err)
{
	int ret = vq_start(&rx->vq, dev, index, err);

	if (ret)
		return ret;
	rx->is_mergeable = vdev_has(dev, VIRTIO_NET_F_MRG_RXBUF);
	rx->usual = USUAL_SMALL;
	rx->head = rx->count = rx->segments_used = 0;
	rx->room = 0;
	rx->waiting = 0;
	return 0;
}

/* What was written to a buffer that is not pushed; push marks the others. */
static void mark_touched(const struct vq_request *request, uint64_t touched)
{
	const struct vq_segment *segment =
		request->segments + request->readable;

	for (unsigned int i = 0; i < request->writable && touched; i++) {
		uint64_t piece = segment[i].size;

		if (piece > touched)
			piece = touched;
		ram_block_mark_dirty(segment[i].block, segment[i].offset,
				     piece);
		touched -= piece;
	}
}

/* The first @size bytes of the window, at most, were written and are not pushed. */
static void forget_packet(struct net_rx *rx, uint64_t size)
{
	rx->waiting = 0;
	for (unsigned int i = 0; i < rx->count && size; i++) {
		const struct vq_request *request = &rx->window[rx->head + i];
		uint64_t piece = request->writable_size;

		if (piece > size)
			piece = size;
		mark_touched(request, piece);
		size -= piece;
	}
}

static void drop_packet(struct net_rx *rx)
{
	rx->dropped++;
	forget_packet(rx, rx->covered);
}

void net_rx_stop(struct net_rx *rx)
{
	if (rx->waiting)
		drop_packet(rx);
	while (rx->count)
		vq_unpop(&rx->vq, &rx->window[rx->head + --rx->count]);
	vq_flush(&rx->vq);
}

/* Room behind the window for one more request of any size. */
static bool has_place(struct net_rx *rx)
{
	const unsigned int all = sizeof(rx->segments) / sizeof(rx->segments[0]);
	struct vq_segment *from;
	unsigned int gone;

	if (rx->count == 0)
		rx->head = rx->segments_used = 0;
	if (rx->head + rx->count < NET_RX_WINDOW &&
	    rx->segments_used + NET_QUEUE_SIZE <= all)
		return true;
	if (rx->head == 0)
		return false;
	from = rx->window[rx->head].segments;
	gone = (unsigned int)(from - rx->segments);
	memmove(rx->segments, from,
		(rx->segments_used - gone) * sizeof(rx->segments[0]));
	memmove(rx->window, rx->window + rx->head,
		rx->count * sizeof(rx->window[0]));
	for (unsigned int i = 0; i < rx->count; i++)
		rx->window[i].segments -= gone;
	rx->segments_used -= gone;
	rx->head = 0;
	return rx->segments_used + NET_QUEUE_SIZE <= all;
}

/* One more buffer into the window: 1, 0 when the driver has none, -ENOBUFS when
 * the window has no place, or what the driver did wrong. */
static int take_buffer(struct net_rx *rx, struct err *err)
{
	struct vq_request *request;
	int ret;

	if (!has_place(rx))
		return -ENOBUFS;
	request = &rx->window[rx->head + rx->count];
	request->segments = rx->segments + rx->segments_used;
	request->room = NET_QUEUE_SIZE;
	ret = vq_pop(&rx->vq, request, err);
	if (ret <= 0)
		return ret;
	rx->count++;
	rx->room += request->writable_size;
	rx->segments_used += request->readable + request->writable;
	if (request->readable || request->writable_size == 0)
		return err_set(err, -EBADMSG, "receive buffer %u is to be read",
			       request->id);
	return 1;
}

/* Buffers of @size bytes, or what there is: 0, or as take_buffer(). */
static int take_buffers(struct net_rx *rx, uint32_t size, struct err *err)
{
	int ret = 1;

	while (ret > 0 && rx->room < size && (rx->is_mergeable || !rx->count))
		ret = take_buffer(rx, err);
	return ret > 0 ? 0 : ret;
}

/* Into the packet in the window; a driver may have cut it anywhere. */
static void packet_write(struct net_rx *rx, uint64_t at, const void *bytes,
			 size_t size)
{
	const uint8_t *from = bytes;

	for (unsigned int i = 0; size; i++) {
		const struct vq_request *request = &rx->window[rx->head + i];
		size_t done = 0;

		if (at < request->writable_size) {
			done = vq_write(request, at, from, size);
			at = 0;
		} else {
			at -= request->writable_size;
		}
		from += done;
		size -= done;
	}
}

static void push_packet(struct net_rx *rx, uint32_t size)
{
	const struct vq_request *first = &rx->window[rx->head];
	uint64_t left = size;
	unsigned int count = 0;
	struct le16 buffers;

	for (unsigned int i = 0; left; i++, count++)
		left -= left < first[i].writable_size ? left
						      : first[i].writable_size;
	buffers = le16_of((uint16_t)count);
	packet_write(rx, NUM_BUFFERS_AT, &buffers, sizeof(buffers));
	for (left = size; count; count--) {
		struct vq_request *request = &rx->window[rx->head];
		uint64_t piece = request->writable_size;

		if (piece > left)
			piece = left;
		vq_push(&rx->vq, request, (uint32_t)piece);
		left -= piece;
		rx->room -= request->writable_size;
		rx->head++;
		rx->count--;
	}
	rx->packets++;
}

/* The packet that waits, when there is room for it now. */
static int finish_packet(struct net_rx *rx, struct err *err)
{
	uint32_t size = rx->waiting;
	int ret = take_buffers(rx, size, err);

	if (ret < 0 && ret != -ENOBUFS)
		return ret;
	if (rx->room >= size) {
		packet_write(rx, rx->covered, rx->rest, size - rx->covered);
		rx->waiting = 0;
		push_packet(rx, size);
		return NET_BURST_MORE;
	}
	/* More buffers would not help. */
	if (ret == -ENOBUFS || !rx->is_mergeable) {
		drop_packet(rx);
		return NET_BURST_MORE;
	}
	return NET_BURST_FULL;
}

static unsigned int fill_iovecs(struct net_rx *rx)
{
	unsigned int count = 0, i = 0;

	rx->covered = 0;
	do {
		const struct vq_request *request = &rx->window[rx->head + i];

		count += vq_iovecs(request, true, 0, rx->iovecs + count,
				   2 * NET_QUEUE_SIZE - count);
		rx->covered += request->writable_size;
		i++;
	} while (i < rx->count && rx->covered < rx->usual);
	rx->iovecs[count].iov_base = rx->rest;
	rx->iovecs[count].iov_len = NET_PACKET_MAX;
	return count + 1;
}

static void note_size(struct net_rx *rx, uint32_t size)
{
	if (size > USUAL_SMALL) {
		rx->usual = USUAL_LARGE;
		rx->smaller = 0;
	} else if (rx->usual != USUAL_SMALL && ++rx->smaller == SMALLER_MAX) {
		rx->usual = USUAL_SMALL;
	}
}

#define ADDRESS_AT   TAP_HEADER_SIZE
#define ADDRESS_SIZE 6u

/* Where it was read to, which is guest memory: copied, then compared. */
static bool is_wanted(const struct net_rx *rx, size_t size)
{
	const struct net_rx_filter *filter =
		__atomic_load_n(rx->filter, __ATOMIC_ACQUIRE);
	const struct iovec *iovec = rx->iovecs;
	uint8_t address[ADDRESS_SIZE];
	size_t at = 0;

	if (!filter || size < ADDRESS_AT + ADDRESS_SIZE)
		return true;
	for (size_t i = 0; i < ADDRESS_AT + ADDRESS_SIZE; i++, at++) {
		while (at == iovec->iov_len) {
			iovec++;
			at = 0;
		}
		if (i >= ADDRESS_AT)
			address[i - ADDRESS_AT] =
				((const uint8_t *)iovec->iov_base)[at];
	}
	return net_filter_takes(filter, address);
}

/* Into buffers that are there; it may have to wait for more. */
static int receive_packet(struct net_rx *rx, int tap_fd)
{
	unsigned int count = fill_iovecs(rx);
	ssize_t size = readv(tap_fd, rx->iovecs, (int)count);

	if (size < 0 && errno == EAGAIN)
		return NET_BURST_IDLE;
	if (size < 0 && errno == EBADFD)
		return NET_BURST_GONE;
	if (size < (ssize_t)TAP_HEADER_SIZE ||
	    (uint64_t)size >= rx->covered + NET_PACKET_MAX) {
		drop_packet(rx);
		return NET_BURST_MORE;
	}
	if (!is_wanted(rx, (size_t)size)) {
		rx->filtered++;
		forget_packet(rx, (uint64_t)size);
		return NET_BURST_MORE;
	}
	note_size(rx, (uint32_t)size);
	if ((uint64_t)size <= rx->covered)
		push_packet(rx, (uint32_t)size);
	else
		rx->waiting = (uint32_t)size;
	return NET_BURST_MORE;
}

static int receive_one(struct net_rx *rx, int tap_fd, struct err *err)
{
	int ret;

	if (rx->waiting)
		return finish_packet(rx, err);
	ret = take_buffers(rx, rx->usual, err);
	if (ret < 0 && ret != -ENOBUFS)
		return ret;
	return rx->count ? receive_packet(rx, tap_fd) : NET_BURST_FULL;
}

int net_rx_burst(struct net_rx *rx, int tap_fd, struct err *err)
{
	int ret = NET_BURST_MORE;

	rcu_read_lock();
	for (unsigned int i = 1; i <= BURST && ret == NET_BURST_MORE; i++) {
		ret = receive_one(rx, tap_fd, err);
		if (i % PUBLISH == 0)
			vq_flush(&rx->vq);
	}
	rcu_read_unlock();
	vq_flush(&rx->vq);
	return ret;
}
