/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network device (virtio 1.2, 5.1): configuration space and control queue
 * are here; packets are a back end's, which works on the data queues: net_tap.c
 * in this process, vhost/net.c for the kernel and for other processes.
 *
 *	--net tap=IF[,vhost=on][,queues=N][,mac=M][,mtu=N]
 *	--net vhost-user=SOCK[,queues=N][,mac=M][,mtu=N]
 *
 * Queue 2n receives and 2n + 1 sends, of pair n; the control queue is the last.
 *
 * A device has a thread of its own, for the control queue and what must not be
 * waited for.  It works while the device does, and what it calls in a back end
 * never runs at the same time as what the holder of the device's lock calls.
 */
#ifndef GODWIT_VIRTIO_NET_H
#define GODWIT_VIRTIO_NET_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>

#include "virtio/vdev.h"

struct err;

#define NET_PAIRS_MAX  64u
#define NET_QUEUE_SIZE 256u
#define NET_FILTER_MAX 64u

/* Features of linux/virtio_net.h since 6.2. */
enum net_feature {
	NET_F_GUEST_USO4 = 54,
	NET_F_GUEST_USO6 = 55,
	NET_F_HOST_USO = 56,
};

/* What a driver takes from the device: large packets and missing checksums. */
#define NET_GUEST_OFFLOADS                                                   \
	(1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_GUEST_TSO4 | \
	 1ull << VIRTIO_NET_F_GUEST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_ECN |  \
	 1ull << VIRTIO_NET_F_GUEST_UFO | 1ull << NET_F_GUEST_USO4 |         \
	 1ull << NET_F_GUEST_USO6)

/* Which frames the driver wants.  A back end may let others through. */
struct net_rx_filter {
	uint8_t mac[6];
	uint8_t is_promisc; /* all; the others are 0 or 1 too */
	uint8_t is_all_multicast;
	/* More addresses than the table has room for: all of that kind. */
	uint8_t is_unicast_over, is_multicast_over;
	uint32_t unicast_count, multicast_count;
	uint8_t unicast[NET_FILTER_MAX][6];
	uint8_t multicast[NET_FILTER_MAX][6];
};

/* Of a frame to the station or group @address. */
bool net_filter_takes(const struct net_rx_filter *filter,
		      const uint8_t address[6]);

/*
 * A back end of data queues.  features, accept, build, probe, start, start_wait and stop
 * are called as the ops of struct vdev_type of the same name, with the device's lock; the
 * others by the device's own thread without it (above), and error_fd by either.  build, probe, start_wait and
 * those from claim on may be NULL.
 */
struct net_backend_ops {
	/* The features of the device type that it can do: a mask, without those
	 * of the control queue and of configuration space. */
	uint64_t (*features)(void *opaque);
	/* The driver's choice; before each start. */
	int (*accept)(void *opaque, uint64_t features, struct err *err);
	/* Of a guest that uses the first @pairs pairs. */
	int (*build)(void *opaque, struct vdev *dev, unsigned int pairs,
		     enum vdev_stage stage, struct err *err);
	void (*probe)(void *opaque);
	/* Work on the first @pairs pairs of those that are enabled. */
	int (*start)(void *opaque, struct vdev *dev, unsigned int pairs,
		     struct err *err);
	int (*start_wait)(void *opaque, struct err *err);
	/* A stop follows.  By the thread, behind its last command; who stops the device
	 * waits for it, so it takes no longer than a few ms. */
	void (*stop_begin)(void *opaque);
	int (*stop)(void *opaque, uint64_t deadline_ns, struct err *err);
	/* The driver uses another number of pairs; while working.  Of those it
	 * leaves, no guest memory is touched after the return. */
	int (*set_pairs)(void *opaque, unsigned int pairs, struct err *err);

	/* As those of struct vdev_type; the guest uses @pairs pairs. */
	int (*claim)(void *opaque, unsigned int pairs, struct err *err);
	void (*disclaim)(void *opaque);
	/* Before each start (with the device's lock), and when the driver changes
	 * it. */
	int (*set_filter)(void *opaque, const struct net_rx_filter *filter,
			  struct err *err);
	/* An eventfd, the same at each call, that it signals when it has met in a queue
	 * what it cannot work on, and has stopped there: the device breaks. */
	int (*error_fd)(void *opaque);
	/* Tell the network where the guest is now, on its behalf (RARP). */
	void (*announce)(void *opaque, const uint8_t mac[6]);
	void (*free)(void *opaque);
};

struct net_config {
	uint8_t mac[6]; /* all zero: made from the device's name */
	unsigned int pairs;
	uint16_t mtu; /* 0: not told to the driver */
	const struct net_backend_ops *ops;
	void *opaque; /* the back end; the device's from here on, also when
			 net_new() fails */
};

/* What --net says.  Either of @tap and @vhost_user is not "". */
#define NET_TEXT_MAX 108 /* with the 0: a socket's path */

struct net_options {
	char tap[NET_TEXT_MAX], vhost_user[NET_TEXT_MAX];
	bool has_vhost; /* vhost=on */
	uint8_t mac[6];
	unsigned int queues;
	uint16_t mtu;
};

int net_options_read(const char *text, struct net_options *ret_options,
		     struct err *err);

/* The text of --net, of a tap without vhost=on; vhost/ makes the others. */
int net_new(const struct vdev_site *site, const char *text,
	    struct vdev **ret_dev, struct err *err);
/* With a back end that is there: for net_new() and vhost/. */
int net_new_with(const struct vdev_site *site, const struct net_config *config,
		 struct vdev **ret_dev, struct err *err);

#endif
