// SPDX-License-Identifier: Apache-2.0
/*
 * Building the block device, its registers and its state; starting and stopping
 * its thread.
 *
 * A stop is begun by telling the thread to pop no more, and ends when nothing is
 * in flight.  One that misses its deadline is called off, and the device goes on.
 * One that must succeed, since the driver resets the device or there is no
 * deadline, fails after a while what waits for a server that is away.
 */
#include "virtio/blk.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"
#include "virtio/blk_priv.h"

#define PCI_CLASS_STORAGE 0x018000u /* "other": no programming interface */
#define PHYSICAL_BLOCK    4096u     /* what file systems and SSDs write */
#define GIVE_UP_AFTER_NS  (5 * NS_PER_SEC)
#define CONFIG_SIZE       offsetof(struct virtio_blk_config, unused1) + 3

static struct blk *of(struct vdev *dev)
{
	return (struct blk *)dev;
}

/* ---- registers ---- */

static struct virtio_blk_config *config_of(struct blk *blk)
{
	return (struct virtio_blk_config *)blk->dev.config;
}

/* A driver that knows of no cache must not have one. */
static void find_durability(struct blk *blk)
{
	bool is_cached = vdev_has(&blk->dev, VIRTIO_BLK_F_CONFIG_WCE)
				 ? config_of(blk)->wce
				 : vdev_has(&blk->dev, VIRTIO_BLK_F_FLUSH);

	__atomic_store_n(&blk->is_durable, !is_cached, __ATOMIC_RELAXED);
}

static uint64_t features(const struct blk *blk)
{
	uint64_t all =
		1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
		1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_FLUSH |
		1ull << VIRTIO_BLK_F_CONFIG_WCE;

	if (blk->queue_count > 1)
		all |= 1ull << VIRTIO_BLK_F_MQ;
	if (blk->backend->info.is_readonly)
		return all | 1ull << VIRTIO_BLK_F_RO;
	if (blk->has_discard)
		all |= 1ull << VIRTIO_BLK_F_DISCARD;
	return all | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
}

static void fill_config(struct blk *blk)
{
	const struct blk_info *info = &blk->backend->info;
	struct virtio_blk_config *config = config_of(blk);
	uint8_t exponent = 0;
	bool is_writable = !info->is_readonly;

	while (info->block_size << exponent < PHYSICAL_BLOCK)
		exponent++;
	*config = (struct virtio_blk_config){
		.capacity = htole64(info->size >> BLK_SECTOR_SHIFT),
		.seg_max = htole32(BLK_SEG_MAX),
		.blk_size = htole32(info->block_size),
		.physical_block_exp = exponent,
		.wce = 1,
		.num_queues = htole16((uint16_t)blk->queue_count),
		.max_write_zeroes_sectors =
			is_writable ? htole32(BLK_ZERO_MAX) : 0,
		.max_write_zeroes_seg = htole32(is_writable),
		.write_zeroes_may_unmap = blk->has_discard,
	};
	if (blk->has_discard) {
		config->max_discard_sectors = htole32(BLK_DISCARD_MAX);
		config->max_discard_seg = htole32(1);
		config->discard_sector_alignment =
			htole32(info->block_size >> BLK_SECTOR_SHIFT);
	}
}

static void blk_config_write(struct vdev *dev, uint32_t offset, uint32_t size,
			     const uint8_t *bytes)
{
	uint32_t at = offsetof(struct virtio_blk_config, wce);

	if (!vdev_has(dev, VIRTIO_BLK_F_CONFIG_WCE) || offset > at ||
	    offset + size <= at)
		return;
	config_of(of(dev))->wce = bytes[at - offset] & 1;
	find_durability(of(dev));
}

static void blk_reset(struct vdev *dev)
{
	config_of(of(dev))->wce = 1;
}

/* ---- start and stop ---- */

/* The thread may be spinning. */
static void call(struct blk *blk)
{
	__atomic_add_fetch(&blk->calls, 1, __ATOMIC_RELAXED);
}

static void post(struct blk *blk, void (*work)(void *opaque))
{
	call(blk);
	io_thread_post(blk->thread, work, blk);
}

static int blk_start(struct vdev *dev, struct err *err)
{
	struct blk *blk = of(dev);
	int ret;

	for (unsigned int i = 0; i < blk->queue_count; i++) {
		if (!blk->queues[i].queue->is_enabled)
			continue;
		ret = vq_start(&blk->queues[i].vq, dev, i, err);
		if (ret)
			return ret;
	}
	find_durability(blk);
	/* It may not be done when this returns; a stop comes after it. */
	post(blk, blk_thread_start);
	return 0;
}

static void blk_stop_begin(struct vdev *dev)
{
	struct blk *blk = of(dev);

	if (blk->stopping_since)
		return;
	blk->stopping_since = clock_mono_ns();
	blk->has_given_up = false;
	lock_acquire(&blk->lock);
	blk->is_drained = false;
	blk->share_result = 0;
	lock_release(&blk->lock);
	post(blk, blk_thread_stop);
}

static int wait_drained(struct blk *blk, uint64_t deadline_ns)
{
	int ret = 0;

	lock_acquire(&blk->lock);
	while (!blk->is_drained && ret == 0) {
		if (deadline_ns == UINT64_MAX)
			lock_wait(&blk->lock, &blk->drained);
		else
			ret = lock_wait_until(&blk->lock, &blk->drained,
					      deadline_ns);
	}
	if (blk->is_drained)
		ret = blk->share_result;
	lock_release(&blk->lock);
	return ret;
}

static int wait_or_give_up(struct blk *blk, uint64_t deadline_ns)
{
	uint64_t end = blk->stopping_since + GIVE_UP_AFTER_NS;
	int ret;

	if (blk->has_given_up || end > deadline_ns)
		return wait_drained(blk, deadline_ns);
	ret = wait_drained(blk, end);
	if (ret != -ETIMEDOUT)
		return ret;
	trace(blk_give_up, "%s", blk->dev.name);
	blk->has_given_up = true;
	post(blk, blk_thread_give_up);
	return wait_drained(blk, deadline_ns);
}

static int blk_stop(struct vdev *dev, uint64_t deadline_ns, struct err *err)
{
	struct blk *blk = of(dev);
	bool must_stop = dev->is_resetting || deadline_ns == UINT64_MAX;
	int ret;

	blk_stop_begin(dev);
	ret = must_stop ? wait_or_give_up(blk, deadline_ns)
			: wait_drained(blk, deadline_ns);
	if (ret == -ETIMEDOUT)
		err_set(err, ret,
			"its storage did not finish all requests in time");
	/* The rings of a driver that resets are not worked on any more; this is
	 * called again. */
	if (ret == -ETIMEDOUT && must_stop)
		return ret;
	blk->stopping_since = 0;
	if (ret == 0 || must_stop)
		return 0;
	/* Not stopped, or not fit for a move: go on. */
	post(blk, blk_thread_resume);
	if (ret == -ETIMEDOUT)
		return ret;
	return err_set_errno(err, ret, "it cannot be flushed for another host");
}

static int blk_claim(struct vdev *dev, struct err *err)
{
	struct blk_backend *backend = of(dev)->backend;

	return backend->ops->claim ? backend->ops->claim(backend, err) : 0;
}

static void blk_disclaim(struct vdev *dev)
{
	struct blk_backend *backend = of(dev)->backend;

	if (backend->ops->disclaim)
		backend->ops->disclaim(backend);
}

/* ---- state ---- */

/* The guest knows its disk, and must find the same one; hostile bytes. */
static int blk_config_load(struct vdev *dev, const uint8_t *bytes,
			   struct err *err)
{
	struct virtio_blk_config *own = config_of(of(dev)), saved = *own;
	uint64_t capacity = le64toh(own->capacity);

	memcpy(&saved, bytes, CONFIG_SIZE);
	if (saved.capacity != own->capacity)
		return err_set(
			err, -EBADMSG,
			"the disk is %s than at the source: %llu sectors "
			"of 512 bytes, not %llu; give it the same size",
			capacity < le64toh(saved.capacity) ? "smaller"
							   : "larger",
			(unsigned long long)capacity,
			(unsigned long long)le64toh(saved.capacity));
	if (saved.blk_size != own->blk_size)
		return err_set(err, -EBADMSG,
			       "the disk has blocks of %u bytes, and of %u at "
			       "the source; look at direct=on",
			       le32toh(own->blk_size), le32toh(saved.blk_size));
	if (!saved.max_write_zeroes_sectors != !own->max_write_zeroes_sectors)
		return err_set(err, -EBADMSG,
			       "readonly=%s, but not at the source",
			       own->max_write_zeroes_sectors ? "off" : "on");
	if (!saved.max_discard_sectors != !own->max_discard_sectors)
		return err_set(err, -EBADMSG,
			       "discard=%s, but not at the source",
			       own->max_discard_sectors ? "on" : "off");
	if (saved.num_queues != own->num_queues)
		return err_set(err, -EBADMSG, "queues=%u, but %u at the source",
			       le16toh(own->num_queues),
			       le16toh(saved.num_queues));
	/* All else is as this version has it, but for the driver's choice. */
	if (saved.wce > 1)
		return err_set(err, -EBADMSG, "writeback: %u", saved.wce);
	own->wce = saved.wce;
	if (memcmp(&saved, own, CONFIG_SIZE) != 0)
		return err_set(err, -EBADMSG,
			       "another version's configuration");
	return 0;
}

static const struct state_field state_fields[] = {
	STATE_ARRAY(struct blk, saved_serial, STATE_U8),
};

static int state_saved(void *obj, struct err *err)
{
	struct blk *blk = obj;

	(void)err;
	memcpy(blk->saved_serial, blk->serial, sizeof(blk->serial));
	return 0;
}

static int state_loaded(void *obj, uint16_t version, struct err *err)
{
	struct blk *blk = obj;

	(void)version;
	if (memcmp(blk->saved_serial, blk->serial, sizeof(blk->serial)) != 0)
		return err_set(err, -EBADMSG,
			       "%s has another serial= than at the source",
			       blk->dev.name);
	return 0;
}

static const struct state_desc state_desc = {
	.version = 1,
	.min_version = 1,
	.fields = state_fields,
	.field_count = array_size(state_fields),
	.save = state_saved,
	.load = state_loaded,
};

/* ---- building ---- */

struct attaching {
	struct blk *blk;
	struct err *err;
	int ret;
};

static void attach(void *opaque)
{
	struct attaching *attaching = opaque;
	struct blk_backend *backend = attaching->blk->backend;

	attaching->ret = backend->ops->attach(backend, attaching->blk->thread,
					      attaching->err);
}

static void detach(void *opaque)
{
	struct blk *blk = opaque;

	blk->backend->ops->detach(blk->backend);
}

static void blk_free(struct vdev *dev)
{
	struct blk *blk = of(dev);

	state_unregister(&blk->state);
	/* A machine that ends waits no longer than for a reset. */
	vdev_end(dev, clock_mono_ns() + 2 * GIVE_UP_AFTER_NS);
	if (blk->thread && blk->backend) {
		call(blk);
		io_thread_call(blk->thread, detach, blk, UINT64_MAX);
	}
	io_thread_free(blk->thread);
	if (blk->backend)
		blk->backend->ops->free(blk->backend);
	vdev_fini(dev);
	pthread_cond_destroy(&blk->drained);
	lock_fini(&blk->lock);
	free(blk->requests);
	free(blk->queues);
	free(blk);
}

static const struct vdev_type blk_type = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.pci_class = PCI_CLASS_STORAGE,
	.config_write = blk_config_write,
	.start = blk_start,
	.stop_begin = blk_stop_begin,
	.stop = blk_stop,
	.reset = blk_reset,
	.config_load = blk_config_load,
	.claim = blk_claim,
	.disclaim = blk_disclaim,
	.free = blk_free,
};

static int allocate(struct blk *blk, const struct vdev_site *site,
		    const struct blk_options *options)
{
	lock_init(&blk->lock, LOCK_DEVICE);
	lock_cond_init(&blk->drained);
	blk->queue_count = options->queues;
	blk->has_discard = options->has_discard && !options->is_readonly;
	if (options->serial[0])
		memcpy(blk->serial, options->serial, strlen(options->serial));
	else
		snprintf((char *)blk->serial, sizeof(blk->serial), "godwit-%s",
			 site->name);
	blk->queues = calloc(blk->queue_count, sizeof(*blk->queues));
	/* Mapped, and touched only as far as it is used. */
	blk->requests = calloc(BLK_REQUESTS_MAX, sizeof(*blk->requests));
	if (!blk->queues || !blk->requests)
		return -ENOMEM;
	for (unsigned int i = BLK_REQUESTS_MAX; i-- > 0;) {
		struct blk_request *request = &blk->requests[i];

		request->vq.segments = request->segments;
		request->vq.room = BLK_SEGMENTS;
		request->next = blk->free;
		blk->free = request;
	}
	return 0;
}

static int open_backend(struct blk *blk, const struct blk_options *options,
			struct err *err)
{
	struct blk_where where = {
		.path = options->path,
		.nbd = options->nbd,
		.is_readonly = options->is_readonly,
		.is_direct = options->is_direct,
	};
	struct attaching attaching = { .blk = blk, .err = err };
	int ret;

	ret = options->path[0] ? blk_file_open(&where, &blk->backend, err)
			       : blk_nbd_open(&where, &blk->backend, err);
	if (ret)
		return ret;
	blk->backend->front = blk_thread_front;
	blk->backend->front.opaque = blk;
	ret = io_thread_new(blk->dev.name, &blk->thread, err);
	if (ret)
		return ret;
	io_thread_call(blk->thread, attach, &attaching, UINT64_MAX);
	return attaching.ret;
}

static int init_vdev(struct blk *blk, const struct vdev_site *site,
		     struct err *err)
{
	uint16_t sizes[DISK_QUEUES_MAX];
	int ret;

	for (unsigned int i = 0; i < blk->queue_count; i++)
		sizes[i] = BLK_QUEUE_SIZE;
	ret = vdev_init(&blk->dev, &blk_type, site, features(blk), CONFIG_SIZE,
			blk->queue_count, sizes, err);
	if (ret)
		return ret;
	for (unsigned int i = 0; i < blk->queue_count; i++) {
		blk->queues[i].blk = blk;
		blk->queues[i].queue = &blk->dev.queues[i];
	}
	fill_config(blk);
	return 0;
}

int disk_new(const struct vdev_site *site, const char *text,
	     struct vdev **ret_dev, struct err *err)
{
	struct blk_options options;
	char name[STATE_NAME_MAX];
	struct blk *blk;
	int ret;

	ret = blk_options_read(text, &options, err);
	if (ret)
		goto out_prefix;
	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return err_set(err, -ENOMEM, "%s: no memory", site->name);
	snprintf(blk->dev.name, sizeof(blk->dev.name), "%s", site->name);
	ret = allocate(blk, site, &options);
	if (ret) {
		err_set(err, ret, "no memory");
		goto out;
	}
	ret = open_backend(blk, &options, err);
	if (ret)
		goto out;
	/* An arriving guest's disk is still the source's. */
	if (!site->is_incoming && blk->backend->ops->claim) {
		ret = blk->backend->ops->claim(blk->backend, err);
		if (ret)
			goto out;
	}
	ret = init_vdev(blk, site, err);
	if (ret) {
		/* which has prefixed it already */
		blk_free(&blk->dev);
		return ret;
	}
	snprintf(name, sizeof(name), "%s-blk", site->name);
	state_register(site->state, &blk->state, name, &state_desc, blk);
	*ret_dev = &blk->dev;
	return 0;
out:
	blk_free(&blk->dev);
out_prefix:
	err_prefix(err, "%s", site->name);
	return ret;
}

void disk_counts(struct vdev *dev, struct disk_counts *ret_counts)
{
	const uint64_t *from = (const uint64_t *)&of(dev)->counts;
	uint64_t *to = (uint64_t *)ret_counts;

	for (unsigned int i = 0; i < sizeof(*ret_counts) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
