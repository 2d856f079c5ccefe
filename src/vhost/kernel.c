// SPDX-License-Identifier: Apache-2.0
/*
 * The ops of struct vh_dev over /dev/vhost-net; called by dev.c with the device's
 * lock, and built by net.c.  Each call is done when the ioctl returns, so there is
 * nothing to settle and no deadline: the kernel answers.
 *
 * A ring works while it has a back end, the tap's queue; taking that away waits for
 * what is in flight.
 *
 * Source: linux/vhost.h.
 */
#include "vhost/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/err.h"
#include "base/parse.h"
#include "vhost_priv.h"

#define PAIR 2u

/* The kernel's default; vhost's module parameter may say otherwise. */
#define REGIONS_DEFAULT 64u
#define REGIONS_PATH    "/sys/module/vhost/parameters/max_mem_regions"

struct vh_kernel {
	struct vh_dev dev; /* first */
	char name[32];
	int fd; /* owned */

	/* protected by dev.lock */
	int tap_fd; /* borrowed while started; -1 */
};

static int ask(struct vh_dev *dev, unsigned long request, const char *name,
	       const void *argument, struct err *err)
{
	struct vh_kernel *kernel = container_of(dev, struct vh_kernel, dev);

	if (ioctl(kernel->fd, request, argument) < 0)
		return err_set_errno(err, -errno, "%s: %s", dev->name, name);
	return 0;
}

#define ask(dev, request, argument, err) \
	ask(dev, request, #request, argument, err)

static int kernel_set_features(struct vh_dev *dev, uint64_t features,
			       struct err *err)
{
	return ask(dev, VHOST_SET_FEATURES, &features, err);
}

static int kernel_set_mem_table(struct vh_dev *dev,
				const struct vh_mem_table *table,
				struct err *err)
{
	struct vhost_memory *memory = calloc(
		1, sizeof(*memory) + table->count * sizeof(memory->regions[0]));
	int ret;

	if (!memory)
		return err_set(err, -ENOMEM, "%s: memory table", dev->name);
	memory->nregions = table->count;
	for (unsigned int i = 0; i < table->count; i++) {
		memory->regions[i].guest_phys_addr = table->regions[i].gpa;
		memory->regions[i].memory_size = table->regions[i].size;
		memory->regions[i].userspace_addr = table->regions[i].hva;
	}
	ret = ask(dev, VHOST_SET_MEM_TABLE, memory, err);
	free(memory);
	return ret;
}

static int kernel_set_log(struct vh_dev *dev, const struct vh_log *log,
			  struct err *err)
{
	uint64_t base = (uintptr_t)log->words;

	return ask(dev, VHOST_SET_LOG_BASE, &base, err);
}

static int kernel_set_vring_num(struct vh_dev *dev, unsigned int index,
				unsigned int size, struct err *err)
{
	const struct vhost_vring_state state = { index, size };

	return ask(dev, VHOST_SET_VRING_NUM, &state, err);
}

static int kernel_set_vring_base(struct vh_dev *dev, unsigned int index,
				 uint32_t base, struct err *err)
{
	const struct vhost_vring_state state = { index, base };

	return ask(dev, VHOST_SET_VRING_BASE, &state, err);
}

static int kernel_set_vring_addr(struct vh_dev *dev, unsigned int index,
				 const struct vh_vring_addr *addr,
				 struct err *err)
{
	const struct vhost_vring_addr where = {
		.index = index,
		.flags = addr->is_logged ? 1u << VHOST_VRING_F_LOG : 0,
		.desc_user_addr = addr->desc,
		.used_user_addr = addr->used,
		.avail_user_addr = addr->avail,
		.log_guest_addr = addr->used_gpa,
	};

	return ask(dev, VHOST_SET_VRING_ADDR, &where, err);
}

static int kernel_set_vring_kick(struct vh_dev *dev, unsigned int index, int fd,
				 struct err *err)
{
	const struct vhost_vring_file file = { index, fd };

	return ask(dev, VHOST_SET_VRING_KICK, &file, err);
}

static int kernel_set_vring_call(struct vh_dev *dev, unsigned int index, int fd,
				 struct err *err)
{
	const struct vhost_vring_file file = { index, fd };

	return ask(dev, VHOST_SET_VRING_CALL, &file, err);
}

static int set_backend(struct vh_dev *dev, unsigned int index, int fd,
		       struct err *err)
{
	const struct vhost_vring_file file = { index, fd };

	return ask(dev, VHOST_NET_SET_BACKEND, &file, err);
}

static int kernel_set_vring_enable(struct vh_dev *dev, unsigned int index,
				   bool is_enabled, struct err *err)
{
	const struct vh_kernel *kernel =
		container_of(dev, struct vh_kernel, dev);

	return set_backend(dev, index,
			   is_enabled ? kernel->tap_fd : VHOST_FILE_UNBIND,
			   err);
}

static int kernel_get_vring_base(struct vh_dev *dev, unsigned int index,
				 uint32_t *ret_base, struct err *err)
{
	struct vhost_vring_state state = { .index = index };
	int ret = set_backend(dev, index, VHOST_FILE_UNBIND, err);

	if (!ret)
		ret = ask(dev, VHOST_GET_VRING_BASE, &state, err);
	if (!ret)
		*ret_base = state.num & 0xffff;
	return ret;
}

static void kernel_fail(struct vh_dev *dev, int why, const struct err *reason)
{
	(void)why;
	(void)reason;
	for (unsigned int i = 0; i < PAIR; i++)
		set_backend(dev, i, VHOST_FILE_UNBIND, NULL);
}

static const struct vh_ops kernel_ops = {
	.set_features = kernel_set_features,
	.set_mem_table = kernel_set_mem_table,
	.set_log = kernel_set_log,
	.set_vring_num = kernel_set_vring_num,
	.set_vring_base = kernel_set_vring_base,
	.set_vring_addr = kernel_set_vring_addr,
	.set_vring_kick = kernel_set_vring_kick,
	.set_vring_call = kernel_set_vring_call,
	.set_vring_enable = kernel_set_vring_enable,
	.enable_starts = true,
	.get_vring_base = kernel_get_vring_base,
	.fail = kernel_fail,
};

/* ---- life ---- */

static unsigned int regions_max(void)
{
	char text[16] = "";
	uint64_t value;
	int fd = open(REGIONS_PATH, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (size > 0)
		text[strcspn(text, "\n")] = '\0';
	if (size <= 0 || parse_u64(text, 1, UINT32_MAX, &value, NULL))
		return REGIONS_DEFAULT;
	return value < VH_REGIONS_MAX ? (unsigned int)value : VH_REGIONS_MAX;
}

/* It is there (again), and was told nothing. */
static void arrive(struct vh_kernel *kernel)
{
	struct vh_dev *dev = &kernel->dev;

	vh_dev_lock_both(dev, UINT64_MAX);
	if (dev->is_away)
		vh_dev_arrived(dev);
	lock_release(&dev->lock);
	lock_release(&dev->side->lock);
}

static int open_device(struct vh_kernel *kernel, struct err *err)
{
	struct vh_dev *dev = &kernel->dev;
	int ret;

	kernel->fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
	if (kernel->fd < 0)
		return err_set_errno(err, -errno, "%s: /dev/vhost-net",
				     kernel->name);
	ret = ask(dev, VHOST_SET_OWNER, NULL, err);
	if (!ret)
		ret = ask(dev, VHOST_GET_FEATURES, &dev->backend_features, err);
	if (!ret && !(dev->backend_features >> VIRTIO_F_VERSION_1 & 1))
		ret = err_set(err, -ENOTSUP,
			      "%s: this kernel's vhost-net knows no virtio 1",
			      kernel->name);
	return ret;
}

/* The first table that it is told, so that a start need not. */
static int tell_table(struct vh_kernel *kernel, struct err *err)
{
	struct vh_dev *dev = &kernel->dev;
	int ret;

	vh_dev_lock_both(dev, UINT64_MAX);
	ret = vh_dev_tell_table(dev, dev->side->table, err);
	lock_release(&dev->lock);
	lock_release(&dev->side->lock);
	return ret;
}

/* A ring that it cannot read is left where it is, without a word but this one. */
static int tell_errors(struct vh_dev *dev, int error_fd, struct err *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < PAIR && !ret; i++) {
		const struct vhost_vring_file file = { i, error_fd };

		ret = ask(dev, VHOST_SET_VRING_ERR, &file, err);
	}
	return ret;
}

static int kernel_init(struct vh_kernel *kernel, struct vh_board *board,
		       int error_fd, struct err *err)
{
	struct vh_dev *dev = &kernel->dev;
	int ret;

	dev->ops = &kernel_ops;
	dev->name = kernel->name;
	dev->may_lose = true;
	ret = open_device(kernel, err);
	if (!ret)
		ret = tell_errors(dev, error_fd, err);
	if (!ret)
		ret = vh_dev_join(dev, board, VH_KERNEL, PAIR, err);
	if (ret)
		return ret;
	dev->regions_max = regions_max();
	dev->can_log = dev->backend_features >> VHOST_F_LOG_ALL & 1;
	arrive(kernel);
	return tell_table(kernel, err);
}

int vh_kernel_new(struct vh_board *board, const char *name, int error_fd,
		  struct vh_kernel **ret_kernel, struct err *err)
{
	struct vh_kernel *kernel = calloc(1, sizeof(*kernel));
	int ret;

	if (!kernel)
		return err_set(err, -ENOMEM, "%s", name);
	snprintf(kernel->name, sizeof(kernel->name), "%s", name);
	kernel->fd = kernel->tap_fd = -1;
	ret = kernel_init(kernel, board, error_fd, err);
	if (ret) {
		vh_kernel_free(kernel);
		return ret;
	}
	*ret_kernel = kernel;
	return 0;
}

void vh_kernel_free(struct vh_kernel *kernel)
{
	if (!kernel)
		return;
	if (kernel->fd >= 0)
		close(kernel->fd);
	vh_dev_leave(&kernel->dev);
	free(kernel);
}

struct vh_dev *vh_kernel_dev(struct vh_kernel *kernel)
{
	return &kernel->dev;
}

uint64_t vh_kernel_features(const struct vh_kernel *kernel)
{
	return kernel->dev.backend_features;
}

static struct vh_queues queues_of(struct vdev *vdev, unsigned int first,
				  uint64_t features)
{
	return (struct vh_queues){ vdev, first, PAIR, features };
}

int vh_kernel_build(struct vh_kernel *kernel, struct vdev *vdev,
		    unsigned int first, uint64_t features,
		    enum vdev_stage stage, struct err *err)
{
	const struct vh_queues queues = queues_of(vdev, first, features);

	return vh_dev_build(&kernel->dev, &queues, stage, err);
}

int vh_kernel_start(struct vh_kernel *kernel, int tap_fd, struct vdev *vdev,
		    unsigned int first, uint64_t features, struct err *err)
{
	const struct vh_queues queues = queues_of(vdev, first, features);

	arrive(kernel);
	vh_dev_lock(&kernel->dev);
	kernel->tap_fd = tap_fd;
	vh_dev_unlock(&kernel->dev);
	return vh_dev_start(&kernel->dev, &queues, err);
}
