/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The entropy device (virtio 1.2, 5.4): random bytes of the host's kernel.
 *
 *	--rng on
 */
#ifndef GODWIT_VIRTIO_RNG_H
#define GODWIT_VIRTIO_RNG_H

struct err;
struct vdev;
struct vdev_site;

int rng_new(const struct vdev_site *site, const char *text,
	    struct vdev **ret_dev, struct err *err);

#endif
