// SPDX-License-Identifier: Apache-2.0
/*
 * The block device (virtio 1.2, 5.2) of a vhost-user back end:
 *
 *	--disk vhost-user=SOCK[,queues=N]
 *
 * Features and configuration space are the back end's; nothing of a request is seen
 * here.  In a move the destination has a back end of its own, for a disk of the same
 * shape: the source's configuration is compared with it, and another one refused.
 * Requests in flight are finished by the source's back end before it stops.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/lock.h"
#include "base/parse.h"
#include "base/trace.h"
#include "vhost/user.h"
#include "vhost_priv.h"
#include "virtio/vdev.h"

#define QUEUES_MAX 64u
#define QUEUE_SIZE 256u

/* Without secure erase, which some back ends have never heard of. */
#define CONFIG_SIZE offsetof(struct virtio_blk_config, max_secure_erase_sectors)

#define BIT(n) (1ull << (n))

/* Not VIRTIO_BLK_F_CONFIG_WCE: nothing of the configuration is the driver's. */
#define BLK_FEATURES                                              \
	(BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) | \
	 BIT(VIRTIO_BLK_F_GEOMETRY) | BIT(VIRTIO_BLK_F_RO) |      \
	 BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) |   \
	 BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_MQ) |      \
	 BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES))

/* Of the ring, what a back end must have or may. */
#define RING_NEEDED BIT(VIRTIO_F_VERSION_1)
#define RING_FEATURES \
	(BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX))

struct user_blk {
	struct vdev vdev;     /* first */
	struct vh_user *user; /* owned */
	unsigned int queues;

	bool is_built; /* atomic: vdev is there for the back end's thread */

	struct lock lock; /* LOCK_DEVICE */
	/* protected by lock: the configuration as the back end has it now, until
	 * the driver reads it */
	uint8_t config[CONFIG_SIZE];
	bool is_changed;
};

struct options {
	char path[108];
	unsigned int queues;
};

static struct user_blk *blk_of(struct vdev *vdev)
{
	return container_of(vdev, struct user_blk, vdev);
}

/* ---- configuration space ---- */

/* Of the back end's, with as many queues as the device has. */
static int ask_config(struct user_blk *blk, uint8_t config[CONFIG_SIZE],
		      struct err *err)
{
	const struct le16 queues = le16_of((uint16_t)blk->queues);
	int ret = vh_user_get_config(blk->user, config, CONFIG_SIZE, err);

	if (ret)
		return ret;
	memcpy(config + offsetof(struct virtio_blk_config, num_queues), &queues,
	       sizeof(queues));
	return 0;
}

/* By the back end's thread. */
static void config_changed(void *opaque)
{
	struct user_blk *blk = opaque;
	uint8_t config[CONFIG_SIZE];
	struct err err = ERR_INIT;

	if (!__atomic_load_n(&blk->is_built, __ATOMIC_ACQUIRE))
		return;
	if (ask_config(blk, config, &err)) {
		trace(vh_blk_config, "%s: %s", blk->vdev.name, err_msg(&err));
		return;
	}
	lock_acquire(&blk->lock);
	memcpy(blk->config, config, CONFIG_SIZE);
	blk->is_changed = true;
	vdev_config_raise(&blk->vdev);
	lock_release(&blk->lock);
	vdev_config_call(&blk->vdev);
}

static void user_blk_config_read(struct vdev *vdev)
{
	struct user_blk *blk = blk_of(vdev);

	lock_acquire(&blk->lock);
	if (blk->is_changed)
		memcpy(vdev->config, blk->config, CONFIG_SIZE);
	blk->is_changed = false;
	lock_release(&blk->lock);
}

static int user_blk_config_load(struct vdev *vdev, const uint8_t *bytes,
				struct err *err)
{
	struct le64 theirs, ours; /* capacity, the first field */

	user_blk_config_read(vdev);
	memcpy(&theirs, bytes, sizeof(theirs));
	memcpy(&ours, vdev->config, sizeof(ours));
	if (theirs.raw != ours.raw)
		return err_set(err, -EBADMSG,
			       "disk of %lu sectors, the back end's here has "
			       "%lu",
			       le64_get(theirs), le64_get(ours));
	if (memcmp(bytes, vdev->config, CONFIG_SIZE))
		return err_set(err, -EBADMSG,
			       "the back end's disk here has other limits");
	return 0;
}

/* ---- work ---- */

static struct vh_queues queues_of(struct vdev *vdev)
{
	return (struct vh_queues){ vdev, 0, blk_of(vdev)->queues,
				   vdev->features };
}

static int user_blk_build(struct vdev *vdev, enum vdev_stage stage,
			  struct err *err)
{
	const struct vh_queues queues = queues_of(vdev);

	return vh_dev_build(vh_user_dev(blk_of(vdev)->user), &queues, stage,
			    err);
}

static void user_blk_probe(struct vdev *vdev)
{
	vh_dev_probe(vh_user_dev(blk_of(vdev)->user));
}

static int user_blk_start(struct vdev *vdev, struct err *err)
{
	const struct vh_queues queues = queues_of(vdev);

	return vh_dev_start(vh_user_dev(blk_of(vdev)->user), &queues, err);
}

static int user_blk_start_wait(struct vdev *vdev, struct err *err)
{
	return vh_dev_start_wait(vh_user_dev(blk_of(vdev)->user), err);
}

static void user_blk_stop_begin(struct vdev *vdev)
{
	vh_dev_stop_begin(vh_user_dev(blk_of(vdev)->user));
}

static void user_blk_stop_ask(struct vdev *vdev, uint64_t deadline_ns)
{
	vh_dev_stop_ask(vh_user_dev(blk_of(vdev)->user), deadline_ns);
}

static int user_blk_stop(struct vdev *vdev, uint64_t deadline_ns,
			 struct err *err)
{
	return vh_dev_stop(vh_user_dev(blk_of(vdev)->user), deadline_ns, err);
}

static void user_blk_reset(struct vdev *vdev)
{
	vh_dev_reset(vh_user_dev(blk_of(vdev)->user));
}

static void user_blk_free(struct vdev *vdev)
{
	struct user_blk *blk = blk_of(vdev);

	vdev_end(vdev, clock_mono_ns()); /* the machine has waited for it */
	vh_user_free(blk->user);         /* and its thread */
	vdev_fini(vdev);
	lock_fini(&blk->lock);
	free(blk);
}

static const struct vdev_type user_blk_type = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.pci_class = 0x018000,
	.config_read = user_blk_config_read,
	.config_load = user_blk_config_load,
	.build = user_blk_build,
	.probe = user_blk_probe,
	.start = user_blk_start,
	.start_wait = user_blk_start_wait,
	.stop_begin = user_blk_stop_begin,
	.stop_ask = user_blk_stop_ask,
	.stop = user_blk_stop,
	.reset = user_blk_reset,
	.free = user_blk_free,
};

/* ---- new ---- */

static int take_option(struct options *options, const struct parse_kv *kv,
		       struct err *err)
{
	uint64_t queues;
	int ret;

	if (!kv->value)
		return err_set(err, -EINVAL, "'%s' has no value", kv->key);
	if (!strcmp(kv->key, "vhost-user")) {
		if (!kv->value[0] || strlen(kv->value) >= sizeof(options->path))
			return err_set(err, -EINVAL,
				       "vhost-user: a path of 1 to %zu bytes",
				       sizeof(options->path) - 1);
		strcpy(options->path, kv->value);
		return 0;
	}
	if (strcmp(kv->key, "queues"))
		return err_set(err, -EINVAL,
			       "no sub-option '%s'; with vhost-user there is "
			       "queues",
			       kv->key);
	ret = parse_u64(kv->value, 1, QUEUES_MAX, &queues, err);
	if (ret)
		err_prefix(err, "queues");
	else
		options->queues = (unsigned int)queues;
	return ret;
}

static int read_options(const char *text, struct options *options,
			struct err *err)
{
	struct parse_kv kv;
	int ret;

	while ((ret = parse_kv_next(&text, &kv)) > 0) {
		ret = take_option(options, &kv, err);
		if (ret)
			return ret;
	}
	if (ret)
		return err_set(err, ret, "'%s' is no list of key=value", text);
	if (!options->path[0])
		return err_set(err, -EINVAL, "vhost-user=SOCK is missing");
	return 0;
}

static int connect_back_end(struct user_blk *blk, const struct vdev_site *site,
			    const struct options *options, struct err *err)
{
	const struct vh_user_config config = {
		.name = site->name,
		.path = options->path,
		.rings = options->queues,
		.features = BLK_FEATURES | RING_FEATURES | RING_NEEDED,
		.needs_config = true,
		.config_changed = config_changed,
		.opaque = blk,
	};
	int ret = vh_user_new(site->vhost, &config, &blk->user, err);

	if (ret)
		return ret;
	if (!(vh_user_features(blk->user) & RING_NEEDED))
		return err_set(err, -ENOTSUP,
			       "%s: its back end knows no virtio 1",
			       site->name);
	if (blk->queues > 1 &&
	    !(vh_user_features(blk->user) & BIT(VIRTIO_BLK_F_MQ)))
		return err_set(err, -ENOTSUP,
			       "%s: its back end has one queue, %u are wanted",
			       site->name, blk->queues);
	return 0;
}

static int user_blk_init(struct user_blk *blk, const struct vdev_site *site,
			 const struct options *options, struct err *err)
{
	uint16_t sizes[QUEUES_MAX];
	uint64_t features;
	int ret;

	lock_init(&blk->lock, LOCK_DEVICE);
	blk->queues = options->queues;
	for (unsigned int i = 0; i < blk->queues; i++)
		sizes[i] = QUEUE_SIZE;
	ret = connect_back_end(blk, site, options, err);
	if (!ret)
		ret = ask_config(blk, blk->vdev.config, err);
	if (ret)
		return ret;
	features = vh_user_features(blk->user);
	if (blk->queues == 1)
		features &= ~BIT(VIRTIO_BLK_F_MQ);
	ret = vdev_init(&blk->vdev, &user_blk_type, site,
			features & BLK_FEATURES, CONFIG_SIZE, blk->queues,
			sizes, err);
	if (!ret)
		vdev_share(&blk->vdev, vh_user_dev(blk->user)->side->writer);
	/* Of what all devices have, what the back end has, and what needs none: a
	 * queue's reset is a stop and a start, if others may be at work. */
	if (!vh_user_dev(blk->user)->is_hasty)
		features |= BIT(VIRTIO_F_RING_RESET);
	blk->vdev.offered &= features;
	return ret;
}

int vh_user_blk_new(const struct vdev_site *site, const char *text,
		    struct vdev **ret_dev, struct err *err)
{
	struct options options = { .queues = 1 };
	struct user_blk *blk;
	int ret = read_options(text, &options, err);

	if (ret)
		return ret;
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return err_set(err, -ENOMEM, "%s", site->name);
	ret = user_blk_init(blk, site, &options, err);
	if (ret) {
		user_blk_free(&blk->vdev);
		return ret;
	}
	__atomic_store_n(&blk->is_built, true, __ATOMIC_RELEASE);
	*ret_dev = &blk->vdev;
	return 0;
}
