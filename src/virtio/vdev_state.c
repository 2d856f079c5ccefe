// SPDX-License-Identifier: Apache-2.0
/*
 * A device's registers, saved while it is paused and loaded.
 *
 * A guest may have put its rings where no RAM is, and the back end does not know
 * yet; so that is looked for when the device is saved, where it breaks the device,
 * and whoever finds it when the state is activated has been sent a bad stream.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/msix.h"
#include "vdev_priv.h"
#include "virtio/vq.h"

#define QUEUES  VDEV_QUEUES_MAX
#define COLUMNS 8u

/* What goes through the stream: struct vdev with its queues in columns. */
struct vdev_saved {
	uint8_t status, is_broken;
	uint32_t generation;
	uint64_t features;
	uint8_t config[VDEV_CONFIG_MAX];
	uint32_t config_size;

	/* as many as queues, each; columns has how many */
	uint16_t size[QUEUES], vector[QUEUES];
	uint8_t is_enabled[QUEUES];
	uint64_t desc[QUEUES], driver[QUEUES], device[QUEUES];
	uint16_t next_avail[QUEUES], next_used[QUEUES];
	uint32_t columns[COLUMNS];

	struct vdev *dev; /* borrowed; not saved */
};

static const struct state_field fields[] = {
	STATE_FIELD(struct vdev_saved, status, STATE_U8),
	STATE_FIELD_MAX(struct vdev_saved, is_broken, STATE_U8, 1),
	STATE_FIELD(struct vdev_saved, generation, STATE_U32),
	STATE_FIELD(struct vdev_saved, features, STATE_U64),
	STATE_VARRAY(struct vdev_saved, config, STATE_U8, config_size),
	STATE_VARRAY(struct vdev_saved, size, STATE_U16, columns[0]),
	STATE_VARRAY(struct vdev_saved, vector, STATE_U16, columns[1]),
	STATE_VARRAY(struct vdev_saved, is_enabled, STATE_U8, columns[2]),
	STATE_VARRAY(struct vdev_saved, desc, STATE_U64, columns[3]),
	STATE_VARRAY(struct vdev_saved, driver, STATE_U64, columns[4]),
	STATE_VARRAY(struct vdev_saved, device, STATE_U64, columns[5]),
	STATE_VARRAY(struct vdev_saved, next_avail, STATE_U16, columns[6]),
	STATE_VARRAY(struct vdev_saved, next_used, STATE_U16, columns[7]),
};

/* With the new topology, or before it is left: all that would be worked on is in
 * RAM. */
static int check_rings(struct vdev *dev, struct err *err)
{
	struct vq_ring desc, driver, device;

	if (!(dev->status & VIRTIO_CONFIG_S_DRIVER_OK) ||
	    __atomic_load_n(&dev->is_broken, __ATOMIC_ACQUIRE))
		return 0;
	for (unsigned int i = 0; i < dev->queue_count; i++) {
		const struct vdev_queue *queue = &dev->queues[i];
		int ret = 0;

		if (queue->is_enabled)
			ret = vq_rings_map(dev, queue, &desc, &driver, &device,
					   err);
		if (ret) {
			err_prefix(err, "queue %u", i);
			return ret;
		}
	}
	return 0;
}

static int save(void *obj, struct err *err)
{
	struct vdev_saved *saved = obj;
	struct vdev *dev = saved->dev;
	struct err reason = ERR_INIT;

	(void)err;
	lock_acquire(&dev->lock);
	if (check_rings(dev, &reason))
		vdev_break(dev, &reason);
	saved->status = dev->status;
	saved->is_broken = __atomic_load_n(&dev->is_broken, __ATOMIC_ACQUIRE);
	saved->generation = __atomic_load_n(&dev->generation, __ATOMIC_ACQUIRE);
	saved->features = dev->features;
	saved->config_size = dev->config_size;
	vdev_config_get(dev, 0, dev->config_size, saved->config);
	for (unsigned int i = 0; i < COLUMNS; i++)
		saved->columns[i] = dev->queue_count;
	for (unsigned int i = 0; i < dev->queue_count; i++) {
		const struct vdev_queue *queue = &dev->queues[i];

		saved->size[i] = queue->size;
		saved->vector[i] = queue->vector;
		saved->is_enabled[i] = queue->is_enabled;
		saved->desc[i] = queue->desc;
		saved->driver[i] = queue->driver;
		saved->device[i] = queue->device;
		saved->next_avail[i] = queue->next_avail;
		saved->next_used[i] = queue->next_used;
	}
	lock_release(&dev->lock);
	return 0;
}

/* ---- loading ---- */

/* Each bit is there by an arc of vdev_status.c. */
static int check_status(const struct vdev *dev, uint8_t status, struct err *err)
{
	for (unsigned int i = 0; i < 8; i++) {
		uint8_t bit = (uint8_t)(1u << i), needs;

		if (!(status & bit))
			continue;
		needs = vdev_status_needs(bit);
		if (needs == UINT8_MAX || (status & needs) != needs)
			return err_set(err, -EBADMSG,
				       "status 0x%02x, in which 0x%02x cannot "
				       "be",
				       status, bit);
	}
	if (dev->features & ~dev->offered)
		return err_set(err, -EBADMSG,
			       "features 0x%lx, of which 0x%lx are not offered",
			       dev->features, dev->features & ~dev->offered);
	if ((status & VIRTIO_CONFIG_S_FEATURES_OK) &&
	    !vdev_has(dev, VIRTIO_F_VERSION_1))
		return err_set(err, -EBADMSG,
			       "features 0x%lx are complete without VERSION_1",
			       dev->features);
	return 0;
}

/* The device has all that was taken completed, but for what a vhost-user back end
 * keeps in flight. */
static int check_indices(const struct vdev *dev, const struct vdev_queue *queue,
			 struct err *err)
{
	uint16_t avail = queue->next_avail, used = queue->next_used;
	bool fits;

	if (vdev_has(dev, VIRTIO_F_RING_PACKED))
		fits = (avail & 0x7fff) < queue->size &&
		       (used & 0x7fff) < queue->size;
	else
		fits = (uint16_t)(avail - used) <= queue->size;
	if (!fits)
		return err_set(err, -EBADMSG,
			       "0x%04x taken, 0x%04x used, of a queue of %u",
			       avail, used, queue->size);
	return 0;
}

static int check_queue(const struct vdev *dev, const struct vdev_queue *queue,
		       struct err *err)
{
	struct err reason = ERR_INIT;

	if (queue->size > queue->size_max)
		return err_set(err, -EBADMSG, "size %u, at most %u",
			       queue->size, queue->size_max);
	if (queue->vector != MSIX_NO_VECTOR && queue->vector > dev->queue_count)
		return err_set(err, -EBADMSG, "vector %u, at most %u",
			       queue->vector, dev->queue_count);
	if (queue->is_enabled > 1)
		return err_set(err, -EBADMSG, "is_enabled: %u",
			       queue->is_enabled);
	if (!queue->is_enabled)
		return 0;
	if (vdev_queue_check(dev, queue, &reason))
		return err_set(err, -EBADMSG, "%s", err_msg(&reason));
	return check_indices(dev, queue, err);
}

static void take_queue(struct vdev_queue *queue, const struct vdev_saved *saved,
		       unsigned int i)
{
	queue->size = saved->size[i];
	queue->vector = saved->vector[i];
	queue->is_enabled = saved->is_enabled[i];
	queue->desc = saved->desc[i];
	queue->driver = saved->driver[i];
	queue->device = saved->device[i];
	queue->next_avail = saved->next_avail[i];
	queue->next_used = saved->next_used[i];
}

static int take_config(struct vdev *dev, const uint8_t *bytes, struct err *err)
{
	if (dev->type->config_load)
		return dev->type->config_load(dev, bytes, err);
	if (dev->type->config_read)
		dev->type->config_read(dev);
	for (uint32_t i = 0; i < dev->config_size; i++) {
		if (bytes[i] != dev->config[i])
			return err_set(err, -EBADMSG,
				       "byte %u of its configuration is 0x%02x "
				       "and not 0x%02x",
				       i, bytes[i], dev->config[i]);
	}
	return 0;
}

static int take(struct vdev *dev, const struct vdev_saved *saved,
		struct err *err)
{
	int ret;

	for (unsigned int i = 0; i < COLUMNS; i++) {
		if (saved->columns[i] != dev->queue_count)
			return err_set(err, -EBADMSG,
				       "%u queues, this device has %u",
				       saved->columns[i], dev->queue_count);
	}
	if (saved->config_size != dev->config_size)
		return err_set(err, -EBADMSG,
			       "%u bytes of configuration, this device has %u",
			       saved->config_size, dev->config_size);
	dev->features = saved->features;
	ret = check_status(dev, saved->status, err);
	if (ret)
		return ret;
	dev->status = saved->status;
	__atomic_store_n(&dev->is_broken, saved->is_broken, __ATOMIC_RELEASE);
	__atomic_store_n(&dev->generation, saved->generation, __ATOMIC_RELEASE);
	for (unsigned int i = 0; ret == 0 && i < dev->queue_count; i++) {
		take_queue(&dev->queues[i], saved, i);
		ret = check_queue(dev, &dev->queues[i], err);
		if (ret)
			err_prefix(err, "queue %u", i);
	}
	if (ret == 0)
		ret = take_config(dev, saved->config, err);
	return ret;
}

/* Without the lock: nobody else knows the device yet, and a load is within a
 * transaction, which comes behind that lock. */
static int load(void *obj, uint16_t version, struct err *err)
{
	struct vdev_saved *saved = obj;

	(void)version;
	return take(saved->dev, saved, err);
}

static int activate(void *obj, struct err *err)
{
	struct vdev_saved *saved = obj;
	struct vdev *dev = saved->dev;
	int ret = 0;

	lock_acquire(&dev->lock);
	if ((dev->status & VIRTIO_CONFIG_S_FEATURES_OK) && dev->type->accept &&
	    dev->type->accept(dev))
		ret = err_set(err, -EBADMSG, "features 0x%lx do not go here",
			      dev->features);
	if (ret == 0)
		ret = check_rings(dev, err);
	lock_release(&dev->lock);
	return ret;
}

static const struct state_desc state = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.save = save,
	.load = load,
	.activate = activate,
};

int vdev_state_init(struct vdev *dev, struct state_registry *registry,
		    struct err *err)
{
	dev->saved = calloc(1, sizeof(*dev->saved));
	if (!dev->saved)
		return err_set(err, -ENOMEM, "no memory for saved state");
	dev->saved->dev = dev;
	state_register(registry, &dev->state, dev->name, &state, dev->saved);
	return 0;
}

void vdev_state_fini(struct vdev *dev)
{
	if (dev->saved)
		state_unregister(&dev->state);
	free(dev->saved);
}
