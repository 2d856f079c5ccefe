// SPDX-License-Identifier: Apache-2.0
/*
 * A device's life, and what a back end calls.  The machine builds, runs and pauses
 * it; is_working follows from what the machine and the driver want (vdev_start()).
 */
#include "virtio/vdev.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/event.h"
#include "base/trace.h"
#include "dev/msix.h"
#include "vdev_priv.h"
#include "virtio/pci.h"

void vdev_queue_init(struct vdev_queue *queue)
{
	*queue = (struct vdev_queue){
		.size_max = queue->size_max,
		.kick_fd = queue->kick_fd,
		.size = queue->size_max,
		.vector = MSIX_NO_VECTOR,
	};
}

static int queues_init(struct vdev *dev, const uint16_t *sizes, struct err *err)
{
	dev->queues = calloc(dev->queue_count, sizeof(*dev->queues));
	if (!dev->queues)
		return err_set(err, -ENOMEM, "no memory for %u queues",
			       dev->queue_count);
	for (unsigned int i = 0; i < dev->queue_count; i++)
		dev->queues[i].kick_fd = -1;
	for (unsigned int i = 0; i < dev->queue_count; i++) {
		struct vdev_queue *queue = &dev->queues[i];

		assert(sizes[i] && sizes[i] <= VDEV_QUEUE_SIZE_MAX &&
		       (sizes[i] & (sizes[i] - 1)) == 0);
		queue->size_max = sizes[i];
		queue->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (queue->kick_fd < 0)
			return err_set_errno(err, -errno, "eventfd of queue %u",
					     i);
		vdev_queue_init(queue);
	}
	return 0;
}

int vdev_init(struct vdev *dev, const struct vdev_type *type,
	      const struct vdev_site *site, uint64_t offered,
	      uint32_t config_size, unsigned int queue_count,
	      const uint16_t *queue_sizes, struct err *err)
{
	int ret;

	assert(queue_count <= VDEV_QUEUES_MAX);
	assert(config_size <= VDEV_CONFIG_MAX);
	dev->type = type;
	snprintf(dev->name, sizeof(dev->name), "%s", site->name);
	dev->mem = site->mem;
	dev->memory = site->memory;
	dev->offered = offered | VDEV_COMMON_FEATURES;
	dev->queue_count = queue_count;
	dev->config_size = config_size;
	lock_init(&dev->lock, LOCK_VDEV);
	ret = queues_init(dev, queue_sizes, err);
	if (ret == 0)
		ret = vdev_state_init(dev, site->state, site->setup_state, err);
	if (ret == 0)
		ret = vdev_pci_new(dev, site->bus, site->state, &dev->pci, err);
	if (ret)
		err_prefix(err, "%s", dev->name);
	return ret;
}

void vdev_fini(struct vdev *dev)
{
	if (!dev->type)
		return;
	assert(!dev->is_working);
	vdev_pci_free(dev->pci);
	vdev_state_fini(dev);
	for (unsigned int i = 0; dev->queues && i < dev->queue_count; i++) {
		if (dev->queues[i].kick_fd >= 0)
			close(dev->queues[i].kick_fd);
	}
	free(dev->queues);
	lock_fini(&dev->lock);
	dev->type = NULL;
}

void vdev_share(struct vdev *dev, struct event_writer *writer)
{
	dev->writer = writer;
	vdev_pci_share(dev->pci, writer);
}

static void start_begin(struct vdev *dev)
{
	struct err err = ERR_INIT;

	lock_assert_held(&dev->lock);
	if (dev->is_working || dev->is_resetting || !dev->is_running ||
	    !(dev->status & VIRTIO_CONFIG_S_DRIVER_OK) ||
	    !vdev_pci_may_master(dev->pci) ||
	    __atomic_load_n(&dev->is_broken, __ATOMIC_ACQUIRE))
		return;
	trace(vdev_start, "%s", dev->name);
	if (dev->type->start(dev, &err)) {
		vdev_break(dev, &err);
		return;
	}
	dev->is_working = true;
	dev->is_starting = dev->type->start_wait != NULL;
}

/* Broken, it works on for the machine, as one that breaks later does. */
void vdev_start(struct vdev *dev)
{
	struct err err = ERR_INIT;

	start_begin(dev);
	if (dev->is_starting && dev->type->start_wait(dev, &err))
		vdev_break(dev, &err);
	dev->is_starting = false;
}

/* So none waits while the device rests, and none is saved. */
static void end_queue_resets(struct vdev *dev)
{
	for (unsigned int i = 0; i < dev->queue_count; i++) {
		if (dev->queues[i].is_resetting)
			vdev_queue_init(&dev->queues[i]);
	}
}

int vdev_stop(struct vdev *dev, uint64_t deadline_ns, struct err *err)
{
	int ret = 0;

	lock_assert_held(&dev->lock);
	dev->is_starting = false;
	if (dev->is_working) {
		ret = dev->type->stop(dev, deadline_ns, err);
		trace(vdev_stop, "%s: %d", dev->name, ret);
	}
	if (ret == 0) {
		dev->is_working = false;
		end_queue_resets(dev);
	}
	return ret;
}

void vdev_end(struct vdev *dev, uint64_t deadline_ns)
{
	if (!dev->is_working)
		return;
	lock_acquire(&dev->lock);
	dev->is_resetting = true;
	vdev_stop(dev, deadline_ns, NULL);
	dev->is_working = false;
	lock_release(&dev->lock);
}

/* ---- for the machine ---- */

void vdev_run_begin(struct vdev *dev)
{
	lock_acquire(&dev->lock);
	dev->is_running = true;
	start_begin(dev);
	lock_release(&dev->lock);
}

void vdev_run(struct vdev *dev)
{
	lock_acquire(&dev->lock);
	dev->is_running = true;
	vdev_start(dev);
	lock_release(&dev->lock);
}

void vdev_probe(struct vdev *dev)
{
	lock_acquire(&dev->lock);
	if ((dev->status & VIRTIO_CONFIG_S_DRIVER_OK) && dev->type->probe)
		dev->type->probe(dev);
	lock_release(&dev->lock);
}

void vdev_rehearse_begin(struct vdev *dev)
{
	for (unsigned int i = 0; i < dev->queue_count; i++) {
		if (dev->queues[i].is_enabled)
			vdev_probe(dev);
	}
}

int vdev_rehearse(struct vdev *dev, struct err *err)
{
	return vdev_prepare(dev, VDEV_AHEAD, err);
}

int vdev_prepare(struct vdev *dev, enum vdev_stage stage, struct err *err)
{
	int ret;

	lock_acquire(&dev->lock);
	ret = vdev_build(dev, stage, err);
	lock_release(&dev->lock);
	return ret;
}

/* For all enabled queues and for config (NULL): those with a vector all at once. */
static void call_all(struct vdev *dev)
{
	int fds[VDEV_QUEUES_MAX + 1];
	unsigned int count = 0;

	for (unsigned int i = 0; i <= dev->queue_count; i++) {
		const struct vdev_queue *queue =
			i < dev->queue_count ? &dev->queues[i] : NULL;
		int fd = -1;

		if (!queue || queue->is_enabled)
			fd = vdev_pci_call_fd(dev->pci, queue);
		if (fd >= 0)
			fds[count++] = fd;
		else if (!queue || queue->is_enabled)
			vdev_pci_call(dev->pci, queue);
	}
	event_write_all(dev->writer, fds, count);
}

void vdev_arrived(struct vdev *dev)
{
	lock_acquire(&dev->lock);
	if (dev->status & VIRTIO_CONFIG_S_DRIVER_OK)
		call_all(dev);
	lock_release(&dev->lock);
	if (dev->type->arrived)
		dev->type->arrived(dev);
}

void vdev_pause_begin(struct vdev *dev)
{
	lock_acquire(&dev->lock);
	dev->is_running = false;
	if (dev->is_working && dev->type->stop_begin)
		dev->type->stop_begin(dev);
	lock_release(&dev->lock);
}

void vdev_pause_ask(struct vdev *dev, uint64_t deadline_ns)
{
	lock_acquire(&dev->lock);
	if (dev->is_working && dev->type->stop_ask)
		dev->type->stop_ask(dev, deadline_ns);
	lock_release(&dev->lock);
}

int vdev_pause(struct vdev *dev, uint64_t deadline_ns, struct err *err)
{
	int ret;

	lock_acquire(&dev->lock);
	dev->is_running = false;
	ret = vdev_stop(dev, deadline_ns, err);
	if (ret == 0 && dev->is_resetting)
		vdev_clear(dev);
	lock_release(&dev->lock);
	if (ret)
		err_prefix(err, "%s", dev->name);
	return ret;
}

/* ---- for back ends ---- */

int vdev_call_fd(const struct vdev *dev, const struct vdev_queue *queue)
{
	return vdev_pci_call_fd(dev->pci, queue);
}

void vdev_kick(const struct vdev *dev, const struct vdev_queue *queue)
{
	event_write(dev->writer, queue->kick_fd);
}

void vdev_call(const struct vdev *dev, const struct vdev_queue *queue)
{
	vdev_pci_call(dev->pci, queue);
}

void vdev_config_raise(struct vdev *dev)
{
	__atomic_add_fetch(&dev->generation, 1, __ATOMIC_RELEASE);
}

void vdev_config_call(struct vdev *dev)
{
	vdev_pci_call(dev->pci, NULL);
}

void vdev_config_changed(struct vdev *dev)
{
	vdev_config_raise(dev);
	vdev_config_call(dev);
}

void vdev_break(struct vdev *dev, const struct err *reason)
{
	if (__atomic_exchange_n(&dev->is_broken, 1, __ATOMIC_ACQ_REL))
		return;
	trace(vdev_break, "%s: %s", dev->name, err_msg(reason));
	/* virtio 1.2, 2.1.2: it is a change of configuration, too. */
	vdev_pci_call(dev->pci, NULL);
}
