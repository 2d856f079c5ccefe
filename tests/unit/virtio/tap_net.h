/* SPDX-License-Identifier: Apache-2.0 */
/* A network namespace of the test's own, and the host's end of a tap in it: a
 * packet socket. */
#ifndef GODWIT_TESTS_VIRTIO_TAP_NET_H
#define GODWIT_TESTS_VIRTIO_TAP_NET_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define TAP_NET_LIMIT_MS 30000

/* The first bytes of frames that are the test's. */
#define FRAME_TYPE 0x88b5 /* local experiments */

static inline void tap_net_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (write(fd, text, strlen(text)) < 0)
			print_message("%s: not written\n", path);
		close(fd);
	}
}

/* Before the first thread.  False, having said why: there can be none. */
static inline bool tap_net_enter(void)
{
	int fd;

	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET)) {
		printf("skipped: no network namespace can be made\n");
		return false;
	}
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		printf("skipped: no /dev/net/tun that may be used\n");
		return false;
	}
	close(fd);
	/* Only what a test sends is to be seen. */
	tap_net_write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
	return true;
}

/* ioctl() of an interface: @data is what ethtool's point at. */
static inline int tap_net_ioctl(const char *name, unsigned long code,
				struct ifreq *request)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int ret;

	assert_true(fd >= 0);
	snprintf(request->ifr_name, IFNAMSIZ, "%s", name);
	ret = ioctl(fd, code, request);
	close(fd);
	return ret;
}

/* A tap that stays until its returned fd, of an attached queue, is closed. */
static inline int tap_net_make(const char *name, int flags)
{
	struct ifreq request = { .ifr_flags = (short)flags };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
	assert_int_equal(ioctl(fd, TUNSETIFF, &request), 0);
	return fd;
}

static inline void tap_net_persist(int fd, bool is_persistent)
{
	assert_int_equal(ioctl(fd, TUNSETPERSIST, is_persistent), 0);
}

static inline void tap_net_up(const char *name)
{
	struct ifreq request = { .ifr_flags = 0 };

	assert_int_equal(tap_net_ioctl(name, SIOCGIFFLAGS, &request), 0);
	request.ifr_flags |= IFF_UP;
	assert_int_equal(tap_net_ioctl(name, SIOCSIFFLAGS, &request), 0);
}

/* Queues that are attached. */
static inline unsigned int tap_net_queues(const char *name)
{
	struct ethtool_channels channels = { .cmd = ETHTOOL_GCHANNELS };
	struct ifreq request = { .ifr_data = (char *)&channels };

	assert_int_equal(tap_net_ioctl(name, SIOCETHTOOL, &request), 0);
	return channels.combined_count;
}

/* One of the kernel's switches: ETHTOOL_GTXCSUM, ETHTOOL_GTSO. */
static inline bool tap_net_has(const char *name, uint32_t command)
{
	struct ethtool_value value = { .cmd = command };
	struct ifreq request = { .ifr_data = (char *)&value };

	assert_int_equal(tap_net_ioctl(name, SIOCETHTOOL, &request), 0);
	return value.data != 0;
}

/* The host's end; frames with a struct virtio_net_hdr in front when
 * @has_header. */
static inline int tap_net_socket(const char *name, bool has_header)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET,
				       .sll_protocol = htons(ETH_P_ALL) };
	struct timeval limit = { .tv_sec = TAP_NET_LIMIT_MS / 1000 };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
	int on = has_header, large = 8 << 20;

	assert_true(fd >= 0);
	address.sll_ifindex = (int)if_nametoindex(name);
	assert_int_equal(
		setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)),
		0);
	on = 1;
	assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on,
				    sizeof(on)),
			 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof(large));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)),
			 0);
	return fd;
}

/* A frame of @size bytes to the station @to, filled from @seed on. */
static inline void frame_fill(uint8_t *frame, size_t size, const uint8_t to[6],
			      uint8_t seed)
{
	const uint8_t from[6] = { 0x02, 0, 0, 0, 0, 0x99 };

	memcpy(frame, to, 6);
	memcpy(frame + 6, from, 6);
	frame[12] = FRAME_TYPE >> 8;
	frame[13] = FRAME_TYPE & 0xff;
	for (size_t i = 14; i < size; i++)
		frame[i] = (uint8_t)(seed + i);
}

#endif
