// SPDX-License-Identifier: Apache-2.0
/*
 * How many pairs the driver uses, ahead of its guest ("@name-pairs"); called by net.c and
 * by the migration's thread.  A card often has more than its driver uses, and which of
 * its rings are to rest is told to a back end while the guest runs.  All of it comes
 * again with the rest of net_fields (net.c).
 */
#include <errno.h>
#include <stdio.h>

#include "virtio/net_priv.h"

int net_check_pairs(const struct net *net, unsigned int pairs, struct err *err)
{
	if (pairs == 0 || pairs > net->pairs_max)
		return err_set(err, -EBADMSG,
			       "%u pairs in use, 1 to %u are possible", pairs,
			       net->pairs_max);
	return 0;
}

static const struct state_field ahead_fields[] = {
	STATE_FIELD_MAX(struct net_ahead, pairs, STATE_U16, NET_PAIRS_MAX),
};

/* Of a guest that runs: the device's thread may change it now. */
static int save(void *obj, struct err *err)
{
	struct net_ahead *ahead = obj;

	(void)err;
	ahead->pairs = __atomic_load_n(&ahead->net->pairs, __ATOMIC_RELAXED);
	return 0;
}

static int load(void *obj, uint16_t version, struct err *err)
{
	struct net_ahead *ahead = obj;
	int ret = net_check_pairs(ahead->net, ahead->pairs, err);

	(void)version;
	if (ret)
		return ret;
	net_set_pairs(ahead->net, ahead->pairs);
	ahead->is_known = true;
	return 0;
}

static int activate(void *obj, struct err *err)
{
	struct net_ahead *ahead = obj;

	return vdev_prepare(&ahead->net->base, VDEV_AHEAD, err);
}

static const struct state_desc ahead_state = {
	.version = 1,
	.min_version = 1,
	.fields = ahead_fields,
	.field_count = sizeof(ahead_fields) / sizeof(ahead_fields[0]),
	.save = save,
	.load = load,
	.activate = activate,
	.is_optional = true, /* who gets none takes all for used */
};

void net_ahead_init(struct net *net, const struct vdev_site *site)
{
	char name[STATE_NAME_MAX];

	net->ahead.net = net;
	if (!site->setup_state)
		return;
	snprintf(name, sizeof(name), "%s-pairs", site->name);
	state_register(site->setup_state, &net->ahead.state, name, &ahead_state,
		       &net->ahead);
}

void net_ahead_fini(struct net *net)
{
	state_unregister(&net->ahead.state);
}

unsigned int net_pairs_ahead(const struct net *net)
{
	return net->ahead.is_known ? net->pairs : net->pairs_max;
}
