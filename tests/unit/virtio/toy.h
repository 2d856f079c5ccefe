/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that does nothing by itself and notes what it is asked, on a PCI bus with
 * a mebibyte of RAM at 0; and a driver's access to it, through its BAR.
 */
#ifndef GODWIT_TESTS_VIRTIO_TOY_H
#define GODWIT_TESTS_VIRTIO_TOY_H

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "../dev/pci_board.h"
#include "mem/ram.h"
#include "virtio/pci.h"
#include "virtio/vdev.h"
#include "virtio/vq.h"

#define TOY_SLOT    1u
#define TOY_QUEUES  3u
#define TOY_SIZE    64u /* of a queue, at most */
#define TOY_CONFIG  12u /* bytes */
#define TOY_FEATURE 5u
#define TOY_RAM     0x100000u

/* Common configuration (virtio 1.2, 4.1.4.3). */
enum {
	DEVICE_SELECT = 0x00,
	DEVICE_FEATURES = 0x04,
	DRIVER_SELECT = 0x08,
	DRIVER_FEATURES = 0x0c,
	CONFIG_VECTOR = 0x10,
	NUM_QUEUES = 0x12,
	STATUS = 0x14,
	GENERATION = 0x15,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_VECTOR = 0x1a,
	QUEUE_ENABLE = 0x1c,
	QUEUE_NOTIFY_OFF = 0x1e,
	QUEUE_DESC = 0x20,
	QUEUE_DRIVER = 0x28,
	QUEUE_DEVICE = 0x30,
	QUEUE_RESET = 0x3a,
};

#define ACKNOWLEDGE VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER      VIRTIO_CONFIG_S_DRIVER
#define FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define DRIVER_OK   VIRTIO_CONFIG_S_DRIVER_OK
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define SET_UP      (ACKNOWLEDGE | DRIVER | FEATURES_OK)

struct toy {
	struct vdev dev; /* first */
	struct board board;
	struct ram_block *ram;
	struct mem_region *ram_region; /* owned reference */
	uint64_t bar;

	/* what it was asked, and what it says */
	unsigned int accepts, starts, begins, stops, resets, config_reads;
	unsigned int builds[3], waits; /* by enum vdev_stage */
	int accept_result, build_result, start_result, wait_result, stop_result;
	unsigned int enabled_at_start;
	uint32_t write_offset, write_size;
	uint8_t written[8];
};

static inline struct toy *toy_of(struct vdev *dev)
{
	return (struct toy *)dev;
}

static inline int toy_accept(struct vdev *dev)
{
	toy_of(dev)->accepts++;
	return toy_of(dev)->accept_result;
}

static inline void toy_config_read(struct vdev *dev)
{
	toy_of(dev)->config_reads++;
}

static inline void toy_config_write(struct vdev *dev, uint32_t offset,
				    uint32_t size, const uint8_t *bytes)
{
	struct toy *toy = toy_of(dev);

	toy->write_offset = offset;
	toy->write_size = size;
	memcpy(toy->written, bytes, size);
}

static inline int toy_build(struct vdev *dev, enum vdev_stage stage,
			    struct err *err)
{
	struct toy *toy = toy_of(dev);

	toy->builds[stage]++;
	return toy->build_result
		       ? err_set(err, toy->build_result, "the toy is in pieces")
		       : 0;
}

static inline int toy_start_wait(struct vdev *dev, struct err *err)
{
	struct toy *toy = toy_of(dev);

	toy->waits++;
	return toy->wait_result
		       ? err_set(err, toy->wait_result, "the toy fell asleep")
		       : 0;
}

static inline int toy_start(struct vdev *dev, struct err *err)
{
	struct toy *toy = toy_of(dev);

	toy->starts++;
	toy->enabled_at_start = 0;
	for (unsigned int i = 0; i < dev->queue_count; i++)
		toy->enabled_at_start += dev->queues[i].is_enabled;
	if (toy->start_result)
		return err_set(err, toy->start_result, "the toy is sulking");
	return 0;
}

static inline void toy_stop_begin(struct vdev *dev)
{
	toy_of(dev)->begins++;
}

static inline int toy_stop(struct vdev *dev, uint64_t deadline_ns,
			   struct err *err)
{
	struct toy *toy = toy_of(dev);

	(void)deadline_ns;
	toy->stops++;
	if (toy->stop_result)
		return err_set(err, toy->stop_result, "the toy goes on");
	return 0;
}

static inline void toy_reset(struct vdev *dev)
{
	toy_of(dev)->resets++;
}

static const struct vdev_type toy_type = {
	.name = "virtio-toy",
	.id = 42,
	.pci_class = 0x088000,
	.accept = toy_accept,
	.build = toy_build,
	.start_wait = toy_start_wait,
	.config_read = toy_config_read,
	.config_write = toy_config_write,
	.start = toy_start,
	.stop_begin = toy_stop_begin,
	.stop = toy_stop,
	.reset = toy_reset,
};

static inline void toy_init_with(struct toy *toy, const struct vdev_type *type)
{
	static const uint16_t sizes[] = { TOY_SIZE, TOY_SIZE, 16 };
	const struct ram_options options = { 0 };
	struct vdev_site site = { .name = "toy0" };
	struct err err = ERR_INIT;

	memset(toy, 0, sizeof(*toy));
	board_init(&toy->board);
	site.mem = toy->board.mem;
	site.memory = toy->board.memory;
	site.bus = toy->board.bus;
	site.state = &toy->board.state;
	site.setup_state = &toy->board.setup_state;
	if (ram_block_new(toy->board.mem, "ram", TOY_RAM, &options, &toy->ram,
			  &err) ||
	    vdev_init(&toy->dev, type, &site, 1ull << TOY_FEATURE, TOY_CONFIG,
		      TOY_QUEUES, sizes, &err) ||
	    pci_bus_assign(toy->board.bus, &err))
		fail_msg("%s", err_msg(&err));
	toy->ram_region = mem_region_new_ram(toy->board.mem, "ram", toy->ram);
	mem_region_add(toy->board.memory_root, 0, toy->ram_region, 0);
	for (unsigned int i = 0; i < TOY_CONFIG; i++)
		toy->dev.config[i] = (uint8_t)(0xc0 + i);
	board_config_set(&toy->board, TOY_SLOT, PCI_COMMAND,
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	toy->bar = board_config(&toy->board, TOY_SLOT, PCI_BASE_ADDRESS_4, 4) &
		   PCI_BASE_ADDRESS_MEM_MASK;
}

static inline void toy_init(struct toy *toy)
{
	toy_init_with(toy, &toy_type);
}

static inline void toy_fini(struct toy *toy)
{
	toy->stop_result = 0;
	if (toy->dev.is_working)
		assert_int_equal(vdev_pause(&toy->dev, UINT64_MAX, NULL), 0);
	vdev_fini(&toy->dev);
	mem_region_del(toy->ram_region);
	mem_region_put(toy->ram_region);
	mem_synchronize(toy->board.mem);
	ram_block_free(toy->ram);
	board_fini(&toy->board);
}

/* Of a test: a toy in a machine that runs. */
static inline int toy_setup(void **state)
{
	struct toy *toy = calloc(1, sizeof(*toy));

	toy_init(toy);
	vdev_run(&toy->dev);
	*state = toy;
	return 0;
}

static inline int toy_teardown(void **state)
{
	toy_fini(*state);
	free(*state);
	return 0;
}

/* Save what travels ahead of @from and build @to by it, as a migration does while the
 * guest runs; what load or activate said. */
static inline int toy_move_ahead(struct toy *from, struct toy *to,
				 struct err *err)
{
	struct state_entry *entry;
	int ret = 0;

	list_for_each (entry, &from->board.setup_state.entries, link) {
		struct bytes_writer bytes = { .data = NULL };
		struct state_entry *other =
			state_find(&to->board.setup_state, entry->name);

		assert_non_null(other);
		assert_int_equal(state_save(entry, &bytes, NULL), 0);
		mem_load_begin(to->board.mem);
		if (ret == 0)
			ret = state_load(other, entry->desc->version,
					 bytes.data, bytes.size, err);
		mem_load_end(to->board.mem);
		if (ret == 0)
			ret = state_activate(other, err);
		bytes_writer_fini(&bytes);
	}
	return ret;
}

/* Save @from and load @to, as a migration does; what load or activate said. */
static inline int toy_move(struct toy *from, struct toy *to, struct err *err)
{
	struct bytes_writer bytes[16] = { { .data = NULL } };
	struct state_entry *entry;
	unsigned int i = 0;
	int ret = 0;

	list_for_each (entry, &from->board.state.entries, link) {
		assert_true(i < array_size(bytes));
		assert_int_equal(state_save(entry, &bytes[i++], NULL), 0);
	}
	i = 0;
	mem_load_begin(to->board.mem);
	mem_begin(to->board.mem);
	list_for_each (entry, &from->board.state.entries, link) {
		struct state_entry *other =
			state_find(&to->board.state, entry->name);

		assert_non_null(other);
		if (ret == 0)
			ret = state_load(other, entry->desc->version,
					 bytes[i].data, bytes[i].size, err);
		bytes_writer_fini(&bytes[i++]);
	}
	mem_commit(to->board.mem);
	mem_load_end(to->board.mem);
	if (ret == 0)
		ret = vdev_prepare(&to->dev, VDEV_STOPPED, err);
	list_for_each (entry, &to->board.state.entries, link) {
		if (ret == 0)
			ret = state_activate(entry, err);
	}
	return ret;
}

/* ---- the driver ---- */

static inline uint64_t toy_get(struct toy *toy, unsigned int reg,
			       unsigned int size)
{
	return board_load(&toy->board, toy->bar + VDEV_PCI_COMMON + reg, size);
}

static inline void toy_put(struct toy *toy, unsigned int reg, uint64_t value,
			   unsigned int size)
{
	board_store(&toy->board, toy->bar + VDEV_PCI_COMMON + reg, value, size);
}

static inline uint8_t toy_status(struct toy *toy)
{
	return (uint8_t)toy_get(toy, STATUS, 1);
}

/* Add bits, and say what became of it. */
static inline uint8_t toy_add_status(struct toy *toy, uint8_t bits)
{
	toy_put(toy, STATUS, toy_status(toy) | bits, 1);
	return toy_status(toy);
}

static inline void toy_choose(struct toy *toy, uint64_t features)
{
	for (unsigned int i = 0; i < 2; i++) {
		toy_put(toy, DRIVER_SELECT, i, 4);
		toy_put(toy, DRIVER_FEATURES, (uint32_t)(features >> 32 * i),
			4);
	}
}

/* As far as FEATURES_OK. */
static inline void toy_negotiate(struct toy *toy, uint64_t features)
{
	toy_add_status(toy, ACKNOWLEDGE);
	toy_add_status(toy, DRIVER);
	toy_choose(toy, features | 1ull << VIRTIO_F_VERSION_1);
	assert_int_equal(toy_add_status(toy, FEATURES_OK), SET_UP);
}

/* 64 KiB of RAM for each queue: three parts 16 KiB apart. */
static inline uint64_t toy_ring(unsigned int queue, unsigned int part)
{
	return 0x10000u * (queue + 1) + 0x4000u * part;
}

static inline void toy_place(struct toy *toy, unsigned int queue)
{
	toy_put(toy, QUEUE_SELECT, queue, 2);
	toy_put(toy, QUEUE_DESC, toy_ring(queue, 0), 8);
	toy_put(toy, QUEUE_DRIVER, toy_ring(queue, 1), 8);
	toy_put(toy, QUEUE_DEVICE, toy_ring(queue, 2), 8);
}

static inline void toy_enable(struct toy *toy, unsigned int queue)
{
	toy_place(toy, queue);
	toy_put(toy, QUEUE_ENABLE, 1, 2);
}

/* All of it, with the first two queues. */
static inline void toy_set_up(struct toy *toy, uint64_t features)
{
	toy_negotiate(toy, features);
	toy_enable(toy, 0);
	toy_enable(toy, 1);
	assert_int_equal(toy_add_status(toy, DRIVER_OK), SET_UP | DRIVER_OK);
}

#endif
