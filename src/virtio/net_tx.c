// SPDX-License-Identifier: Apache-2.0
/*
 * From the guest to the tap.  Header and data go as they are: the kernel checks
 * the header (EINVAL), and copies it once before.  What it refuses is dropped and
 * counted, as a wire would; only a full tap holds the queue back.
 */
#include <errno.h>

#include "base/err.h"
#include "virtio/net_queue.h"
#include "virtio/tap.h"

#define BURST   64u /* packets before the other direction has its turn */
#define PUBLISH 16u /* packets that the driver gets back at a time */

#define ETHERNET_HEADER 14u

int net_tx_start(struct net_tx *tx, struct vdev *dev, unsigned int index,
		 struct err *err)
{
	return vq_start(&tx->vq, dev, index, err);
}

/* 0, also for one that was dropped; -EAGAIN. */
static int send_packet(struct net_tx *tx, const struct vq_request *request,
		       int tap_fd)
{
	unsigned int count;

	if (request->readable_size < TAP_HEADER_SIZE + ETHERNET_HEADER ||
	    request->readable_size > NET_PACKET_MAX) {
		tx->dropped++;
		return 0;
	}
	count = vq_iovecs(request, false, 0, tx->iovecs, NET_QUEUE_SIZE);
	if (writev(tap_fd, tx->iovecs, (int)count) >= 0)
		tx->packets++;
	else if (errno == EAGAIN)
		return -EAGAIN;
	else
		tx->dropped++;
	return 0;
}

static int send_some(struct net_tx *tx, int tap_fd, struct err *err)
{
	struct vq_request request = { .segments = tx->segments,
				      .room = NET_QUEUE_SIZE };

	for (unsigned int i = 1; i <= BURST; i++) {
		int ret = vq_pop(&tx->vq, &request, err);

		if (ret <= 0)
			return ret < 0 ? ret : NET_BURST_IDLE;
		if (send_packet(tx, &request, tap_fd)) {
			vq_unpop(&tx->vq, &request);
			tx->full++;
			return NET_BURST_FULL;
		}
		vq_push(&tx->vq, &request, 0);
		if (i % PUBLISH == 0)
			vq_flush(&tx->vq);
	}
	return NET_BURST_MORE;
}

int net_tx_burst(struct net_tx *tx, int tap_fd, struct err *err)
{
	int ret = send_some(tx, tap_fd, err);

	vq_flush(&tx->vq);
	return ret;
}
