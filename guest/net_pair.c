/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers of a pair of queues: see net.h. */
#include <linux/virtio_net.h>

#include "guest/cpu.h"
#include "guest/net.h"

#define PARTS_SIZE 65536

static uint32_t round_up(uint64_t size)
{
	return (uint32_t)((size + 63) & ~63ULL);
}

/* So many that the largest ring is full. */
void net_pair_init(struct io *io, struct net_pair *pair,
		   const struct net_config *config)
{
	unsigned int ring = (unsigned int)config->io.ring;
	uint64_t largest = FRAME_MIN;

	for (uint64_t i = 0; i < config->io.size.count; i++) {
		if (config->io.size.sizes[i] > largest)
			largest = config->io.size.sizes[i];
	}
	if (largest < config->rx_size)
		largest = config->rx_size; /* an echo is as long as that */
	pair->rx_count = ring;
	pair->tx_count = (unsigned int)config->io.depth;
	pair->rx_size = round_up(config->rx_size + NET_SHIFT);
	pair->tx_size = round_up(largest + NET_HEADER + NET_SHIFT);
	pair->rx_buffers = io_take(io, (uint64_t)ring * pair->rx_size);
	pair->tx_buffers =
		io_take(io, (uint64_t)pair->tx_count * pair->tx_size);
	pair->tx_idle = io_take(io, pair->tx_count * sizeof(uint16_t));
	pair->parts.frame = io_take(io, PARTS_SIZE);
	pair->heard = io_take(io, NET_HEARD_MAX * sizeof(*pair->heard));
}

static uint8_t *rx_buffer(const struct net_pair *pair, uint16_t number)
{
	return pair->rx_buffers + (uint64_t)number * pair->rx_size + NET_SHIFT;
}

static bool offer_rx(struct net_pair *pair, uint16_t number)
{
	const struct virtq_buffer buffer = { (uint64_t)rx_buffer(pair, number),
					     pair->rx_size - NET_SHIFT };

	return virtq_add(&pair->rx->vq, &buffer, 0, 1, number);
}

void net_pair_fill(struct net_pair *pair)
{
	pair->parts.missing = 0;
	pair->tx_idle_count = pair->tx_count;
	for (unsigned int i = 0; i < pair->tx_count; i++)
		pair->tx_idle[i] = (uint16_t)i;
	for (unsigned int i = 0; i < pair->rx_count; i++) {
		if (!offer_rx(pair, (uint16_t)i))
			break; /* a smaller ring */
	}
}

bool net_error_begin(struct net_pair *pair, struct line *line, const char *kind)
{
	if (!io_error_begin(pair->cpu, line, kind, pair->nic->dev->index))
		return false;
	line_decimal(line, " pair=", pair->number);
	return true;
}

static void report_number(struct net_pair *pair, const char *kind,
			  const char *name, uint64_t value)
{
	struct line line;

	if (!net_error_begin(pair, &line, kind))
		return;
	line_decimal(&line, name, value);
	io_error_end(&line);
}

static void break_queue(struct net_pair *pair, struct vdev_queue *queue,
			enum virtq_event event)
{
	queue->is_broken = true;
	io_break(pair->cpu->io, pair->nic->dev);
	report_number(pair, event == VIRTQ_JUMPED ? "jumped" : "unknown",
		      " queue=", queue->index);
}

static uint8_t *tx_buffer(const struct net_pair *pair, uint16_t number)
{
	return pair->tx_buffers + (uint64_t)number * pair->tx_size + NET_SHIFT;
}

uint8_t *net_frame(struct net_pair *pair)
{
	if (!pair->tx_idle_count || !pair->tx->vq.free_descs)
		return NULL;
	return tx_buffer(pair, pair->tx_idle[pair->tx_idle_count - 1]) +
	       NET_HEADER;
}

void net_send(struct net_pair *pair, uint32_t size)
{
	uint16_t number = pair->tx_idle[pair->tx_idle_count - 1];
	uint8_t *buffer = tx_buffer(pair, number);
	const struct virtq_buffer whole = { (uint64_t)buffer,
					    (uint32_t)NET_HEADER + size };

	*(struct virtio_net_hdr_v1 *)buffer = (struct virtio_net_hdr_v1){
		.gso_type = VIRTIO_NET_HDR_GSO_NONE,
	};
	if (virtq_add(&pair->tx->vq, &whole, 1, 0, number))
		pair->tx_idle_count--;
	pair->counts.sent++;
}

void net_reap(struct net_pair *pair, uint64_t now)
{
	enum virtq_event event;
	unsigned int taken = 0;
	uint16_t number;
	uint32_t size;

	while ((event = virtq_take(&pair->tx->vq, &number, &size)) ==
	       VIRTQ_USED) {
		pair->tx_idle[pair->tx_idle_count++] = number;
		taken++;
	}
	if (event != VIRTQ_NONE)
		break_queue(pair, pair->tx, event);
	else
		irq_look(pair->cpu, pair->nic->dev, pair->tx, now, taken);
}

/*
 * Puts one more buffer to the frame that is being put together.  Returns it when
 * it is whole, and NULL when there are buffers to come or it makes no sense.
 */
static const uint8_t *join(struct net_pair *pair, const uint8_t *buffer,
			   uint32_t size, uint32_t *ret_size)
{
	const struct virtio_net_hdr_v1 *header = (const void *)buffer;
	struct net_parts *parts = &pair->parts;

	if (!parts->missing) {
		/* Not all devices set it when it can only be 1. */
		uint16_t buffers =
			vdev_has(pair->nic->dev, VIRTIO_NET_F_MRG_RXBUF)
				? header->num_buffers
				: 1;

		if (size < NET_HEADER || !buffers || buffers > pair->rx_count) {
			report_number(pair, "header", " buffers=", buffers);
			return NULL;
		}
		if (buffers == 1) {
			*ret_size = size;
			return buffer;
		}
		parts->missing = buffers;
		parts->size = 0;
	}
	if (size > PARTS_SIZE - NET_SHIFT - parts->size) {
		report_number(pair, "length", " bytes=", parts->size + size);
		parts->missing = 0;
		return NULL;
	}
	frame_copy(parts->frame + NET_SHIFT + parts->size, buffer, size);
	parts->size += size;
	if (--parts->missing)
		return NULL;
	pair->counts.merged++;
	*ret_size = parts->size;
	return parts->frame + NET_SHIFT;
}

void net_receive(struct net_pair *pair, uint64_t now,
		 void (*handle)(struct net_pair *pair, const uint8_t *frame,
				uint32_t size))
{
	enum virtq_event event = VIRTQ_NONE;
	unsigned int taken = 0;
	uint16_t number;
	uint32_t size;

	for (; taken < pair->rx_count; taken++) {
		const uint8_t *whole = NULL;

		event = virtq_take(&pair->rx->vq, &number, &size);
		if (event != VIRTQ_USED)
			break;
		if (size > pair->rx_size - NET_SHIFT)
			report_number(pair, "length", " bytes=", size);
		else
			whole = join(pair, rx_buffer(pair, number), size,
				     &size);
		if (whole) {
			pair->counts.received++;
			handle(pair, whole + NET_HEADER,
			       size - (uint32_t)NET_HEADER);
		}
		offer_rx(pair, number);
	}
	if (event == VIRTQ_UNKNOWN || event == VIRTQ_JUMPED)
		break_queue(pair, pair->rx, event);
	else
		irq_look(pair->cpu, pair->nic->dev, pair->rx, now, taken);
}
