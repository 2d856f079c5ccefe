// SPDX-License-Identifier: Apache-2.0
/*
 * Network back ends outside of this process, behind the device of virtio/net.c:
 *
 *	--net tap=IF,vhost=on    the kernel's vhost-net, one a pair of queues
 *	--net vhost-user=SOCK    another process, for all pairs
 *
 * Both work on the data queues only; control queue and configuration space are
 * virtio/net.c's.  Packets may be lost, so a back end that ended is followed by the
 * next one without ado.
 */
#include "virtio/net.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"
#include "vhost/kernel.h"
#include "vhost/user.h"
#include "vhost_priv.h"
#include "virtio/tap.h"
#include "virtio/vdev.h"

#define BIT(n) (1ull << (n))

/* What of the device type a back end does with packets. */
#define PACKET_FEATURES                                              \
	(NET_GUEST_OFFLOADS | BIT(VIRTIO_NET_F_CSUM) |               \
	 BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) | \
	 BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_HOST_UFO) |   \
	 BIT(NET_F_HOST_USO) | BIT(VIRTIO_NET_F_MRG_RXBUF))

#define RING_FEATURES \
	(BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX))

struct vh_net {
	unsigned int pairs;   /* that there are */
	struct vh_user *user; /* owned; or all of the following: */
	struct tap *tap;      /* owned */
	int error_fd;         /* owned eventfd: the kernel's, of all rings */
	struct vh_kernel *kernels[NET_PAIRS_MAX]; /* owned */

	/* The device's; see virtio/net.h for who calls. */
	uint64_t features;    /* the driver's choice */
	struct vdev *vdev;    /* borrowed while working */
	unsigned int working; /* pairs of the kernel's that do */
};

/* A driver without MQ has its control queue where the second pair would be. */
static unsigned int pairs_known(const struct vh_net *net, uint64_t features)
{
	return features & BIT(VIRTIO_NET_F_MQ) ? net->pairs : 1;
}

static void vh_net_free(void *opaque)
{
	struct vh_net *net = opaque;

	vh_user_free(net->user);
	for (unsigned int i = 0; i < net->pairs; i++)
		vh_kernel_free(net->kernels[i]);
	if (net->error_fd >= 0)
		close(net->error_fd);
	tap_free(net->tap);
	free(net);
}

/* ---- the kernel ---- */

static uint64_t kernel_features(void *opaque)
{
	const struct vh_net *net = opaque;

	return tap_features(net->tap) | (vh_kernel_features(net->kernels[0]) &
					 BIT(VIRTIO_NET_F_MRG_RXBUF));
}

static int kernel_accept(void *opaque, uint64_t features, struct err *err)
{
	struct vh_net *net = opaque;

	net->features = features;
	return tap_set_features(net->tap, features, err);
}

/* Pairs [@pairs, working), which may be none. */
static int stop_pairs(struct vh_net *net, unsigned int pairs,
		      uint64_t deadline_ns, struct err *err)
{
	int ret = 0;

	for (unsigned int i = pairs; i < net->working; i++)
		vh_dev_stop_begin(vh_kernel_dev(net->kernels[i]));
	while (net->working > pairs && !ret) {
		struct vh_kernel *last = net->kernels[net->working - 1];

		ret = vh_dev_stop(vh_kernel_dev(last), deadline_ns, err);
		if (!ret)
			net->working--;
	}
	return ret;
}

/* Pairs [working, @pairs); none of them after a failure. */
static int start_pairs(struct vh_net *net, unsigned int pairs, struct err *err)
{
	unsigned int before = net->working;
	int ret = tap_set_active(net->tap, pairs, err);

	while (!ret && net->working < pairs) {
		unsigned int pair = net->working;

		ret = vh_kernel_start(net->kernels[pair],
				      tap_fd(net->tap, pair), net->vdev,
				      2 * pair, net->features, err);
		if (!ret)
			net->working++;
	}
	if (ret)
		stop_pairs(net, before, UINT64_MAX, NULL);
	return ret;
}

/* Pairs that are not used yet may be by then. */
static int kernel_build(void *opaque, struct vdev *vdev, unsigned int pairs,
			enum vdev_stage stage, struct err *err)
{
	struct vh_net *net = opaque;
	unsigned int known = pairs_known(net, vdev->features);
	int ret = 0;

	if (stage == VDEV_AHEAD || pairs > known)
		pairs = known;
	for (unsigned int i = 0; i < pairs && !ret; i++)
		ret = vh_kernel_build(net->kernels[i], vdev, 2 * i,
				      vdev->features, stage, err);
	return ret;
}

static int kernel_start(void *opaque, struct vdev *vdev, unsigned int pairs,
			struct err *err)
{
	struct vh_net *net = opaque;

	net->vdev = vdev;
	return start_pairs(net, pairs, err);
}

static void kernel_stop_begin(void *opaque)
{
	struct vh_net *net = opaque;

	for (unsigned int i = 0; i < net->working; i++)
		vh_dev_stop_begin(vh_kernel_dev(net->kernels[i]));
}

static int kernel_stop(void *opaque, uint64_t deadline_ns, struct err *err)
{
	return stop_pairs(opaque, 0, deadline_ns, err);
}

static int kernel_set_pairs(void *opaque, unsigned int pairs, struct err *err)
{
	struct vh_net *net = opaque;
	unsigned int before = net->working;
	int ret;

	if (pairs <= before) {
		stop_pairs(net, pairs, UINT64_MAX, NULL);
		return tap_set_active(net->tap, pairs, err);
	}
	ret = start_pairs(net, pairs, err);
	if (ret) /* or flows are hashed to queues that nobody reads */
		tap_set_active(net->tap, before, NULL);
	return ret;
}

static int kernel_claim(void *opaque, unsigned int pairs, struct err *err)
{
	struct vh_net *net = opaque;

	return tap_set_active(net->tap, pairs, err);
}

static void kernel_disclaim(void *opaque)
{
	struct vh_net *net = opaque;

	tap_set_active(net->tap, 0, NULL);
}

static int kernel_error_fd(void *opaque)
{
	const struct vh_net *net = opaque;

	return net->error_fd;
}

static void kernel_announce(void *opaque, const uint8_t mac[6])
{
	const struct vh_net *net = opaque;

	tap_announce(net->tap, mac);
}

static const struct net_backend_ops kernel_net_ops = {
	.features = kernel_features,
	.accept = kernel_accept,
	.build = kernel_build,
	.start = kernel_start,
	.stop_begin = kernel_stop_begin,
	.stop = kernel_stop,
	.set_pairs = kernel_set_pairs,
	.claim = kernel_claim,
	.disclaim = kernel_disclaim,
	.error_fd = kernel_error_fd,
	.announce = kernel_announce,
	.free = vh_net_free,
};

/* ---- another process ---- */

static uint64_t user_features(void *opaque)
{
	const struct vh_net *net = opaque;

	return vh_user_features(net->user) & PACKET_FEATURES;
}

static int user_accept(void *opaque, uint64_t features, struct err *err)
{
	struct vh_net *net = opaque;

	(void)err;
	net->features = features;
	return 0;
}

static struct vh_queues queues_of(const struct vh_net *net, struct vdev *vdev)
{
	return (struct vh_queues){ vdev, 0,
				   2 * pairs_known(net, vdev->features),
				   vdev->features };
}

static int user_build(void *opaque, struct vdev *vdev, unsigned int pairs,
		      enum vdev_stage stage, struct err *err)
{
	struct vh_net *net = opaque;
	struct vh_dev *dev = vh_user_dev(net->user);
	const struct vh_queues queues = queues_of(net, vdev);
	int ret = vh_dev_set_count(dev, 2 * pairs, err);

	return ret ? ret : vh_dev_build(dev, &queues, stage, err);
}

static void user_probe(void *opaque)
{
	struct vh_net *net = opaque;

	vh_dev_probe(vh_user_dev(net->user));
}

static int user_start(void *opaque, struct vdev *vdev, unsigned int pairs,
		      struct err *err)
{
	struct vh_net *net = opaque;
	struct vh_dev *dev = vh_user_dev(net->user);
	const struct vh_queues queues = queues_of(net, vdev);
	int ret = vh_dev_set_count(dev, 2 * pairs, err);

	return ret ? ret : vh_dev_start(dev, &queues, err);
}

static int user_start_wait(void *opaque, struct err *err)
{
	struct vh_net *net = opaque;

	return vh_dev_start_wait(vh_user_dev(net->user), err);
}

static void user_stop_begin(void *opaque)
{
	struct vh_net *net = opaque;

	vh_dev_stop_begin(vh_user_dev(net->user));
}

static int user_stop(void *opaque, uint64_t deadline_ns, struct err *err)
{
	struct vh_net *net = opaque;

	return vh_dev_stop(vh_user_dev(net->user), deadline_ns, err);
}

static int user_set_pairs(void *opaque, unsigned int pairs, struct err *err)
{
	struct vh_net *net = opaque;

	return vh_dev_set_count(vh_user_dev(net->user), 2 * pairs, err);
}

/* A back end that cannot leaves it to the guest's next packet. */
static void user_announce(void *opaque, const uint8_t mac[6])
{
	struct vh_net *net = opaque;

	vh_user_send_rarp(net->user, mac, NULL);
}

static const struct net_backend_ops user_net_ops = {
	.features = user_features,
	.accept = user_accept,
	.build = user_build,
	.probe = user_probe,
	.start = user_start,
	.start_wait = user_start_wait,
	.stop_begin = user_stop_begin,
	.stop = user_stop,
	.set_pairs = user_set_pairs,
	.announce = user_announce,
	.free = vh_net_free,
};

/* ---- new ---- */

static int open_kernel(struct vh_net *net, const struct vdev_site *site,
		       const struct net_options *options, struct err *err)
{
	int ret = tap_new(options->tap, net->pairs, site->is_incoming,
			  &net->tap, err);

	if (ret)
		return ret;
	net->error_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (net->error_fd < 0)
		return err_set_errno(err, -errno, "%s: eventfd", site->name);
	for (unsigned int i = 0; i < net->pairs && !ret; i++)
		ret = vh_kernel_new(site->vhost, site->name, net->error_fd,
				    &net->kernels[i], err);
	return ret;
}

static int open_user(struct vh_net *net, const struct vdev_site *site,
		     const struct net_options *options, struct err *err)
{
	const struct vh_user_config config = {
		.name = site->name,
		.path = options->vhost_user,
		.rings = 2 * net->pairs,
		.features = PACKET_FEATURES | RING_FEATURES |
			    BIT(VIRTIO_F_VERSION_1),
		.may_lose = true,
	};
	int ret = vh_user_new(site->vhost, &config, &net->user, err);

	if (!ret && !(vh_user_features(net->user) & BIT(VIRTIO_F_VERSION_1)))
		ret = err_set(err, -ENOTSUP,
			      "%s: its back end knows no virtio 1", site->name);
	return ret;
}

/* Of the ring formats, those that the back end has.  A queue's reset is a stop and a
 * start. */
static uint64_t ring_features(const struct vh_net *net)
{
	uint64_t features = net->user ? vh_user_features(net->user)
				      : vh_kernel_features(net->kernels[0]);

	return (features & RING_FEATURES) | BIT(VIRTIO_F_RING_RESET);
}

int vh_net_new(const struct vdev_site *site, const char *text,
	       struct vdev **ret_dev, struct err *err)
{
	struct net_options options;
	struct net_config config = { .mtu = 0 };
	struct vh_net *net;
	uint64_t rings;
	int ret = net_options_read(text, &options, err);

	if (ret)
		return ret;
	net = calloc(1, sizeof(*net));
	if (!net)
		return err_set(err, -ENOMEM, "%s", site->name);
	net->pairs = options.queues;
	net->error_fd = -1;
	ret = options.tap[0] ? open_kernel(net, site, &options, err)
			     : open_user(net, site, &options, err);
	if (ret) {
		vh_net_free(net);
		return ret;
	}
	rings = ring_features(net);
	memcpy(config.mac, options.mac, 6);
	config.pairs = net->pairs;
	config.mtu = options.mtu;
	config.ops = options.tap[0] ? &kernel_net_ops : &user_net_ops;
	config.opaque = net;
	ret = net_new_with(site, &config, ret_dev, err);
	if (!ret && net->user)
		vdev_share(*ret_dev, vh_user_dev(net->user)->side->writer);
	if (!ret)
		(*ret_dev)->offered &=
			rings | ~(RING_FEATURES | BIT(VIRTIO_F_RING_PACKED) |
				  BIT(VIRTIO_F_RING_RESET));
	return ret;
}
