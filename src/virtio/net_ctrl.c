// SPDX-License-Identifier: Apache-2.0
/*
 * The control queue (virtio 1.2, 5.1.6.5): how many pairs, which frames, which
 * address, and that the guest was announced.
 *
 * In the device's thread.  A command is a class, a number, data and, to write to,
 * a byte for the answer.  The driver is hostile: what does not have exactly the
 * size that its command has, and every command that was not negotiated, is
 * answered with an error and changes nothing.  A stop waits for one command, however
 * many there are.
 */
#include <errno.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/trace.h"
#include "virtio/net_priv.h"

struct ctrl_header {
	uint8_t class_, number;
};

#define DATA_AT sizeof(struct ctrl_header)

/* The data is @size bytes, all of it. */
static bool read_data(const struct vq_request *request, void *data, size_t size)
{
	return request->readable_size == DATA_AT + size &&
	       vq_read(request, DATA_AT, data, size) == size;
}

static int filter_change(struct net *net, const struct net_rx_filter *filter)
{
	struct err err = ERR_INIT;
	int ret = 0;

	if (net->ops->set_filter)
		ret = net->ops->set_filter(net->backend, filter, &err);
	if (ret) {
		trace(net_filter_failed, "%s: %s", net->base.name,
		      err_msg(&err));
		return ret;
	}
	net->filter = *filter;
	net_show_mac(net);
	return 0;
}

static int run_rx(struct net *net, unsigned int number,
		  const struct vq_request *request)
{
	struct net_rx_filter filter = net->filter;
	uint8_t is_on;

	if (!vdev_has(&net->base, VIRTIO_NET_F_CTRL_RX) ||
	    !read_data(request, &is_on, 1))
		return -EINVAL;
	if (number == VIRTIO_NET_CTRL_RX_PROMISC)
		filter.is_promisc = is_on != 0;
	else if (number == VIRTIO_NET_CTRL_RX_ALLMULTI)
		filter.is_all_multicast = is_on != 0;
	else
		return -EINVAL;
	return filter_change(net, &filter);
}

/* One of the two tables from @at on; a driver may take a table's size for
 * infinite, so of one that has no room
 * here, all of its kind are wanted.  Returns where it ends, or 0
 * when it is cut off. */
static uint64_t read_table(const struct vq_request *request, uint64_t at,
			   uint8_t table[NET_FILTER_MAX][6],
			   uint32_t *ret_count, uint8_t *ret_is_over)
{
	struct le32 raw;
	uint32_t count;

	if (vq_read(request, at, &raw, sizeof(raw)) != sizeof(raw))
		return 0;
	at += sizeof(raw);
	count = le32_get(raw);
	if (count > (request->readable_size - at) / 6)
		return 0;
	memset(table, 0, NET_FILTER_MAX * 6ul);
	*ret_is_over = count > NET_FILTER_MAX;
	*ret_count = *ret_is_over ? 0 : count;
	vq_read(request, at, table, 6ul * *ret_count);
	return at + 6ull * count;
}

static int set_tables(struct net *net, const struct vq_request *request)
{
	struct net_rx_filter filter = net->filter;
	uint64_t at;

	at = read_table(request, DATA_AT, filter.unicast, &filter.unicast_count,
			&filter.is_unicast_over);
	if (at)
		at = read_table(request, at, filter.multicast,
				&filter.multicast_count,
				&filter.is_multicast_over);
	if (at == 0 || at != request->readable_size)
		return -EINVAL;
	return filter_change(net, &filter);
}

static int set_address(struct net *net, const struct vq_request *request)
{
	struct net_rx_filter filter = net->filter;

	if (!read_data(request, filter.mac, 6) || filter.mac[0] & 1)
		return -EINVAL;
	return filter_change(net, &filter);
}

static int run_mac(struct net *net, unsigned int number,
		   const struct vq_request *request)
{
	if (number == VIRTIO_NET_CTRL_MAC_TABLE_SET &&
	    vdev_has(&net->base, VIRTIO_NET_F_CTRL_RX))
		return set_tables(net, request);
	if (number == VIRTIO_NET_CTRL_MAC_ADDR_SET &&
	    vdev_has(&net->base, VIRTIO_NET_F_CTRL_MAC_ADDR))
		return set_address(net, request);
	return -EINVAL;
}

static int run_announce(struct net *net, unsigned int number,
			const struct vq_request *request)
{
	if (number != VIRTIO_NET_CTRL_ANNOUNCE_ACK ||
	    !vdev_has(&net->base, VIRTIO_NET_F_GUEST_ANNOUNCE) ||
	    !read_data(request, NULL, 0))
		return -EINVAL;
	__atomic_store_n(&net->is_announce_asked, 0, __ATOMIC_RELEASE);
	return 0;
}

static int run_mq(struct net *net, unsigned int number,
		  const struct vq_request *request)
{
	struct err err = ERR_INIT;
	struct le16 raw;
	uint16_t pairs;
	int ret;

	if (number != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET ||
	    !vdev_has(&net->base, VIRTIO_NET_F_MQ) ||
	    !read_data(request, &raw, sizeof(raw)))
		return -EINVAL;
	pairs = le16_get(raw);
	if (pairs == 0 || pairs > net->pairs_max)
		return -EINVAL;
	ret = net->ops->set_pairs(net->backend, pairs, &err);
	trace(net_pairs, "%s: %u pairs: %s", net->base.name, pairs,
	      ret ? err_msg(&err) : "done");
	if (ret == 0)
		net_set_pairs(net, pairs);
	return ret;
}

static int run_command(struct net *net, const struct vq_request *request)
{
	struct ctrl_header header;

	if (vq_read(request, 0, &header, sizeof(header)) != sizeof(header))
		return -EINVAL;
	switch (header.class_) {
	case VIRTIO_NET_CTRL_RX:
		return run_rx(net, header.number, request);
	case VIRTIO_NET_CTRL_MAC:
		return run_mac(net, header.number, request);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		return run_announce(net, header.number, request);
	case VIRTIO_NET_CTRL_MQ:
		return run_mq(net, header.number, request);
	default:
		return -EINVAL;
	}
}

static void answer(struct net *net, const struct vq_request *request)
{
	uint8_t ack =
		run_command(net, request) ? VIRTIO_NET_ERR : VIRTIO_NET_OK;

	vq_push(&net->ctrl, request,
		(uint32_t)vq_write(request, 0, &ack, sizeof(ack)));
}

void net_ctrl_run(struct net *net)
{
	struct vq_request request = { .segments = net->segments,
				      .room = NET_QUEUE_SIZE };
	struct err err = ERR_INIT;
	int ret = 0;

	if (!net->has_ctrl)
		return;
	while (!__atomic_load_n(&net->is_stopping, __ATOMIC_ACQUIRE) &&
	       (ret = vq_pop(&net->ctrl, &request, &err)) > 0)
		answer(net, &request);
	vq_flush(&net->ctrl);
	if (ret >= 0)
		return;
	vdev_break(&net->base, &err);
	net_ctrl_stop(net);
}

static void kick_ready(void *opaque)
{
	struct net *net = opaque;
	uint64_t count;

	if (read(net->kick.fd, &count, sizeof(count)) == sizeof(count))
		net_ctrl_run(net);
}

unsigned int net_ctrl_index(const struct net *net)
{
	return vdev_has(&net->base, VIRTIO_NET_F_MQ) ? 2 * net->pairs_max : 2;
}

static bool has_queue(const struct net *net)
{
	return vdev_has(&net->base, VIRTIO_NET_F_CTRL_VQ) &&
	       net->base.queues[net_ctrl_index(net)].is_enabled;
}

int net_ctrl_prepare(struct net *net, struct err *err)
{
	if (!has_queue(net))
		return 0;
	return vq_start(&net->ctrl, &net->base, net_ctrl_index(net), err);
}

int net_ctrl_start(struct net *net, struct err *err)
{
	int ret;

	if (!has_queue(net))
		return 0;
	net->kick = (struct io_source){
		.fd = net->base.queues[net_ctrl_index(net)].kick_fd,
		.events = EPOLLIN,
		.ready = kick_ready,
		.opaque = net
	};
	ret = io_thread_add(net->thread, &net->kick);
	if (ret)
		return err_set_errno(err, ret, "control queue");
	net->has_ctrl = true;
	net->can_announce = vdev_has(&net->base, VIRTIO_NET_F_GUEST_ANNOUNCE) &&
			    vdev_has(&net->base, VIRTIO_NET_F_STATUS);
	/* What came before is not notified again. */
	net_ctrl_run(net);
	return 0;
}

void net_ctrl_stop(struct net *net)
{
	if (!net->has_ctrl)
		return;
	io_thread_del(net->thread, &net->kick);
	net->has_ctrl = net->can_announce = false;
}
