// SPDX-License-Identifier: Apache-2.0
/*
 * The driver's registers, as virtio 1.2, chapters 2 and 3 have them; called by the
 * transport with the device's lock.
 *
 * Status bits are set one after the other, and only a reset takes them away:
 *
 *	 reset --> ACKNOWLEDGE --> DRIVER --> FEATURES_OK --> DRIVER_OK
 *	   ^                                (features fit)  (queues work)
 *	   |                                      |               |
 *	   +--- 0 written, or FLR: when the ------+---------------+
 *	        back end has stopped
 *
 *	 FAILED             by the driver, at any time
 *	 DEVICE_NEEDS_RESET by the device, at any time: the queues rest
 *
 * A back end that does not stop within RESET_PATIENCE_NS is asked again each time
 * the driver reads the status, or queue_reset of a queue that it resets alone: the vCPU
 * is never held up for longer, and can be stopped for a migration meanwhile.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/trace.h"
#include "vdev_priv.h"
#include "virtio/pci.h"

#define RESET_PATIENCE_NS (20 * NS_PER_MS)
/* Of what a driver does not ask about again. */
#define CHANGE_PATIENCE_NS (500 * NS_PER_MS)

#define ACKNOWLEDGE VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER      VIRTIO_CONFIG_S_DRIVER
#define FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define DRIVER_OK   VIRTIO_CONFIG_S_DRIVER_OK

static int accept_features(struct vdev *dev);
static int accept_driver(struct vdev *dev);

/* In the order in which they may be set: what has to be set already, and what the
 * device says to it. */
static const struct status_arc {
	uint8_t bit, needs;
	int (*enter)(struct vdev *dev);
} arcs[] = {
	{ ACKNOWLEDGE, 0, NULL },
	{ DRIVER, ACKNOWLEDGE, NULL },
	{ FEATURES_OK, ACKNOWLEDGE | DRIVER, accept_features },
	{ DRIVER_OK, ACKNOWLEDGE | DRIVER | FEATURES_OK, accept_driver },
	{ VIRTIO_CONFIG_S_FAILED, 0, NULL },
};

uint8_t vdev_status_needs(uint8_t bit)
{
	for (unsigned int i = 0; i < array_size(arcs); i++) {
		if (arcs[i].bit == bit)
			return arcs[i].needs;
	}
	return UINT8_MAX;
}

static int accept_features(struct vdev *dev)
{
	if (!vdev_has(dev, VIRTIO_F_VERSION_1) ||
	    (dev->features & ~dev->offered))
		return -EINVAL;
	return dev->type->accept ? dev->type->accept(dev) : 0;
}

static int accept_driver(struct vdev *dev)
{
	dev->status |= DRIVER_OK;
	vdev_start(dev);
	return 0;
}

void vdev_set_status(struct vdev *dev, uint8_t status)
{
	lock_assert_held(&dev->lock);
	if (status == 0) {
		vdev_reset(dev);
		return;
	}
	if (dev->is_resetting)
		return;
	for (unsigned int i = 0; i < array_size(arcs); i++) {
		const struct status_arc *arc = &arcs[i];

		if (!(status & arc->bit) || (dev->status & arc->bit) ||
		    (dev->status & arc->needs) != arc->needs)
			continue;
		if (!arc->enter || arc->enter(dev) == 0)
			dev->status |= arc->bit;
	}
	trace(vdev_status, "%s: 0x%02x written, now 0x%02x", dev->name, status,
	      dev->status);
}

void vdev_clear(struct vdev *dev)
{
	dev->is_resetting = false;
	dev->status = 0;
	dev->features = 0;
	__atomic_store_n(&dev->is_broken, 0, __ATOMIC_RELEASE);
	for (unsigned int i = 0; i < dev->queue_count; i++)
		vdev_queue_init(&dev->queues[i]);
	vdev_pci_clear(dev->pci);
	if (dev->type->reset)
		dev->type->reset(dev);
}

static int stop_soon(struct vdev *dev, uint64_t patience_ns, struct err *err)
{
	if (dev->is_working && dev->type->stop_begin)
		dev->type->stop_begin(dev);
	return vdev_stop(dev, clock_mono_ns() + patience_ns, err);
}

void vdev_reset(struct vdev *dev)
{
	lock_assert_held(&dev->lock);
	dev->is_resetting = true;
	if (stop_soon(dev, RESET_PATIENCE_NS, NULL) == 0)
		vdev_clear(dev);
	trace(vdev_reset, "%s: %s", dev->name,
	      dev->is_resetting ? "waits for its back end" : "done");
}

/*
 * What a function does as PCI has it (local bus 3.0, 6.2.2): off, it begins no access to
 * memory, and loses nothing.  QEMU takes DRIVER_OK away, too, and leaves a driver that
 * turns it on again without a device; only a reset may do that by virtio 1.2, 2.1.2.
 */
static void rest(struct vdev *dev, uint64_t patience_ns)
{
	struct err err = ERR_INIT;

	if (!dev->is_working)
		return;
	stop_soon(dev, patience_ns, &err);
	trace(vdev_rest, "%s: %s", dev->name,
	      dev->is_working ? err_msg(&err) : "bus mastering is off");
}

void vdev_master_changed(struct vdev *dev)
{
	lock_assert_held(&dev->lock);
	if (vdev_pci_may_master(dev->pci))
		vdev_start(dev);
	else if (!dev->is_resetting)
		rest(dev, CHANGE_PATIENCE_NS);
}

bool vdev_is_pending(struct vdev *dev)
{
	lock_assert_held(&dev->lock);
	if (dev->is_resetting)
		vdev_reset(dev);
	else if (!vdev_pci_may_master(dev->pci))
		rest(dev, RESET_PATIENCE_NS);
	return dev->is_working &&
	       (dev->is_resetting || !vdev_pci_may_master(dev->pci));
}

uint8_t vdev_status(struct vdev *dev)
{
	lock_assert_held(&dev->lock);
	if (dev->is_resetting)
		vdev_reset(dev);
	if (__atomic_load_n(&dev->is_broken, __ATOMIC_ACQUIRE))
		return dev->status | VIRTIO_CONFIG_S_NEEDS_RESET;
	return dev->status;
}

void vdev_set_features(struct vdev *dev, uint32_t half, uint32_t bits)
{
	lock_assert_held(&dev->lock);
	if (half > 1 || dev->is_resetting || (dev->status & FEATURES_OK))
		return;
	dev->features &= ~(0xffffffffull << 32 * half);
	dev->features |= (uint64_t)bits << 32 * half;
}

/* ---- queues ---- */

bool vdev_queue_is_open(const struct vdev *dev, const struct vdev_queue *queue)
{
	return !queue->is_enabled && !dev->is_resetting;
}

static int check_part(const char *name, uint64_t gpa, uint64_t size,
		      unsigned int align, struct err *err)
{
	uint64_t last;

	if (gpa % align)
		return err_set(err, -EINVAL, "%s at 0x%lx, no multiple of %u",
			       name, gpa, align);
	if (__builtin_add_overflow(gpa, size - 1, &last))
		return err_set(err, -EINVAL, "%s at 0x%lx, past 2^64", name,
			       gpa);
	return 0;
}

/* Where that is, is seen when it is mapped; alignments are of 2.7 and 2.8. */
int vdev_queue_check(const struct vdev *dev, const struct vdev_queue *queue,
		     struct err *err)
{
	bool is_packed = vdev_has(dev, VIRTIO_F_RING_PACKED);
	unsigned int size = queue->size;
	int ret;

	if (!(dev->status & FEATURES_OK))
		return err_set(err, -EINVAL, "enabled before FEATURES_OK");
	if (size == 0 || size > queue->size_max)
		return err_set(err, -EINVAL, "size %u, must be 1 to %u", size,
			       queue->size_max);
	if (!is_packed && (size & (size - 1)))
		return err_set(err, -EINVAL, "size %u, no power of two", size);
	ret = check_part("descriptors", queue->desc, 16ull * size, 16, err);
	if (ret == 0)
		ret = check_part("driver area", queue->driver,
				 is_packed ? 4 : 6 + 2ull * size,
				 is_packed ? 4 : 2, err);
	if (ret == 0)
		ret = check_part("device area", queue->device,
				 is_packed ? 4 : 6 + 8ull * size, 4, err);
	return ret;
}

void vdev_queue_enable(struct vdev *dev, struct vdev_queue *queue)
{
	struct err err = ERR_INIT;

	lock_assert_held(&dev->lock);
	if (!vdev_queue_is_open(dev, queue))
		return;
	/* Others may be working: they rest while this one changes. */
	if (vdev_queue_check(dev, queue, &err) ||
	    stop_soon(dev, CHANGE_PATIENCE_NS, &err)) {
		err_prefix(&err, "queue %u",
			   (unsigned int)(queue - dev->queues));
		vdev_break(dev, &err);
		return;
	}
	/* 2.8.1: both wrap counters begin as 1. */
	queue->next_avail = vdev_has(dev, VIRTIO_F_RING_PACKED) ? 0x8000 : 0;
	queue->next_used = queue->next_avail;
	queue->is_enabled = 1;
	vdev_start(dev);
}

void vdev_queue_reset(struct vdev *dev, struct vdev_queue *queue)
{
	struct err err = ERR_INIT;

	lock_assert_held(&dev->lock);
	if (!vdev_has(dev, VIRTIO_F_RING_RESET) || dev->is_resetting ||
	    !queue->is_enabled)
		return;
	queue->is_resetting = true;
	if (stop_soon(dev, RESET_PATIENCE_NS, &err) == 0)
		vdev_start(dev);
	trace(vdev_queue_reset, "%s: queue %u: %s", dev->name,
	      (unsigned int)(queue - dev->queues),
	      queue->is_resetting ? err_msg(&err) : "done");
}

/* 4.1.4.3: 1 as long as it goes on, and then 0, in queue_enable too. */
bool vdev_queue_is_resetting(struct vdev *dev, struct vdev_queue *queue)
{
	lock_assert_held(&dev->lock);
	if (queue->is_resetting)
		vdev_queue_reset(dev, queue);
	return queue->is_resetting;
}

/* ---- configuration space ---- */

void vdev_config_get(struct vdev *dev, uint64_t offset, uint32_t size,
		     uint8_t *bytes)
{
	lock_assert_held(&dev->lock);
	memset(bytes, 0, size);
	if (offset >= dev->config_size)
		return;
	if (size > dev->config_size - offset)
		size = (uint32_t)(dev->config_size - offset);
	if (dev->type->config_read)
		dev->type->config_read(dev);
	memcpy(bytes, dev->config + offset, size);
}

void vdev_config_set(struct vdev *dev, uint64_t offset, uint32_t size,
		     const uint8_t *bytes)
{
	lock_assert_held(&dev->lock);
	if (!dev->type->config_write || dev->is_resetting ||
	    offset >= dev->config_size || size > dev->config_size - offset)
		return;
	dev->type->config_write(dev, (uint32_t)offset, size, bytes);
}
