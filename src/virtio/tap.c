// SPDX-License-Identifier: Apache-2.0
/* Queues of a tap; the rules are in tap.h.  Source: linux/if_tun.h,
 * Documentation/networking/tuntap.rst. */
#include "virtio/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/err.h"
#include "base/trace.h"
#include "virtio/net.h"

/* Of linux/if_tun.h since 6.2. */
#define OFFLOAD_USO4 0x20u
#define OFFLOAD_USO6 0x40u

#define QUEUE_FLAGS (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)

struct tap {
	/* immutable after init */
	char name[IFNAMSIZ];
	unsigned int queues;
	bool is_multi, has_uso;

	/* One thread at a time */
	unsigned int active; /* queues [0, active) are attached */

	int fds[NET_PAIRS_MAX]; /* owned; -1: not opened yet */
};

static void name_request(const struct tap *tap, struct ifreq *request)
{
	memset(request, 0, sizeof(*request));
	memcpy(request->ifr_name, tap->name, sizeof(tap->name));
}

/* Opens and attaches: 0, or what the kernel said, without a message. */
static int queue_open(struct tap *tap, unsigned int queue)
{
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	int size = TAP_HEADER_SIZE;
	struct ifreq request;
	int ret = 0;

	if (fd < 0)
		return -errno;
	name_request(tap, &request);
	request.ifr_flags =
		(short)(QUEUE_FLAGS | (tap->is_multi ? IFF_MULTI_QUEUE : 0));
	if (ioctl(fd, TUNSETIFF, &request) < 0 ||
	    ioctl(fd, TUNSETVNETHDRSZ, &size) < 0)
		ret = -errno;
	if (ret)
		close(fd);
	else
		tap->fds[queue] = fd;
	return ret;
}

static int queue_attach(struct tap *tap, unsigned int queue, struct err *err)
{
	struct ifreq request = { .ifr_flags = IFF_ATTACH_QUEUE };
	int ret = 0;

	if (tap->fds[queue] < 0)
		ret = queue_open(tap, queue);
	else if (ioctl(tap->fds[queue], TUNSETQUEUE, &request) < 0)
		ret = -errno;
	if (ret)
		return err_set_errno(err, ret, "%s: queue %u", tap->name,
				     queue);
	return 0;
}

static void queue_detach(struct tap *tap, unsigned int queue)
{
	struct ifreq request = { .ifr_flags = IFF_DETACH_QUEUE };

	/* Fails only when the interface is gone, and so is what to detach. */
	if (ioctl(tap->fds[queue], TUNSETQUEUE, &request) < 0)
		trace(tap_gone, "%s: queue %u: %d", tap->name, queue, errno);
}

/* On a socket of the interface's family of requests. */
static int interface_ioctl(unsigned long code, struct ifreq *request)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (ioctl(fd, code, request) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static int check_kind(const struct tap *tap, struct err *err)
{
	struct ethtool_drvinfo info = { .cmd = ETHTOOL_GDRVINFO };
	struct ifreq request;
	int ret;

	name_request(tap, &request);
	request.ifr_data = (char *)&info;
	ret = interface_ioctl(SIOCETHTOOL, &request);
	if (ret && ret != -EOPNOTSUPP)
		return err_set_errno(err, ret, "%s", tap->name);
	if (ret || strcmp(info.driver, "tun") || strcmp(info.bus_info, "tap"))
		return err_set(err, -EINVAL, "%s is no tap", tap->name);
	return 0;
}

static int interface_up(const struct tap *tap)
{
	struct ifreq request;
	int ret;

	name_request(tap, &request);
	ret = interface_ioctl(SIOCGIFFLAGS, &request);
	if (ret)
		return ret;
	request.ifr_flags |= IFF_UP;
	return interface_ioctl(SIOCSIFFLAGS, &request);
}

static int make_interface(struct tap *tap, struct err *err)
{
	int ret;

	tap->is_multi = true;
	ret = queue_open(tap, 0);
	if (ret)
		return err_set_errno(err, ret, "cannot make the tap %s",
				     tap->name);
	tap->active = 1;
	ret = interface_up(tap);
	if (ret)
		return err_set_errno(err, ret, "cannot set %s up", tap->name);
	return 0;
}

/* With all kinds of taps the kernel refuses to attach the wrong way without a
 * change to any: -EINVAL when it has many queues. */
static int attach_single(struct tap *tap, struct err *err)
{
	int ret;

	tap->is_multi = false;
	ret = queue_open(tap, 0);
	if (ret == -EINVAL) {
		tap->is_multi = true;
		return 0;
	}
	if (ret == -EBUSY)
		return err_set(err, ret,
			       "%s is in use, and has one queue only (made "
			       "without multi_queue)",
			       tap->name);
	if (ret)
		return err_set_errno(err, ret, "%s", tap->name);
	tap->active = 1;
	if (tap->queues > 1)
		return err_set(err, -EINVAL,
			       "%s has one queue (made without multi_queue), "
			       "not %u",
			       tap->name, tap->queues);
	return 0;
}

/* Queues that are attached, whoever has them; 0 where the kernel does not say. */
static unsigned int count_attached(const struct tap *tap)
{
	struct ethtool_channels channels = { .cmd = ETHTOOL_GCHANNELS };
	struct ifreq request;

	name_request(tap, &request);
	request.ifr_data = (char *)&channels;
	if (interface_ioctl(SIOCETHTOOL, &request))
		return 0;
	return channels.combined_count;
}

static int find_interface(struct tap *tap, bool is_incoming, struct err *err)
{
	int ret;

	if (if_nametoindex(tap->name) == 0)
		return make_interface(tap, err);
	ret = check_kind(tap, err);
	if (ret)
		return ret;
	ret = attach_single(tap, err);
	if (ret || !tap->is_multi || is_incoming)
		return ret;
	if (count_attached(tap))
		return err_set(err, -EBUSY, "%s is in use", tap->name);
	return tap_set_active(tap, 1, err);
}

static bool kernel_has_uso(void)
{
	struct utsname name;
	unsigned int major, minor;

	/* Asking the interface would change it under who uses it. */
	return uname(&name) == 0 &&
	       sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
	       (major > 6 || (major == 6 && minor >= 2));
}

int tap_new(const char *name, unsigned int queues, bool is_incoming,
	    struct tap **ret_tap, struct err *err)
{
	struct tap *tap;
	int ret;

	/* With a % the kernel would make up a name of its own. */
	if (name[0] == '\0' || strlen(name) >= IFNAMSIZ || strchr(name, '%'))
		return err_set(err, -EINVAL,
			       "'%s' is no name of an interface (1 to %d "
			       "characters)",
			       name, IFNAMSIZ - 1);
	if (queues == 0 || queues > NET_PAIRS_MAX)
		return err_set(err, -EINVAL, "%u queues, 1 to %u are possible",
			       queues, NET_PAIRS_MAX);
	tap = calloc(1, sizeof(*tap));
	if (!tap)
		return err_set(err, -ENOMEM, "%s: no memory", name);
	memcpy(tap->name, name, strlen(name));
	tap->queues = queues;
	tap->has_uso = kernel_has_uso();
	for (unsigned int i = 0; i < NET_PAIRS_MAX; i++)
		tap->fds[i] = -1;
	ret = find_interface(tap, is_incoming, err);
	if (ret) {
		tap_free(tap);
		return ret;
	}
	*ret_tap = tap;
	return 0;
}

void tap_free(struct tap *tap)
{
	if (!tap)
		return;
	for (unsigned int i = 0; i < tap->queues; i++)
		if (tap->fds[i] >= 0)
			close(tap->fds[i]);
	free(tap);
}

int tap_set_active(struct tap *tap, unsigned int active, struct err *err)
{
	unsigned int before = tap->active;
	int ret = 0;

	if (!tap->is_multi)
		return 0;
	while (ret == 0 && tap->active < active) {
		ret = queue_attach(tap, tap->active, err);
		if (ret == 0)
			tap->active++;
	}
	if (ret)
		active = before;
	while (tap->active > active)
		queue_detach(tap, --tap->active);
	trace(tap_active, "%s: %u of %u queues", tap->name, tap->active,
	      tap->queues);
	return ret;
}

int tap_fd(const struct tap *tap, unsigned int queue)
{
	return tap->fds[queue];
}

uint64_t tap_features(const struct tap *tap)
{
	uint64_t features =
		1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_HOST_TSO4 |
		1ull << VIRTIO_NET_F_HOST_TSO6 | 1ull << VIRTIO_NET_F_HOST_ECN |
		1ull << VIRTIO_NET_F_HOST_UFO | NET_GUEST_OFFLOADS;

	if (tap->has_uso)
		return features | 1ull << NET_F_HOST_USO;
	return features &
	       ~(1ull << NET_F_GUEST_USO4 | 1ull << NET_F_GUEST_USO6);
}

static unsigned int offload_flags(uint64_t features)
{
	static const struct {
		unsigned int feature, flag;
	} table[] = {
		{ VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM },
		{ VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4 },
		{ VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6 },
		{ VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN },
		{ VIRTIO_NET_F_GUEST_UFO, TUN_F_UFO },
	};
	uint64_t uso = 1ull << NET_F_GUEST_USO4 | 1ull << NET_F_GUEST_USO6;
	unsigned int flags = 0;

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (features >> table[i].feature & 1)
			flags |= table[i].flag;
	/* The kernel knows both or none. */
	if ((features & uso) == uso)
		flags |= OFFLOAD_USO4 | OFFLOAD_USO6;
	return flags;
}

int tap_set_features(struct tap *tap, uint64_t features, struct err *err)
{
	unsigned int flags = offload_flags(features);

	if (ioctl(tap->fds[0], TUNSETOFFLOAD, (unsigned long)flags) < 0)
		return err_set_errno(err, -errno, "%s: offloads 0x%x",
				     tap->name, flags);
	return 0;
}

#define RARP_FRAME_SIZE 60u

void tap_announce(const struct tap *tap, const uint8_t mac[6])
{
	/* Ethernet, IPv4 addresses, request reverse (RFC 903). */
	static const uint8_t arp[] = { 0x80, 0x35, 0, 1, 0x08, 0, 6, 4, 0, 3 };
	uint8_t packet[TAP_HEADER_SIZE + RARP_FRAME_SIZE] = { 0 };
	uint8_t *frame = packet + TAP_HEADER_SIZE;

	memset(frame, 0xff, 6);
	memcpy(frame + 6, mac, 6);
	memcpy(frame + 12, arp, sizeof(arp));
	memcpy(frame + 22, mac, 6);
	memcpy(frame + 32, mac, 6);
	if (write(tap->fds[0], packet, sizeof(packet)) < 0)
		trace(tap_announce_failed, "%s: %d", tap->name, errno);
}
