/* SPDX-License-Identifier: Apache-2.0 */
/* What net.c, net_thread.c, net_ctrl.c and net_announce.c share: the device. */
#ifndef GODWIT_VIRTIO_NET_PRIV_H
#define GODWIT_VIRTIO_NET_PRIV_H

#include "virtio/io_thread.h"
#include "virtio/net.h"
#include "virtio/vdev.h"
#include "virtio/vq.h"

#define NET_CTRL_QUEUE_SIZE 64u

/* What of the control queue travels ahead; the migration thread's (net_ahead.c). */
struct net_ahead {
	uint16_t pairs;
	bool is_known;   /* where the guest is to come: it was told */
	struct net *net; /* borrowed; not saved */
	struct state_entry state;
};

struct net {
	struct vdev base; /* first */

	/* immutable after init */
	uint8_t own_mac[6]; /* after reset */
	unsigned int pairs_max;
	uint16_t mtu;
	const struct net_backend_ops *ops;
	void *backend;            /* owned */
	struct io_thread *thread; /* owned */
	int timer_fd;             /* owned */
	struct io_source timer;
	struct state_entry state;

	/* The driver's by the control queue, and saved: the thread's while the
	 * device works, protected by base.lock while it does not. */
	struct net_rx_filter filter;
	uint16_t pairs; /* in use; written by net_set_pairs() */

	/* The same, for config reads at any time; atomic. */
	uint64_t shown_mac;        /* the bytes, the first one lowest */
	uint8_t is_announce_asked; /* VIRTIO_NET_S_ANNOUNCE; saved */

	struct net_ahead ahead;

	bool is_stopping; /* atomic: leave what is in the control queue */
	/* protected by base.lock; owned: the thread's stop, from begin to its end */
	struct io_work *stopping;

	/* the thread's */
	bool is_working, has_ctrl, is_watched;
	bool can_announce;          /* the driver does, when it is asked to */
	unsigned int announcements; /* still to be made */
	struct vq ctrl;
	struct io_source kick, error;
	struct vq_segment segments[NET_QUEUE_SIZE];
};

static inline struct net *net_of(struct vdev *dev)
{
	return (struct net *)dev;
}

void net_show_mac(struct net *net);
/* For who reads it at any time, too. */
static inline void net_set_pairs(struct net *net, uint16_t pairs)
{
	__atomic_store_n(&net->pairs, pairs, __ATOMIC_RELAXED);
}

/* net_ahead.c.  check: of hostile bytes, -EBADMSG where the device has no such number. */
int net_check_pairs(const struct net *net, unsigned int pairs, struct err *err);
void net_ahead_init(struct net *net, const struct vdev_site *site);
void net_ahead_fini(struct net *net); /* also when it was not initialized */
/* With base.lock, of a guest that runs elsewhere: pairs that it may use. */
unsigned int net_pairs_ahead(const struct net *net);

/* net_thread.c; with the device's lock.  prepare: before the back end starts.  start: it
 * works.  stop_begin: as soon
 * as the thread is quiet it calls the back end's.  stop: that was done, or -ETIMEDOUT at
 * @deadline_ns (clock_mono_ns()), and the back end was not called.  resume: after that, or
 * when the back end has not stopped. */
void net_thread_prepare(const struct net *net);
void net_thread_start(struct net *net);
void net_thread_stop_begin(struct net *net);
int net_thread_stop(struct net *net, uint64_t deadline_ns);
void net_thread_resume(struct net *net);

/* net_ctrl.c: the control queue, which is at another place without MQ. */
unsigned int net_ctrl_index(const struct net *net);
/* Before the thread starts: what vq_start() says of it. */
int net_ctrl_prepare(struct net *net, struct err *err);
/* By the thread.  run: all commands that there are, until it is to stop. */
int net_ctrl_start(struct net *net, struct err *err);
void net_ctrl_run(struct net *net);
void net_ctrl_stop(struct net *net);

/* net_announce.c.  init: while the thread rests. */
int net_announce_init(struct net *net, struct err *err);
void net_announce_fini(struct net *net);
/* The guest arrived; any thread. */
void net_announce(struct net *net);
/* By the thread: go on with what is left, rest. */
void net_announce_start(struct net *net);
void net_announce_stop(struct net *net);

#endif
