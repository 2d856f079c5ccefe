/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block device on a PCI bus with RAM, and a driver of its split queues.  Its
 * registers are reached as a toy's (toy.h), whose device is not used.
 *
 *	0x010000  rings of queue 0, then 1 (toy_ring())
 *	0x040000  headers and status bytes of requests, DISK_SLOT bytes each
 *	0x080000  data
 */
#ifndef GODWIT_TESTS_VIRTIO_DISK_RIG_H
#define GODWIT_TESTS_VIRTIO_DISK_RIG_H

#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "toy.h"
#include "virtio/blk.h"
#include "virtio/blk_priv.h"

#define DISK_SIZE    (1u << 20)
#define DISK_QUEUES  2u
#define DISK_SLOTS   64u /* requests in flight, a queue */
#define DISK_SLOT    64u
#define DISK_HEADERS 0x40000u
#define DISK_DATA    0x80000u
#define DISK_LIMIT   (20 * NS_PER_SEC)

#define BIT(n) (1ull << (n))
#define DISK_FEATURES                                                 \
	(BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_BLK_F_FLUSH) |             \
	 BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES) | \
	 BIT(VIRTIO_BLK_F_CONFIG_WCE) | BIT(VIRTIO_BLK_F_SEG_MAX))

struct disk {
	struct toy toy;   /* board, RAM, BAR */
	struct vdev *dev; /* owned */
	struct err err;
	/* the driver's indices */
	uint16_t avail[DISK_QUEUES], used[DISK_QUEUES];
};

static inline void *disk_at(struct disk *disk, uint64_t gpa)
{
	return disk->toy.ram->host + gpa;
}

/* The board, without a device. */
static inline void disk_board_init(struct disk *disk)
{
	const struct ram_options options = { 0 };
	struct toy *toy = &disk->toy;

	memset(disk, 0, sizeof(*disk));
	board_init(&toy->board);
	assert_int_equal(ram_block_new(toy->board.mem, "ram", TOY_RAM, &options,
				       &toy->ram, NULL),
			 0);
	toy->ram_region = mem_region_new_ram(toy->board.mem, "ram", toy->ram);
	mem_region_add(toy->board.memory_root, 0, toy->ram_region, 0);
}

/* What disk_new() says to @text; the driver's way to the device is open. */
static inline int disk_build(struct disk *disk, const char *text,
			     bool is_incoming)
{
	struct toy *toy = &disk->toy;
	struct vdev_site site = {
		.mem = toy->board.mem,
		.memory = toy->board.memory,
		.bus = toy->board.bus,
		.state = &toy->board.state,
		.name = "disk0",
		.is_incoming = is_incoming,
	};
	int ret;

	err_clear(&disk->err);
	ret = disk_new(&site, text, &disk->dev, &disk->err);
	if (ret)
		return ret;
	assert_int_equal(pci_bus_assign(toy->board.bus, NULL), 0);
	board_config_set(&toy->board, TOY_SLOT, PCI_COMMAND,
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	toy->bar = board_config(&toy->board, TOY_SLOT, PCI_BASE_ADDRESS_4, 4) &
		   PCI_BASE_ADDRESS_MEM_MASK;
	return 0;
}

static inline void disk_fini(struct disk *disk)
{
	struct toy *toy = &disk->toy;

	if (disk->dev)
		disk->dev->type->free(disk->dev);
	mem_region_del(toy->ram_region);
	mem_region_put(toy->ram_region);
	mem_synchronize(toy->board.mem);
	ram_block_free(toy->ram);
	board_fini(&toy->board);
}

/* As a driver does after a reset. */
static inline void disk_set_up(struct disk *disk, uint64_t features)
{
	toy_negotiate(&disk->toy, features);
	for (unsigned int queue = 0; queue < DISK_QUEUES; queue++) {
		memset(disk_at(disk, toy_ring(queue, 0)), 0, 0xc000);
		disk->avail[queue] = disk->used[queue] = 0;
		toy_place(&disk->toy, queue);
		toy_put(&disk->toy, QUEUE_SIZE, BLK_QUEUE_SIZE, 2);
		toy_enable(&disk->toy, queue);
	}
	assert_int_equal(toy_add_status(&disk->toy, DRIVER_OK),
			 SET_UP | DRIVER_OK);
}

/* ---- requests ---- */

/* A buffer of a request. */
struct disk_part {
	uint64_t gpa;
	uint32_t size;
	bool is_writable;
};

static inline uint64_t disk_header(unsigned int queue, unsigned int slot)
{
	return DISK_HEADERS + (queue * DISK_SLOTS + slot) * DISK_SLOT;
}

static inline uint8_t *disk_status(struct disk *disk, unsigned int queue,
				   unsigned int slot)
{
	return (uint8_t *)disk_at(disk, disk_header(queue, slot)) + 32;
}

/* Make buffers available as request @slot, and notify. */
static inline void disk_add(struct disk *disk, unsigned int queue,
			    unsigned int slot, const struct disk_part *parts,
			    unsigned int count)
{
	struct vring_desc *table = disk_at(disk, toy_ring(queue, 0));
	struct vring_avail *avail = disk_at(disk, toy_ring(queue, 1));
	unsigned int first = slot * 4;

	assert_true(count <= 4 && slot < DISK_SLOTS);
	for (unsigned int i = 0; i < count; i++)
		table[first + i] = (struct vring_desc){
			.addr = parts[i].gpa,
			.len = parts[i].size,
			.flags = (uint16_t)((i + 1 < count ? VRING_DESC_F_NEXT
							   : 0) |
					    (parts[i].is_writable
						     ? VRING_DESC_F_WRITE
						     : 0)),
			.next = (uint16_t)(first + i + 1),
		};
	avail->ring[disk->avail[queue] % BLK_QUEUE_SIZE] = (uint16_t)first;
	__atomic_store_n(&avail->idx, ++disk->avail[queue], __ATOMIC_RELEASE);
	board_store(&disk->toy.board,
		    disk->toy.bar + VDEV_PCI_NOTIFY +
			    queue * VDEV_PCI_NOTIFY_MULTIPLIER,
		    queue, 2);
	/* Where no accelerator is, nobody writes the ioeventfd. */
	eventfd_write(disk->dev->queues[queue].kick_fd, 1);
}

static inline void disk_put_header(struct disk *disk, unsigned int queue,
				   unsigned int slot, uint32_t type,
				   uint64_t sector)
{
	struct virtio_blk_outhdr *header =
		disk_at(disk, disk_header(queue, slot));

	*header = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	*disk_status(disk, queue, slot) = 0xff;
}

/* A whole request with @size bytes of data at @gpa, or none. */
static inline void disk_begin(struct disk *disk, unsigned int queue,
			      unsigned int slot, uint32_t type, uint64_t sector,
			      uint64_t gpa, uint32_t size)
{
	uint64_t header = disk_header(queue, slot);
	bool reads = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct disk_part parts[3] = { { header, 16, false },
				      { gpa, size, reads },
				      { header + 32, 1, true } };

	disk_put_header(disk, queue, slot, type, sector);
	if (size == 0)
		parts[1] = parts[2];
	disk_add(disk, queue, slot, parts, size ? 3 : 2);
}

/* Wait until the device is done with all that was added to @queue. */
static inline void disk_wait(struct disk *disk, unsigned int queue)
{
	struct vring_used *used = disk_at(disk, toy_ring(queue, 2));
	uint64_t end = clock_mono_ns() + DISK_LIMIT;

	while (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) !=
	       disk->avail[queue]) {
		if (clock_mono_ns() > end)
			fail_msg("queue %u: %u done of %u", queue, used->idx,
				 disk->avail[queue]);
		sched_yield();
	}
	disk->used[queue] = disk->avail[queue];
}

/* One request, and its status. */
static inline uint8_t disk_do(struct disk *disk, uint32_t type, uint64_t sector,
			      uint64_t gpa, uint32_t size)
{
	disk_begin(disk, 0, 0, type, sector, gpa, size);
	disk_wait(disk, 0);
	return *disk_status(disk, 0, 0);
}

static inline uint8_t disk_range(struct disk *disk, uint32_t type,
				 uint64_t sector, uint32_t sectors,
				 uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes *range =
		disk_at(disk, DISK_DATA);

	*range = (struct virtio_blk_discard_write_zeroes){
		.sector = sector, .num_sectors = sectors, .flags = flags
	};
	return disk_do(disk, type, 0, DISK_DATA, sizeof(*range));
}

#endif
