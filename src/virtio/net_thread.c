// SPDX-License-Identifier: Apache-2.0
/*
 * What the device's own thread does from start to stop: the control queue,
 * announcements, and errors of a back end that tells of them.  The device asks for it,
 * with its lock, and waits for the end of a stop only, so that many devices start and
 * stop at a time.
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
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/err.h"
#include "virtio/net_priv.h"

/* ---- errors ---- */

static int error_fd(const struct net *net)
{
	return net->ops->error_fd ? net->ops->error_fd(net->backend) : -1;
}

/* False: there was none. */
static bool take_error(const struct net *net)
{
	uint64_t count;

	return read(error_fd(net), &count, sizeof(count)) == sizeof(count);
}

static void error_ready(void *opaque)
{
	struct net *net = opaque;
	struct err err = ERR_INIT;

	if (!take_error(net))
		return;
	err_set(&err, -EBADMSG,
		"its back end met a ring or a descriptor that it cannot work "
		"on");
	vdev_break(&net->base, &err);
}

static int watch_errors(struct net *net, struct err *err)
{
	int ret;

	if (error_fd(net) < 0)
		return 0;
	net->error = (struct io_source){ .fd = error_fd(net),
					 .events = EPOLLIN,
					 .ready = error_ready,
					 .opaque = net };
	ret = io_thread_add(net->thread, &net->error);
	net->is_watched = ret == 0;
	return ret ? err_set_errno(err, ret, "errors of its back end") : 0;
}

static void leave_errors(struct net *net)
{
	if (net->is_watched)
		io_thread_del(net->thread, &net->error);
	net->is_watched = false;
}

/* ---- in the thread ---- */

static void begin(void *opaque)
{
	struct net *net = opaque;
	struct err err = ERR_INIT;

	if (watch_errors(net, &err) || net_ctrl_start(net, &err)) {
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
	leave_errors(net);
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

/* What was signalled before is of queues that have stopped since. */
void net_thread_prepare(const struct net *net)
{
	if (error_fd(net) >= 0)
		take_error(net);
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
