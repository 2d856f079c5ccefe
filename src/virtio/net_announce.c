// SPDX-License-Identifier: Apache-2.0
/*
 * After a move switches send the guest's packets to where it was, until they see
 * one from where it is: 20 s were seen with a guest that only listens.  So the
 * driver is asked to announce the guest (VIRTIO_NET_F_GUEST_ANNOUNCE), and the
 * back end does it in its place, by RARP, where the driver did not negotiate that
 * or has not answered by the next time.
 *
 * One announcement may be lost, as by a port of a switch that only comes up, so
 * there are several with growing pauses: at 0, 50, 200, 450 and 800 ms.
 *
 * In the device's thread, by a timer; while the guest is stopped nothing is
 * announced, and what is left goes on when it runs again here.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/trace.h"
#include "virtio/net_priv.h"

#define ANNOUNCEMENTS  5u
#define PAUSE_FIRST_MS 50u
#define PAUSE_STEP_MS  100u

static void timer_set(struct net *net, uint64_t delay_ns)
{
	struct itimerspec spec = {
		.it_value = { .tv_sec = (time_t)(delay_ns / NS_PER_SEC),
			      .tv_nsec = (long)(delay_ns % NS_PER_SEC) },
	};

	timerfd_settime(net->timer_fd, 0, &spec, NULL);
}

static void ask_driver(struct net *net)
{
	__atomic_store_n(&net->is_announce_asked, 1, __ATOMIC_RELEASE);
	vdev_config_changed(&net->base);
}

static void announce_once(struct net *net)
{
	bool has_answered =
		!__atomic_load_n(&net->is_announce_asked, __ATOMIC_ACQUIRE);
	bool is_first = net->announcements == ANNOUNCEMENTS;

	if (net->can_announce)
		ask_driver(net);
	if (!net->can_announce || (!is_first && !has_answered))
		if (net->ops->announce)
			net->ops->announce(net->backend, net->filter.mac);
	trace(net_announce, "%s: %s, %u to follow", net->base.name,
	      net->can_announce ? "driver" : "back end",
	      net->announcements - 1);
	net->announcements--;
}

static void go_on(void *opaque)
{
	struct net *net = opaque;
	unsigned int done;

	if (net->announcements == 0 || !net->is_working)
		return;
	announce_once(net);
	done = ANNOUNCEMENTS - net->announcements;
	if (net->announcements)
		timer_set(net, (PAUSE_FIRST_MS + (done - 1) * PAUSE_STEP_MS) *
				       NS_PER_MS);
}

static void timer_ready(void *opaque)
{
	struct net *net = opaque;
	uint64_t count;

	if (read(net->timer_fd, &count, sizeof(count)) == sizeof(count))
		go_on(net);
}

static void begin(void *opaque)
{
	struct net *net = opaque;

	net->announcements = ANNOUNCEMENTS;
	go_on(net);
}

void net_announce(struct net *net)
{
	io_thread_post(net->thread, begin, net);
}

void net_announce_start(struct net *net)
{
	go_on(net);
}

void net_announce_stop(struct net *net)
{
	timer_set(net, 0);
}

int net_announce_init(struct net *net, struct err *err)
{
	int ret;

	net->timer_fd =
		timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (net->timer_fd < 0)
		return err_set_errno(err, -errno, "timer");
	net->timer = (struct io_source){ .fd = net->timer_fd,
					 .events = EPOLLIN,
					 .ready = timer_ready,
					 .opaque = net };
	ret = io_thread_add(net->thread, &net->timer);
	if (ret)
		return err_set_errno(err, ret, "timer");
	return 0;
}

void net_announce_fini(struct net *net)
{
	if (net->timer_fd >= 0)
		close(net->timer_fd);
}
