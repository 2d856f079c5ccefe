/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio over PCI, without the registers of drafts before 1.0: what a guest's driver
 * finds and how it reaches a struct vdev.
 *
 *	BAR 1  MSI-X (dev/msix.h): a vector for each queue, and one
 *	BAR 4  64-bit, prefetchable:
 *	       0x0000  common configuration
 *	       0x1000  interrupt status
 *	       0x2000  the device's configuration
 *	       0x3000  notifications: 4 bytes a queue
 *
 * A queue's notification signals its kick_fd, by an event of the memory region that
 * is there from the first day: nothing is armed when a device starts.
 *
 * Interrupts are MSI-X only.  A driver without reads the status by polling.
 *
 * The queues are memory accesses of the function: they rest while bus mastering is off
 * in its command register (vdev_master_changed()).  A driver turns it on before DRIVER_OK
 * or behind it; nothing is made up for one that never does.
 *
 * Source: virtio 1.2, 4.1.
 */
#ifndef GODWIT_VIRTIO_PCI_H
#define GODWIT_VIRTIO_PCI_H

#include <stdbool.h>
#include <stdint.h>

#define VDEV_PCI_BAR_MSIX 1u
#define VDEV_PCI_BAR      4u

#define VDEV_PCI_COMMON 0x0000u
#define VDEV_PCI_ISR    0x1000u
#define VDEV_PCI_CONFIG 0x2000u
#define VDEV_PCI_NOTIFY 0x3000u
#define VDEV_PCI_SIZE   0x4000u

/* 4.1.4.4: of the queue's number. */
#define VDEV_PCI_NOTIFY_MULTIPLIER 4u

struct err;
struct event_writer;
struct pci_bus;
struct pci_function;
struct state_registry;
struct vdev;
struct vdev_pci;
struct vdev_queue;

/* A function of @dev, saved as "NAME-virtio". */
int vdev_pci_new(struct vdev *dev, struct pci_bus *bus,
		 struct state_registry *state, struct vdev_pci **ret_vp,
		 struct err *err);
void vdev_pci_free(struct vdev_pci *vp); /* NULL is accepted */
struct pci_function *vdev_pci_function(struct vdev_pci *vp);

/* The driver lets the function access memory. */
bool vdev_pci_may_master(const struct vdev_pci *vp);

/* With dev->lock: the transport's registers as after power-up. */
void vdev_pci_clear(struct vdev_pci *vp);

/* As vdev_share(). */
void vdev_pci_share(struct vdev_pci *vp, struct event_writer *writer);
/* The eventfd that interrupts for @queue (NULL: a change of configuration); -1:
 * none. */
int vdev_pci_call_fd(const struct vdev_pci *vp, const struct vdev_queue *queue);
/* Interrupt; any thread, any lock. */
void vdev_pci_call(struct vdev_pci *vp, const struct vdev_queue *queue);

#endif
