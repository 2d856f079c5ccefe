/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport's two files: pci.c has the function and its BAR, pci_common.c the
 * registers of the common configuration, and what of the transport is saved.
 */
#ifndef GODWIT_VIRTIO_PCI_PRIV_H
#define GODWIT_VIRTIO_PCI_PRIV_H

#include "mem/region.h"
#include "state/state.h"
#include "virtio/pci.h"
#include "virtio/vdev.h"

/* 4.1.4.3, with what queue_reset brought. */
#define VDEV_PCI_COMMON_SIZE 0x3cu

/* 4.1.4.5 */
#define VDEV_PCI_ISR_QUEUE  0x01u
#define VDEV_PCI_ISR_CHANGE 0x02u

struct vdev_pci {
	/* immutable after init */
	struct vdev *dev;              /* borrowed: it owns this */
	struct pci_function *function; /* owned */
	struct msix *msix;             /* the function's */
	struct mem_region *bar;        /* owned reference */
	struct mem_region *notify;     /* owned reference */
	uint32_t window_at;            /* the capability */
	struct state_entry state;

	/* protected by dev->lock */
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;

	/* atomic */
	uint16_t config_vector;
	uint8_t isr;
};

extern const struct mem_io_ops vdev_pci_common_ops;

void vdev_pci_register(struct vdev_pci *vp, struct state_registry *state);

#endif
