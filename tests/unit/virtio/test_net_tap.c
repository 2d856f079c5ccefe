// SPDX-License-Identifier: Apache-2.0
/* Packets between a driver and a real tap, in a network namespace of the test's
 * own. */
#include <cmocka.h>
#include <sys/uio.h>

#include "mem/grace.h"
#include "net_card.h"

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

/* ---- packets ---- */

static void test_frames_pass_both_ways(void **state)
{
	struct card *f = *state;
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
	struct card *f = *state;
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
	struct card *f = *state;
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
	struct card *f = *state;
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
	struct card *f = *state;
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
	struct card *f = *state;
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

static void send_segment(struct card *f, uint8_t *frame, uint16_t size)
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
	struct card *f = *state;
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
	struct card *f = *state;
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
	struct card *f = *state;

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
	struct card *f = *state;
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

/* Not the whole header, and not all of the address, in the first buffers. */
static void test_filter_reads_an_address_that_is_cut(void **state)
{
	struct card *f = *state;
	const uint8_t other[6] = { 0x52, 0x54, 0, 0x67, 0, 1 };
	struct net *net = net_of(f->driver.dev);
	uint8_t frame[60];

	net->filter.is_promisc = 0;
	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	give_buffers(f, 0, 200, 5);
	frame_fill(frame, sizeof(frame), other, 5);
	send_wire(f, frame, sizeof(frame));
	frame_fill(frame, sizeof(frame), mac, 7);
	send_wire(f, frame, sizeof(frame));
	expect_driver(f, 0, frame, sizeof(frame), 5);
}

static void test_filter_keeps_other_stations_packets_away(void **state)
{
	struct card *f = *state;
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

/* A vCPU's write to the status register is inside an RCU read section. */
static void
test_start_with_another_filter_does_not_wait_for_readers(void **state)
{
	struct card *f = *state;
	struct net *net = net_of(f->driver.dev);

	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	rcu_read_lock();
	driver_reset(&f->driver);
	net->filter.mac[5] ^= 1;
	assert_true(driver_start(&f->driver, BIT(MRG_RXBUF)));
	rcu_read_unlock();
}

/* ---- a driver that is wrong ---- */

static void test_nonsense_is_dropped_and_what_follows_passes(void **state)
{
	struct card *f = *state;
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
	struct card *f = *state;
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
	struct card *f = *state;
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
		TEST(test_filter_reads_an_address_that_is_cut),
		TEST(test_filter_keeps_other_stations_packets_away),
		TEST(test_start_with_another_filter_does_not_wait_for_readers),
		TEST(test_nonsense_is_dropped_and_what_follows_passes),
		TEST(test_chains_that_are_no_packets_are_dropped),
		TEST(test_full_tap_holds_packets_back),
	};

	if (!tap_net_enter())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
