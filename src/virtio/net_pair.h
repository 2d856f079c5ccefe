/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pair of queues and its thread, which moves the packets between them and a
 * queue of a tap.
 *
 * Between start and stop a pair is its thread's.  The holder of the device's lock
 * and the device's thread call in only while its thread rests, and begin and end
 * its work (net_tap.c).
 */
#ifndef GODWIT_VIRTIO_NET_PAIR_H
#define GODWIT_VIRTIO_NET_PAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/io_thread.h"
#include "virtio/net_queue.h"

struct err;
struct tap;
struct vdev;

struct net_pair {
	/* immutable after init */
	const struct tap *owner;  /* borrowed while this lives */
	struct io_thread *thread; /* owned */
	unsigned int index;

	/* atomic */
	bool is_stopping;
	uint32_t stops_done;

	uint32_t stops_asked; /* the caller's: see above */

	/* Its thread's while it works. */
	struct vdev *dev; /* borrowed from start to stop */
	int tap_fd;       /* borrowed */
	bool is_working;
	bool has_rx, has_tx; /* the driver set up that queue */
	bool lacks_buffers;  /* receiving waits for a kick */
	bool is_tap_full;    /* sending waits for EPOLLOUT */
	bool is_tap_gone;
	struct io_source tap, rx_kick, tx_kick;
	struct net_rx rx;
	struct net_tx tx;
};

/* @pair is zero; @filter is struct net_rx's.  Undone by net_pair_fini(), which accepts a zeroed one. */
int net_pair_init(struct net_pair *pair, const struct tap *tap,
		  struct net_rx_filter *const *filter, unsigned int index,
		  const char *name, struct err *err);
void net_pair_fini(struct net_pair *pair);

/* On those of its two queues that the driver enabled; its queue of the tap is
 * attached.  vq_start()'s errors. */
int net_pair_start(struct net_pair *pair, struct vdev *dev, struct err *err);
/* Begin, then wait.  -ETIMEDOUT: it has not stopped yet; net_pair_resume() has it
 * work on after all, also one that has stopped meanwhile. */
void net_pair_stop_begin(struct net_pair *pair);
int net_pair_stop(struct net_pair *pair, uint64_t deadline_ns, struct err *err);
void net_pair_resume(struct net_pair *pair);

#endif
