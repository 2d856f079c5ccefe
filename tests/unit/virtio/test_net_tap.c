// SPDX-License-Identifier: Apache-2.0
/* Packets between a driver and real taps, in a network namespace of the test's own. */
#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <sys/uio.h>

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

struct fixture {
	struct driver driver;
	int wire; /* the host's end; -1: not open */
};

/* writev() finds the tap full that often. */
static _Atomic unsigned int full_times;

ssize_t __wrap_writev(int fd, const struct iovec *iovecs, int count);
ssize_t __real_writev(int fd, const struct iovec *iovecs, int count);

ssize_t __wrap_writev(int fd, const struct iovec *iovecs, int count)
{
	if (full_times) {
		full_times--;
		errno = EAGAIN;
		return -1;
	}
	return __real_writev(fd, iovecs, count);
}

static int build(struct fixture *f, const char *text, bool is_incoming)
{
	memset(f, 0, sizeof(*f));
	driver_init(&f->driver, "net0");
	f->driver.site.is_incoming = is_incoming;
	f->wire = -1;
	return net_new(&f->driver.site, text, &f->driver.dev, &f->driver.err);
}

static void open_wire(struct fixture *f, bool has_header)
{
	f->wire = tap_net_socket(TAP, has_header);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (build(f, "tap=" TAP ",queues=4", false))
		fail_msg("%s", err_msg(&f->driver.err));
	open_wire(f, false);
	*state = f;
	return 0;
}

static void fixture_fini(struct fixture *f)
{
	driver_fini(&f->driver);
	if (f->wire >= 0)
		close(f->wire);
}

static int teardown(void **state)
{
	fixture_fini(*state);
	free(*state);
	/* The tap was the device's. */
	assert_int_equal(if_nametoindex(TAP), 0);
	return 0;
}

static struct net_tap_counts counts_of(struct fixture *f)
{
	struct net_tap_counts counts;

	driver_pause(&f->driver);
	net_tap_counts(net_of(f->driver.dev)->backend, &counts);
	vdev_run(f->driver.dev);
	return counts;
}

/* A receive buffer, the @index-th, of @size bytes. */
static void give_buffer(struct fixture *f, unsigned int queue,
			unsigned int index, uint32_t size)
{
	const struct driver_buffer buffer = { driver_buffer(queue, index), size,
					      true };

	driver_add(&f->driver, queue, &buffer, 1);
}

static void give_more_buffers(struct fixture *f, unsigned int queue,
			      unsigned int from, unsigned int count,
			      uint32_t size)
{
	for (unsigned int i = from; i < from + count; i++)
		give_buffer(f, queue, i, size);
	driver_kick(&f->driver, queue);
}

static void give_buffers(struct fixture *f, unsigned int queue,
			 unsigned int count, uint32_t size)
{
	give_more_buffers(f, queue, 0, count, size);
}

static void send_wire(struct fixture *f, const uint8_t *frame, size_t size)
{
	assert_int_equal(send(f->wire, frame, size, 0), (ssize_t)size);
}

/* The driver sends @frame behind a header of zeroes, in @pieces buffers. */
static void send_driver_as(struct fixture *f, unsigned int queue,
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

static void send_driver(struct fixture *f, unsigned int queue,
			const uint8_t *frame, uint32_t size)
{
	const uint8_t header[HEADER] = { 0 };

	send_driver_as(f, queue, 0, header, frame, size);
	driver_kick(&f->driver, queue);
}

static void expect_wire(struct fixture *f, const uint8_t *frame, size_t size)
{
	uint8_t bytes[2048];

	assert_int_equal(recv(f->wire, bytes, sizeof(bytes), 0), (ssize_t)size);
	assert_memory_equal(bytes, frame, size);
}

/* The next packet in the buffers of @buffer_size: @frame behind a header. */
static struct virtio_net_hdr_v1
expect_driver(struct fixture *f, unsigned int queue, const uint8_t *frame,
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

static void set_pairs(struct fixture *f, uint16_t pairs)
{
	unsigned int queue = f->driver.dev->queue_count - 1;
	uint64_t gpa = driver_buffer(queue, 0);
	const struct driver_buffer buffers[] = { { gpa, 4, false },
						 { gpa + 64, 1, true } };
	uint8_t *bytes = driver_at(&f->driver, gpa);

	bytes[0] = VIRTIO_NET_CTRL_MQ;
	bytes[1] = VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
	memcpy(bytes + 2, &pairs, 2);
	driver_add(&f->driver, queue, buffers, 2);
	driver_kick(&f->driver, queue);
	driver_take(&f->driver, queue, NULL);
	assert_int_equal(bytes[64], VIRTIO_NET_OK);
}

/* ---- packets ---- */

static void test_frames_pass_both_ways(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[1514];

	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	give_buffers(f, 0, 128, 1600);
	for (unsigned int i = 0; i < 100; i++) {
		uint32_t size = 60 + 14 * i;

		frame_fill(frame, size, mac, (uint8_t)i);
		send_wire(f, frame, size);
		expect_driver(f, 0, frame, size, 1600);
		send_driver(f, 1, frame, size);
		expect_wire(f, frame, size);
		driver_take(&f->driver, 1, NULL);
	}
	assert_int_equal(counts_of(f).received, 100);
	assert_int_equal(counts_of(f).sent, 100);
}

static void test_packet_takes_several_buffers(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[1514];

	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	give_buffers(f, 0, 64, 100);
	frame_fill(frame, sizeof(frame), mac, 1);
	send_wire(f, frame, sizeof(frame));
	expect_driver(f, 0, frame, sizeof(frame), 100);
	send_wire(f, frame, 60);
	expect_driver(f, 0, frame, 60, 100);
}

static void test_packet_waits_for_buffers(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[1514];

	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	frame_fill(frame, sizeof(frame), mac, 2);
	send_wire(f, frame, sizeof(frame));
	give_more_buffers(f, 0, 0, 5, 100);
	give_more_buffers(f, 0, 5, 5, 100);
	give_more_buffers(f, 0, 10, 6, 100);
	expect_driver(f, 0, frame, sizeof(frame), 100);
	assert_int_equal(counts_of(f).rx_dropped, 0);
}

static void test_packet_larger_than_the_only_buffer_is_dropped(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[1514];

	assert_true(driver_start(&f->driver, 0));
	give_buffers(f, 0, 2, 1000);
	frame_fill(frame, sizeof(frame), mac, 3);
	send_wire(f, frame, sizeof(frame));
	send_wire(f, frame, 988);
	expect_driver(f, 0, frame, 988, 1000);
	assert_int_equal(counts_of(f).rx_dropped, 1);
	assert_int_equal(counts_of(f).received, 1);
}

static void test_packet_larger_than_all_buffers_is_dropped(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[1514];

	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	/* One byte each: no window is ever large enough. */
	give_buffers(f, 0, 200, 1);
	frame_fill(frame, sizeof(frame), mac, 4);
	send_wire(f, frame, sizeof(frame));
	send_wire(f, frame, 60);
	expect_driver(f, 0, frame, 60, 1);
	assert_int_equal(counts_of(f).rx_dropped, 1);
}

static void test_buffer_that_is_to_be_read_breaks_the_device(void **state)
{
	struct fixture *f = *state;
	const struct driver_buffer buffer = { driver_buffer(0, 0), 1600,
					      false };

	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	driver_add(&f->driver, 0, &buffer, 1);
	driver_kick(&f->driver, 0);
	while (!driver_is_broken(&f->driver))
		sched_yield();
	driver_reset(&f->driver);
	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	assert_false(driver_is_broken(&f->driver));
}

/* A UDP datagram over IPv4 that says nothing about checksums, as large as they
 * get: @size bytes with all headers. */
static void datagram_fill(uint8_t *frame, uint16_t size, const uint8_t to[6])
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

/* A TCP segment with a checksum that is still to be made; sent by the host as one
 * packet of @size bytes. */
static void segment_fill(uint8_t *frame, uint16_t size, const uint8_t to[6],
			 struct virtio_net_hdr *header)
{
	uint8_t *tcp = frame + 34;
	uint32_t sum;

	datagram_fill(frame, size, to);
	frame[14 + 9] = 6; /* TCP, 11 less than UDP: so the sum is more */
	sum = ((uint32_t)frame[24] << 8 | frame[25]) + 11;
	sum = (sum & 0xffff) + (sum >> 16);
	frame[24] = (uint8_t)(sum >> 8);
	frame[25] = (uint8_t)sum;
	memset(tcp, 0, 20);
	memcpy(tcp, (uint8_t[]){ 0x30, 0x39, 0x30, 0x3a }, 4);
	tcp[12] = 5 << 4;
	tcp[13] = 0x10; /* ACK */
	*header = (struct virtio_net_hdr){
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
		.hdr_len = 54,
		.gso_size = 1400,
		.csum_start = 34,
		.csum_offset = 16,
	};
}

static void send_segment(struct fixture *f, uint8_t *frame, uint16_t size)
{
	struct virtio_net_hdr header;
	struct iovec iovecs[2] = { { &header, sizeof(header) },
				   { frame, size } };

	segment_fill(frame, size, mac, &header);
	assert_int_equal(__real_writev(f->wire, iovecs, 2),
			 (ssize_t)(sizeof(header) + size));
}

#define OFFLOADS (BIT(GUEST_CSUM) | BIT(GUEST_TSO4))

static void
test_large_packet_comes_whole_to_a_driver_that_takes_it(void **state)
{
	struct fixture *f = *state;
	static uint8_t frame[60000];
	struct virtio_net_hdr_v1 header;

	close(f->wire);
	open_wire(f, true);
	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF) | OFFLOADS));
	assert_true(tap_net_has(TAP, ETHTOOL_GTSO));
	give_buffers(f, 0, 120, 1500);
	/* Before and after it is known that they are large. */
	for (unsigned int i = 0; i < 3; i++) {
		send_segment(f, frame, sizeof(frame));
		header = expect_driver(f, 0, frame, sizeof(frame), 1500);
		assert_int_equal(header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
		assert_int_equal(header.gso_size, 1400);
		assert_int_equal(header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
		give_buffers(f, 0, 41, 1500);
	}
}

static void test_large_packet_comes_in_pieces_to_a_driver_without(void **state)
{
	struct fixture *f = *state;
	static uint8_t frame[14000 + 54];
	struct virtio_net_hdr_v1 *header =
		driver_at(&f->driver, driver_buffer(0, 0));

	close(f->wire);
	open_wire(f, true);
	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	assert_false(tap_net_has(TAP, ETHTOOL_GTSO));
	assert_false(tap_net_has(TAP, ETHTOOL_GTXCSUM));
	give_buffers(f, 0, 64, 1600);
	send_segment(f, frame, sizeof(frame));
	for (unsigned int i = 0; i < 10; i++)
		assert_int_equal(driver_take(&f->driver, 0, NULL),
				 HEADER + 1454);
	assert_int_equal(header->gso_type, VIRTIO_NET_HDR_GSO_NONE);
	assert_int_equal(header->flags, 0);
}

static void test_offloads_follow_the_driver_at_each_start(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, BIT(GUEST_CSUM)));
	assert_true(tap_net_has(TAP, ETHTOOL_GTXCSUM));
	assert_false(tap_net_has(TAP, ETHTOOL_GTSO));
	driver_reset(&f->driver);
	assert_true(driver_start(&f->driver, OFFLOADS));
	assert_true(tap_net_has(TAP, ETHTOOL_GTSO));
	driver_reset(&f->driver);
	assert_true(driver_start(&f->driver, 0));
	assert_false(tap_net_has(TAP, ETHTOOL_GTXCSUM));
}

static void test_driver_sends_a_large_packet(void **state)
{
	struct fixture *f = *state;
	static uint8_t frame[1800];
	struct virtio_net_hdr_v1 header = { 0 };
	uint8_t bytes[2048];

	close(f->wire);
	open_wire(f, true);
	assert_true(driver_start(&f->driver, BIT(CSUM) | BIT(HOST_TSO4)));
	segment_fill(frame, sizeof(frame), mac,
		     (struct virtio_net_hdr *)&header);
	send_driver_as(f, 1, 0, (uint8_t *)&header, frame, sizeof(frame));
	driver_kick(&f->driver, 1);
	driver_take(&f->driver, 1, NULL);
	assert_int_equal(recv(f->wire, bytes, sizeof(bytes), 0),
			 sizeof(struct virtio_net_hdr) + sizeof(frame));
	/* but for hdr_len, which the kernel knows better */
	assert_memory_equal(bytes, &header, 2);
	assert_memory_equal(bytes + 4, &header.gso_size, 6);
	assert_memory_equal(bytes + sizeof(struct virtio_net_hdr), frame,
			    sizeof(frame));
}

static void test_filter_keeps_other_stations_packets_away(void **state)
{
	struct fixture *f = *state;
	unsigned int queue = 2 * PAIRS_MAX;
	uint64_t gpa = driver_buffer(queue, 0);
	const struct driver_buffer buffers[] = { { gpa, 3, false },
						 { gpa + 64, 1, true } };
	const uint8_t other[6] = { 0x52, 0x54, 0, 0x67, 0, 1 };
	const uint8_t all[6] = { 255, 255, 255, 255, 255, 255 };
	uint8_t frame[60];

	assert_true(driver_start(&f->driver, CONTROL | BIT(MRG_RXBUF)));
	give_buffers(f, 0, 64, 1600);
	frame_fill(frame, sizeof(frame), other, 5);
	send_wire(f, frame, sizeof(frame));
	expect_driver(f, 0, frame, sizeof(frame), 1600);
	memset(driver_at(&f->driver, gpa), 0, 3); /* not promiscuous */
	driver_add(&f->driver, queue, buffers, 2);
	driver_kick(&f->driver, queue);
	driver_take(&f->driver, queue, NULL);
	send_wire(f, frame, sizeof(frame));
	frame_fill(frame, sizeof(frame), all, 6);
	send_wire(f, frame, sizeof(frame));
	expect_driver(f, 0, frame, sizeof(frame), 1600);
	frame_fill(frame, sizeof(frame), mac, 7);
	send_wire(f, frame, sizeof(frame));
	expect_driver(f, 0, frame, sizeof(frame), 1600);
}

/* ---- a driver that is wrong ---- */

static void test_nonsense_is_dropped_and_what_follows_passes(void **state)
{
	struct fixture *f = *state;
	const uint8_t wrong[][HEADER] = {
		{ 0, 0x77 },                         /* no such GSO type */
		{ 1, 0, 0, 0, 0, 0, 0xff, 0xff, 2 }, /* checksum past the end */
		{ 1, 1, 0xff, 0xff, 1, 0, 34, 0, 16 }, /* header too long */
		{ 1, 1, 54, 0, 0, 0, 34, 0, 16 },      /* segments of nothing */
	};
	uint8_t frame[60], zero[HEADER] = { 0 };

	assert_true(driver_start(&f->driver, 0));
	frame_fill(frame, sizeof(frame), mac, 8);
	for (size_t i = 0; i < array_size(wrong); i++) {
		send_driver_as(f, 1, (unsigned int)i, wrong[i], frame,
			       sizeof(frame));
		driver_kick(&f->driver, 1);
		driver_take(&f->driver, 1, NULL);
	}
	send_driver(f, 1, frame, sizeof(frame));
	expect_wire(f, frame, sizeof(frame));
	assert_int_equal(counts_of(f).tx_dropped, array_size(wrong));
	/* num_buffers is not for this direction. */
	memset(zero + 10, 0xff, 2);
	send_driver_as(f, 1, 5, zero, frame, sizeof(frame));
	driver_kick(&f->driver, 1);
	expect_wire(f, frame, sizeof(frame));
}

static void test_chains_that_are_no_packets_are_dropped(void **state)
{
	struct fixture *f = *state;
	uint64_t gpa = driver_buffer(1, 0);
	const struct driver_buffer chains[] = {
		{ gpa, 1, false },
		{ gpa, HEADER, false },
		{ gpa, HEADER + 13, false },
		{ gpa, 1600, true }, /* nothing to send */
		{ 0, 200000, false },
	};
	uint8_t frame[60];

	assert_true(driver_start(&f->driver, 0));
	for (size_t i = 0; i < array_size(chains); i++) {
		driver_add(&f->driver, 1, &chains[i], 1);
		driver_kick(&f->driver, 1);
		assert_int_equal(driver_take(&f->driver, 1, NULL), 0);
	}
	frame_fill(frame, sizeof(frame), mac, 8);
	send_driver(f, 1, frame, sizeof(frame));
	expect_wire(f, frame, sizeof(frame));
	assert_int_equal(counts_of(f).tx_dropped, array_size(chains));
}

static void test_full_tap_holds_packets_back(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[60];

	assert_true(driver_start(&f->driver, 0));
	full_times = 3;
	for (unsigned int i = 0; i < 4; i++) {
		const uint8_t header[HEADER] = { 0 };

		frame_fill(frame, sizeof(frame), mac, (uint8_t)i);
		send_driver_as(f, 1, i, header, frame, sizeof(frame));
	}
	driver_kick(&f->driver, 1);
	for (unsigned int i = 0; i < 4; i++) {
		frame_fill(frame, sizeof(frame), mac, (uint8_t)i);
		expect_wire(f, frame, sizeof(frame));
		driver_take(&f->driver, 1, NULL);
	}
	assert_int_equal(counts_of(f).tx_full, 3);
	assert_int_equal(counts_of(f).sent, 4);
}

/* ---- queues ---- */

static void test_only_queues_in_use_are_attached(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[60];

	assert_int_equal(tap_net_queues(TAP), 1);
	assert_true(driver_start(&f->driver, CONTROL | BIT(MRG_RXBUF)));
	assert_int_equal(tap_net_queues(TAP), 1);
	set_pairs(f, 4);
	assert_int_equal(tap_net_queues(TAP), 4);
	for (unsigned int pair = 0; pair < 4; pair++) {
		frame_fill(frame, sizeof(frame), mac, (uint8_t)pair);
		send_driver(f, 2 * pair + 1, frame, sizeof(frame));
		expect_wire(f, frame, sizeof(frame));
	}
	set_pairs(f, 2);
	assert_int_equal(tap_net_queues(TAP), 2);
	set_pairs(f, 3);
	assert_int_equal(tap_net_queues(TAP), 3);
	driver_pause(&f->driver);
	vdev_run(f->driver.dev);
	assert_int_equal(tap_net_queues(TAP), 3);
	frame_fill(frame, sizeof(frame), mac, 9);
	send_driver(f, 5, frame, sizeof(frame));
	expect_wire(f, frame, sizeof(frame));
	/* After a reset it begins with one again. */
	driver_reset(&f->driver);
	assert_true(driver_start(&f->driver, CONTROL));
	assert_int_equal(tap_net_queues(TAP), 1);
}

static void test_packets_are_spread_over_the_pairs(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[200];
	unsigned int used = 0;

	assert_true(driver_start(&f->driver, CONTROL | BIT(MRG_RXBUF)));
	set_pairs(f, 4);
	for (unsigned int pair = 0; pair < 4; pair++)
		give_buffers(f, 2 * pair, 100, 1600);
	datagram_fill(frame, sizeof(frame), mac);
	for (unsigned int i = 0; i < 64; i++) {
		frame[14 + 20] = (uint8_t)i; /* source port */
		send_wire(f, frame, sizeof(frame));
	}
	while (counts_of(f).received < 64)
		sched_yield();
	for (unsigned int pair = 0; pair < 4; pair++)
		used += driver_has_used(&f->driver, 2 * pair);
	assert_true(used > 1);
}

/* ---- stop and start, moves ---- */

static void
test_packets_sent_while_it_stops_and_starts_go_out_once(void **state)
{
	struct fixture *f = *state;
	const uint8_t header[HEADER] = { 0 };
	const unsigned int rounds = 40, burst = 50;
	unsigned int sent = 0, seen = 0;
	uint8_t frame[64], bytes[2048];

	assert_true(driver_start(&f->driver, 0));
	for (unsigned int round = 0; round < rounds; round++) {
		for (unsigned int i = 0; i < burst; i++, sent++) {
			frame_fill(frame, 60, mac, 0);
			memcpy(frame + 20, &sent, sizeof(sent));
			send_driver_as(f, 1, i, header, frame, 60);
		}
		driver_kick(&f->driver, 1);
		driver_pause(&f->driver);
		vdev_run(f->driver.dev);
		for (unsigned int i = 0; i < burst; i++)
			driver_take(&f->driver, 1, NULL);
	}
	for (; seen < sent; seen++) {
		unsigned int number;

		assert_int_equal(recv(f->wire, bytes, sizeof(bytes), 0), 60);
		memcpy(&number, bytes + 20, sizeof(number));
		assert_int_equal(number, seen);
	}
}

static void test_packets_that_come_while_it_is_stopped_wait(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[60];

	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	give_buffers(f, 0, 64, 1600);
	driver_pause(&f->driver);
	frame_fill(frame, sizeof(frame), mac, 1);
	send_wire(f, frame, sizeof(frame));
	assert_false(driver_has_used(&f->driver, 0));
	vdev_run(f->driver.dev);
	expect_driver(f, 0, frame, sizeof(frame), 1600);
}

static int claim(struct fixture *f)
{
	return f->driver.dev->type->claim(f->driver.dev, &f->driver.err);
}

/* disclaim is not waited for, but by a claim. */
static void await_queues(unsigned int count)
{
	while (tap_net_queues(TAP) != count)
		sched_yield();
}

static void test_move_within_a_host_hands_the_tap_over(void **state)
{
	struct fixture *f = *state, *to = calloc(1, sizeof(*to));
	uint8_t frame[60];

	assert_true(driver_start(&f->driver, CONTROL | BIT(MRG_RXBUF)));
	set_pairs(f, 2);
	give_buffers(f, 0, 64, 1600);
	give_buffers(f, 2, 64, 1600);
	if (build(to, "tap=" TAP ",queues=4", true))
		fail_msg("%s", err_msg(&to->driver.err));
	/* It takes nothing from the source yet. */
	assert_int_equal(tap_net_queues(TAP), 2);
	driver_pause(&f->driver);
	driver_move(&f->driver, &to->driver);
	f->driver.dev->type->disclaim(f->driver.dev);
	await_queues(0);
	assert_int_equal(claim(to), 0);
	assert_int_equal(tap_net_queues(TAP), 2);
	vdev_run(to->driver.dev);
	for (unsigned int i = 0; i < 20; i++) {
		frame_fill(frame, sizeof(frame), mac, (uint8_t)i);
		send_wire(f, frame, sizeof(frame));
	}
	while (counts_of(to).received < 20)
		sched_yield();
	frame_fill(frame, sizeof(frame), mac, 77);
	send_driver(to, 1, frame, sizeof(frame));
	expect_wire(f, frame, sizeof(frame));
	fixture_fini(to);
	free(to);
}

static void test_move_that_fails_gives_the_tap_back(void **state)
{
	struct fixture *f = *state, *to = calloc(1, sizeof(*to));
	uint8_t frame[60];

	assert_true(driver_start(&f->driver, CONTROL | BIT(MRG_RXBUF)));
	give_buffers(f, 0, 64, 1600);
	assert_int_equal(build(to, "tap=" TAP ",queues=4", true), 0);
	driver_pause(&f->driver);
	driver_move(&f->driver, &to->driver);
	f->driver.dev->type->disclaim(f->driver.dev);
	assert_int_equal(claim(to), 0);
	to->driver.dev->type->disclaim(to->driver.dev);
	assert_int_equal(claim(f), 0);
	await_queues(1);
	vdev_run(f->driver.dev);
	for (unsigned int i = 0; i < 20; i++) {
		frame_fill(frame, sizeof(frame), mac, (uint8_t)i);
		send_wire(f, frame, sizeof(frame));
		expect_driver(f, 0, frame, sizeof(frame), 1600);
	}
	fixture_fini(to);
	free(to);
	send_wire(f, frame, sizeof(frame));
	expect_driver(f, 0, frame, sizeof(frame), 1600);
}

static void test_lesson_switches_learn_where_the_guest_is(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[2048];
	const uint8_t head[] = { 255,  255,  255,  255, 255,  255,  0x52,
				 0x54, 0,    0x67, 0,   0,    0x80, 0x35,
				 0,    1,    8,    0,   6,    4,    0,
				 3,    0x52, 0x54, 0,   0x67, 0,    0 };

	assert_true(driver_start(&f->driver, 0));
	f->driver.dev->type->arrived(f->driver.dev);
	for (unsigned int i = 0; i < 5; i++) {
		assert_int_equal(recv(f->wire, bytes, sizeof(bytes), 0), 60);
		assert_memory_equal(bytes, head, sizeof(head));
	}
}

/* ---- taps that are there ---- */

static void expect_refused(const char *text, bool is_incoming, int code,
			   const char *message)
{
	struct fixture f;

	assert_int_equal(build(&f, text, is_incoming), code);
	assert_string_equal(err_msg(&f.driver.err), message);
	fixture_fini(&f);
}

static void test_tap_with_one_queue_is_one_process_s(void **state)
{
	int fd = tap_net_make("single", IFF_TAP | IFF_NO_PI);
	struct fixture f;

	(void)state;
	tap_net_persist(fd, true);
	expect_refused("tap=single", true, -EBUSY,
		       "single is in use, and has one queue only (made "
		       "without multi_queue)");
	close(fd);
	expect_refused("tap=single,queues=2", false, -EINVAL,
		       "single has one queue (made without multi_queue), "
		       "not 2");
	tap_net_up("single");
	assert_int_equal(build(&f, "tap=single", true), 0);
	assert_int_equal(claim(&f), 0);
	assert_true(driver_start(&f.driver, BIT(MRG_RXBUF)));
	f.driver.dev->type->disclaim(f.driver.dev);
	assert_int_equal(claim(&f), 0);
	fixture_fini(&f);
	fd = tap_net_make("single", IFF_TAP | IFF_NO_PI);
	tap_net_persist(fd, false);
	close(fd);
}

static void test_tap_that_stays_is_left_with_no_queue_attached(void **state)
{
	int fd = tap_net_make("many", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE);
	struct fixture f;

	(void)state;
	tap_net_persist(fd, true);
	close(fd);
	assert_int_equal(build(&f, "tap=many,queues=3", true), 0);
	assert_int_equal(tap_net_queues("many"), 0);
	assert_int_equal(claim(&f), 0);
	assert_int_equal(tap_net_queues("many"), 1);
	fixture_fini(&f);
	assert_true(if_nametoindex("many") != 0);
	assert_int_equal(tap_net_queues("many"), 0);
	fd = tap_net_make("many", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE);
	tap_net_persist(fd, false);
	close(fd);
}

static void test_what_is_no_tap_is_refused(void **state)
{
	int fd = tap_net_make("tun", IFF_TUN | IFF_NO_PI);

	(void)state;
	expect_refused("tap=lo", false, -EINVAL, "lo is no tap");
	expect_refused("tap=tun", true, -EINVAL, "tun is no tap");
	expect_refused("tap=a-name-too-long-for-it", false, -EINVAL,
		       "'a-name-too-long-for-it' is no name of an interface "
		       "(1 to 15 characters)");
	close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_frames_pass_both_ways),
		TEST(test_packet_takes_several_buffers),
		TEST(test_packet_waits_for_buffers),
		TEST(test_packet_larger_than_the_only_buffer_is_dropped),
		TEST(test_packet_larger_than_all_buffers_is_dropped),
		TEST(test_buffer_that_is_to_be_read_breaks_the_device),
		TEST(test_large_packet_comes_whole_to_a_driver_that_takes_it),
		TEST(test_large_packet_comes_in_pieces_to_a_driver_without),
		TEST(test_offloads_follow_the_driver_at_each_start),
		TEST(test_driver_sends_a_large_packet),
		TEST(test_filter_keeps_other_stations_packets_away),
		TEST(test_nonsense_is_dropped_and_what_follows_passes),
		TEST(test_chains_that_are_no_packets_are_dropped),
		TEST(test_full_tap_holds_packets_back),
		TEST(test_only_queues_in_use_are_attached),
		TEST(test_packets_are_spread_over_the_pairs),
		TEST(test_packets_sent_while_it_stops_and_starts_go_out_once),
		TEST(test_packets_that_come_while_it_is_stopped_wait),
		TEST(test_move_within_a_host_hands_the_tap_over),
		TEST(test_move_that_fails_gives_the_tap_back),
		TEST(test_lesson_switches_learn_where_the_guest_is),
		cmocka_unit_test(test_tap_with_one_queue_is_one_process_s),
		cmocka_unit_test(
			test_tap_that_stays_is_left_with_no_queue_attached),
		cmocka_unit_test(test_what_is_no_tap_is_refused),
	};

	if (!tap_net_enter())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
