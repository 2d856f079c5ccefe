/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices that a machine was asked for: --disk, --net, --rng, --console,
 * --shmem, each as often as there are PCI slots.  They are built in the order of
 * the command line, which is the order of their slots, and started, stopped and
 * moved together.
 */
#ifndef GODWIT_MACHINE_DEVICES_H
#define GODWIT_MACHINE_DEVICES_H

#include <stdbool.h>
#include <stdint.h>

struct devices;
struct err;
struct vh_board;
struct vdev_site;
struct vh_counts;

#define DEVICES_MAX 31u /* slots, but for the host bridge's */

enum device_kind {
	DEVICE_DISK,
	DEVICE_NET,
	DEVICE_RNG,
	DEVICE_CONSOLE,
	DEVICE_SHMEM,
	DEVICE_KIND_COUNT
};

struct device_option {
	enum device_kind kind;
	const char *text; /* what followed the option */
};

/* What was built is freed when one fails.  @site's name and vhost are filled in:
 * "disk0", "disk1", "net0".  @scan_each: vhost/vhost.h. */
int devices_new(const struct vdev_site *site,
		const struct device_option *options, unsigned int count,
		bool scan_each, struct devices **ret_devices, struct err *err);
/* This and the rest accept NULL: no devices. */
void devices_free(struct devices *devices);
/* NULL without vhost devices. */
struct vh_board *devices_vhost(struct devices *devices);

/* vdev_run() and vdev_pause() of all; each begins in all before it is waited for in
 * any.  A pause that failed leaves some working: run them all again, or
 * pause again. */
void devices_run(struct devices *devices);
int devices_pause(struct devices *devices, uint64_t deadline_ns,
		  struct err *err);

/* vdev_probe() of all. */
void devices_probe(struct devices *devices);

/* vdev_prepare() of all, when the guest has stopped elsewhere. */
int devices_prepare(struct devices *devices, struct err *err);

/* Devices whose guest is to come here: how long it takes to ask their back ends, all at
 * a time, one question for each queue.  -EIO or the like: one does not answer. */
int devices_rehearse(struct devices *devices, uint64_t *ret_ns,
		     struct err *err);

/* claim of all, or of none (nothing when they have it); disclaim; and
 * vdev_arrived() of all (virtio/vdev.h). */
int devices_claim(struct devices *devices, struct err *err);
void devices_disclaim(struct devices *devices);
void devices_arrived(struct devices *devices);

/* vhost/vhost.h, of all back-end types. */
void devices_vhost_counts(struct devices *devices,
			  struct vh_counts *ret_counts);

#endif
