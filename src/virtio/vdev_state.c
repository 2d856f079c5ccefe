// SPDX-License-Identifier: Apache-2.0
/*
 * A device's registers, saved while it is paused and loaded.
 *
 * What a driver writes once, as it sets the device up, travels ahead as "@name-setup"
 * while the guest runs, and again when it changed.  The back end is built by that.  All
 * of it comes again at the switch, and what did not change costs nothing then.
 *
 * A guest may have put its rings where no RAM is, and the back end does not know
 * yet; so that is looked for when the device is saved, where it breaks the device,
 * and whoever finds it when the state is activated has been sent a bad stream.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/msix.h"
#include "vdev_priv.h"
#include "virtio/vq.h"

#define QUEUES VDEV_QUEUES_MAX

/* Registers of queues, in columns of the stream; used[] has how many are in each. */
#define COLUMNS 6u

struct columns {
	uint16_t size[QUEUES], vector[QUEUES];
	uint8_t is_enabled[QUEUES];
	uint64_t desc[QUEUES], driver[QUEUES], device[QUEUES];
	uint32_t used[COLUMNS];
};

struct vdev_ahead {
	uint8_t status;
	uint64_t features;
	struct columns columns;

	struct vdev *dev; /* borrowed; not saved */
	bool is_arriving; /* loaded, and the rest is not: its rings are nowhere */
};

struct vdev_saved {
	uint8_t status, is_broken;
	uint32_t generation;
	uint64_t features;
	uint8_t config[VDEV_CONFIG_MAX];
	uint32_t config_size;
	struct columns columns;
	uint16_t next_avail[QUEUES], next_used[QUEUES];
	uint32_t next_avail_used, next_used_used;

	struct vdev *dev; /* borrowed; not saved */
	struct vdev_ahead ahead;
	struct state_entry ahead_state;
};

#define COLUMN(type, member, kind_, number)                                  \
	{                                                                    \
		.name = #member, .kind = (kind_),                            \
		.offset = offsetof(type, columns.member), .count = QUEUES,   \
		.count_at = offsetof(type, columns.used[number]), .since = 1 \
	}
#define ALL_COLUMNS(type)                                                     \
	COLUMN(type, size, STATE_U16, 0), COLUMN(type, vector, STATE_U16, 1), \
		COLUMN(type, is_enabled, STATE_U8, 2),                        \
		COLUMN(type, desc, STATE_U64, 3),                             \
		COLUMN(type, driver, STATE_U64, 4),                           \
		COLUMN(type, device, STATE_U64, 5)

static const struct state_field ahead_fields[] = {
	STATE_FIELD(struct vdev_ahead, status, STATE_U8),
	STATE_FIELD(struct vdev_ahead, features, STATE_U64),
	ALL_COLUMNS(struct vdev_ahead),
};

static const struct state_field fields[] = {
	STATE_FIELD(struct vdev_saved, status, STATE_U8),
	STATE_FIELD_MAX(struct vdev_saved, is_broken, STATE_U8, 1),
	STATE_FIELD(struct vdev_saved, generation, STATE_U32),
	STATE_FIELD(struct vdev_saved, features, STATE_U64),
	STATE_VARRAY(struct vdev_saved, config, STATE_U8, config_size),
	ALL_COLUMNS(struct vdev_saved),
	STATE_VARRAY(struct vdev_saved, next_avail, STATE_U16, next_avail_used),
	STATE_VARRAY(struct vdev_saved, next_used, STATE_U16, next_used_used),
};

/* ---- saving ---- */

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

static void put_columns(const struct vdev *dev, struct columns *to)
{
	for (unsigned int i = 0; i < COLUMNS; i++)
		to->used[i] = dev->queue_count;
	for (unsigned int i = 0; i < dev->queue_count; i++) {
		const struct vdev_queue *queue = &dev->queues[i];

		to->size[i] = queue->size;
		to->vector[i] = queue->vector;
		to->is_enabled[i] = queue->is_enabled;
		to->desc[i] = queue->desc;
		to->driver[i] = queue->driver;
		to->device[i] = queue->device;
	}
}

/* Of a guest that runs. */
static int save_ahead(void *obj, struct err *err)
{
	struct vdev_ahead *ahead = obj;
	struct vdev *dev = ahead->dev;

	(void)err;
	lock_acquire(&dev->lock);
	ahead->status = dev->status;
	ahead->features = dev->features;
	put_columns(dev, &ahead->columns);
	lock_release(&dev->lock);
	return 0;
}

static int save(void *obj, struct err *err)
{
	struct vdev_saved *saved = obj;
	struct vdev *dev = saved->dev;
	struct err reason = ERR_INIT;

	(void)err;
	lock_acquire(&dev->lock);
	if (!saved->ahead.is_arriving && check_rings(dev, &reason))
		vdev_break(dev, &reason);
	saved->status = dev->status;
	saved->is_broken = __atomic_load_n(&dev->is_broken, __ATOMIC_ACQUIRE);
	saved->generation = __atomic_load_n(&dev->generation, __ATOMIC_ACQUIRE);
	saved->features = dev->features;
	saved->config_size = dev->config_size;
	vdev_config_get(dev, 0, dev->config_size, saved->config);
	put_columns(dev, &saved->columns);
	saved->next_avail_used = saved->next_used_used = dev->queue_count;
	for (unsigned int i = 0; i < dev->queue_count; i++) {
		saved->next_avail[i] = dev->queues[i].next_avail;
		saved->next_used[i] = dev->queues[i].next_used;
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
	/* Before that, a driver may have written anything. */
	if (!(status & VIRTIO_CONFIG_S_FEATURES_OK))
		return 0;
	if (dev->features & ~dev->offered)
		return err_set(err, -EBADMSG,
			       "features 0x%lx, of which 0x%lx are not offered",
			       dev->features, dev->features & ~dev->offered);
	if (!vdev_has(dev, VIRTIO_F_VERSION_1))
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
	if (queue->is_enabled && vdev_queue_check(dev, queue, &reason))
		return err_set(err, -EBADMSG, "%s", err_msg(&reason));
	return 0;
}

static int check_count(const struct vdev *dev, uint32_t count, struct err *err)
{
	if (count == dev->queue_count)
		return 0;
	return err_set(err, -EBADMSG, "%u queues, this device has %u", count,
		       dev->queue_count);
}

static int take_columns(struct vdev *dev, const struct columns *from,
			struct err *err)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < COLUMNS; i++)
		ret = check_count(dev, from->used[i], err);
	for (unsigned int i = 0; ret == 0 && i < dev->queue_count; i++) {
		struct vdev_queue *queue = &dev->queues[i];

		queue->size = from->size[i];
		queue->vector = from->vector[i];
		queue->is_enabled = from->is_enabled[i];
		queue->desc = from->desc[i];
		queue->driver = from->driver[i];
		queue->device = from->device[i];
		ret = check_queue(dev, queue, err);
		if (ret)
			err_prefix(err, "queue %u", i);
	}
	return ret;
}

/* What the driver did of 3.1, and its queues. */
static int take_registers(struct vdev *dev, uint8_t status, uint64_t features,
			  const struct columns *columns, struct err *err)
{
	int ret;

	dev->features = features;
	ret = check_status(dev, status, err);
	if (ret)
		return ret;
	dev->status = status;
	return take_columns(dev, columns, err);
}

static int take_indices(struct vdev *dev, const struct vdev_saved *saved,
			struct err *err)
{
	int ret = check_count(dev, saved->next_avail_used, err);

	if (ret == 0)
		ret = check_count(dev, saved->next_used_used, err);
	for (unsigned int i = 0; ret == 0 && i < dev->queue_count; i++) {
		struct vdev_queue *queue = &dev->queues[i];

		queue->next_avail = saved->next_avail[i];
		queue->next_used = saved->next_used[i];
		if (queue->is_enabled)
			ret = check_indices(dev, queue, err);
		if (ret)
			err_prefix(err, "queue %u", i);
	}
	return ret;
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

	if (saved->config_size != dev->config_size)
		return err_set(err, -EBADMSG,
			       "%u bytes of configuration, this device has %u",
			       saved->config_size, dev->config_size);
	ret = take_registers(dev, saved->status, saved->features,
			     &saved->columns, err);
	if (ret)
		return ret;
	__atomic_store_n(&dev->is_broken, saved->is_broken, __ATOMIC_RELEASE);
	__atomic_store_n(&dev->generation, saved->generation, __ATOMIC_RELEASE);
	ret = take_indices(dev, saved, err);
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
	saved->ahead.is_arriving = false;
	return take(saved->dev, saved, err);
}

static int load_ahead(void *obj, uint16_t version, struct err *err)
{
	struct vdev_ahead *ahead = obj;
	int ret = take_registers(ahead->dev, ahead->status, ahead->features,
				 &ahead->columns, err);

	(void)version;
	ahead->is_arriving = ret == 0;
	return ret;
}

static int accept(struct vdev *dev, struct err *err)
{
	if (!(dev->status & VIRTIO_CONFIG_S_FEATURES_OK) ||
	    !dev->type->accept || !dev->type->accept(dev))
		return 0;
	return err_set(err, -EBADMSG, "features 0x%lx do not go here",
		       dev->features);
}

int vdev_build(struct vdev *dev, enum vdev_stage stage, struct err *err)
{
	if (!(dev->status & VIRTIO_CONFIG_S_DRIVER_OK) || !dev->type->build ||
	    __atomic_load_n(&dev->is_broken, __ATOMIC_ACQUIRE))
		return 0;
	return dev->type->build(dev, stage, err);
}

static int activate(void *obj, struct err *err)
{
	struct vdev_saved *saved = obj;
	struct vdev *dev = saved->dev;
	int ret;

	lock_acquire(&dev->lock);
	ret = accept(dev, err);
	if (ret == 0)
		ret = check_rings(dev, err);
	if (ret == 0)
		ret = vdev_build(dev, VDEV_WHOLE, err);
	lock_release(&dev->lock);
	return ret;
}

/* The guest may move its rings to where RAM will be: nothing looks at them yet. */
static int activate_ahead(void *obj, struct err *err)
{
	struct vdev_ahead *ahead = obj;
	struct vdev *dev = ahead->dev;
	int ret;

	lock_acquire(&dev->lock);
	ret = accept(dev, err);
	if (ret == 0)
		ret = vdev_build(dev, VDEV_AHEAD, err);
	lock_release(&dev->lock);
	return ret;
}

static const struct state_desc ahead_state = {
	.version = 1,
	.min_version = 1,
	.fields = ahead_fields,
	.field_count = array_size(ahead_fields),
	.save = save_ahead,
	.load = load_ahead,
	.activate = activate_ahead,
	.is_optional = true, /* since minor version 4 of the stream */
};

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
		    struct state_registry *setup_registry, struct err *err)
{
	char name[STATE_NAME_MAX];

	dev->saved = calloc(1, sizeof(*dev->saved));
	if (!dev->saved)
		return err_set(err, -ENOMEM, "no memory for saved state");
	dev->saved->dev = dev->saved->ahead.dev = dev;
	state_register(registry, &dev->state, dev->name, &state, dev->saved);
	if (!setup_registry)
		return 0;
	snprintf(name, sizeof(name), "%s-setup", dev->name);
	state_register(setup_registry, &dev->saved->ahead_state, name,
		       &ahead_state, &dev->saved->ahead);
	return 0;
}

void vdev_state_fini(struct vdev *dev)
{
	if (dev->saved) {
		state_unregister(&dev->state);
		state_unregister(&dev->saved->ahead_state);
	}
	free(dev->saved);
}
