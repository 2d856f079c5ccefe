// SPDX-License-Identifier: Apache-2.0
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/trace.h"
#include "vhost/vhost_priv.h"

#define SLOT    1u
#define CTRL_AT (BED_DATA + 0x200000u)

/* virtio 1.2, 4.1.4.3 */
enum {
	DRIVER_SELECT = 0x08,
	DRIVER_FEATURES = 0x0c,
	CONFIG_VECTOR = 0x10,
	STATUS = 0x14,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_VECTOR = 0x1a,
	QUEUE_ENABLE = 0x1c,
	QUEUE_DESC = 0x20,
	QUEUE_DRIVER = 0x28,
	QUEUE_DEVICE = 0x30,
};

static struct mem_region *add_ram(struct bed *bed, const char *name,
				  uint64_t gpa, uint64_t size,
				  struct ram_block **ret_block)
{
	struct mem_region *region;
	struct err err = ERR_INIT;

	if (ram_block_new(bed->board.mem, name, size, NULL, ret_block, &err))
		fail_msg("%s", err_msg(&err));
	region = mem_region_new_ram(bed->board.mem, name, *ret_block);
	mem_region_add(bed->board.memory_root, gpa, region, 0);
	return region;
}

static void make_image(struct bed *bed)
{
	int fd;

	snprintf(bed->folder, sizeof(bed->folder), "/tmp/godwit-vhost-XXXXXX");
	if (!mkdtemp(bed->folder))
		fail_msg("mkdtemp: %s", strerror(errno));
	snprintf(bed->image, sizeof(bed->image), "%s/image", bed->folder);
	snprintf(bed->socket, sizeof(bed->socket), "%s/socket", bed->folder);
	fd = open(bed->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, BED_IMAGE_SECTORS * 512) < 0)
		fail_msg("%s: %s", bed->image, strerror(errno));
	close(fd);
}

void bed_init(struct bed *bed, bool scan_each)
{
	struct err err = ERR_INIT;

	/* GODWIT_TRACE=vh_* for whoever looks for a fault */
	trace_enable(getenv("GODWIT_TRACE"));
	memset(bed, 0, sizeof(*bed));
	board_init(&bed->board);
	make_image(bed);
	mem_begin(bed->board.mem);
	bed->low_region = add_ram(bed, "low", 0, BED_LOW_SIZE, &bed->low);
	bed->high_region =
		add_ram(bed, "high", BED_HIGH, BED_HIGH_SIZE, &bed->high);
	mem_commit(bed->board.mem);
	if (vh_board_new(bed->board.mem, bed->board.memory, scan_each,
			 &bed->vhost, &err))
		fail_msg("%s", err_msg(&err));
}

static void drop_ram(struct mem_region *region)
{
	mem_region_del(region);
	mem_region_put(region);
}

void bed_fini(struct bed *bed)
{
	bed_disk_free(bed);
	vh_board_free(bed->vhost);
	drop_ram(bed->low_region);
	drop_ram(bed->high_region);
	mem_synchronize(bed->board.mem);
	ram_block_free(bed->low);
	ram_block_free(bed->high);
	board_fini(&bed->board);
	unlink(bed->image);
	unlink(bed->socket);
	rmdir(bed->folder);
}

/* The device that was built is in its slot, and may work. */
static void attach(struct bed *bed)
{
	struct err err = ERR_INIT;

	if (pci_bus_assign(bed->board.bus, &err))
		fail_msg("%s", err_msg(&err));
	board_config_set(&bed->board, SLOT, PCI_COMMAND,
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	bed->bar = board_config(&bed->board, SLOT, PCI_BASE_ADDRESS_4, 4) &
		   PCI_BASE_ADDRESS_MEM_MASK;
	vdev_run(bed->vdev);
}

static struct vdev_site site_of(struct bed *bed, const char *name)
{
	return (struct vdev_site){
		.mem = bed->board.mem,
		.memory = bed->board.memory,
		.bus = bed->board.bus,
		.state = &bed->board.state,
		.vhost = bed->vhost,
		.name = name,
	};
}

int bed_disk_new(struct bed *bed, unsigned int queues, struct err *err)
{
	struct vdev_site site = site_of(bed, "disk0");
	char text[160];
	int ret;

	snprintf(text, sizeof(text), "vhost-user=%s,queues=%u", bed->socket,
		 queues);
	bed->queues = queues;
	bed->wanted = 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_MQ;
	ret = vh_user_blk_new(&site, text, &bed->vdev, err);
	if (!ret)
		attach(bed);
	return ret;
}

int bed_net_new(struct bed *bed, unsigned int pairs, struct err *err)
{
	char option[128];

	snprintf(option, sizeof(option), "vhost-user=%s", bed->socket);
	return bed_net_new_on(bed, option, pairs, err);
}

int bed_net_new_on(struct bed *bed, const char *option, unsigned int pairs,
		   struct err *err)
{
	struct vdev_site site = site_of(bed, "net0");
	char text[160];
	int ret;

	snprintf(text, sizeof(text), "%s,queues=%u", option, pairs);
	bed->queues = 2 * pairs + 1;
	bed->wanted = 1ull << VIRTIO_NET_F_CTRL_VQ | 1ull << VIRTIO_NET_F_MQ;
	ret = vh_net_new(&site, text, &bed->vdev, err);
	if (!ret)
		attach(bed);
	return ret;
}

void bed_disk_free(struct bed *bed)
{
	if (!bed->vdev)
		return;
	vdev_pause_begin(bed->vdev);
	if (vdev_pause(bed->vdev, UINT64_MAX, NULL))
		fail_msg("the disk does not stop");
	bed->vdev->type->free(bed->vdev);
	bed->vdev = NULL;
}

/* ---- registers ---- */

static void put(struct bed *bed, unsigned int reg, uint64_t value,
		unsigned int size)
{
	board_store(&bed->board, bed->bar + VDEV_PCI_COMMON + reg, value, size);
}

uint8_t bed_status(struct bed *bed)
{
	return (uint8_t)board_load(&bed->board,
				   bed->bar + VDEV_PCI_COMMON + STATUS, 1);
}

bool bed_needs_reset(struct bed *bed)
{
	return bed_status(bed) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static bool is_broken(void *opaque)
{
	return bed_needs_reset(opaque);
}

void bed_wait_broken(struct bed *bed)
{
	if (!bed_until(is_broken, bed))
		fail_msg("the device asks for no reset");
}

static void add_status(struct bed *bed, uint8_t bits)
{
	put(bed, STATUS, bed_status(bed) | bits, 1);
}

static uint64_t ring_at(unsigned int queue, unsigned int part)
{
	return 0x10000u * (queue + 1) + 0x4000u * part;
}

static void choose_features(struct bed *bed)
{
	uint64_t features =
		bed->vdev->offered & (1ull << VIRTIO_F_VERSION_1 | bed->wanted);

	for (unsigned int i = 0; i < 2; i++) {
		put(bed, DRIVER_SELECT, i, 4);
		put(bed, DRIVER_FEATURES, (uint32_t)(features >> 32 * i), 4);
	}
}

void bed_drive(struct bed *bed)
{
	memset(bed->driver, 0, sizeof(bed->driver));
	add_status(bed, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	add_status(bed, VIRTIO_CONFIG_S_DRIVER);
	choose_features(bed);
	add_status(bed, VIRTIO_CONFIG_S_FEATURES_OK);
	if (bed->has_vector)
		put(bed, CONFIG_VECTOR, 0, 2);
	for (unsigned int q = 0; q < bed->queues; q++) {
		memset(bed_at(bed, ring_at(q, 0)), 0, 0xc000);
		put(bed, QUEUE_SELECT, q, 2);
		put(bed, QUEUE_SIZE, BED_QUEUE, 2);
		put(bed, QUEUE_DESC, ring_at(q, 0), 8);
		put(bed, QUEUE_DRIVER, ring_at(q, 1), 8);
		put(bed, QUEUE_DEVICE, ring_at(q, 2), 8);
		if (bed->has_vector)
			put(bed, QUEUE_VECTOR, 0, 2);
		put(bed, QUEUE_ENABLE, 1, 2);
	}
	add_status(bed, VIRTIO_CONFIG_S_DRIVER_OK);
}

static bool is_reset(void *opaque)
{
	return bed_status(opaque) == 0;
}

void bed_reset(struct bed *bed)
{
	put(bed, STATUS, 0, 1);
	if (!bed_until(is_reset, bed))
		fail_msg("the device does not reset");
}

void bed_set_master(struct bed *bed, bool is_on)
{
	board_config_set(&bed->board, SLOT, PCI_COMMAND,
			 PCI_COMMAND_MEMORY | (is_on ? PCI_COMMAND_MASTER : 0),
			 2);
}

static bool is_quiet(void *opaque)
{
	struct bed *bed = opaque;
	unsigned int at = board_capability(&bed->board, SLOT, PCI_CAP_ID_EXP);

	return !(board_config(&bed->board, SLOT, at + PCI_EXP_DEVSTA, 2) &
		 PCI_EXP_DEVSTA_TRPND);
}

void bed_function_reset(struct bed *bed)
{
	struct board *board = &bed->board;
	unsigned int at = board_capability(board, SLOT, PCI_CAP_ID_EXP);

	board_config_set(board, SLOT, at + PCI_EXP_DEVCTL,
			 PCI_EXP_DEVCTL_BCR_FLR, 2);
	if (!bed_until(is_quiet, bed))
		fail_msg("the function does not reset");
	board_config_set(board, SLOT, PCI_BASE_ADDRESS_4, (uint32_t)bed->bar,
			 4);
	board_config_set(board, SLOT, PCI_BASE_ADDRESS_5,
			 (uint32_t)(bed->bar >> 32), 4);
	bed_set_master(bed, true);
}

static bool is_away(void *opaque)
{
	struct bed *bed = opaque;
	struct vh_side *side = &bed->vhost->sides[VH_USER];
	bool is_away = false;
	struct vh_dev *dev;

	lock_acquire(&side->lock);
	list_for_each (dev, &side->devs, link)
		is_away |= vh_dev_is_away(dev);
	lock_release(&side->lock);
	return is_away;
}

void bed_wait_away(struct bed *bed)
{
	if (!bed_until(is_away, bed))
		fail_msg("the end of the back end is not noticed");
}

/* ---- requests ---- */

void *bed_at(struct bed *bed, uint64_t gpa)
{
	return gpa >= BED_HIGH ? bed->high->host + (gpa - BED_HIGH)
			       : bed->low->host + gpa;
}

/* Header and status of a request that begins with descriptor @head. */
static uint64_t header_at(unsigned int queue, uint16_t head)
{
	return ring_at(queue, 3) + 32u * head;
}

uint16_t bed_add(struct bed *bed, unsigned int queue,
		 const struct bed_part *parts, unsigned int count)
{
	struct bed_queue *driver = &bed->driver[queue];
	struct vring_desc *desc = bed_at(bed, ring_at(queue, 0));
	struct vring_avail *avail = bed_at(bed, ring_at(queue, 1));
	uint16_t head = driver->free_at % BED_QUEUE;

	for (unsigned int i = 0; i < count; i++) {
		uint16_t next = (uint16_t)((head + i + 1) % BED_QUEUE);

		desc[(head + i) % BED_QUEUE] = (struct vring_desc){
			parts[i].gpa, parts[i].size,
			(uint16_t)((parts[i].is_writable ? VRING_DESC_F_WRITE
							 : 0) |
				   (i + 1 < count ? VRING_DESC_F_NEXT : 0)),
			next
		};
	}
	driver->free_at = (uint16_t)(driver->free_at + count);
	avail->ring[driver->next_avail % BED_QUEUE] = head;
	driver->next_avail++;
	__atomic_store_n(&avail->idx, driver->next_avail, __ATOMIC_SEQ_CST);
	return head;
}

bool bed_take(struct bed *bed, unsigned int queue, uint16_t *ret_head,
	      uint32_t *ret_size)
{
	struct bed_queue *driver = &bed->driver[queue];
	struct vring_used *used = bed_at(bed, ring_at(queue, 2));
	const struct vring_used_elem *element;

	if (__atomic_load_n(&used->idx, __ATOMIC_SEQ_CST) == driver->next_used)
		return false;
	element = &used->ring[driver->next_used % BED_QUEUE];
	driver->next_used++;
	if (element->id >= BED_QUEUE)
		fail_msg("used id %u", element->id);
	*ret_head = (uint16_t)element->id;
	*ret_size = element->len;
	return true;
}

void bed_submit(struct bed *bed, unsigned int queue, uint32_t type,
		uint64_t sector, uint64_t gpa, uint32_t size)
{
	uint16_t head = bed->driver[queue].free_at % BED_QUEUE;
	struct virtio_blk_outhdr *header = bed_at(bed, header_at(queue, head));
	const struct bed_part parts[] = {
		{ header_at(queue, head), 16, false },
		{ gpa, size, type == VIRTIO_BLK_T_IN },
		{ header_at(queue, head) + 16, 1, true },
	};
	const struct bed_part bare[] = { parts[0], parts[2] };

	*header = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	*(uint8_t *)(header + 1) = 0xff; /* status */
	bed_add(bed, queue, size ? parts : bare, size ? 3 : 2);
}

void bed_kick(struct bed *bed, unsigned int queue)
{
	eventfd_write(bed->vdev->queues[queue].kick_fd, 1);
}

/* virtio 1.2, 5.1.6.5.5, by the last queue. */
void bed_begin_pairs(struct bed *bed, uint16_t pairs)
{
	uint8_t *bytes = bed_at(bed, CTRL_AT);
	const struct bed_part parts[] = {
		{ CTRL_AT, 2, false },
		{ CTRL_AT + 2, 2, false },
		{ CTRL_AT + 4, 1, true },
	};

	bytes[0] = VIRTIO_NET_CTRL_MQ;
	bytes[1] = VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
	memcpy(bytes + 2, &pairs, 2);
	bytes[4] = 0xff;
	bed_add(bed, bed->queues - 1, parts, 3);
	bed_kick(bed, bed->queues - 1);
}

bool bed_has_answer(void *opaque)
{
	struct bed *bed = opaque;
	const uint8_t *bytes = bed_at(bed, CTRL_AT);
	uint32_t size;
	uint16_t head;

	if (!bed_take(bed, bed->queues - 1, &head, &size))
		return false;
	bed->answer = bytes[4];
	return true;
}

bool bed_until(bool (*is_true)(void *opaque), void *opaque)
{
	uint64_t limit = clock_mono_ns() + BED_LIMIT_NS;

	while (!is_true(opaque)) {
		if (clock_mono_ns() > limit)
			return false;
		poll(NULL, 0, 1);
	}
	return true;
}

static bool take_used(struct bed *bed, unsigned int queue)
{
	uint8_t *status;
	uint32_t size;
	uint16_t head;

	if (!bed_take(bed, queue, &head, &size))
		return false;
	status = bed_at(bed, header_at(queue, head) + 16);
	if (*status)
		fail_msg("request %u: status %u", head, *status);
	return true;
}

bool bed_wait(struct bed *bed, unsigned int queue, unsigned int count)
{
	uint64_t limit = clock_mono_ns() + BED_LIMIT_NS;

	while (count) {
		if (take_used(bed, queue)) {
			count--;
			continue;
		}
		if (clock_mono_ns() > limit || bed_needs_reset(bed))
			return false;
		poll(NULL, 0, 1);
	}
	return true;
}

bool bed_do(struct bed *bed, unsigned int queue, uint32_t type, uint64_t sector,
	    uint64_t gpa, uint32_t size)
{
	bed_submit(bed, queue, type, sector, gpa, size);
	bed_kick(bed, queue);
	return bed_wait(bed, queue, 1);
}
