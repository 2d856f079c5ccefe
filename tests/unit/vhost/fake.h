/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices of a board whose back end is nobody: what it is told is noted, and a test
 * writes its log.  Linked with --wrap=vdev_call_fd,--wrap=vdev_break.
 */
#ifndef GODWIT_TESTS_VHOST_FAKE_H
#define GODWIT_TESTS_VHOST_FAKE_H

#include <cmocka.h>
#include <linux/vhost_types.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "vhost/vhost_priv.h"
#include "virtio/vdev.h"

#define FAKE_RINGS 4u
#define FAKE_SIZE  16u /* of a ring */

/* In the middle of a log word. */
#define WORLD_LOW_SIZE  0x410000ull
#define WORLD_HIGH      0x430000ull
#define WORLD_HIGH_SIZE 0x200000ull

struct world {
	struct mem *mem;
	struct mem_region *root, *low_region, *high_region;
	struct ram_block *low, *high;
	struct addr_space *as;
	struct vh_board *board;
};

struct fake {
	struct vh_dev dev; /* first */
	char name[16];
	struct vdev vdev;
	struct vdev_queue queues[FAKE_RINGS];
	char told[4096]; /* words behind each other */
	int result;      /* of every call */
	int breaks;      /* vdev_break() */
	char why[128];   /* the last of these */
	int call_fd;     /* of all its queues */
};

int __wrap_vdev_call_fd(const struct vdev *dev, const struct vdev_queue *queue);
void __wrap_vdev_break(struct vdev *dev, const struct err *reason);

int __wrap_vdev_call_fd(const struct vdev *dev, const struct vdev_queue *queue)
{
	(void)queue;
	return container_of(dev, struct fake, vdev)->call_fd;
}

void __wrap_vdev_break(struct vdev *dev, const struct err *reason)
{
	struct fake *fake = container_of(dev, struct fake, vdev);

	snprintf(fake->why, sizeof(fake->why), "%s", err_msg(reason));
	fake->breaks++;
}

static inline int fake_note(struct vh_dev *dev, const char *what,
			    struct err *err)
{
	struct fake *fake = container_of(dev, struct fake, dev);
	size_t used = strlen(fake->told);

	snprintf(fake->told + used, sizeof(fake->told) - used, "%s ", what);
	return fake->result ? err_set(err, fake->result, "%s", what) : 0;
}

static inline int fake_features(struct vh_dev *dev, uint64_t features,
				struct err *err)
{
	return fake_note(dev,
			 features >> VHOST_F_LOG_ALL & 1 ? "features+log"
							 : "features",
			 err);
}

static inline int fake_table(struct vh_dev *dev,
			     const struct vh_mem_table *table, struct err *err)
{
	(void)table;
	return fake_note(dev, "table", err);
}

static inline int fake_add_region(struct vh_dev *dev,
				  const struct vh_region *region,
				  struct err *err)
{
	(void)region;
	return fake_note(dev, "add", err);
}

static inline int fake_remove_region(struct vh_dev *dev,
				     const struct vh_region *region,
				     struct err *err)
{
	(void)region;
	return fake_note(dev, "remove", err);
}

static inline int fake_log(struct vh_dev *dev, const struct vh_log *log,
			   struct err *err)
{
	(void)log;
	return fake_note(dev, "log", err);
}

static inline int fake_num(struct vh_dev *dev, unsigned int index,
			   unsigned int size, struct err *err)
{
	(void)index;
	(void)size;
	return fake_note(dev, "num", err);
}

static inline int fake_base(struct vh_dev *dev, unsigned int index,
			    uint32_t base, struct err *err)
{
	(void)index;
	(void)base;
	return fake_note(dev, "base", err);
}

static inline int fake_addr(struct vh_dev *dev, unsigned int index,
			    const struct vh_vring_addr *addr, struct err *err)
{
	(void)index;
	return fake_note(dev, addr->is_logged ? "addr+log" : "addr", err);
}

static inline int fake_kick(struct vh_dev *dev, unsigned int index, int fd,
			    struct err *err)
{
	(void)index;
	(void)fd;
	return fake_note(dev, "kick", err);
}

static inline int fake_call(struct vh_dev *dev, unsigned int index, int fd,
			    struct err *err)
{
	(void)index;
	(void)fd;
	return fake_note(dev, "call", err);
}

static inline int fake_enable(struct vh_dev *dev, unsigned int index,
			      bool is_enabled, struct err *err)
{
	(void)index;
	return fake_note(dev, is_enabled ? "enable" : "disable", err);
}

static inline int fake_stop_ring(struct vh_dev *dev, unsigned int index,
				 uint32_t *ret_base, struct err *err)
{
	(void)index;
	*ret_base = 0; /* as the used ring has it */
	return fake_note(dev, "stop", err);
}

static inline void fake_fail(struct vh_dev *dev, int why,
			     const struct err *reason)
{
	(void)why;
	(void)reason;
	fake_note(dev, "fail", NULL);
}

static const struct vh_ops fake_ops = {
	.set_features = fake_features,
	.set_mem_table = fake_table,
	.add_region = fake_add_region,
	.remove_region = fake_remove_region,
	.set_log = fake_log,
	.set_vring_num = fake_num,
	.set_vring_base = fake_base,
	.set_vring_addr = fake_addr,
	.set_vring_kick = fake_kick,
	.set_vring_call = fake_call,
	.set_vring_enable = fake_enable,
	.get_vring_base = fake_stop_ring,
	.fail = fake_fail,
};

/* ---- a machine's memory ---- */

static inline void world_init_sized(struct world *world, uint64_t low_size,
				    bool scan_each)
{
	struct err err = ERR_INIT;

	world->mem = mem_new();
	world->root =
		mem_region_new_container(world->mem, "root", MEM_SIZE_2_64);
	world->as = addr_space_new(world->mem, "memory", world->root);
	if (ram_block_new(world->mem, "low", low_size, NULL, &world->low,
			  &err) ||
	    ram_block_new(world->mem, "high", WORLD_HIGH_SIZE, NULL,
			  &world->high, &err) ||
	    vh_board_new(world->mem, world->as, scan_each, &world->board, &err))
		fail_msg("%s", err_msg(&err));
	world->low_region = mem_region_new_ram(world->mem, "low", world->low);
	world->high_region =
		mem_region_new_ram(world->mem, "high", world->high);
	mem_begin(world->mem);
	mem_region_add(world->root, 0, world->low_region, 0);
	mem_region_add(world->root,
		       low_size > WORLD_HIGH ? low_size + 0x30000 : WORLD_HIGH,
		       world->high_region, 0);
	mem_commit(world->mem);
}

static inline void world_init(struct world *world, bool scan_each)
{
	world_init_sized(world, WORLD_LOW_SIZE, scan_each);
}

static inline void world_fini(struct world *world)
{
	vh_board_free(world->board);
	mem_region_del(world->low_region);
	if (world->high_region)
		mem_region_del(world->high_region);
	mem_region_put(world->low_region);
	mem_region_put(world->high_region);
	mem_synchronize(world->mem);
	ram_block_free(world->low);
	ram_block_free(world->high);
	addr_space_free(world->as);
	mem_region_put(world->root);
	mem_synchronize(world->mem);
	mem_free(world->mem);
}

static inline struct vh_side *world_side(struct world *world)
{
	return &world->board->sides[VH_USER];
}

static inline struct vh_counts world_counts(struct world *world)
{
	struct vh_counts counts;

	vh_board_counts(world->board, VH_USER, &counts);
	return counts;
}

/* What a back end does after it wrote a page. */
static inline void world_log(struct world *world, uint64_t page)
{
	__atomic_fetch_or(&world_side(world)->log->words[page / 64],
			  1ull << page % 64, __ATOMIC_SEQ_CST);
}

/* ---- devices ---- */

static inline void fake_arrive(struct fake *fake)
{
	struct vh_dev *dev = &fake->dev;

	lock_acquire(&dev->side->lock);
	lock_acquire(&dev->lock);
	vh_dev_arrived(dev);
	lock_release(&dev->lock);
	lock_release(&dev->side->lock);
}

/* A device that joined and whose back end is there. */
static inline void fake_init_rings(struct fake *fake, struct world *world,
				   const char *name, unsigned int rings)
{
	struct err err = ERR_INIT;

	memset(fake, 0, sizeof(*fake));
	snprintf(fake->name, sizeof(fake->name), "%s", name);
	fake->call_fd = -1;
	fake->dev.ops = &fake_ops;
	fake->dev.name = fake->name;
	if (vh_dev_join(&fake->dev, world->board, VH_USER, rings, &err))
		fail_msg("%s", err_msg(&err));
	fake->dev.regions_max = 8;
	fake->dev.can_log = true;
	fake->dev.backend_features = ~0ull;
	fake_arrive(fake);
}

static inline void fake_init(struct fake *fake, struct world *world,
			     const char *name)
{
	fake_init_rings(fake, world, name, FAKE_RINGS);
}

static inline struct vh_queues fake_queues(struct fake *fake)
{
	return (struct vh_queues){ &fake->vdev, 0, FAKE_RINGS, 0 };
}

static inline void fake_set_queues(struct fake *fake, uint64_t gpa)
{
	fake->vdev.queues = fake->queues;
	for (unsigned int i = 0; i < FAKE_RINGS; i++)
		fake->queues[i] = (struct vdev_queue){
			.size = FAKE_SIZE,
			.is_enabled = 1,
			.kick_fd = -1,
			.desc = gpa + 0x3000 * i,
			.driver = gpa + 0x3000 * i + 0x1000,
			.device = gpa + 0x3000 * i + 0x2000,
		};
}

static inline void fake_start_at(struct fake *fake, uint64_t gpa)
{
	const struct vh_queues queues = fake_queues(fake);
	struct err err = ERR_INIT;

	fake_set_queues(fake, gpa);
	if (vh_dev_start(&fake->dev, &queues, &err) ||
	    vh_dev_start_wait(&fake->dev, &err))
		fail_msg("%s", err_msg(&err));
}

/* It dies, as its thread would find out. */
static inline void fake_die(struct fake *fake)
{
	struct err err = ERR_INIT;

	err_set(&err, -ECONNRESET, "it died");
	vh_dev_lock(&fake->dev);
	vh_dev_fail(&fake->dev, -ECONNRESET, &err);
	vh_dev_unlock(&fake->dev);
}

static inline void fake_fini(struct fake *fake)
{
	if (!fake->dev.side)
		return; /* it left */
	vh_dev_stop(&fake->dev, UINT64_MAX, NULL);
	vh_dev_leave(&fake->dev);
}

#endif
