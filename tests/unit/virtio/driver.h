/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device on a PCI bus and its driver: split queues in 4 MiB of RAM, set up
 * through the device's registers as the transport does it.  Interrupts are eventfds
 * of its own, so the test's program wraps vdev_call() and vdev_config_changed().
 *
 *	0x000000  buffers of queue n at 0x40000 * n
 *	0x300000  rings of queue n at 0x300000 + 0x8000 * n
 */
#ifndef GODWIT_TESTS_VIRTIO_DRIVER_H
#define GODWIT_TESTS_VIRTIO_DRIVER_H

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "dev/pci_board.h"
#include "mem/ram.h"
#include "virtio/vdev.h"

#define DRIVER_RAM      0x400000u
#define DRIVER_QUEUES   12u
#define DRIVER_LIMIT_MS 30000

#define DRIVER_STATUS (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)

struct driver_queue {
	uint64_t rings; /* gpa */
	uint16_t size, next_desc, avail, used;
	int call_fd;
};

struct driver {
	struct board board;
	struct ram_block *ram;
	struct mem_region *ram_region;
	struct vdev_site site;
	struct vdev *dev;
	struct driver_queue queues[DRIVER_QUEUES];
	int config_fd; /* its interrupt */
	struct err err;
};

struct driver_buffer {
	uint64_t gpa;
	uint32_t size;
	bool is_writable;
};

#define DRIVERS_MAX 4u
/* Of this test's program: who a device belongs to. */
static struct driver *drivers[DRIVERS_MAX];

static inline struct driver *driver_of(const struct vdev *dev)
{
	for (unsigned int i = 0; i < DRIVERS_MAX; i++)
		if (drivers[i] && drivers[i]->dev == dev)
			return drivers[i];
	fail_msg("a device that nobody drives");
	return NULL;
}

static inline void driver_signal(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

void __wrap_vdev_call(const struct vdev *dev, const struct vdev_queue *queue);
void __wrap_vdev_config_changed(struct vdev *dev);
void __real_vdev_config_changed(struct vdev *dev);

void __wrap_vdev_call(const struct vdev *dev, const struct vdev_queue *queue)
{
	struct driver *driver = driver_of(dev);

	driver_signal(driver->queues[queue - dev->queues].call_fd);
}

void __wrap_vdev_config_changed(struct vdev *dev)
{
	__real_vdev_config_changed(dev);
	driver_signal(driver_of(dev)->config_fd);
}

/* Wait for an interrupt, and acknowledge it. */
static inline void driver_await(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t count;

	assert_int_equal(poll(&p, 1, DRIVER_LIMIT_MS), 1);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
}

static inline void *driver_at(struct driver *driver, uint64_t gpa)
{
	assert_true(gpa < DRIVER_RAM);
	return driver->ram->host + gpa;
}

/* Memory, bus and site; the test builds the device into driver->dev. */
static inline void driver_init(struct driver *driver, const char *name)
{
	unsigned int at = 0;

	memset(driver, 0, sizeof(*driver));
	board_init(&driver->board);
	if (ram_block_new(driver->board.mem, "ram", DRIVER_RAM,
			  &(struct ram_options){ 0 }, &driver->ram,
			  &driver->err))
		fail_msg("%s", err_msg(&driver->err));
	mem_begin(driver->board.mem);
	driver->ram_region =
		mem_region_new_ram(driver->board.mem, "ram", driver->ram);
	mem_region_add(driver->board.memory_root, 0, driver->ram_region, 0);
	mem_region_put(driver->ram_region); /* the root's now */
	mem_commit(driver->board.mem);
	driver->site = (struct vdev_site){ .mem = driver->board.mem,
					   .memory = driver->board.memory,
					   .bus = driver->board.bus,
					   .state = &driver->board.state,
					   .name = name };
	driver->config_fd = eventfd(0, EFD_CLOEXEC);
	for (unsigned int i = 0; i < DRIVER_QUEUES; i++)
		driver->queues[i].call_fd = eventfd(0, EFD_CLOEXEC);
	while (drivers[at])
		at++;
	assert_true(at < DRIVERS_MAX);
	drivers[at] = driver;
}

static inline void driver_fini(struct driver *driver)
{
	if (driver->dev) {
		vdev_pause_begin(driver->dev);
		assert_int_equal(vdev_pause(driver->dev, UINT64_MAX, NULL), 0);
		driver->dev->type->free(driver->dev);
	}
	for (unsigned int i = 0; i < DRIVERS_MAX; i++)
		if (drivers[i] == driver)
			drivers[i] = NULL;
	for (unsigned int i = 0; i < DRIVER_QUEUES; i++)
		close(driver->queues[i].call_fd);
	close(driver->config_fd);
	mem_begin(driver->board.mem);
	mem_region_del(driver->ram_region);
	mem_commit(driver->board.mem);
	mem_synchronize(driver->board.mem);
	ram_block_free(driver->ram);
	board_fini(&driver->board);
}

/* ---- registers ---- */

static inline void driver_queue_setup(struct driver *driver, unsigned int index)
{
	struct driver_queue *mine = &driver->queues[index];
	struct vdev_queue *queue = &driver->dev->queues[index];

	mine->rings = 0x300000u + 0x8000u * index;
	mine->size = queue->size_max;
	mine->next_desc = mine->avail = mine->used = 0;
	memset(driver_at(driver, mine->rings), 0, 0x8000);
	queue->size = mine->size;
	queue->desc = mine->rings;
	queue->driver = mine->rings + 0x4000;
	queue->device = mine->rings + 0x5000;
	vdev_queue_enable(driver->dev, queue);
}

/* Negotiates, sets up all queues and has the device work.  False when it refuses
 * the features. */
static inline bool driver_start(struct driver *driver, uint64_t features)
{
	const uint8_t ok = DRIVER_STATUS | VIRTIO_CONFIG_S_FEATURES_OK;
	struct vdev *dev = driver->dev;
	bool is_taken;

	features |= 1ull << VIRTIO_F_VERSION_1;
	board_config_set(&driver->board, 1, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
	lock_acquire(&dev->lock);
	vdev_set_status(dev, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	vdev_set_status(dev, DRIVER_STATUS);
	vdev_set_features(dev, 0, (uint32_t)features);
	vdev_set_features(dev, 1, (uint32_t)(features >> 32));
	vdev_set_status(dev, ok);
	is_taken = vdev_status(dev) == ok;
	for (unsigned int i = 0; i < dev->queue_count && is_taken; i++)
		driver_queue_setup(driver, i);
	if (is_taken)
		vdev_set_status(dev, ok | VIRTIO_CONFIG_S_DRIVER_OK);
	lock_release(&dev->lock);
	if (is_taken)
		vdev_run(dev);
	return is_taken;
}

static inline void driver_reset(struct driver *driver)
{
	lock_acquire(&driver->dev->lock);
	vdev_set_status(driver->dev, 0);
	assert_int_equal(vdev_status(driver->dev), 0);
	lock_release(&driver->dev->lock);
}

static inline bool driver_is_broken(struct driver *driver)
{
	uint8_t status;

	lock_acquire(&driver->dev->lock);
	status = vdev_status(driver->dev);
	lock_release(&driver->dev->lock);
	return status & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static inline void driver_config(struct driver *driver, void *config,
				 uint32_t size)
{
	lock_acquire(&driver->dev->lock);
	vdev_config_get(driver->dev, 0, size, config);
	lock_release(&driver->dev->lock);
}

static inline void driver_pause(struct driver *driver)
{
	vdev_pause_begin(driver->dev);
	assert_int_equal(vdev_pause(driver->dev, UINT64_MAX, &driver->err), 0);
}

#define DRIVER_ENTRIES 8u

/* What @from's device is goes to @to's, of the same type, as in a move; both are
 * paused.  The memory, too. */
static inline void driver_move(struct driver *from, struct driver *to)
{
	struct bytes_writer bytes[DRIVER_ENTRIES] = { { .data = NULL } };
	struct state_entry *entry, *other;
	unsigned int i = 0;

	memcpy(to->ram->host, from->ram->host, DRIVER_RAM);
	for (i = 0; i < DRIVER_QUEUES; i++) {
		int call_fd = to->queues[i].call_fd;

		to->queues[i] = from->queues[i];
		to->queues[i].call_fd = call_fd;
	}
	i = 0;
	list_for_each (entry, &from->board.state.entries, link)
		assert_int_equal(state_save(entry, &bytes[i++], NULL), 0);
	assert_true(i <= DRIVER_ENTRIES);
	i = 0;
	mem_load_begin(to->board.mem);
	mem_begin(to->board.mem);
	list_for_each (entry, &from->board.state.entries, link) {
		other = state_find(&to->board.state, entry->name);
		assert_non_null(other);
		if (state_load(other, entry->desc->version, bytes[i].data,
			       bytes[i].size, &to->err))
			fail_msg("%s: %s", entry->name, err_msg(&to->err));
		i++;
	}
	mem_commit(to->board.mem);
	mem_load_end(to->board.mem);
	list_for_each (entry, &to->board.state.entries, link)
		assert_int_equal(state_activate(entry, NULL), 0);
	while (i)
		bytes_writer_fini(&bytes[--i]);
}

/* ---- rings ---- */

static inline uint64_t driver_buffer(unsigned int queue, unsigned int index)
{
	return 0x40000u * queue + 0x800u * index;
}

/* Make a chain available; returns its head. */
static inline uint16_t driver_add(struct driver *driver, unsigned int index,
				  const struct driver_buffer *buffers,
				  unsigned int count)
{
	struct driver_queue *q = &driver->queues[index];
	struct vring_desc *descs = driver_at(driver, q->rings);
	struct vring_avail *avail = driver_at(driver, q->rings + 0x4000);
	uint16_t head = q->next_desc;

	for (unsigned int i = 0; i < count; i++) {
		uint16_t at = q->next_desc;

		q->next_desc = (uint16_t)((at + 1) % q->size);
		descs[at] = (struct vring_desc){
			.addr = buffers[i].gpa,
			.len = buffers[i].size,
			.flags = (uint16_t)((buffers[i].is_writable
						     ? VRING_DESC_F_WRITE
						     : 0) |
					    (i + 1 < count ? VRING_DESC_F_NEXT
							   : 0)),
			.next = q->next_desc,
		};
	}
	avail->ring[q->avail % q->size] = head;
	__atomic_store_n(&avail->idx, ++q->avail, __ATOMIC_RELEASE);
	return head;
}

static inline void driver_kick(struct driver *driver, unsigned int index)
{
	driver_signal(driver->dev->queues[index].kick_fd);
}

static inline bool driver_has_used(struct driver *driver, unsigned int index)
{
	struct driver_queue *q = &driver->queues[index];
	struct vring_used *used = driver_at(driver, q->rings + 0x5000);

	return __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) != q->used;
}

/* The next used element, waited for; returns how much was written. */
static inline uint32_t driver_take(struct driver *driver, unsigned int index,
				   uint16_t *ret_head)
{
	struct driver_queue *q = &driver->queues[index];
	struct vring_used *used = driver_at(driver, q->rings + 0x5000);
	struct vring_used_elem *elem;

	while (!driver_has_used(driver, index))
		driver_await(q->call_fd);
	elem = &used->ring[q->used++ % q->size];
	if (ret_head)
		*ret_head = (uint16_t)elem->id;
	return elem->len;
}

#endif
