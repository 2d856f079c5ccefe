// SPDX-License-Identifier: Apache-2.0
/* Pairs of queues and the tap's queues, together: struct net_backend_ops.  The
 * packets are net_pair.c's. */
#include "virtio/net_tap.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/list.h"
#include "base/trace.h"
#include "mem/grace.h"
#include "virtio/net_pair.h"
#include "virtio/tap.h"

/* What pairs' threads read, until they have seen the next one. */
struct published_filter {
	struct net_rx_filter filter;
	struct rcu_head rcu;
};

struct net_tap {
	struct tap *tap; /* owned */
	unsigned int pair_count, working;
	struct vdev *dev;             /* borrowed from start to stop */
	struct net_rx_filter *filter; /* owned; RCU: the pairs read it */
	struct net_pair pairs[];
};

static int pairs_stop(struct net_tap *nt, unsigned int from,
		      uint64_t deadline_ns, struct err *err)
{
	int ret = 0;

	for (unsigned int i = from; i < nt->working && ret == 0; i++)
		ret = net_pair_stop(&nt->pairs[i], deadline_ns, err);
	if (ret == 0 && nt->working > from)
		nt->working = from;
	return ret;
}

static void pairs_stop_begin(struct net_tap *nt, unsigned int from)
{
	for (unsigned int i = from; i < nt->working; i++)
		net_pair_stop_begin(&nt->pairs[i]);
}

/* Of those that did not work; all or none of them. */
static int pairs_start(struct net_tap *nt, unsigned int pairs, struct err *err)
{
	unsigned int before = nt->working;
	int ret = tap_set_active(nt->tap, pairs, err);

	while (ret == 0 && nt->working < pairs) {
		ret = net_pair_start(&nt->pairs[nt->working], nt->dev, err);
		if (ret == 0)
			nt->working++;
	}
	if (ret) {
		pairs_stop_begin(nt, before);
		pairs_stop(nt, before, UINT64_MAX, NULL);
	}
	return ret;
}

static uint64_t net_tap_features(void *opaque)
{
	const struct net_tap *nt = opaque;

	return tap_features(nt->tap) | 1ull << VIRTIO_NET_F_MRG_RXBUF;
}

static int net_tap_accept(void *opaque, uint64_t features, struct err *err)
{
	struct net_tap *nt = opaque;

	return tap_set_features(nt->tap, features, err);
}

static int net_tap_start(void *opaque, struct vdev *dev, unsigned int pairs,
			 struct err *err)
{
	struct net_tap *nt = opaque;

	assert(nt->working == 0 && pairs <= nt->pair_count);
	nt->dev = dev;
	return pairs_start(nt, pairs, err);
}

static void net_tap_stop_begin(void *opaque)
{
	pairs_stop_begin(opaque, 0);
}

static int net_tap_stop(void *opaque, uint64_t deadline_ns, struct err *err)
{
	struct net_tap_counts counts;
	struct net_tap *nt = opaque;
	int ret = pairs_stop(nt, 0, deadline_ns, err);

	if (ret) {
		for (unsigned int i = 0; i < nt->working; i++)
			net_pair_resume(&nt->pairs[i]);
		return ret;
	}
	net_tap_counts(opaque, &counts);
	trace(net_tap_stopped,
	      "%" PRIu64 " received, %" PRIu64 " sent, %" PRIu64 " and %" PRIu64
	      " dropped, %" PRIu64 " times full",
	      counts.received, counts.sent, counts.rx_dropped,
	      counts.tx_dropped, counts.tx_full);
	return 0;
}

static int net_tap_set_pairs(void *opaque, unsigned int pairs, struct err *err)
{
	struct net_tap *nt = opaque;
	unsigned int before = nt->working;
	int ret;

	assert(pairs > 0 && pairs <= nt->pair_count);
	if (pairs < before) {
		pairs_stop_begin(nt, pairs);
		pairs_stop(nt, pairs, UINT64_MAX, NULL);
		return tap_set_active(nt->tap, pairs, err);
	}
	ret = pairs_start(nt, pairs, err);
	if (ret)
		tap_set_active(nt->tap, before, NULL);
	return ret;
}

static int net_tap_claim(void *opaque, unsigned int pairs, struct err *err)
{
	struct net_tap *nt = opaque;

	return tap_set_active(nt->tap, pairs, err);
}

static void net_tap_disclaim(void *opaque)
{
	struct net_tap *nt = opaque;

	tap_set_active(nt->tap, 0, NULL);
}

static void free_filter(struct rcu_head *rcu)
{
	grace_acquire();
	free(container_of(rcu, struct published_filter, rcu));
}

/* Not waited for: a driver's write to a register is an RCU read section. */
static void forget_filter(struct net_rx_filter *filter)
{
	if (!filter)
		return;
	grace_release();
	call_rcu(&container_of(filter, struct published_filter, filter)->rcu,
		 free_filter);
}

static int net_tap_set_filter(void *opaque, const struct net_rx_filter *filter,
			      struct err *err)
{
	struct net_tap *nt = opaque;
	struct net_rx_filter *old = nt->filter;
	struct published_filter *copy;

	if (old && memcmp(old, filter, sizeof(*old)) == 0)
		return 0;
	copy = malloc(sizeof(*copy));
	if (!copy)
		return err_set(err, -ENOMEM, "no memory for a filter");
	copy->filter = *filter;
	/* partner: is_wanted() in net_rx.c */
	__atomic_store_n(&nt->filter, &copy->filter, __ATOMIC_RELEASE);
	forget_filter(old);
	return 0;
}

static void net_tap_announce(void *opaque, const uint8_t mac[6])
{
	const struct net_tap *nt = opaque;

	tap_announce(nt->tap, mac);
}

static void net_tap_free(void *opaque)
{
	struct net_tap *nt = opaque;

	for (unsigned int i = 0; i < nt->pair_count; i++)
		net_pair_fini(&nt->pairs[i]);
	tap_free(nt->tap);
	forget_filter(nt->filter);
	free(nt);
}

static const struct net_backend_ops net_tap_ops = {
	.features = net_tap_features,
	.accept = net_tap_accept,
	.start = net_tap_start,
	.stop_begin = net_tap_stop_begin,
	.stop = net_tap_stop,
	.set_pairs = net_tap_set_pairs,
	.claim = net_tap_claim,
	.disclaim = net_tap_disclaim,
	.set_filter = net_tap_set_filter,
	.announce = net_tap_announce,
	.free = net_tap_free,
};

int net_tap_new(const char *name, unsigned int pairs, bool is_incoming,
		const struct net_backend_ops **ret_ops, void **ret_opaque,
		struct err *err)
{
	struct net_tap *nt =
		calloc(1, sizeof(*nt) + pairs * sizeof(nt->pairs[0]));
	int ret;

	if (!nt)
		return err_set(err, -ENOMEM, "%s: no memory", name);
	nt->pair_count = pairs;
	ret = tap_new(name, pairs, is_incoming, &nt->tap, err);
	for (unsigned int i = 0; i < pairs && ret == 0; i++)
		ret = net_pair_init(&nt->pairs[i], nt->tap, &nt->filter, i,
				    name, err);
	if (ret) {
		net_tap_free(nt);
		return ret;
	}
	*ret_ops = &net_tap_ops;
	*ret_opaque = nt;
	return 0;
}

void net_tap_counts(const void *opaque, struct net_tap_counts *ret_counts)
{
	const struct net_tap *nt = opaque;

	*ret_counts = (struct net_tap_counts){ 0 };
	for (unsigned int i = 0; i < nt->pair_count; i++) {
		const struct net_pair *pair = &nt->pairs[i];

		ret_counts->received += pair->rx.packets;
		ret_counts->rx_dropped += pair->rx.dropped;
		ret_counts->sent += pair->tx.packets;
		ret_counts->tx_dropped += pair->tx.dropped;
		ret_counts->tx_full += pair->tx.full;
	}
}
