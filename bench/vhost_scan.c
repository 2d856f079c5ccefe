// SPDX-License-Identifier: Apache-2.0
/*
 * The vhost part of one sync round of an idle guest, in godwit's own code, with back
 * ends that only answer:
 *
 *	vhost_scan kernel|user each|once BACK-ENDS RINGS MEMORY-MIB RUNS
 *
 * RINGS is of each; those of "user" have memory slots.  A line for each run: microseconds
 * a round; then one with the most that any back end was told: tables (the only region,
 * where it has slots) and logs; and, when a piece of RAM came and went after that, regions
 * added and removed (0 without slots).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "vhost/vhost_priv.h"
#include "virtio/vdev.h"

#define ROUNDS    200
#define RING_SIZE 256u
#define RING_ROOM 0x4000u /* three parts of a page and more */

int __wrap_vdev_call_fd(const struct vdev *dev, const struct vdev_queue *queue);

int __wrap_vdev_call_fd(const struct vdev *dev, const struct vdev_queue *queue)
{
	(void)dev;
	(void)queue;
	return -1;
}

/* A back end, and what it was told. */
struct end {
	struct vh_dev dev; /* first */
	unsigned int tables, logs, added, removed;
};

static struct end *end_of(struct vh_dev *dev)
{
	return container_of(dev, struct end, dev);
}

static int take_number(struct vh_dev *dev, uint64_t value, struct err *err)
{
	(void)dev;
	(void)value;
	(void)err;
	return 0;
}

static int take_table(struct vh_dev *dev, const struct vh_mem_table *table,
		      struct err *err)
{
	end_of(dev)->tables++;
	return take_number(dev, table->number, err);
}

static int add_region(struct vh_dev *dev, const struct vh_region *region,
		      struct err *err)
{
	end_of(dev)->added++;
	return take_number(dev, region->gpa, err);
}

static int remove_region(struct vh_dev *dev, const struct vh_region *region,
			 struct err *err)
{
	end_of(dev)->removed++;
	return take_number(dev, region->gpa, err);
}

static int take_log(struct vh_dev *dev, const struct vh_log *log,
		    struct err *err)
{
	end_of(dev)->logs++;
	return take_number(dev, log->number, err);
}

static int take_num(struct vh_dev *dev, unsigned int index, unsigned int size,
		    struct err *err)
{
	return take_number(dev, index + size, err);
}

static int take_base(struct vh_dev *dev, unsigned int index, uint32_t base,
		     struct err *err)
{
	return take_number(dev, index + base, err);
}

static int take_addr(struct vh_dev *dev, unsigned int index,
		     const struct vh_vring_addr *addr, struct err *err)
{
	return take_number(dev, index + addr->used, err);
}

static int take_fd(struct vh_dev *dev, unsigned int index, int fd,
		   struct err *err)
{
	(void)fd;
	return take_number(dev, index, err);
}

static int take_enable(struct vh_dev *dev, unsigned int index, bool is_enabled,
		       struct err *err)
{
	return take_number(dev, index + is_enabled, err);
}

static int give_base(struct vh_dev *dev, unsigned int index, uint32_t *ret_base,
		     struct err *err)
{
	*ret_base = 0;
	return take_number(dev, index, err);
}

static void fail(struct vh_dev *dev, int why, const struct err *reason)
{
	(void)why;
	fprintf(stderr, "vhost_scan: %s: %s\n", dev->name, err_msg(reason));
	exit(1);
}

static const struct vh_ops ops = {
	.set_features = take_number,
	.set_mem_table = take_table,
	.add_region = add_region,
	.remove_region = remove_region,
	.set_log = take_log,
	.set_vring_num = take_num,
	.set_vring_base = take_base,
	.set_vring_addr = take_addr,
	.set_vring_kick = take_fd,
	.set_vring_call = take_fd,
	.set_vring_enable = take_enable,
	.get_vring_base = give_base,
	.fail = fail,
};

static void must(int ret, const struct err *err)
{
	if (!ret)
		return;
	fprintf(stderr, "vhost_scan: %s\n", err_msg(err));
	exit(1);
}

struct bed {
	struct mem *mem;
	struct mem_region *root, *region;
	struct ram_block *ram;
	struct addr_space *as;
	struct vh_board *board;
	enum vh_type type;
	struct end *ends;
	struct vdev *vdevs;
	unsigned int count, rings; /* of each */
};

static void add_memory(struct bed *bed, uint64_t size, bool scan_each)
{
	struct err err = ERR_INIT;

	bed->mem = mem_new();
	bed->root = mem_region_new_container(bed->mem, "root", MEM_SIZE_2_64);
	bed->as = addr_space_new(bed->mem, "memory", bed->root);
	must(vh_board_new(bed->mem, bed->as, scan_each, &bed->board, &err),
	     &err);
	must(ram_block_new(bed->mem, "ram", size, NULL, &bed->ram, &err), &err);
	bed->region = mem_region_new_ram(bed->mem, "ram", bed->ram);
	mem_region_add(bed->root, 0, bed->region, 0);
}

static void add_device(struct bed *bed, unsigned int index)
{
	struct vh_dev *dev = &bed->ends[index].dev;
	struct vdev *vdev = &bed->vdevs[index];
	const struct vh_queues queues = { vdev, 0, bed->rings, 0 };
	struct err err = ERR_INIT;

	dev->ops = &ops;
	dev->name = "dev";
	must(vh_dev_join(dev, bed->board, bed->type, bed->rings, &err), &err);
	dev->can_log = true;
	dev->regions_max = 8;
	dev->has_slots = bed->type == VH_USER;
	dev->backend_features = ~0ull;
	lock_acquire(&dev->side->lock);
	lock_acquire(&dev->lock);
	vh_dev_arrived(dev);
	lock_release(&dev->lock);
	lock_release(&dev->side->lock);
	vdev->queues = calloc(bed->rings, sizeof(*vdev->queues));
	for (unsigned int i = 0; vdev->queues && i < bed->rings; i++) {
		uint64_t gpa = RING_ROOM * (index * bed->rings + i + 1ull);

		vdev->queues[i] = (struct vdev_queue){
			.size = RING_SIZE,
			.is_enabled = 1,
			.kick_fd = -1,
			.desc = gpa,
			.driver = gpa + 0x1000,
			.device = gpa + 0x2000,
		};
	}
	must(vh_dev_start(dev, &queues, &err), &err);
	must(vh_dev_start_wait(dev, &err), &err);
}

static double round_us(struct bed *bed)
{
	uint64_t start = clock_mono_ns();

	for (int i = 0; i < ROUNDS; i++)
		mem_log_sync(bed->mem, false);
	return (double)(clock_mono_ns() - start) / ROUNDS / NS_PER_US;
}

/* RAM of @bed shows once more, behind all, and goes again. */
static void come_and_go(struct bed *bed)
{
	struct mem_region *more =
		mem_region_new_ram(bed->mem, "more", bed->ram);

	mem_region_add(bed->root, bed->ram->size, more, 0);
	mem_region_del(more);
	mem_region_put(more);
}

static unsigned int most(unsigned int a, unsigned int b)
{
	return a > b ? a : b;
}

/* Of each, the most that any was told since this was asked last. */
static struct end told_most(struct bed *bed)
{
	struct end told = { .tables = 0 };

	for (unsigned int i = 0; i < bed->count; i++) {
		struct end *end = &bed->ends[i];

		told.tables = most(told.tables, end->tables);
		told.logs = most(told.logs, end->logs);
		told.added = most(told.added, end->added);
		told.removed = most(told.removed, end->removed);
		end->tables = end->logs = end->added = end->removed = 0;
	}
	return told;
}

int main(int argc, char **argv)
{
	struct bed bed = { .count = 0 };
	struct err err = ERR_INIT;
	struct end before, after;

	if (argc != 7) {
		fprintf(stderr,
			"usage: %s kernel|user each|once BACK-ENDS RINGS "
			"MEMORY-MIB RUNS\n",
			argv[0]);
		return 64;
	}
	bed.type = strcmp(argv[1], "kernel") ? VH_USER : VH_KERNEL;
	bed.count = (unsigned int)atoi(argv[3]);
	bed.rings = (unsigned int)atoi(argv[4]);
	if (!bed.count || !bed.rings || bed.rings > VDEV_QUEUES_MAX)
		return 64;
	add_memory(&bed, strtoull(argv[5], NULL, 10) << 20,
		   !strcmp(argv[2], "each"));
	bed.ends = calloc(bed.count, sizeof(*bed.ends));
	bed.vdevs = calloc(bed.count, sizeof(*bed.vdevs));
	if (!bed.ends || !bed.vdevs)
		return 1;
	for (unsigned int i = 0; i < bed.count; i++)
		add_device(&bed, i);
	must(mem_log_global_start(bed.mem, &err), &err);
	round_us(&bed); /* warm */
	for (int i = atoi(argv[6]); i > 0; i--)
		printf("%.3f\n", round_us(&bed));
	before = told_most(&bed);
	mem_log_global_stop(bed.mem, 0);
	come_and_go(&bed);
	after = told_most(&bed);
	printf("%u %u %u %u\n", before.tables + before.added, before.logs,
	       after.added, after.removed);
	return 0;
}
