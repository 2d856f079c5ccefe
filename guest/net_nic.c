/* SPDX-License-Identifier: Apache-2.0 */
/* A network card as a whole: see net.h.  virtio 1.2, 5.1. */
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stddef.h>

#include "guest/cpu.h"
#include "guest/exit.h"
#include "guest/net.h"
#include "guest/tsc.h"

#define CONTROL_TIMEOUT_US 5000000
#define CONTROL_RING       64
#define FIELD(dev, field)                                           \
	vdev_config(dev, offsetof(struct virtio_net_config, field), \
		    sizeof(((struct virtio_net_config *)0)->field))

struct control_command {
	uint8_t class, command;
	uint8_t data[6];
	uint8_t ack;
};

/* Waits for the answer: CPU 0 alone uses this queue, and seldom. */
static bool control(struct io *io, struct net_nic *nic, uint8_t class,
		    uint8_t command, const uint8_t *data, uint32_t size)
{
	struct control_command *c = (void *)nic->control_memory;
	const struct virtq_buffer buffers[] = {
		{ (uint64_t)c, 2 },
		{ (uint64_t)c->data, size },
		{ (uint64_t)&c->ack, 1 },
	};
	const struct virtq_buffer short_ones[] = { buffers[0], buffers[2] };
	uint64_t end = cpu_tsc() + tsc_of_us(io->tsc_khz, CONTROL_TIMEOUT_US);
	enum virtq_event event = VIRTQ_NONE;
	uint16_t token;
	uint32_t used;

	c->class = class;
	c->command = command;
	frame_copy(c->data, data, size);
	c->ack = VIRTIO_NET_ERR;
	if (!virtq_add(&nic->control->vq, size ? buffers : short_ones,
		       size ? 2 : 1, 1, 0))
		return false;
	io_flush(nic->dev, nic->control);
	while (event == VIRTQ_NONE && cpu_tsc() < end) {
		gauge_look(&io_cpu_of(0)->gauge, cpu_tsc());
		event = virtq_take(&nic->control->vq, &token, &used);
	}
	return event == VIRTQ_USED && c->ack == VIRTIO_NET_OK;
}

static void require_control(struct io *io, struct net_nic *nic, uint8_t class,
			    uint8_t command, const uint8_t *data, uint32_t size)
{
	struct line line;

	if (control(io, nic, class, command, data, size) ||
	    !io_error_begin(io_cpu_of(0), &line, "control", nic->dev->index))
		return;
	line_decimal(&line, " class=", class);
	line_decimal(&line, " command=", command);
	io_error_end(&line);
}

static uint64_t wanted_features(const struct net_config *config)
{
	uint64_t features =
		1ULL << VIRTIO_NET_F_MAC | 1ULL << VIRTIO_NET_F_STATUS |
		1ULL << VIRTIO_NET_F_MTU | 1ULL << VIRTIO_NET_F_CTRL_VQ |
		1ULL << VIRTIO_NET_F_CTRL_RX |
		1ULL << VIRTIO_NET_F_CTRL_MAC_ADDR |
		1ULL << VIRTIO_NET_F_GUEST_ANNOUNCE;

	if (config->is_mergeable)
		features |= 1ULL << VIRTIO_NET_F_MRG_RXBUF;
	if (config->io.queues > 1 || config->has_idle)
		features |= 1ULL << VIRTIO_NET_F_MQ;
	return features;
}

static struct frame_mac mac_of(uint64_t number)
{
	struct frame_mac mac;

	for (int i = 0; i < 6; i++)
		mac.bytes[i] = (uint8_t)(number >> (40 - 8 * i));
	return mac;
}

static void find_mac(struct net_nic *nic, const struct net_config *config)
{
	struct vdev *dev = nic->dev;

	if (config->mac)
		nic->host.mac = mac_of(config->mac + dev->index);
	else if (vdev_has(dev, VIRTIO_NET_F_MAC))
		for (unsigned int i = 0; i < 6; i++)
			nic->host.mac.bytes[i] =
				(uint8_t)vdev_config(dev, i, 1);
	else
		nic->host.mac = mac_of(0x020000000001 + dev->index);
}

static void count_pairs(struct net_nic *nic, const struct net_config *config)
{
	nic->pairs_max = 1;
	if (vdev_has(nic->dev, VIRTIO_NET_F_MQ))
		nic->pairs_max =
			(unsigned int)FIELD(nic->dev, max_virtqueue_pairs);
	if (nic->pairs_max * 2 + 1 > VDEV_QUEUES_MAX)
		machine_fail("a network card has too many queues", NULL);
	nic->pairs = nic->pairs_max;
	if (nic->pairs > config->io.queues)
		nic->pairs = (unsigned int)config->io.queues;
}

static struct io_cpu *owner_of(const struct net_nic *nic, unsigned int pair,
			       const struct net_config *config)
{
	return io_cpu_of((nic->dev->index + pair) % config->io.cpus);
}

static unsigned int pairs_set_up(const struct net_nic *nic,
				 const struct net_config *config)
{
	return config->has_idle ? nic->pairs_max : nic->pairs;
}

void net_nic_start(struct io *io, struct net_nic *nic,
		   const struct net_config *config, unsigned int ring)
{
	struct vdev *dev = nic->dev;

	io_require(vdev_begin(dev,
			      wanted_features(config) | io_ring_features(io)));
	count_pairs(nic, config);
	find_mac(nic, config);
	for (unsigned int n = 0; n < 2 * pairs_set_up(nic, config); n++)
		io_start_queue(io, dev, n, owner_of(nic, n / 2, config), ring,
			       1);
	nic->control = NULL;
	if (!vdev_has(dev, VIRTIO_NET_F_CTRL_VQ))
		return;
	nic->control = io_start_queue(io, dev, 2 * nic->pairs_max, io_cpu_of(0),
				      CONTROL_RING, 3);
	if (!nic->control_memory)
		nic->control_memory = io_take(io, PAGE_SIZE);
}

void net_nic_ready(struct io *io, struct net_nic *nic,
		   const struct net_config *config)
{
	struct vdev *dev = nic->dev;
	const uint8_t pairs[] = { (uint8_t)nic->pairs,
				  (uint8_t)(nic->pairs >> 8) };
	const uint8_t promisc = (uint8_t)config->is_promisc;

	vdev_ready(dev);
	for (unsigned int n = 0; n < nic->pairs; n++)
		io_flush(dev, &dev->queues[2 * n]);
	if (!nic->control)
		return;
	if (vdev_has(dev, VIRTIO_NET_F_MQ))
		require_control(io, nic, VIRTIO_NET_CTRL_MQ,
				VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, pairs, 2);
	if (config->mac && vdev_has(dev, VIRTIO_NET_F_CTRL_MAC_ADDR))
		require_control(io, nic, VIRTIO_NET_CTRL_MAC,
				VIRTIO_NET_CTRL_MAC_ADDR_SET,
				nic->host.mac.bytes, 6);
	if (vdev_has(dev, VIRTIO_NET_F_CTRL_RX))
		require_control(io, nic, VIRTIO_NET_CTRL_RX,
				VIRTIO_NET_CTRL_RX_PROMISC, &promisc, 1);
}

void net_nic_print(const struct net_nic *nic)
{
	const struct vdev *dev = nic->dev;
	struct line line;

	line_begin(&line, &io_cpu_of(0)->gauge, "@nic ");
	line_decimal(&line, "dev=", dev->index);
	line_hex(&line, " devfn=", dev->function->devfn);
	line_text(&line, " mac=");
	for (int i = 0; i < 6; i++) {
		uint8_t byte = nic->host.mac.bytes[i];

		line_char(&line, "0123456789abcdef"[byte >> 4]);
		line_char(&line, "0123456789abcdef"[byte & 15]);
		if (i < 5)
			line_char(&line, ':');
	}
	line_decimal(&line, " pairs=", nic->pairs);
	line_decimal(&line, " of=", nic->pairs_max);
	line_decimal(&line, " ring=", dev->queues[0].vq.shape.size);
	line_hex(&line, " features=", dev->features);
	line_decimal(&line, " vectors=", dev->msix.count);
	line_end(&line);
}

static void announce(struct io *io, struct net_nic *nic)
{
	struct line line;

	line_begin(&line, &io_cpu_of(0)->gauge, "@announce ");
	line_decimal(&line, "dev=", nic->dev->index);
	line_decimal(&line, " count=", nic->announces + 1);
	line_decimal(&line, " tsc=", cpu_tsc());
	line_end(&line);
	require_control(io, nic, VIRTIO_NET_CTRL_ANNOUNCE,
			VIRTIO_NET_CTRL_ANNOUNCE_ACK, NULL, 0);
	/* The first pair sends it. */
	store_release(nic->announces, nic->announces + 1);
}

void net_nic_look(struct io *io, struct net_nic *nic)
{
	uint16_t status;
	struct line line;

	if (!vdev_has(nic->dev, VIRTIO_NET_F_STATUS))
		return;
	status = (uint16_t)FIELD(nic->dev, status);
	if (nic->is_down != !(status & VIRTIO_NET_S_LINK_UP)) {
		nic->is_down = !nic->is_down;
		line_begin(&line, &io_cpu_of(0)->gauge, "@link ");
		line_decimal(&line, "dev=", nic->dev->index);
		line_text(&line, nic->is_down ? " down" : " up");
		line_end(&line);
	}
	if (status & VIRTIO_NET_S_ANNOUNCE && nic->control &&
	    vdev_has(nic->dev, VIRTIO_NET_F_GUEST_ANNOUNCE))
		announce(io, nic);
}
