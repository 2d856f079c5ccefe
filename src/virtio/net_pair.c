// SPDX-License-Identifier: Apache-2.0
/*
 * When packets are moved.
 *
 * A pair's thread moves packets in both directions, a burst of each in turn, until
 * nothing is left to move, and then waits for what changes that:
 *
 *	to the guest	the tap has packets	or, without buffers, a kick
 *	from the guest	a kick			or, with the tap full, EPOLLOUT
 *
 * While it moves packets it wants no kicks: each costs the guest an exit.
 */
#include "virtio/net_pair.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/err.h"
#include "virtio/tap.h"
#include "virtio/vdev.h"

/* ---- in its thread ---- */

/* Gives back to the driver what it had not got. */
static void rest(struct net_pair *pair)
{
	if (!pair->is_working)
		return;
	pair->is_working = false;
	if (pair->tap.events)
		io_thread_del(pair->thread, &pair->tap);
	pair->tap.events = 0;
	if (pair->has_rx) {
		io_thread_del(pair->thread, &pair->rx_kick);
		net_rx_stop(&pair->rx);
	}
	if (pair->has_tx)
		io_thread_del(pair->thread, &pair->tx_kick);
}

static void pair_stop(void *opaque)
{
	struct net_pair *pair = opaque;

	rest(pair);
	__atomic_add_fetch(&pair->stops_done, 1, __ATOMIC_RELEASE);
}

static void pair_break(struct net_pair *pair, const struct err *reason)
{
	vdev_break(pair->dev, reason);
	rest(pair);
}

static void watch(struct net_pair *pair, struct io_source *source)
{
	struct err err = ERR_INIT;
	int ret = io_thread_add(pair->thread, source);

	if (ret) {
		err_set_errno(&err, ret, "pair %u: cannot wait", pair->index);
		pair_break(pair, &err);
	}
}

/* What the tap is waited for; a source without events would report errors. */
static void tap_watch(struct net_pair *pair)
{
	uint32_t events = 0;

	if (pair->has_rx && !pair->lacks_buffers)
		events |= EPOLLIN;
	if (pair->has_tx && pair->is_tap_full)
		events |= EPOLLOUT;
	if (pair->is_tap_gone)
		events = 0;
	if (events == pair->tap.events)
		return;
	if (pair->tap.events)
		io_thread_del(pair->thread, &pair->tap);
	pair->tap.events = events;
	if (events)
		watch(pair, &pair->tap);
}

/* False when there are some again: then nothing is to be waited for. */
static bool await_buffers(struct net_pair *pair)
{
	pair->lacks_buffers = !vq_want_kicks(&pair->rx.vq);
	if (!pair->lacks_buffers)
		vq_ignore_kicks(&pair->rx.vq);
	return pair->lacks_buffers;
}

/* Both: true when there may be more to do at once. */
static bool receive(struct net_pair *pair)
{
	struct err err = ERR_INIT;
	int ret;

	if (!pair->has_rx || pair->is_tap_gone || pair->lacks_buffers)
		return false;
	ret = net_rx_burst(&pair->rx, pair->tap_fd, &err);
	if (ret < 0)
		pair_break(pair, &err);
	else if (ret == NET_BURST_GONE)
		pair->is_tap_gone = true;
	else if (ret == NET_BURST_FULL)
		return !await_buffers(pair);
	return ret == NET_BURST_MORE;
}

static bool transmit(struct net_pair *pair)
{
	struct err err = ERR_INIT;
	int ret;

	if (!pair->has_tx || pair->is_tap_full)
		return false;
	ret = net_tx_burst(&pair->tx, pair->tap_fd, &err);
	if (ret < 0)
		pair_break(pair, &err);
	else if (ret == NET_BURST_FULL)
		pair->is_tap_full = true;
	return ret == NET_BURST_MORE;
}

static bool shall_go_on(const struct net_pair *pair)
{
	return pair->is_working &&
	       !__atomic_load_n(&pair->is_stopping, __ATOMIC_ACQUIRE) &&
	       !__atomic_load_n(&pair->dev->is_broken, __ATOMIC_ACQUIRE);
}

static void move_packets(struct net_pair *pair)
{
	bool is_busy = true;

	while (is_busy && shall_go_on(pair)) {
		if (pair->has_tx)
			vq_ignore_kicks(&pair->tx.vq);
		do {
			is_busy = transmit(pair);
			if (shall_go_on(pair))
				is_busy |= receive(pair);
		} while (is_busy && shall_go_on(pair));
		if (shall_go_on(pair) && pair->has_tx && !pair->is_tap_full)
			is_busy = vq_want_kicks(&pair->tx.vq);
	}
	if (pair->is_working)
		tap_watch(pair);
}

static void clear_kick(int fd)
{
	uint64_t count;

	/* One that is not there any more was for what is done already. */
	if (read(fd, &count, sizeof(count)) < 0)
		assert(errno == EAGAIN);
}

static void tx_kick_ready(void *opaque)
{
	struct net_pair *pair = opaque;

	clear_kick(pair->tx_kick.fd);
	move_packets(pair);
}

static void rx_kick_ready(void *opaque)
{
	struct net_pair *pair = opaque;

	clear_kick(pair->rx_kick.fd);
	pair->lacks_buffers = false;
	vq_ignore_kicks(&pair->rx.vq);
	move_packets(pair);
}

static void tap_ready(void *opaque)
{
	struct net_pair *pair = opaque;

	pair->is_tap_full = false;
	move_packets(pair);
}

/* What came before this start was notified to someone else, so it begins by
 * looking. */
static void pair_begin(void *opaque)
{
	struct net_pair *pair = opaque;

	pair->is_working = true;
	pair->lacks_buffers = pair->is_tap_full = pair->is_tap_gone = false;
	if (pair->has_rx) {
		watch(pair, &pair->rx_kick);
		vq_ignore_kicks(&pair->rx.vq);
	}
	if (pair->is_working && pair->has_tx)
		watch(pair, &pair->tx_kick);
	move_packets(pair);
}

/* ---- while its thread rests ---- */

static struct io_source source_of(struct net_pair *pair, int fd,
				  uint32_t events, void (*ready)(void *opaque))
{
	return (struct io_source){
		.fd = fd, .events = events, .ready = ready, .opaque = pair
	};
}

static int queues_start(struct net_pair *pair, struct err *err)
{
	unsigned int index = 2 * pair->index;
	const struct vdev_queue *queues = &pair->dev->queues[index];
	int ret = 0;

	pair->has_rx = queues[0].is_enabled;
	pair->has_tx = queues[1].is_enabled;
	if (pair->has_rx)
		ret = net_rx_start(&pair->rx, pair->dev, index, err);
	if (ret == 0 && pair->has_tx)
		ret = net_tx_start(&pair->tx, pair->dev, index + 1, err);
	return ret;
}

int net_pair_start(struct net_pair *pair, struct vdev *dev, struct err *err)
{
	const struct vdev_queue *queues = &dev->queues[2 * pair->index];
	int ret;

	pair->dev = dev;
	ret = queues_start(pair, err);
	if (ret)
		return ret;
	pair->is_stopping = false;
	pair->tap_fd = tap_fd(pair->owner, pair->index);
	pair->rx_kick =
		source_of(pair, queues[0].kick_fd, EPOLLIN, rx_kick_ready);
	pair->tx_kick =
		source_of(pair, queues[1].kick_fd, EPOLLIN, tx_kick_ready);
	pair->tap = source_of(pair, pair->tap_fd, 0, tap_ready);
	io_thread_post(pair->thread, pair_begin, pair);
	return 0;
}

void net_pair_stop_begin(struct net_pair *pair)
{
	__atomic_store_n(&pair->is_stopping, true, __ATOMIC_RELEASE);
	pair->stops_asked++;
	io_thread_post(pair->thread, pair_stop, pair);
}

int net_pair_stop(struct net_pair *pair, uint64_t deadline_ns, struct err *err)
{
	/* Mostly it has stopped by now, which saves a wake-up. */
	if (__atomic_load_n(&pair->stops_done, __ATOMIC_ACQUIRE) ==
	    pair->stops_asked)
		return 0;
	pair->stops_asked++;
	if (io_thread_call(pair->thread, pair_stop, pair, deadline_ns))
		return err_set(err, -ETIMEDOUT, "pair %u still works",
			       pair->index);
	return 0;
}

void net_pair_resume(struct net_pair *pair)
{
	__atomic_store_n(&pair->is_stopping, false, __ATOMIC_RELEASE);
	io_thread_post(pair->thread, pair_begin, pair);
}

int net_pair_init(struct net_pair *pair, const struct tap *tap,
		  struct net_rx_filter *const *filter, unsigned int index,
		  const char *name, struct err *err)
{
	char thread_name[16];

	pair->owner = tap;
	pair->index = index;
	if (net_rx_init(&pair->rx, filter))
		return err_set(err, -ENOMEM, "%s: no memory", name);
	snprintf(thread_name, sizeof(thread_name), "%.12s/%u", name, index);
	return io_thread_new(thread_name, &pair->thread, err);
}

void net_pair_fini(struct net_pair *pair)
{
	io_thread_free(pair->thread);
	net_rx_fini(&pair->rx);
}
