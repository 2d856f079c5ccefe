/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The console device (virtio 1.2, 5.3) with one port: what a guest's kernel calls
 * hvc0.
 *
 *	--console stdio|unix:PATH|file:PATH|null	(dev/chardev.h)
 */
#ifndef GODWIT_VIRTIO_CONSOLE_H
#define GODWIT_VIRTIO_CONSOLE_H

struct err;
struct vdev;
struct vdev_site;

int console_new(const struct vdev_site *site, const char *text,
		struct vdev **ret_dev, struct err *err);

#endif
