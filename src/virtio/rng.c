// SPDX-License-Identifier: Apache-2.0
/*
 * Requests are buffers to fill.  A driver may ask for much and often: it gets
 * RNG_PIECE bytes of each at most, as the specification allows, and has a thread
 * of its own to keep busy.  Early after the host's start its kernel may have
 * nothing yet; then the requests wait until it has, and nobody else does.
 *
 * Called by vdev.c; nothing is saved but what all devices save.
 */
#include "virtio/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#include "virtio/io_thread.h"
#include "virtio/vdev.h"
#include "virtio/vq.h"

#define PCI_CLASS_OTHERS 0xff0000u

#define RNG_QUEUE_SIZE 64u
#define RNG_PIECE      4096u

struct rng {
	struct vdev base; /* first */

	/* immutable after init */
	struct io_thread *thread; /* owned */
	int pool_fd;              /* owned: readable once the host has bytes */

	/* the thread's while it works */
	bool has_queue, is_working, is_pool_awaited;
	struct vq vq;
	struct io_source kick, pool;
	struct vq_segment segments[RNG_QUEUE_SIZE];
};

static struct rng *rng_of(struct vdev *dev)
{
	return (struct rng *)dev;
}

/* ---- in the thread ---- */

static void rest(void *opaque)
{
	struct rng *rng = opaque;

	if (!rng->is_working)
		return;
	rng->is_working = false;
	io_thread_del(rng->thread, &rng->kick);
	if (rng->is_pool_awaited)
		io_thread_del(rng->thread, &rng->pool);
	rng->is_pool_awaited = false;
}

static void give_up(struct rng *rng, const struct err *reason)
{
	vdev_break(&rng->base, reason);
	rest(rng);
}

static void watch(struct rng *rng, struct io_source *source)
{
	struct err err = ERR_INIT;
	int ret = io_thread_add(rng->thread, source);

	if (ret == 0)
		return;
	err_set_errno(&err, ret, "cannot wait");
	give_up(rng, &err);
}

/* False when the host has none yet. */
static bool fill(struct rng *rng, const struct vq_request *request)
{
	uint8_t bytes[RNG_PIECE];
	size_t size = sizeof(bytes);
	ssize_t ret;

	if (size > request->writable_size)
		size = (size_t)request->writable_size;
	ret = getrandom(bytes, size, GRND_NONBLOCK);
	if (ret < 0)
		return false;
	vq_push(&rng->vq, request,
		(uint32_t)vq_write(request, 0, bytes, (size_t)ret));
	return true;
}

static void await_pool(struct rng *rng)
{
	rng->is_pool_awaited = true;
	watch(rng, &rng->pool);
}

static void fill_requests(struct rng *rng)
{
	struct vq_request request = { .segments = rng->segments,
				      .room = RNG_QUEUE_SIZE };
	struct err err = ERR_INIT;
	int ret;

	while ((ret = vq_pop(&rng->vq, &request, &err)) > 0) {
		if (!fill(rng, &request)) {
			vq_unpop(&rng->vq, &request);
			await_pool(rng);
			break;
		}
		vq_flush(&rng->vq);
	}
	if (ret < 0)
		give_up(rng, &err);
}

static void kick_ready(void *opaque)
{
	struct rng *rng = opaque;
	uint64_t count;

	if (read(rng->kick.fd, &count, sizeof(count)) == sizeof(count) &&
	    !rng->is_pool_awaited)
		fill_requests(rng);
}

static void pool_ready(void *opaque)
{
	struct rng *rng = opaque;

	io_thread_del(rng->thread, &rng->pool);
	rng->is_pool_awaited = false;
	fill_requests(rng);
}

/* Of what came before there is no kick. */
static void begin(void *opaque)
{
	struct rng *rng = opaque;

	if (!rng->has_queue)
		return;
	rng->is_working = true;
	watch(rng, &rng->kick);
	if (rng->is_working)
		fill_requests(rng);
}

/* ---- with the device's lock ---- */

static int rng_start(struct vdev *dev, struct err *err)
{
	struct rng *rng = rng_of(dev);
	int ret = 0;

	rng->has_queue = dev->queues[0].is_enabled;
	if (rng->has_queue)
		ret = vq_start(&rng->vq, dev, 0, err);
	if (ret == 0)
		io_thread_post(rng->thread, begin, rng);
	return ret;
}

static void rng_stop_begin(struct vdev *dev)
{
	struct rng *rng = rng_of(dev);

	io_thread_post(rng->thread, rest, rng);
}

static int rng_stop(struct vdev *dev, uint64_t deadline_ns, struct err *err)
{
	struct rng *rng = rng_of(dev);

	if (io_thread_call(rng->thread, rest, rng, deadline_ns) == 0)
		return 0;
	io_thread_post(rng->thread, begin, rng); /* it works on */
	return err_set(err, -ETIMEDOUT, "a request is under way");
}

static void rng_free(struct vdev *dev)
{
	struct rng *rng = rng_of(dev);

	io_thread_free(rng->thread);
	if (rng->pool_fd >= 0)
		close(rng->pool_fd);
	vdev_fini(dev);
	free(rng);
}

static const struct vdev_type rng_type = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.pci_class = PCI_CLASS_OTHERS,
	.start = rng_start,
	.stop_begin = rng_stop_begin,
	.stop = rng_stop,
	.free = rng_free,
};

static int rng_init(struct rng *rng, const struct vdev_site *site,
		    struct err *err)
{
	const uint16_t size = RNG_QUEUE_SIZE;
	int ret;

	ret = vdev_init(&rng->base, &rng_type, site, 0, 0, 1, &size, err);
	if (ret)
		return ret;
	rng->pool_fd = open("/dev/random", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (rng->pool_fd < 0)
		return err_set_errno(err, -errno, "/dev/random");
	rng->kick = (struct io_source){ rng->base.queues[0].kick_fd, EPOLLIN,
					kick_ready, rng };
	rng->pool =
		(struct io_source){ rng->pool_fd, EPOLLIN, pool_ready, rng };
	return io_thread_new(site->name, &rng->thread, err);
}

int rng_new(const struct vdev_site *site, const char *text,
	    struct vdev **ret_dev, struct err *err)
{
	struct rng *rng;
	int ret;

	if (strcmp(text, "on") != 0)
		return err_set(err, -EINVAL, "'%s' is not 'on'", text);
	rng = calloc(1, sizeof(*rng));
	if (!rng)
		return err_set(err, -ENOMEM, "%s: no memory", site->name);
	rng->pool_fd = -1;
	ret = rng_init(rng, site, err);
	if (ret) {
		rng_free(&rng->base);
		return ret;
	}
	*ret_dev = &rng->base;
	return 0;
}
