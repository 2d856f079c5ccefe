// SPDX-License-Identifier: Apache-2.0
/* The network device between its transport and a back end: what it offers, its
 * configuration space, start and stop; net_thread.c and net_ctrl.c are its own thread's. */
#include "virtio/net.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/trace.h"
#include "virtio/net_priv.h"
#include "virtio/net_tap.h"

#define PCI_CLASS_NETWORK_ETHERNET 0x020000u

static const struct state_field net_fields[] = {
	STATE_BYTES(struct net, filter.mac),
	STATE_FIELD_MAX(struct net, filter.is_promisc, STATE_U8, 1),
	STATE_FIELD_MAX(struct net, filter.is_all_multicast, STATE_U8, 1),
	STATE_FIELD_MAX(struct net, filter.is_unicast_over, STATE_U8, 1),
	STATE_FIELD_MAX(struct net, filter.is_multicast_over, STATE_U8, 1),
	STATE_FIELD_MAX(struct net, filter.unicast_count, STATE_U32,
			NET_FILTER_MAX),
	STATE_FIELD_MAX(struct net, filter.multicast_count, STATE_U32,
			NET_FILTER_MAX),
	STATE_BYTES(struct net, filter.unicast),
	STATE_BYTES(struct net, filter.multicast),
	STATE_FIELD_MAX(struct net, pairs, STATE_U16, NET_PAIRS_MAX),
	STATE_FIELD_MAX(struct net, is_announce_asked, STATE_U8, 1),
};

static int net_load(void *obj, uint16_t version, struct err *err)
{
	struct net *net = obj;
	int ret = net_check_pairs(net, net->pairs, err);

	(void)version;
	if (!ret)
		net_show_mac(net);
	return ret;
}

static const struct state_desc net_state = {
	.version = 1,
	.min_version = 1,
	.fields = net_fields,
	.field_count = sizeof(net_fields) / sizeof(net_fields[0]),
	.load = net_load,
};

/* ---- configuration space ---- */

void net_show_mac(struct net *net)
{
	uint64_t mac = 0;

	memcpy(&mac, net->filter.mac, 6);
	__atomic_store_n(&net->shown_mac, mac, __ATOMIC_RELEASE);
}

static void net_config_read(struct vdev *dev)
{
	struct net *net = net_of(dev);
	uint64_t mac = __atomic_load_n(&net->shown_mac, __ATOMIC_ACQUIRE);
	struct virtio_net_config config = {
		.status = VIRTIO_NET_S_LINK_UP,
		.max_virtqueue_pairs = (uint16_t)net->pairs_max,
		.mtu = net->mtu,
	};

	memcpy(config.mac, &mac, 6);
	if (__atomic_load_n(&net->is_announce_asked, __ATOMIC_ACQUIRE))
		config.status |= VIRTIO_NET_S_ANNOUNCE;
	memcpy(dev->config, &config, dev->config_size);
}

/* Address and status are the driver's, and come with net_fields. */
static int net_config_load(struct vdev *dev, const uint8_t *bytes,
			   struct err *err)
{
	const struct net *net = net_of(dev);
	struct virtio_net_config config = { .mtu = 0 };

	memcpy(&config, bytes, dev->config_size);
	if (config.max_virtqueue_pairs != net->pairs_max)
		return err_set(err, -EBADMSG, "%u pairs, this device has %u",
			       config.max_virtqueue_pairs, net->pairs_max);
	if (config.mtu != net->mtu)
		return err_set(err, -EBADMSG, "mtu %u, this device has %u",
			       config.mtu, net->mtu);
	return 0;
}

/* Which features make no sense without another (virtio 1.2, 5.1.3.1). */
static const struct {
	uint8_t feature, needs;
} requirements[] = {
	{ VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM },
	{ VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM },
	{ VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_GUEST_CSUM },
	{ NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_CSUM },
	{ NET_F_GUEST_USO6, VIRTIO_NET_F_GUEST_CSUM },
	{ VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM },
	{ VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM },
	{ VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_CSUM },
	{ NET_F_HOST_USO, VIRTIO_NET_F_CSUM },
	{ VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ },
	{ VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ },
	{ VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_VQ },
	{ VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ },
};

static int net_accept(struct vdev *dev)
{
	for (size_t i = 0; i < sizeof(requirements) / sizeof(requirements[0]);
	     i++)
		if (vdev_has(dev, requirements[i].feature) &&
		    !vdev_has(dev, requirements[i].needs))
			return -EINVAL;
	return 0;
}

/* ---- work ---- */

static int backend_start(struct net *net, struct err *err)
{
	const struct net_backend_ops *ops = net->ops;
	int ret;

	ret = ops->accept(net->backend, net->base.features, err);
	if (ret == 0 && ops->set_filter)
		ret = ops->set_filter(net->backend, &net->filter, err);
	if (ret == 0)
		ret = ops->start(net->backend, &net->base, net->pairs, err);
	return ret;
}

static int net_build(struct vdev *dev, enum vdev_stage stage, struct err *err)
{
	const struct net *net = net_of(dev);
	unsigned int pairs = net->pairs;

	if (!net->ops->build)
		return 0;
	if (stage == VDEV_AHEAD)
		pairs = net_pairs_ahead(net);
	return net->ops->build(net->backend, dev, pairs, stage, err);
}

static void net_probe(struct vdev *dev)
{
	const struct net *net = net_of(dev);

	if (net->ops->probe)
		net->ops->probe(net->backend);
}

static int net_start(struct vdev *dev, struct err *err)
{
	struct net *net = net_of(dev);
	int ret = net_ctrl_prepare(net, err);

	net_thread_prepare(net);
	return ret ? ret : backend_start(net, err);
}

/* Behind the back end, which the thread may call from here on. */
static int net_start_wait(struct vdev *dev, struct err *err)
{
	struct net *net = net_of(dev);
	int ret = 0;

	if (net->ops->start_wait)
		ret = net->ops->start_wait(net->backend, err);
	if (ret == 0)
		net_thread_start(net);
	return ret;
}

static void net_stop_begin(struct vdev *dev)
{
	net_thread_stop_begin(net_of(dev));
}

static int net_stop(struct vdev *dev, uint64_t deadline_ns, struct err *err)
{
	struct net *net = net_of(dev);
	int ret = net_thread_stop(net, deadline_ns);

	if (ret)
		err_set(err, ret, "a command of its control queue is not done");
	else
		ret = net->ops->stop(net->backend, deadline_ns, err);
	if (ret)
		net_thread_resume(net);
	return ret;
}

static void net_reset(struct vdev *dev)
{
	struct net *net = net_of(dev);

	/* Drivers that know no filter get all; others set theirs. */
	net->filter = (struct net_rx_filter){ .is_promisc = 1 };
	memcpy(net->filter.mac, net->own_mac, 6);
	net_show_mac(net);
	net_set_pairs(net, 1);
	__atomic_store_n(&net->is_announce_asked, 0, __ATOMIC_RELEASE);
}

/* By the thread, for who waits. */
struct net_claim {
	struct net *net;
	struct err *err;
	int ret;
};

static void thread_claim(void *opaque)
{
	struct net_claim *c = opaque;

	c->ret = c->net->ops->claim(c->net->backend, c->net->pairs, c->err);
}

/* In the thread, behind a disclaim that it may still have to do. */
static int net_claim(struct vdev *dev, struct err *err)
{
	struct net *net = net_of(dev);
	struct net_claim c = { .net = net, .err = err };

	if (!net->ops->claim)
		return 0;
	io_thread_call(net->thread, thread_claim, &c, UINT64_MAX);
	return c.ret;
}

static void thread_disclaim(void *opaque)
{
	struct net *net = opaque;

	net->ops->disclaim(net->backend);
}

/* Not waited for: a guest's pause is now, and nothing is damaged by it coming
 * later than the other's claim (tap.h). */
static void net_disclaim(struct vdev *dev)
{
	struct net *net = net_of(dev);

	if (net->ops->disclaim)
		io_thread_post(net->thread, thread_disclaim, net);
}

static void net_arrived(struct vdev *dev)
{
	net_announce(net_of(dev));
}

static void net_free(struct vdev *dev)
{
	struct net *net = net_of(dev);

	vdev_end(dev, clock_mono_ns()); /* the machine has waited for it */
	io_thread_free(net->thread);
	net_ahead_fini(net);
	state_unregister(&net->state);
	net_announce_fini(net);
	net->ops->free(net->backend);
	vdev_fini(dev);
	free(net);
}

static const struct vdev_type net_type = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.pci_class = PCI_CLASS_NETWORK_ETHERNET,
	.accept = net_accept,
	.config_read = net_config_read,
	.config_load = net_config_load,
	.build = net_build,
	.probe = net_probe,
	.start = net_start,
	.start_wait = net_start_wait,
	.stop_begin = net_stop_begin,
	.stop = net_stop,
	.reset = net_reset,
	.claim = net_claim,
	.disclaim = net_disclaim,
	.arrived = net_arrived,
	.free = net_free,
};

/* ---- building ---- */

/* Locally administered, and the same wherever the device is built again. */
static void name_mac(const char *name, uint8_t mac[6])
{
	const char *digits = name + strcspn(name, "0123456789");
	unsigned long index = strtoul(digits, NULL, 10);

	memcpy(mac,
	       (const uint8_t[6]){ 0x52, 0x54, 0, 0x67, (uint8_t)(index >> 8),
				   (uint8_t)index },
	       6);
}

static int choose_mac(struct net *net, const struct vdev_site *site,
		      const struct net_config *config, struct err *err)
{
	static const uint8_t none[6];
	const struct state_entry *entry;

	memcpy(net->own_mac, config->mac, 6);
	if (memcmp(net->own_mac, none, 6) == 0)
		name_mac(site->name, net->own_mac);
	list_for_each (entry, &site->state->entries, link) {
		const struct net *other = entry->obj;

		if (entry->desc == &net_state &&
		    memcmp(other->own_mac, net->own_mac, 6) == 0)
			return err_set(err, -EEXIST, "%s has that mac already",
				       other->base.name);
	}
	return 0;
}

static uint64_t offered_features(const struct net *net)
{
	uint64_t features = net->ops->features(net->backend);

	features |= 1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS |
		    1ull << VIRTIO_NET_F_CTRL_VQ |
		    1ull << VIRTIO_NET_F_CTRL_MAC_ADDR |
		    1ull << VIRTIO_NET_F_GUEST_ANNOUNCE;
	features |= 1ull << VIRTIO_NET_F_CTRL_RX;
	if (net->pairs_max > 1)
		features |= 1ull << VIRTIO_NET_F_MQ;
	if (net->mtu)
		features |= 1ull << VIRTIO_NET_F_MTU;
	return features;
}

static int net_init(struct net *net, const struct vdev_site *site,
		    const struct net_config *config, struct err *err)
{
	unsigned int count = 2 * config->pairs + 1;
	uint16_t sizes[VDEV_QUEUES_MAX];
	char name[STATE_NAME_MAX];
	int ret;

	ret = choose_mac(net, site, config, err);
	if (ret)
		return ret;
	for (unsigned int i = 0; i < count; i++)
		sizes[i] = NET_QUEUE_SIZE;
	sizes[count - 1] = NET_CTRL_QUEUE_SIZE;
	ret = vdev_init(&net->base, &net_type, site, offered_features(net),
			offsetof(struct virtio_net_config, speed), count, sizes,
			err);
	if (ret)
		return ret;
	net_reset(&net->base);
	snprintf(name, sizeof(name), "%s-net", site->name);
	state_register(site->state, &net->state, name, &net_state, net);
	net_ahead_init(net, site);
	snprintf(name, sizeof(name), "%s", site->name);
	ret = io_thread_new(name, &net->thread, err);
	if (ret)
		return ret;
	return net_announce_init(net, err);
}

int net_new_with(const struct vdev_site *site, const struct net_config *config,
		 struct vdev **ret_dev, struct err *err)
{
	struct net *net = calloc(1, sizeof(*net));
	int ret;

	assert(config->pairs > 0 && config->pairs <= NET_PAIRS_MAX);
	if (!net) {
		config->ops->free(config->opaque);
		return err_set(err, -ENOMEM, "%s: no memory", site->name);
	}
	net->ops = config->ops;
	net->backend = config->opaque;
	net->pairs_max = config->pairs;
	net->mtu = config->mtu;
	net->timer_fd = -1;
	ret = net_init(net, site, config, err);
	if (ret) {
		err_prefix(err, "%s", site->name);
		net_free(&net->base);
		return ret;
	}
	*ret_dev = &net->base;
	return 0;
}

int net_new(const struct vdev_site *site, const char *text,
	    struct vdev **ret_dev, struct err *err)
{
	struct net_config config = { 0 };
	struct net_options options;
	int ret;

	ret = net_options_read(text, &options, err);
	if (ret)
		return ret;
	if (!options.tap[0] || options.has_vhost)
		return err_set(err, -EINVAL, "vhost is not in this process");
	ret = net_tap_new(options.tap, options.queues, site->is_incoming,
			  &config.ops, &config.opaque, err);
	if (ret)
		return ret;
	memcpy(config.mac, options.mac, 6);
	config.pairs = options.queues;
	config.mtu = options.mtu;
	return net_new_with(site, &config, ret_dev, err);
}
