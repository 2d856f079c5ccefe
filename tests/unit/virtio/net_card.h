/* SPDX-License-Identifier: Apache-2.0 */
/* A network card over a tap, its driver, and the host's end of the tap.  The
 * test's program wraps what driver.h says. */
#ifndef GODWIT_TESTS_VIRTIO_NET_CARD_H
#define GODWIT_TESTS_VIRTIO_NET_CARD_H

#include <arpa/inet.h>
#include <errno.h>

#include "driver.h"
#include "tap_net.h"
#include "virtio/net.h"
#include "virtio/net_priv.h"
#include "virtio/net_tap.h"

#define BIT(feature) (1ull << VIRTIO_NET_F_##feature)
#define CONTROL      (BIT(CTRL_VQ) | BIT(CTRL_RX) | BIT(MQ))

#define TAP       "tap7"
#define HEADER    12u
#define PAIRS_MAX 4u

static const uint8_t mac[6] = { 0x52, 0x54, 0, 0x67, 0, 0 };

struct card {
	struct driver driver;
	int wire; /* the host's end; -1: not open */
};

static inline int build(struct card *f, const char *text, bool is_incoming)
{
	memset(f, 0, sizeof(*f));
	driver_init(&f->driver, "net0");
	f->driver.site.is_incoming = is_incoming;
	f->wire = -1;
	return net_new(&f->driver.site, text, &f->driver.dev, &f->driver.err);
}

static inline void open_wire(struct card *f, bool has_header)
{
	f->wire = tap_net_socket(TAP, has_header);
}

static inline int setup(void **state)
{
	struct card *f = calloc(1, sizeof(*f));

	if (build(f, "tap=" TAP ",queues=4", false))
		fail_msg("%s", err_msg(&f->driver.err));
	open_wire(f, false);
	*state = f;
	return 0;
}

static inline void fixture_fini(struct card *f)
{
	driver_fini(&f->driver);
	if (f->wire >= 0)
		close(f->wire);
}

static inline int teardown(void **state)
{
	fixture_fini(*state);
	free(*state);
	/* The tap was the device's. */
	assert_int_equal(if_nametoindex(TAP), 0);
	return 0;
}

static inline struct net_tap_counts counts_of(struct card *f)
{
	struct net_tap_counts counts;

	driver_pause(&f->driver);
	net_tap_counts(net_of(f->driver.dev)->backend, &counts);
	vdev_run(f->driver.dev);
	return counts;
}

/* A receive buffer, the @index-th, of @size bytes. */
static inline void give_buffer(struct card *f, unsigned int queue,
			       unsigned int index, uint32_t size)
{
	const struct driver_buffer buffer = { driver_buffer(queue, index), size,
					      true };

	driver_add(&f->driver, queue, &buffer, 1);
}

static inline void give_more_buffers(struct card *f, unsigned int queue,
				     unsigned int from, unsigned int count,
				     uint32_t size)
{
	for (unsigned int i = from; i < from + count; i++)
		give_buffer(f, queue, i, size);
	driver_kick(&f->driver, queue);
}

static inline void give_buffers(struct card *f, unsigned int queue,
				unsigned int count, uint32_t size)
{
	give_more_buffers(f, queue, 0, count, size);
}

static inline void send_wire(struct card *f, const uint8_t *frame, size_t size)
{
	assert_int_equal(send(f->wire, frame, size, 0), (ssize_t)size);
}

/* The driver sends @frame behind a header of zeroes, in @pieces buffers. */
static inline void send_driver_as(struct card *f, unsigned int queue,
				  unsigned int index, const uint8_t *header,
				  const uint8_t *frame, uint32_t size)
{
	uint64_t gpa = driver_buffer(queue, index);
	const struct driver_buffer buffers[] = {
		{ gpa, HEADER, false },
		{ gpa + HEADER, size, false },
	};

	memcpy(driver_at(&f->driver, gpa), header, HEADER);
	memcpy(driver_at(&f->driver, gpa + HEADER), frame, size);
	driver_add(&f->driver, queue, buffers, 2);
}

static inline void send_driver(struct card *f, unsigned int queue,
			       const uint8_t *frame, uint32_t size)
{
	const uint8_t header[HEADER] = { 0 };

	send_driver_as(f, queue, 0, header, frame, size);
	driver_kick(&f->driver, queue);
}

static inline void expect_wire(struct card *f, const uint8_t *frame,
			       size_t size)
{
	uint8_t bytes[2048];

	assert_int_equal(recv(f->wire, bytes, sizeof(bytes), 0), (ssize_t)size);
	assert_memory_equal(bytes, frame, size);
}

/* The next packet in the buffers of @buffer_size: @frame behind a header. */
static inline struct virtio_net_hdr_v1
expect_driver(struct card *f, unsigned int queue, const uint8_t *frame,
	      uint32_t size, uint32_t buffer_size)
{
	uint32_t whole = size + HEADER, done = 0, piece;
	struct virtio_net_hdr_v1 header;
	uint8_t bytes[70000];
	unsigned int count;
	uint16_t head;

	for (count = 0; done < whole; count++) {
		struct vring_desc *descs =
			driver_at(&f->driver, f->driver.queues[queue].rings);

		piece = driver_take(&f->driver, queue, &head);
		assert_true(piece > 0 && piece <= buffer_size);
		memcpy(bytes + done, driver_at(&f->driver, descs[head].addr),
		       piece);
		done += piece;
		assert_true(done == whole || piece == buffer_size);
	}
	assert_int_equal(done, whole);
	memcpy(&header, bytes, HEADER);
	assert_int_equal(header.num_buffers, count);
	assert_memory_equal(bytes + HEADER, frame, size);
	return header;
}

/* A UDP datagram over IPv4 that says nothing about checksums, as large as they
 * get: @size bytes with all headers. */
static inline void datagram_fill(uint8_t *frame, uint16_t size,
				 const uint8_t to[6])
{
	uint8_t *ip = frame + 14, *udp = ip + 20;
	uint16_t ip_size = htons((uint16_t)(size - 14));
	uint16_t udp_size = htons((uint16_t)(size - 34));
	const uint8_t start[] = { 0x45, 0, 0,  0, 0, 1, 0,  0, 64, 17,
				  0,    0, 10, 0, 0, 1, 10, 0, 0,  2 };
	uint32_t sum = 0;

	frame_fill(frame, size, to, 9);
	frame[12] = 0x08;
	frame[13] = 0x00;
	memcpy(ip, start, sizeof(start));
	memcpy(ip + 2, &ip_size, 2);
	for (unsigned int i = 0; i < 20; i += 2)
		sum += (uint32_t)ip[i] << 8 | ip[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~(sum + (sum >> 16));
	ip[10] = (uint8_t)(sum >> 8);
	ip[11] = (uint8_t)sum;
	memcpy(udp, (uint8_t[]){ 0x30, 0x39, 0x30, 0x3a }, 4);
	memcpy(udp + 4, &udp_size, 2);
	memset(udp + 6, 0, 2);
}

#endif
