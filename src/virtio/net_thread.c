// SPDX-License-Identifier: Apache-2.0
/*
 * What the device's own thread does from start to stop: the control queue and
 * announcements.  The device asks for it, with its lock, and waits for the end of a stop
 * only, so that many devices start and stop at a time.
 *
 *	        start                 stop_begin             stop
 *	quiet ---------> commands -----------------> quiet -------> the back end stops
 *	                    ^      the one that is               |
 *	                    |      under way is done             | not in time
 *	                    +------------------------------------+
 *	                                  resume
 *
 * Quiet, it calls no back end, which is the device's then.  What a command waits for may
 * be another process.
 */
#include "base/err.h"
#include "virtio/net_priv.h"

/* ---- in the thread ---- */

static void begin(void *opaque)
{
	struct net *net = opaque;
	struct err err = ERR_INIT;

	if (net_ctrl_start(net, &err)) {
		vdev_break(&net->base, &err);
		return;
	}
	net->is_working = true;
	net_announce_start(net);
}

static void end(void *opaque)
{
	struct net *net = opaque;

	net_ctrl_stop(net);
	net_announce_stop(net);
	net->is_working = false;
	net->ops->stop_begin(net->backend);
}

static void go_on(void *opaque)
{
	struct net *net = opaque;

	if (net->is_working)
		net_ctrl_run(net); /* what was left for a stop */
	else
		begin(net);
}

/* ---- with the device's lock ---- */

static void want(struct net *net, bool is_stopping)
{
	__atomic_store_n(&net->is_stopping, is_stopping, __ATOMIC_RELEASE);
}

void net_thread_start(struct net *net)
{
	want(net, false);
	io_thread_post(net->thread, begin, net);
}

void net_thread_stop_begin(struct net *net)
{
	if (net->stopping)
		return;
	want(net, true);
	net->stopping = io_thread_begin(net->thread, end, net);
}

int net_thread_stop(struct net *net, uint64_t deadline_ns)
{
	int ret;

	net_thread_stop_begin(net);
	ret = io_thread_finish(net->thread, net->stopping, deadline_ns);
	net->stopping = NULL;
	return ret;
}

void net_thread_resume(struct net *net)
{
	want(net, false);
	io_thread_post(net->thread, go_on, net);
}
