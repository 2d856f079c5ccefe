// SPDX-License-Identifier: Apache-2.0
/*
 * Builds devices by their options and treats them alike.
 *
 * A function that is only memory (shmem) has nothing to start, stop or claim; the
 * others are virtio devices.
 */
#include "machine/devices.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/parse.h"
#include "dev/ivshmem.h"
#include "vhost/vhost.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vdev.h"

struct device {
	struct vdev *vdev;   /* owned, or NULL */
	struct shmem *shmem; /* owned, or NULL */
};

struct devices {
	/* immutable after init */
	struct vh_board *vhost; /* owned; NULL without vhost devices */
	unsigned int count;
	struct device device[DEVICES_MAX];

	/* protected by the machine's LOCK_RUN_STATE, or owned by the migration
	 * thread while that has the machine */
	bool is_claimed;
};

/* Whether @text has sub-option @key; whoever takes the text checks the rest. */
static bool has_key(const char *text, const char *key, const char *value)
{
	const char *at = text;
	struct parse_kv kv;

	while (parse_kv_next(&at, &kv) > 0) {
		if (strcmp(kv.key, key) == 0)
			return !value || (kv.value && !strcmp(kv.value, value));
	}
	return false;
}

static bool is_vhost(const struct device_option *option)
{
	return has_key(option->text, "vhost-user", NULL) ||
	       has_key(option->text, "vhost", "on");
}

static int new_disk(const struct vdev_site *site, const char *text,
		    struct device *device, struct err *err)
{
	return has_key(text, "vhost-user", NULL)
		       ? vh_user_blk_new(site, text, &device->vdev, err)
		       : disk_new(site, text, &device->vdev, err);
}

static int new_net(const struct vdev_site *site, const char *text,
		   struct device *device, struct err *err)
{
	return has_key(text, "vhost-user", NULL) || has_key(text, "vhost", "on")
		       ? vh_net_new(site, text, &device->vdev, err)
		       : net_new(site, text, &device->vdev, err);
}

static int new_rng(const struct vdev_site *site, const char *text,
		   struct device *device, struct err *err)
{
	return rng_new(site, text, &device->vdev, err);
}

static int new_console(const struct vdev_site *site, const char *text,
		       struct device *device, struct err *err)
{
	return console_new(site, text, &device->vdev, err);
}

static int new_shmem(const struct vdev_site *site, const char *text,
		     struct device *device, struct err *err)
{
	return shmem_new(site->mem, site->bus, site->name, text, &device->shmem,
			 err);
}

static const struct {
	const char *name;
	int (*create)(const struct vdev_site *site, const char *text,
		      struct device *device, struct err *err);
} kinds[DEVICE_KIND_COUNT] = {
	[DEVICE_DISK] = { "disk", new_disk },
	[DEVICE_NET] = { "net", new_net },
	[DEVICE_RNG] = { "rng", new_rng },
	[DEVICE_CONSOLE] = { "console", new_console },
	[DEVICE_SHMEM] = { "shmem", new_shmem },
};

/* ---- building ---- */

static int build_one(struct devices *devices, struct vdev_site *site,
		     const struct device_option *option, unsigned int number,
		     struct err *err)
{
	struct device *device = &devices->device[devices->count];
	char name[16];
	int ret;

	snprintf(name, sizeof(name), "%s%u", kinds[option->kind].name, number);
	site->name = name;
	ret = kinds[option->kind].create(site, option->text, device, err);
	if (ret)
		err_prefix(err, "--%s %s", kinds[option->kind].name,
			   option->text);
	else
		devices->count++;
	return ret;
}

int devices_new(const struct vdev_site *site,
		const struct device_option *options, unsigned int count,
		bool scan_each, struct devices **ret_devices, struct err *err)
{
	struct devices *devices = calloc(1, sizeof(*devices));
	unsigned int numbers[DEVICE_KIND_COUNT] = { 0 };
	struct vdev_site here = *site;
	int ret = 0;

	if (!devices)
		return err_set(err, -ENOMEM, "no memory for devices");
	if (count > DEVICES_MAX)
		ret = err_set(err, -ENOSPC, "%u devices, at most %u", count,
			      DEVICES_MAX);
	for (unsigned int i = 0; !ret && i < count && !devices->vhost; i++) {
		if (is_vhost(&options[i]))
			ret = vh_board_new(site->mem, site->memory, scan_each,
					   &devices->vhost, err);
	}
	here.vhost = devices->vhost;
	for (unsigned int i = 0; !ret && i < count; i++)
		ret = build_one(devices, &here, &options[i],
				numbers[options[i].kind]++, err);
	if (ret)
		devices_free(devices);
	else
		*ret_devices = devices;
	return ret;
}

void devices_free(struct devices *devices)
{
	if (!devices)
		return;
	for (unsigned int i = devices->count; i-- > 0;) {
		struct device *device = &devices->device[i];

		if (device->vdev)
			device->vdev->type->free(device->vdev);
		shmem_free(device->shmem);
	}
	vh_board_free(devices->vhost);
	free(devices);
}

struct vh_board *devices_vhost(struct devices *devices)
{
	return devices ? devices->vhost : NULL;
}

/* ---- running ---- */

static unsigned int count_of(const struct devices *devices)
{
	return devices ? devices->count : 0;
}

void devices_run(struct devices *devices)
{
	for (unsigned int i = 0; i < count_of(devices); i++) {
		if (devices->device[i].vdev)
			vdev_run_begin(devices->device[i].vdev);
	}
	for (unsigned int i = 0; i < count_of(devices); i++) {
		if (devices->device[i].vdev)
			vdev_run(devices->device[i].vdev);
	}
}

void devices_probe(struct devices *devices)
{
	for (unsigned int i = 0; i < count_of(devices); i++) {
		if (devices->device[i].vdev)
			vdev_probe(devices->device[i].vdev);
	}
}

int devices_prepare(struct devices *devices, struct err *err)
{
	int ret = 0;

	for (unsigned int i = 0; !ret && i < count_of(devices); i++) {
		if (devices->device[i].vdev)
			ret = vdev_prepare(devices->device[i].vdev,
					   VDEV_STOPPED, err);
	}
	return ret;
}

int devices_rehearse(struct devices *devices, uint64_t *ret_ns, struct err *err)
{
	uint64_t start = clock_mono_ns();
	int ret = 0;

	for (unsigned int i = 0; i < count_of(devices); i++) {
		if (devices->device[i].vdev)
			vdev_rehearse_begin(devices->device[i].vdev);
	}
	for (unsigned int i = 0; !ret && i < count_of(devices); i++) {
		if (devices->device[i].vdev)
			ret = vdev_rehearse(devices->device[i].vdev, err);
	}
	*ret_ns = clock_mono_ns() - start;
	return ret;
}

int devices_pause(struct devices *devices, uint64_t deadline_ns,
		  struct err *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < count_of(devices); i++) {
		if (devices->device[i].vdev)
			vdev_pause_begin(devices->device[i].vdev);
	}
	for (unsigned int i = 0; i < count_of(devices); i++) {
		if (devices->device[i].vdev)
			vdev_pause_ask(devices->device[i].vdev, deadline_ns);
	}
	/* All are waited for, also when one does not end: none is left between. */
	for (unsigned int i = 0; i < count_of(devices); i++) {
		struct vdev *vdev = devices->device[i].vdev;
		int code = 0;

		if (vdev)
			code = vdev_pause(vdev, deadline_ns, ret ? NULL : err);
		ret = ret ? ret : code;
	}
	return ret;
}

/* ---- what only one copy of the guest may hold ---- */

static void disclaim(struct devices *devices, unsigned int count)
{
	while (count-- > 0) {
		struct vdev *vdev = devices->device[count].vdev;

		if (vdev && vdev->type->disclaim)
			vdev->type->disclaim(vdev);
	}
}

int devices_claim(struct devices *devices, struct err *err)
{
	if (!devices || devices->is_claimed)
		return 0;
	for (unsigned int i = 0; i < devices->count; i++) {
		struct vdev *vdev = devices->device[i].vdev;
		int ret = vdev && vdev->type->claim
				  ? vdev->type->claim(vdev, err)
				  : 0;

		if (ret) {
			err_prefix(err, "%s", vdev->name);
			disclaim(devices, i);
			return ret;
		}
	}
	devices->is_claimed = true;
	return 0;
}

void devices_disclaim(struct devices *devices)
{
	if (!devices || !devices->is_claimed)
		return;
	disclaim(devices, devices->count);
	devices->is_claimed = false;
}

void devices_arrived(struct devices *devices)
{
	for (unsigned int i = 0; i < count_of(devices); i++) {
		struct vdev *vdev = devices->device[i].vdev;

		if (vdev)
			vdev_arrived(vdev);
	}
}

/* ---- counters ---- */

void devices_vhost_counts(struct devices *devices, struct vh_counts *ret_counts)
{
	*ret_counts = (struct vh_counts){ .calls = 0 };
	for (int i = 0; devices && devices->vhost && i < VH_TYPE_COUNT; i++) {
		struct vh_counts counts;

		vh_board_counts(devices->vhost, (enum vh_type)i, &counts);
		ret_counts->tables_built += counts.tables_built;
		ret_counts->tables_told += counts.tables_told;
		ret_counts->regions_added += counts.regions_added;
		ret_counts->regions_removed += counts.regions_removed;
		ret_counts->logs_told += counts.logs_told;
		ret_counts->scans += counts.scans;
		ret_counts->ring_scans += counts.ring_scans;
		ret_counts->scan_ns += counts.scan_ns;
		ret_counts->calls += counts.calls;
	}
}
