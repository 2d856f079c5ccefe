/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio device's files:
 *
 *	vdev.c         life, running and pausing, what back ends call
 *	vdev_status.c  the driver's registers: status, features, queues, config
 *	vdev_state.c   all of that, saved and loaded
 */
#ifndef GODWIT_VIRTIO_VDEV_PRIV_H
#define GODWIT_VIRTIO_VDEV_PRIV_H

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "virtio/vdev.h"

#define VDEV_COMMON_FEATURES                                                 \
	(1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_RING_PACKED |         \
	 1ull << VIRTIO_F_RING_RESET | 1ull << VIRTIO_RING_F_INDIRECT_DESC | \
	 1ull << VIRTIO_RING_F_EVENT_IDX)

/* What a status bit takes (vdev_status.c); UINT8_MAX: there is no such bit. */
uint8_t vdev_status_needs(uint8_t bit);

/* With dev->lock: the registers of an enabled @queue make sense, 0 or -EINVAL. */
int vdev_queue_check(const struct vdev *dev, const struct vdev_queue *queue,
		     struct err *err);
void vdev_queue_init(struct vdev_queue *queue); /* as after power-up */

/* With dev->lock: have it work, if it is to. */
void vdev_start(struct vdev *dev);
/* With dev->lock: 0 when it does not work; resets of queues are done then. */
int vdev_stop(struct vdev *dev, uint64_t deadline_ns, struct err *err);
/* With dev->lock, when it does not work: registers as after power-up. */
void vdev_clear(struct vdev *dev);

/* Allocates dev->saved, registers it as @name, and what of it travels ahead in
 * @setup_registry (NULL: nothing does). */
int vdev_state_init(struct vdev *dev, struct state_registry *registry,
		    struct state_registry *setup_registry, struct err *err);
void vdev_state_fini(struct vdev *dev);
/* As build of struct vdev_type, where there is something to build; with dev->lock. */
int vdev_build(struct vdev *dev, enum vdev_stage stage, struct err *err);

#endif
