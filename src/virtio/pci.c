// SPDX-License-Identifier: Apache-2.0
/*
 * The function, its capabilities and its BAR.  Accesses come from vCPU threads, with
 * no lock held; each takes the device's.  Register by register: pci_common.c.
 */
#include "virtio/pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/msix.h"
#include "dev/pci.h"
#include "mem/space.h"
#include "pci_priv.h"

#define VENDOR       0x1af4u
#define DEVICE_FIRST 0x1040u
#define REVISION     1u

/* Capabilities as linux/virtio_pci.h has them, behind id and next pointer. */
#define CAP_SIZE   ((uint8_t)sizeof(struct virtio_pci_cap) - 2u)
#define CAP_AT(of) offsetof(struct virtio_pci_cap, of)

/* ---- the BAR's parts ---- */

static uint64_t isr_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct vdev_pci *vp = opaque;

	(void)size;
	if (offset != 0)
		return 0;
	/* 4.1.4.5: reading clears it. */
	return __atomic_exchange_n(&vp->isr, 0, __ATOMIC_ACQ_REL);
}

static uint64_t config_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct vdev_pci *vp = opaque;
	struct le64 value = { 0 };

	lock_acquire(&vp->dev->lock);
	vdev_config_get(vp->dev, offset, size, (uint8_t *)&value);
	lock_release(&vp->dev->lock);
	return le64_get(value);
}

static void config_write(void *opaque, uint64_t offset, uint64_t value,
			 unsigned int size)
{
	struct vdev_pci *vp = opaque;
	struct le64 bytes = le64_of(value);

	lock_acquire(&vp->dev->lock);
	vdev_config_set(vp->dev, offset, size, (uint8_t *)&bytes);
	lock_release(&vp->dev->lock);
}

/* Where the accelerator does not signal for the guest. */
static void notify_write(void *opaque, uint64_t offset, uint64_t value,
			 unsigned int size)
{
	struct vdev_pci *vp = opaque;
	uint64_t index = offset / VDEV_PCI_NOTIFY_MULTIPLIER;

	(void)value, (void)size;
	if (offset % VDEV_PCI_NOTIFY_MULTIPLIER == 0 &&
	    index < vp->dev->queue_count)
		vdev_kick(vp->dev, &vp->dev->queues[index]);
}

static const struct mem_io_ops isr_ops = { .read = isr_read };
static const struct mem_io_ops config_ops = {
	.read = config_read,
	.write = config_write,
};
static const struct mem_io_ops notify_ops = { .write = notify_write };

static const struct part {
	const char *name;
	uint32_t offset;
	const struct mem_io_ops *ops;
} parts[] = {
	{ "common", VDEV_PCI_COMMON, &vdev_pci_common_ops },
	{ "isr", VDEV_PCI_ISR, &isr_ops },
	{ "config", VDEV_PCI_CONFIG, &config_ops },
	{ "notify", VDEV_PCI_NOTIFY, &notify_ops },
};

#define PART_SIZE 0x1000u

_Static_assert(VDEV_QUEUES_MAX *VDEV_PCI_NOTIFY_MULTIPLIER <= PART_SIZE,
	       "each queue has its notification");
_Static_assert(VDEV_CONFIG_MAX <= PART_SIZE, "and configuration its place");

/* ---- the window onto the BAR in configuration space (4.1.4.9) ---- */

/* The access that its registers ask for, made by @ops of the part at *@ret_offset;
 * NULL when they make no sense. */
static const struct mem_io_ops *
window_target(struct vdev_pci *vp, uint32_t *ret_offset, uint32_t *ret_size)
{
	uint32_t at = vp->window_at;
	uint32_t bar = pci_config_get(vp->function, at + CAP_AT(bar), 1);
	uint32_t offset = pci_config_get(vp->function, at + CAP_AT(offset), 4);
	uint32_t size = pci_config_get(vp->function, at + CAP_AT(length), 4);

	if (bar != VDEV_PCI_BAR || (size != 1 && size != 2 && size != 4) ||
	    offset % size || offset >= VDEV_PCI_SIZE)
		return NULL;
	*ret_offset = offset % PART_SIZE;
	*ret_size = size;
	return parts[offset / PART_SIZE].ops;
}

static void window_read(void *opaque, uint32_t offset, uint32_t size)
{
	struct vdev_pci *vp = opaque;
	uint32_t at = vp->window_at + sizeof(struct virtio_pci_cap);
	const struct mem_io_ops *ops = window_target(vp, &offset, &size);

	if (ops && ops->read)
		pci_config_put(vp->function, at,
			       (uint32_t)ops->read(vp, offset, size), size);
}

static void window_written(void *opaque, uint32_t offset, uint32_t size)
{
	struct vdev_pci *vp = opaque;
	uint32_t at = vp->window_at + sizeof(struct virtio_pci_cap);
	const struct mem_io_ops *ops = window_target(vp, &offset, &size);

	if (ops && ops->write)
		ops->write(vp, offset, pci_config_get(vp->function, at, size),
			   size);
}

static void reset(void *opaque)
{
	struct vdev_pci *vp = opaque;

	lock_acquire(&vp->dev->lock);
	vdev_reset(vp->dev);
	lock_release(&vp->dev->lock);
}

static void command_written(void *opaque)
{
	struct vdev_pci *vp = opaque;

	lock_acquire(&vp->dev->lock);
	vdev_master_changed(vp->dev);
	lock_release(&vp->dev->lock);
}

static bool is_pending(void *opaque)
{
	struct vdev_pci *vp = opaque;
	bool is_pending;

	lock_acquire(&vp->dev->lock);
	is_pending = vdev_is_pending(vp->dev);
	lock_release(&vp->dev->lock);
	return is_pending;
}

static const struct pci_function_ops function_ops = {
	.config_read = window_read,
	.config_written = window_written,
	.command_written = command_written,
	.is_pending = is_pending,
	.reset = reset,
};

/* ---- building it ---- */

/* @more: bytes behind those that all have. */
static uint32_t add_cap(struct vdev_pci *vp, uint8_t type, uint32_t offset,
			uint32_t size, uint8_t more)
{
	uint32_t at = pci_capability_add(vp->function, PCI_CAP_ID_VNDR,
					 (uint8_t)(CAP_SIZE + more));
	uint8_t *config = pci_config(vp->function);
	struct le32 where = le32_of(offset), length = le32_of(size);

	config[at + CAP_AT(cap_len)] = (uint8_t)(CAP_SIZE + 2 + more);
	config[at + CAP_AT(cfg_type)] = type;
	config[at + CAP_AT(bar)] = size ? VDEV_PCI_BAR : 0;
	memcpy(config + at + CAP_AT(offset), &where, sizeof(where));
	memcpy(config + at + CAP_AT(length), &length, sizeof(length));
	return at;
}

/* In the order in which a driver is to prefer them; it is the only one of each. */
static void add_caps(struct vdev_pci *vp)
{
	struct vdev *dev = vp->dev;
	struct le32 multiplier = le32_of(VDEV_PCI_NOTIFY_MULTIPLIER);
	uint32_t at;

	add_cap(vp, VIRTIO_PCI_CAP_COMMON_CFG, VDEV_PCI_COMMON,
		VDEV_PCI_COMMON_SIZE, 0);
	add_cap(vp, VIRTIO_PCI_CAP_ISR_CFG, VDEV_PCI_ISR, 1, 0);
	if (dev->config_size)
		add_cap(vp, VIRTIO_PCI_CAP_DEVICE_CFG, VDEV_PCI_CONFIG,
			dev->config_size, 0);
	at = add_cap(vp, VIRTIO_PCI_CAP_NOTIFY_CFG, VDEV_PCI_NOTIFY,
		     dev->queue_count * VDEV_PCI_NOTIFY_MULTIPLIER,
		     sizeof(multiplier));
	memcpy(pci_config(vp->function) + at + sizeof(struct virtio_pci_cap),
	       &multiplier, sizeof(multiplier));
	at = add_cap(vp, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 4);
	vp->window_at = at;
	pci_claim(vp->function, at + CAP_AT(bar), 1, false);
	pci_claim(vp->function, at + CAP_AT(offset), 8, false);
	pci_claim(vp->function, at + sizeof(struct virtio_pci_cap), 4, true);
}

static int add_parts(struct vdev_pci *vp, struct err *err)
{
	for (unsigned int i = 0; i < array_size(parts); i++) {
		struct mem_region *region =
			mem_region_new_io(vp->dev->mem, parts[i].name,
					  PART_SIZE, parts[i].ops, vp);

		if (!region)
			return err_set(err, -ENOMEM, "no memory for a BAR");
		mem_region_add(vp->bar, parts[i].offset, region, 0);
		if (parts[i].offset == VDEV_PCI_NOTIFY)
			vp->notify = mem_region_get(region);
		mem_region_put(region); /* the BAR has it */
	}
	return 0;
}

/* Any size: a driver writes the queue's number in 16 bits, or more with
 * features that are not offered. */
static int add_notifications(struct vdev_pci *vp, struct err *err)
{
	for (unsigned int i = 0; i < vp->dev->queue_count; i++) {
		const struct mem_eventfd event = {
			.offset = i * VDEV_PCI_NOTIFY_MULTIPLIER,
			.fd = vp->dev->queues[i].kick_fd,
		};
		int ret = mem_region_add_eventfd(vp->notify, &event);

		if (ret)
			return err_set_errno(err, ret,
					     "notification of queue %u", i);
	}
	return 0;
}

static int build_bar(struct vdev_pci *vp, struct err *err)
{
	struct mem *mem = vp->dev->mem;
	int ret;

	vp->bar = mem_region_new_container(mem, vp->dev->name, VDEV_PCI_SIZE);
	if (!vp->bar)
		return err_set(err, -ENOMEM, "no memory for a BAR");
	mem_begin(mem);
	ret = add_parts(vp, err);
	if (ret == 0)
		ret = add_notifications(vp, err);
	mem_commit(mem);
	if (ret == 0)
		ret = pci_bar_add(vp->function, VDEV_PCI_BAR, vp->bar,
				  PCI_BAR_64_PREFETCH, err);
	return ret;
}

static int function_new(struct vdev_pci *vp, struct pci_bus *bus,
			struct err *err)
{
	const struct vdev_type *type = vp->dev->type;
	const struct pci_function_config config = {
		.name = vp->dev->name,
		.identity = {
			.vendor = VENDOR,
			.device = (uint16_t)(DEVICE_FIRST + type->id),
			.subsystem_vendor = VENDOR,
			.subsystem = (uint16_t)(DEVICE_FIRST + type->id),
			.revision = REVISION,
			.class_code = type->pci_class,
		},
		.ops = &function_ops,
		.opaque = vp,
		.vectors = vp->dev->queue_count + 1,
		.msix_bar = VDEV_PCI_BAR_MSIX,
	};

	return pci_function_new(bus, &config, &vp->function, err);
}

int vdev_pci_new(struct vdev *dev, struct pci_bus *bus,
		 struct state_registry *state, struct vdev_pci **ret_vp,
		 struct err *err)
{
	struct vdev_pci *vp = calloc(1, sizeof(*vp));
	int ret;

	if (!vp)
		return err_set(err, -ENOMEM, "no memory for a PCI function");
	vp->dev = dev;
	vp->config_vector = MSIX_NO_VECTOR;
	ret = function_new(vp, bus, err);
	if (ret == 0) {
		vp->msix = pci_msix(vp->function);
		add_caps(vp);
		ret = build_bar(vp, err);
	}
	if (ret) {
		vdev_pci_free(vp);
		return ret;
	}
	vdev_pci_register(vp, state);
	*ret_vp = vp;
	return 0;
}

static void del_notifications(struct vdev_pci *vp)
{
	mem_begin(vp->dev->mem);
	for (unsigned int i = 0; i < vp->dev->queue_count; i++) {
		const struct mem_eventfd event = {
			.offset = i * VDEV_PCI_NOTIFY_MULTIPLIER,
			.fd = vp->dev->queues[i].kick_fd,
		};

		mem_region_del_eventfd(vp->notify, &event);
	}
	mem_commit(vp->dev->mem);
}

void vdev_pci_free(struct vdev_pci *vp)
{
	if (!vp)
		return;
	state_unregister(&vp->state);
	pci_function_free(vp->function);
	/* The descriptors are closed behind this. */
	if (vp->notify)
		del_notifications(vp);
	mem_region_put(vp->notify);
	mem_region_put(vp->bar);
	free(vp);
}

struct pci_function *vdev_pci_function(struct vdev_pci *vp)
{
	return vp->function;
}

bool vdev_pci_may_master(const struct vdev_pci *vp)
{
	return pci_may_master(vp->function);
}

/* ---- interrupts ---- */

static uint16_t vector_of(const struct vdev_pci *vp,
			  const struct vdev_queue *queue)
{
	if (queue)
		return queue->vector;
	return __atomic_load_n(&vp->config_vector, __ATOMIC_RELAXED);
}

void vdev_pci_share(struct vdev_pci *vp, struct event_writer *writer)
{
	msix_share(vp->msix, writer);
}

int vdev_pci_call_fd(const struct vdev_pci *vp, const struct vdev_queue *queue)
{
	return msix_fd(vp->msix, vector_of(vp, queue));
}

void vdev_pci_call(struct vdev_pci *vp, const struct vdev_queue *queue)
{
	uint16_t vector = vector_of(vp, queue);

	if (vector != MSIX_NO_VECTOR)
		msix_notify(vp->msix, vector);
	else
		__atomic_fetch_or(&vp->isr,
				  queue ? VDEV_PCI_ISR_QUEUE
					: VDEV_PCI_ISR_CHANGE,
				  __ATOMIC_RELEASE);
}
