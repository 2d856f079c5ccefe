/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of virtio devices behind PCI: see vdev.h. */
#include "guest/vdev.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stddef.h>

#include "guest/cpu.h"
#include "guest/mmio.h"

/* Fields of struct virtio_pci_common_cfg. */
#define COMMON(field) offsetof(struct virtio_pci_common_cfg, field)

static uint64_t place_address(const struct vdev *dev,
			      const struct vdev_place *place)
{
	return dev->function->bars[place->bar].addr + place->offset;
}

static uint64_t common_address(const struct vdev *dev, size_t field)
{
	return place_address(dev, &dev->common) + field;
}

/* The first capability of a type counts (4.1.4). */
static void take_capability(struct vdev *dev, uint8_t at)
{
	const struct pci_function *f = dev->function;
	uint8_t type = pci_read8(f, at + VIRTIO_PCI_CAP_CFG_TYPE);
	struct vdev_place place = {
		.bar = pci_read8(f, at + VIRTIO_PCI_CAP_BAR),
		.offset = pci_read32(f, at + VIRTIO_PCI_CAP_OFFSET),
		.size = pci_read32(f, at + VIRTIO_PCI_CAP_LENGTH),
	};

	if (place.bar >= PCI_BARS ||
	    (uint64_t)place.offset + place.size > f->bars[place.bar].size)
		return;
	if (type == VIRTIO_PCI_CAP_COMMON_CFG && !dev->common.size) {
		dev->common = place;
	} else if (type == VIRTIO_PCI_CAP_DEVICE_CFG && !dev->device.size) {
		dev->device = place;
	} else if (type == VIRTIO_PCI_CAP_NOTIFY_CFG && !dev->notify.size) {
		dev->notify = place;
		dev->notify_multiplier =
			pci_read32(f, at + VIRTIO_PCI_NOTIFY_CAP_MULT);
	}
}

const char *vdev_open(struct vdev *dev, unsigned int index,
		      struct pci_function *f)
{
	uint8_t at = 0;

	*dev = (struct vdev){ .index = index, .function = f };
	while ((at = pci_capability(f, PCI_CAP_ID_VNDR, at)))
		take_capability(dev, at);
	if (dev->common.size < COMMON(queue_used_hi) + 4 || !dev->notify.size)
		return "a virtio device is not a modern one";
	msix_find(&dev->msix, f);
	pci_enable(f, true);
	dev->queue_limit = mmio_read16(common_address(dev, COMMON(num_queues)));
	return NULL;
}

static void set_status(const struct vdev *dev, uint8_t status)
{
	mmio_write8(common_address(dev, COMMON(device_status)), status);
}

static uint8_t status_of(const struct vdev *dev)
{
	return mmio_read8(common_address(dev, COMMON(device_status)));
}

void vdev_reset(struct vdev *dev)
{
	set_status(dev, 0);
	while (status_of(dev))
		cpu_pause();
}

static uint64_t read_features(const struct vdev *dev)
{
	uint64_t select = common_address(dev, COMMON(device_feature_select));
	uint64_t feature = common_address(dev, COMMON(device_feature));
	uint64_t low;

	mmio_write32(select, 0);
	low = mmio_read32(feature);
	mmio_write32(select, 1);
	return (uint64_t)mmio_read32(feature) << 32 | low;
}

static void write_features(const struct vdev *dev, uint64_t features)
{
	uint64_t select = common_address(dev, COMMON(guest_feature_select));
	uint64_t feature = common_address(dev, COMMON(guest_feature));

	mmio_write32(select, 0);
	mmio_write32(feature, (uint32_t)features);
	mmio_write32(select, 1);
	mmio_write32(feature, (uint32_t)(features >> 32));
}

const char *vdev_begin(struct vdev *dev, uint64_t wanted)
{
	const uint8_t found =
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	uint64_t offered;

	vdev_reset(dev);
	set_status(dev, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	set_status(dev, found);
	offered = read_features(dev);
	if (!(offered & 1ULL << VIRTIO_F_VERSION_1))
		return "a virtio device does not offer VERSION_1";
	dev->features = offered & (wanted | 1ULL << VIRTIO_F_VERSION_1);
	write_features(dev, dev->features);
	set_status(dev, found | VIRTIO_CONFIG_S_FEATURES_OK);
	if (!(status_of(dev) & VIRTIO_CONFIG_S_FEATURES_OK))
		return "a virtio device takes less features than it offers";
	/* Some have more once VIRTIO_NET_F_MQ is agreed on. */
	dev->queue_limit = mmio_read16(common_address(dev, COMMON(num_queues)));
	return NULL;
}

static void select_queue(const struct vdev *dev, unsigned int n)
{
	mmio_write16(common_address(dev, COMMON(queue_select)), (uint16_t)n);
}

uint16_t vdev_queue_size(const struct vdev *dev, unsigned int n)
{
	if (n >= dev->queue_limit || n >= VDEV_QUEUES_MAX)
		return 0;
	select_queue(dev, n);
	return mmio_read16(common_address(dev, COMMON(queue_size)));
}

static void write_areas(const struct vdev *dev, const struct virtq *vq)
{
	mmio_write64(common_address(dev, COMMON(queue_desc_lo)),
		     (uintptr_t)vq->desc);
	mmio_write64(common_address(dev, COMMON(queue_avail_lo)),
		     (uintptr_t)vq->driver);
	mmio_write64(common_address(dev, COMMON(queue_used_lo)),
		     (uintptr_t)vq->device);
}

const char *vdev_queue_start(struct vdev *dev, unsigned int n,
			     const struct virtq_shape *shape, void *memory,
			     uint16_t vector)
{
	struct vdev_queue *queue = &dev->queues[n];
	uint64_t vector_address =
		common_address(dev, COMMON(queue_msix_vector));

	queue->index = (uint16_t)n;
	queue->vector = vector;
	queue->is_broken = false;
	virtq_init(&queue->vq, shape, memory);
	select_queue(dev, n);
	mmio_write16(common_address(dev, COMMON(queue_size)), shape->size);
	write_areas(dev, &queue->vq);
	mmio_write16(vector_address, vector);
	if (mmio_read16(vector_address) != vector)
		return "a virtio device refused an MSI-X vector";
	queue->notify_offset =
		mmio_read16(common_address(dev, COMMON(queue_notify_off)));
	mmio_write16(common_address(dev, COMMON(queue_enable)), 1);
	return NULL;
}

void vdev_ready(struct vdev *dev)
{
	set_status(dev, status_of(dev) | VIRTIO_CONFIG_S_DRIVER_OK);
}

bool vdev_has(const struct vdev *dev, unsigned int feature)
{
	return dev->features & 1ULL << feature;
}

bool vdev_needs_reset(const struct vdev *dev)
{
	return status_of(dev) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

uint8_t vdev_generation(const struct vdev *dev)
{
	return mmio_read8(common_address(dev, COMMON(config_generation)));
}

static uint64_t config_wide(const struct vdev *dev, uint64_t from)
{
	uint64_t value;
	uint8_t before;

	do {
		before = vdev_generation(dev);
		value = mmio_read32(from);
		value |= (uint64_t)mmio_read32(from + 4) << 32;
	} while (vdev_generation(dev) != before);
	return value;
}

uint64_t vdev_config(const struct vdev *dev, unsigned int offset,
		     unsigned int width)
{
	uint64_t from = place_address(dev, &dev->device) + offset;

	if (offset + width > dev->device.size)
		return 0;
	switch (width) {
	case 1:
		return mmio_read8(from);
	case 2:
		return mmio_read16(from);
	case 4:
		return mmio_read32(from);
	default:
		return config_wide(dev, from);
	}
}

void vdev_notify(const struct vdev *dev, const struct vdev_queue *queue)
{
	mmio_write16(place_address(dev, &dev->notify) +
			     (uint64_t)queue->notify_offset *
				     dev->notify_multiplier,
		     queue->index);
}
