/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One direction of a pair of queues, between a virtqueue and a queue of a tap.
 * net_tap.c decides when; net_rx.c and net_tx.c are what is done.  All of it is the
 * pair's thread's.
 */
#ifndef GODWIT_VIRTIO_NET_QUEUE_H
#define GODWIT_VIRTIO_NET_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/net.h"
#include "virtio/vq.h"

struct err;
struct vdev;

/* The largest packet with its header: what a tap can pass on as one, and room for
 * VLAN tags. */
#define NET_PACKET_MAX (68u << 10)

/* How a burst ended; or -errno, what the driver did wrong. */
enum net_burst {
	NET_BURST_IDLE, /* nothing is there to move */
	NET_BURST_MORE, /* as many as are done at a time */
	NET_BURST_FULL, /* there is no room where it goes */
	NET_BURST_GONE, /* the tap is */
};

#define NET_RX_WINDOW 128u

/*
 * Towards the guest.  The size of a packet is known once it was read, so buffers
 * are popped ahead into a window of what was not pushed yet, and a packet is read
 * into as many as usual, and behind them into @rest.  What came there is copied on
 * into further buffers; when the driver has none now, the packet waits.
 */
struct net_rx {
	struct vq vq;
	bool is_mergeable; /* a packet may take several buffers */
	/* Of the driver; RCU; NULL: takes all. */
	struct net_rx_filter *const *filter;
	uint32_t usual;   /* bytes of buffers that a packet is read into */
	uint32_t smaller; /* packets in a row that needed less */

	/* [head, head + count) are popped; segments are in their order */
	struct vq_request window[NET_RX_WINDOW];
	unsigned int head, count;
	uint64_t room; /* bytes in them */
	struct vq_segment segments[2 * NET_QUEUE_SIZE];
	unsigned int segments_used;

	/* A packet of which the first @covered bytes are in the window. */
	uint32_t waiting; /* its size; 0: there is none */
	uint64_t covered;
	uint8_t *rest; /* owned, NET_PACKET_MAX bytes */

	struct iovec iovecs[2 * NET_QUEUE_SIZE + 1];
	uint64_t packets, dropped, filtered;
};

/* The caller has the thread rest.  A packet that waits is the window's and so
 * gone after net_rx_stop(). */
int net_rx_init(struct net_rx *rx, struct net_rx_filter *const *filter);
void net_rx_fini(struct net_rx *rx);
int net_rx_start(struct net_rx *rx, struct vdev *dev, unsigned int index,
		 struct err *err);
void net_rx_stop(struct net_rx *rx);
int net_rx_burst(struct net_rx *rx, int tap_fd, struct err *err);

/* From the guest. */
struct net_tx {
	struct vq vq;
	struct vq_segment segments[NET_QUEUE_SIZE];
	struct iovec iovecs[NET_QUEUE_SIZE];
	uint64_t packets, dropped, full;
};

int net_tx_start(struct net_tx *tx, struct vdev *dev, unsigned int index,
		 struct err *err);
int net_tx_burst(struct net_tx *tx, int tap_fd, struct err *err);

#endif
