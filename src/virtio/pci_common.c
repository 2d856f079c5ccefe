// SPDX-License-Identifier: Apache-2.0
/*
 * The common configuration (virtio 1.2, 4.1.4.3), as one table of registers: a
 * driver accesses each with its own width, or one of 64 bits in halves (4.1.3.1).
 * Writes of other widths have no effect.  Reads change nothing but that a reset that
 * waits goes on, so they may be of any.
 */
#include <errno.h>
#include <stdio.h>

#include "base/bytes.h"
#include "base/err.h"
#include "dev/msix.h"
#include "pci_priv.h"

/* The queue that is selected, or NULL. */
static struct vdev_queue *selected(struct vdev_pci *vp)
{
	if (vp->queue_select < vp->dev->queue_count)
		return &vp->dev->queues[vp->queue_select];
	return NULL;
}

/* The same, while its registers may be written. */
static struct vdev_queue *open_queue(struct vdev_pci *vp)
{
	struct vdev_queue *queue = selected(vp);

	return queue && vdev_queue_is_open(vp->dev, queue) ? queue : NULL;
}

static uint32_t half(uint64_t value, uint32_t select)
{
	return select < 2 ? (uint32_t)(value >> 32 * select) : 0;
}

/* 4.1.5.1.2.1: a vector that cannot be had reads as none. */
static uint16_t vector_taken(const struct vdev_pci *vp, uint64_t value)
{
	return value < msix_vectors(vp->msix) ? (uint16_t)value
					      : MSIX_NO_VECTOR;
}

static uint64_t get_device_select(struct vdev_pci *vp)
{
	return vp->device_feature_select;
}

static void set_device_select(struct vdev_pci *vp, uint64_t value)
{
	vp->device_feature_select = (uint32_t)value;
}

static uint64_t get_device_features(struct vdev_pci *vp)
{
	return half(vp->dev->offered, vp->device_feature_select);
}

static uint64_t get_driver_select(struct vdev_pci *vp)
{
	return vp->driver_feature_select;
}

static void set_driver_select(struct vdev_pci *vp, uint64_t value)
{
	vp->driver_feature_select = (uint32_t)value;
}

static uint64_t get_driver_features(struct vdev_pci *vp)
{
	return half(vp->dev->features, vp->driver_feature_select);
}

static void set_driver_features(struct vdev_pci *vp, uint64_t value)
{
	vdev_set_features(vp->dev, vp->driver_feature_select, (uint32_t)value);
}

static uint64_t get_config_vector(struct vdev_pci *vp)
{
	return __atomic_load_n(&vp->config_vector, __ATOMIC_RELAXED);
}

static void set_config_vector(struct vdev_pci *vp, uint64_t value)
{
	__atomic_store_n(&vp->config_vector, vector_taken(vp, value),
			 __ATOMIC_RELAXED);
}

static uint64_t get_num_queues(struct vdev_pci *vp)
{
	return vp->dev->queue_count;
}

static uint64_t get_status(struct vdev_pci *vp)
{
	return vdev_status(vp->dev);
}

static void set_status(struct vdev_pci *vp, uint64_t value)
{
	vdev_set_status(vp->dev, (uint8_t)value);
}

static uint64_t get_generation(struct vdev_pci *vp)
{
	return (uint8_t)__atomic_load_n(&vp->dev->generation, __ATOMIC_ACQUIRE);
}

static uint64_t get_queue_select(struct vdev_pci *vp)
{
	return vp->queue_select;
}

static void set_queue_select(struct vdev_pci *vp, uint64_t value)
{
	vp->queue_select = (uint16_t)value;
}

/* 0: there is no such queue. */
static uint64_t get_size(struct vdev_pci *vp)
{
	const struct vdev_queue *queue = selected(vp);

	return queue ? queue->size : 0;
}

static void set_size(struct vdev_pci *vp, uint64_t value)
{
	struct vdev_queue *queue = open_queue(vp);

	/* 4.1.4.3.2; whether it is a power of two is seen when it is enabled */
	if (queue && value && value <= queue->size_max)
		queue->size = (uint16_t)value;
}

static uint64_t get_vector(struct vdev_pci *vp)
{
	const struct vdev_queue *queue = selected(vp);

	return queue ? queue->vector : MSIX_NO_VECTOR;
}

/* The back end knows it while it works. */
static void set_vector(struct vdev_pci *vp, uint64_t value)
{
	struct vdev_queue *queue = selected(vp);

	if (queue && (!vp->dev->is_working || open_queue(vp)))
		queue->vector = vector_taken(vp, value);
}

static uint64_t get_enable(struct vdev_pci *vp)
{
	const struct vdev_queue *queue = selected(vp);

	return queue ? queue->is_enabled : 0;
}

static void set_enable(struct vdev_pci *vp, uint64_t value)
{
	struct vdev_queue *queue = selected(vp);

	if (queue && value == 1)
		vdev_queue_enable(vp->dev, queue);
}

static uint64_t get_notify_off(struct vdev_pci *vp)
{
	return selected(vp) ? vp->queue_select : 0;
}

static uint64_t get_desc(struct vdev_pci *vp)
{
	const struct vdev_queue *queue = selected(vp);

	return queue ? queue->desc : 0;
}

static void set_desc(struct vdev_pci *vp, uint64_t value)
{
	struct vdev_queue *queue = open_queue(vp);

	if (queue)
		queue->desc = value;
}

static uint64_t get_driver(struct vdev_pci *vp)
{
	const struct vdev_queue *queue = selected(vp);

	return queue ? queue->driver : 0;
}

static void set_driver(struct vdev_pci *vp, uint64_t value)
{
	struct vdev_queue *queue = open_queue(vp);

	if (queue)
		queue->driver = value;
}

static uint64_t get_device(struct vdev_pci *vp)
{
	const struct vdev_queue *queue = selected(vp);

	return queue ? queue->device : 0;
}

static void set_device(struct vdev_pci *vp, uint64_t value)
{
	struct vdev_queue *queue = open_queue(vp);

	if (queue)
		queue->device = value;
}

static uint64_t get_zero(struct vdev_pci *vp)
{
	(void)vp;
	return 0;
}

static uint64_t get_reset(struct vdev_pci *vp)
{
	struct vdev_queue *queue = selected(vp);

	return queue && vdev_queue_is_resetting(vp->dev, queue);
}

static void set_reset(struct vdev_pci *vp, uint64_t value)
{
	struct vdev_queue *queue = selected(vp);

	if (queue && value == 1)
		vdev_queue_reset(vp->dev, queue);
}

static const struct reg {
	uint8_t offset, size;
	uint64_t (*get)(struct vdev_pci *vp);
	void (*set)(struct vdev_pci *vp, uint64_t value);
} regs[] = {
	{ 0x00, 4, get_device_select, set_device_select },
	{ 0x04, 4, get_device_features, NULL },
	{ 0x08, 4, get_driver_select, set_driver_select },
	{ 0x0c, 4, get_driver_features, set_driver_features },
	{ 0x10, 2, get_config_vector, set_config_vector },
	{ 0x12, 2, get_num_queues, NULL },
	{ 0x14, 1, get_status, set_status },
	{ 0x15, 1, get_generation, NULL },
	{ 0x16, 2, get_queue_select, set_queue_select },
	{ 0x18, 2, get_size, set_size },
	{ 0x1a, 2, get_vector, set_vector },
	{ 0x1c, 2, get_enable, set_enable },
	{ 0x1e, 2, get_notify_off, NULL },
	{ 0x20, 8, get_desc, set_desc },
	{ 0x28, 8, get_driver, set_driver },
	{ 0x30, 8, get_device, set_device },
	{ 0x38, 2, get_zero, NULL }, /* queue_notify_data: not offered */
	{ 0x3a, 2, get_reset, set_reset },
};

static uint64_t common_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct vdev_pci *vp = opaque;
	uint64_t value = 0;

	lock_acquire(&vp->dev->lock);
	for (unsigned int i = 0; i < array_size(regs); i++) {
		const struct reg *reg = &regs[i];

		if (reg->offset >= offset + size ||
		    offset >= reg->offset + reg->size)
			continue;
		if (reg->offset >= offset)
			value |= reg->get(vp) << 8 * (reg->offset - offset);
		else
			value |= reg->get(vp) >> 8 * (offset - reg->offset);
	}
	lock_release(&vp->dev->lock);
	return value;
}

/* @value in the place of @size bytes of @reg, at @at there. */
static void write_reg(struct vdev_pci *vp, const struct reg *reg, uint64_t at,
		      uint64_t value, unsigned int size)
{
	if (size == reg->size) {
		reg->set(vp, value);
	} else if (reg->size == 8 && size == 4) {
		uint64_t mask = 0xffffffffull << 8 * at;

		reg->set(vp, (reg->get(vp) & ~mask) | (value << 8 * at & mask));
	}
}

static void common_write(void *opaque, uint64_t offset, uint64_t value,
			 unsigned int size)
{
	struct vdev_pci *vp = opaque;

	lock_acquire(&vp->dev->lock);
	for (unsigned int i = 0; i < array_size(regs); i++) {
		const struct reg *reg = &regs[i];

		if (reg->set && offset >= reg->offset &&
		    offset < reg->offset + reg->size)
			write_reg(vp, reg, offset - reg->offset, value, size);
	}
	lock_release(&vp->dev->lock);
}

const struct mem_io_ops vdev_pci_common_ops = {
	.read = common_read,
	.write = common_write,
};

void vdev_pci_clear(struct vdev_pci *vp)
{
	vp->device_feature_select = vp->driver_feature_select = 0;
	vp->queue_select = 0;
	__atomic_store_n(&vp->config_vector, MSIX_NO_VECTOR, __ATOMIC_RELAXED);
	__atomic_store_n(&vp->isr, 0, __ATOMIC_RELEASE);
}

/* ---- state ---- */

static const struct state_field fields[] = {
	STATE_FIELD(struct vdev_pci, device_feature_select, STATE_U32),
	STATE_FIELD(struct vdev_pci, driver_feature_select, STATE_U32),
	STATE_FIELD(struct vdev_pci, queue_select, STATE_U16),
	STATE_FIELD(struct vdev_pci, config_vector, STATE_U16),
	STATE_FIELD_MAX(struct vdev_pci, isr, STATE_U8,
			VDEV_PCI_ISR_QUEUE | VDEV_PCI_ISR_CHANGE),
};

static int check_loaded(void *obj, uint16_t version, struct err *err)
{
	const struct vdev_pci *vp = obj;

	(void)version;
	if (vector_taken(vp, vp->config_vector) != vp->config_vector)
		return err_set(err, -EBADMSG, "vector %u of %u",
			       vp->config_vector, msix_vectors(vp->msix));
	return 0;
}

static const struct state_desc state = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.load = check_loaded,
};

void vdev_pci_register(struct vdev_pci *vp, struct state_registry *registry)
{
	char name[STATE_NAME_MAX];

	snprintf(name, sizeof(name), "%s-virtio", vp->dev->name);
	state_register(registry, &vp->state, name, &state, vp);
}
