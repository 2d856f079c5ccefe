/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network device (virtio 1.2, 5.1): configuration space and control queue
 * are here; packets are a back end's, which works on the data queues: net_tap.c
 * in this process, vhost/net.c for the kernel and for other processes.
 *
 *	--net tap=IF[,vhost=on][,queues=N][,mac=M]
 *	--net vhost-user=SOCK[,queues=N][,mac=M]
 *
 * Queue 2n receives and 2n + 1 sends, of pair n; the control queue is the last.
 */
#ifndef GODWIT_VIRTIO_NET_H
#define GODWIT_VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct vdev;
struct vdev_site;

#define NET_PAIRS_MAX 64u

/* A back end of data queues.  Called as the ops of struct vdev_type of the same
 * name, with the device's lock. */
struct net_backend_ops {
	/* The features of the device type that it can do: a mask. */
	uint64_t (*features)(void *opaque);
	/* The driver's choice; before each start. */
	int (*accept)(void *opaque, uint64_t features, struct err *err);
	/* Work on the first @pairs pairs of those that are enabled. */
	int (*start)(void *opaque, struct vdev *dev, unsigned int pairs,
		     struct err *err);
	void (*stop_begin)(void *opaque);
	int (*stop)(void *opaque, uint64_t deadline_ns, struct err *err);
	/* The driver uses another number of pairs; while working. */
	int (*set_pairs)(void *opaque, unsigned int pairs, struct err *err);
	/* Tell the network where the guest is now, on its behalf (RARP); NULL: it
	 * cannot. */
	void (*announce)(void *opaque, const uint8_t mac[6]);
	void (*free)(void *opaque);
};

struct net_config {
	uint8_t mac[6];
	unsigned int pairs;
	const struct net_backend_ops *ops;
	void *opaque; /* the back end; the device's from here on, also when
			 net_new() fails */
};

/* The text of --net: the tap and vhost ones are recognised by their keys. */
int net_new(const struct vdev_site *site, const char *text,
	    struct vdev **ret_dev, struct err *err);
/* With a back end that is there: for net_new() and vhost/. */
int net_new_with(const struct vdev_site *site, const struct net_config *config,
		 struct vdev **ret_dev, struct err *err);

#endif
