/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The back end of a network device that moves packets between its queues and a
 * tap in this process.  net.c builds it and is its only caller.
 *
 * A pair of queues has a thread and a queue of the tap (tap.h).  The kernel copies
 * straight from and to guest memory: one readv() or writev() a packet, no copy
 * here.
 */
#ifndef GODWIT_VIRTIO_NET_TAP_H
#define GODWIT_VIRTIO_NET_TAP_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct net_backend_ops;

/* tap_new()'s errors. */
int net_tap_new(const char *name, unsigned int pairs, bool is_incoming,
		const struct net_backend_ops **ret_ops, void **ret_opaque,
		struct err *err);

/* Over all pairs, since the back end was built; while it is stopped. */
struct net_tap_counts {
	uint64_t received, sent;
	uint64_t rx_dropped; /* larger than the driver's buffers */
	uint64_t tx_dropped; /* no frame, or refused by the kernel */
	uint64_t tx_full;    /* times that the tap had no room */
};

void net_tap_counts(const void *opaque, struct net_tap_counts *ret_counts);

#endif
