/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-net: the kernel moves packets between a pair of rings and a queue of a tap.
 * One a pair, as the kernel has it.
 */
#ifndef GODWIT_VHOST_KERNEL_H
#define GODWIT_VHOST_KERNEL_H

#include <stdint.h>

#include "virtio/vdev.h"

struct err;
struct vh_board;
struct vh_dev;
struct vh_kernel;

/* @name: of the device; copied.  @error_fd: an eventfd, borrowed until it is freed, that
 * the kernel signals when it cannot work on a ring.  What opening /dev/vhost-net said, or -ENOTSUP when
 * the kernel's part cannot do what it must. */
int vh_kernel_new(struct vh_board *board, const char *name, int error_fd,
		  struct vh_kernel **ret_kernel, struct err *err);
void vh_kernel_free(struct vh_kernel *kernel); /* NULL is accepted */

struct vh_dev *vh_kernel_dev(struct vh_kernel *kernel);
/* Features of ring and device that the kernel has. */
uint64_t vh_kernel_features(const struct vh_kernel *kernel);

/* As vh_dev_build() and vh_dev_start(), of the pair that begins with queue @first; with
 * the tap's queue @tap_fd, which is borrowed while it works, also after a failure. */
int vh_kernel_build(struct vh_kernel *kernel, struct vdev *vdev,
		    unsigned int first, uint64_t features,
		    enum vdev_stage stage, struct err *err);
int vh_kernel_start(struct vh_kernel *kernel, int tap_fd, struct vdev *vdev,
		    unsigned int first, uint64_t features, struct err *err);

#endif
