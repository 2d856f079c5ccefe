// SPDX-License-Identifier: Apache-2.0
#include "rig.h"

#include <cmocka.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/bitmap.h"
#include "base/bytes.h"

#define DESC_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define DESC_USED  (1u << VRING_PACKED_DESC_F_USED)

void __wrap_vdev_call(const struct vdev *dev, const struct vdev_queue *queue);

void __wrap_vdev_call(const struct vdev *dev, const struct vdev_queue *queue)
{
	struct rig *rig = (struct rig *)container_of(dev, struct rig, dev);

	assert_ptr_equal(queue, &rig->queue);
	__atomic_add_fetch(&rig->calls, 1, __ATOMIC_RELAXED);
	if (rig->call_fd >= 0)
		eventfd_write(rig->call_fd, 1);
}

static uint64_t mmio_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct rig *rig = opaque;

	(void)offset, (void)size;
	rig->mmio_accesses++;
	return 0;
}

static void mmio_write(void *opaque, uint64_t offset, uint64_t value,
		       unsigned int size)
{
	(void)value;
	mmio_read(opaque, offset, size);
}

static const struct mem_io_ops mmio_ops = {
	.read = mmio_read,
	.write = mmio_write,
};

static void add_region(struct rig *rig, uint64_t gpa, struct mem_region *region)
{
	assert_non_null(region);
	mem_region_add(rig->root, gpa, region, 0);
	mem_region_put(region); /* the container's now */
}

static struct ram_block *add_block(struct rig *rig, const char *name,
				   uint64_t size)
{
	struct ram_block *block;

	if (ram_block_new(rig->mem, name, size, &(struct ram_options){ 0 },
			  &block, &rig->err))
		fail_msg("%s", err_msg(&rig->err));
	return block;
}

void rig_init(struct rig *rig, uint64_t features, uint16_t size)
{
	memset(rig, 0, sizeof(*rig));
	rig->call_fd = -1;
	rig->mem = mem_new();
	rig->root = mem_region_new_container(rig->mem, "root", MEM_SIZE_2_64);
	rig->memory = addr_space_new(rig->mem, "memory", rig->root);
	rig->low = add_block(rig, "low", RIG_LOW_SIZE);
	rig->high = add_block(rig, "high", RIG_HIGH_SIZE);
	rig->rom = add_block(rig, "rom", RIG_HIGH_SIZE);
	mem_begin(rig->mem);
	rig->low_region = mem_region_new_ram(rig->mem, "low", rig->low);
	rig->high_region = mem_region_new_ram(rig->mem, "high", rig->high);
	add_region(rig, 0, rig->low_region);
	add_region(rig, RIG_HIGH, rig->high_region);
	add_region(rig, RIG_ROM, mem_region_new_rom(rig->mem, "rom", rig->rom));
	add_region(rig, RIG_MMIO,
		   mem_region_new_io(rig->mem, "mmio", RIG_HIGH_SIZE, &mmio_ops,
				     rig));
	mem_commit(rig->mem);

	rig->dev.mem = rig->mem;
	rig->dev.memory = rig->memory;
	rig->dev.features = features | 1ull << VIRTIO_F_VERSION_1;
	rig->dev.queue_count = 1;
	rig->dev.queues = &rig->queue;
	rig->queue = (struct vdev_queue){
		.size_max = VDEV_QUEUE_SIZE_MAX,
		.size = size,
		.is_enabled = 1,
		.desc = RIG_RINGS,
		.driver = RIG_DRIVER,
		.device = RIG_DEVICE,
	};
	rig->driver = (struct rig_driver){
		.is_packed = features >> VIRTIO_F_RING_PACKED & 1,
		.has_event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1,
		.size = size,
		.avail_wrap = true,
		.used_wrap = true,
	};
	if (rig->driver.is_packed)
		rig->queue.next_avail = rig->queue.next_used = 0x8000;
	rig->request.segments = rig->segments;
	rig->request.room = RIG_SEGMENTS;
}

void rig_fini(struct rig *rig)
{
	mem_region_put(rig->root);
	addr_space_free(rig->memory);
	mem_synchronize(rig->mem);
	ram_block_free(rig->low);
	ram_block_free(rig->high);
	ram_block_free(rig->rom);
	mem_free(rig->mem);
}

void rig_start(struct rig *rig)
{
	if (vq_start(&rig->vq, &rig->dev, 0, &rig->err))
		fail_msg("%s", err_msg(&rig->err));
}

int rig_pop(struct rig *rig)
{
	err_clear(&rig->err);
	return vq_pop(&rig->vq, &rig->request, &rig->err);
}

void *rig_at(struct rig *rig, uint64_t gpa)
{
	if (gpa >= RIG_HIGH)
		return rig->high->host + (gpa - RIG_HIGH);
	return rig->low->host + gpa;
}

uint16_t rig_get16(struct rig *rig, uint64_t gpa)
{
	uint16_t *at = rig_at(rig, gpa);

	return le16toh(__atomic_load_n(at, __ATOMIC_ACQUIRE));
}

void rig_put16(struct rig *rig, uint64_t gpa, uint16_t value)
{
	uint16_t *at = rig_at(rig, gpa);

	__atomic_exchange_n(at, htole16(value), __ATOMIC_SEQ_CST);
}

static void put32(struct rig *rig, uint64_t gpa, uint32_t value)
{
	struct le32 le = le32_of(value);

	memcpy(rig_at(rig, gpa), &le, sizeof(le));
}

static uint32_t get32(struct rig *rig, uint64_t gpa)
{
	struct le32 le;

	memcpy(&le, rig_at(rig, gpa), sizeof(le));
	return le32_get(le);
}

void rig_put_desc(struct rig *rig, uint64_t gpa, uint64_t address,
		  uint32_t size, uint16_t a, uint16_t b)
{
	put32(rig, gpa, (uint32_t)address);
	put32(rig, gpa + 4, (uint32_t)(address >> 32));
	put32(rig, gpa + 8, size);
	/* one that publishes is the last */
	rig_put16(rig, gpa + 12, a);
	rig_put16(rig, gpa + 14, b);
}

static void split_publish(struct rig *rig, uint16_t head)
{
	struct rig_driver *driver = &rig->driver;

	rig_put16(rig,
		  RIG_DRIVER + 4 + 2u * (driver->next_avail % driver->size),
		  head);
	driver->next_avail++;
	driver->added++;
	rig_put16(rig, RIG_DRIVER + 2, driver->next_avail);
}

static uint16_t split_add(struct rig *rig, const struct rig_buffer *buffers,
			  unsigned int count, uint16_t extra)
{
	struct rig_driver *driver = &rig->driver;
	uint16_t head = driver->free_at;

	for (unsigned int i = 0; i < count; i++) {
		uint16_t flags = extra, at = driver->free_at;

		driver->free_at = (uint16_t)((at + 1) % driver->size);
		if (buffers[i].is_writable)
			flags |= VRING_DESC_F_WRITE;
		if (i + 1 < count)
			flags |= VRING_DESC_F_NEXT;
		rig_put_desc(rig, RIG_RINGS + 16u * at, buffers[i].gpa,
			     buffers[i].size, flags, driver->free_at);
	}
	split_publish(rig, head);
	return head;
}

static uint16_t packed_add(struct rig *rig, const struct rig_buffer *buffers,
			   unsigned int count, uint16_t extra)
{
	struct rig_driver *driver = &rig->driver;
	uint16_t id = driver->next_avail, first_flags = 0;
	uint64_t first = RIG_RINGS + 16ull * driver->next_avail;

	driver->lengths[id] = (uint16_t)count;
	for (unsigned int i = 0; i < count; i++) {
		uint64_t gpa = RIG_RINGS + 16ull * driver->next_avail;
		uint16_t flags =
			extra | (driver->avail_wrap ? DESC_AVAIL : DESC_USED);

		if (buffers[i].is_writable)
			flags |= VRING_DESC_F_WRITE;
		if (i + 1 < count)
			flags |= VRING_DESC_F_NEXT;
		if (i == 0)
			first_flags = flags;
		rig_put_desc(rig, gpa, buffers[i].gpa, buffers[i].size, id,
			     i ? flags : rig_get16(rig, gpa + 14));
		if (++driver->next_avail == driver->size) {
			driver->next_avail = 0;
			driver->avail_wrap = !driver->avail_wrap;
		}
	}
	rig_put16(rig, first + 14, first_flags);
	driver->added += (uint16_t)count;
	return id;
}

uint16_t rig_add(struct rig *rig, const struct rig_buffer *buffers,
		 unsigned int count)
{
	if (rig->driver.is_packed)
		return packed_add(rig, buffers, count, 0);
	return split_add(rig, buffers, count, 0);
}

uint16_t rig_add_indirect(struct rig *rig, uint64_t table,
			  const struct rig_buffer *buffers, unsigned int count)
{
	const struct rig_buffer buffer = { table, 16 * count, false };

	for (unsigned int i = 0; i < count; i++) {
		uint16_t flags = 0;

		if (buffers[i].is_writable)
			flags |= VRING_DESC_F_WRITE;
		if (i + 1 < count && !rig->driver.is_packed)
			flags |= VRING_DESC_F_NEXT;
		if (rig->driver.is_packed)
			rig_put_desc(rig, table + 16 * i, buffers[i].gpa,
				     buffers[i].size, 0, flags);
		else
			rig_put_desc(rig, table + 16 * i, buffers[i].gpa,
				     buffers[i].size, flags, (uint16_t)(i + 1));
	}
	if (rig->driver.is_packed)
		return packed_add(rig, &buffer, 1, VRING_DESC_F_INDIRECT);
	return split_add(rig, &buffer, 1, VRING_DESC_F_INDIRECT);
}

uint16_t rig_add_one(struct rig *rig)
{
	static const struct rig_buffer buffers[] = {
		{ RIG_BUFFERS, 16, false },
		{ RIG_BUFFERS + 0x1000, 64, true },
	};

	return rig_add(rig, buffers, 2);
}

/* The number of what was made available before @added of them, on a scale without
 * end. */
static bool event_is_among(uint16_t event, uint16_t next, uint16_t added)
{
	for (uint16_t at = (uint16_t)(next - added); at != next; at++) {
		if (at == event)
			return true;
	}
	return false;
}

static bool packed_must_kick(struct rig *rig)
{
	struct rig_driver *driver = &rig->driver;
	uint16_t at = rig_get16(rig, RIG_DEVICE);
	uint16_t flags = rig_get16(rig, RIG_DEVICE + 2);
	uint16_t event = at & 0x7fff, added = driver->added;

	driver->added = 0;
	if (flags != VRING_PACKED_EVENT_FLAG_DESC)
		return flags == VRING_PACKED_EVENT_FLAG_ENABLE;
	/* of the round before */
	if (at >> 15 != driver->avail_wrap)
		event -= driver->size;
	return event_is_among(event, driver->next_avail, added);
}

bool rig_must_kick(struct rig *rig)
{
	struct rig_driver *driver = &rig->driver;
	uint16_t added = driver->added;

	if (driver->is_packed)
		return packed_must_kick(rig);
	driver->added = 0;
	if (!driver->has_event_idx)
		return !(rig_get16(rig, RIG_DEVICE) & VRING_USED_F_NO_NOTIFY);
	return event_is_among(
		rig_get16(rig, RIG_DEVICE + 4 + 8u * driver->size),
		driver->next_avail, added);
}

static bool packed_take(struct rig *rig, uint16_t *ret_id,
			uint32_t *ret_written)
{
	struct rig_driver *driver = &rig->driver;
	uint64_t gpa = RIG_RINGS + 16ull * driver->next_used;
	uint16_t flags = rig_get16(rig, gpa + 14);

	if (!!(flags & DESC_AVAIL) != driver->used_wrap ||
	    !!(flags & DESC_USED) != driver->used_wrap)
		return false;
	*ret_id = rig_get16(rig, gpa + 12);
	*ret_written = get32(rig, gpa + 8);
	assert_int_equal(!!(flags & VRING_DESC_F_WRITE), *ret_written != 0);
	assert_in_range(*ret_id, 0, driver->size - 1);
	driver->next_used += driver->lengths[*ret_id];
	if (driver->next_used >= driver->size) {
		driver->next_used -= driver->size;
		driver->used_wrap = !driver->used_wrap;
	}
	return true;
}

bool rig_take(struct rig *rig, uint16_t *ret_id, uint32_t *ret_written)
{
	struct rig_driver *driver = &rig->driver;
	uint64_t gpa;

	if (driver->is_packed)
		return packed_take(rig, ret_id, ret_written);
	if (rig_get16(rig, RIG_DEVICE + 2) == driver->next_used)
		return false;
	gpa = RIG_DEVICE + 4 + 8ull * (driver->next_used % driver->size);
	*ret_id = (uint16_t)get32(rig, gpa);
	*ret_written = get32(rig, gpa + 4);
	driver->next_used++;
	return true;
}

void rig_pop_one(struct rig *rig, uint16_t id)
{
	assert_int_equal(rig_pop(rig), 1);
	assert_int_equal(rig->request.id, id);
}

void rig_take_one(struct rig *rig, uint16_t id, uint32_t written)
{
	uint32_t got_written;
	uint16_t got_id;

	assert_true(rig_take(rig, &got_id, &got_written));
	assert_int_equal(got_id, id);
	assert_int_equal(got_written, written);
}

void rig_take_none(struct rig *rig)
{
	uint32_t written;
	uint16_t id;

	assert_false(rig_take(rig, &id, &written));
}

void rig_pass_one(struct rig *rig)
{
	uint16_t id = rig_add_one(rig);

	rig_pop_one(rig, id);
	vq_push(&rig->vq, &rig->request, 64);
	vq_flush(&rig->vq);
	rig_take_one(rig, id, 64);
}

void rig_want_call_at(struct rig *rig, unsigned int nth)
{
	struct rig_driver *driver = &rig->driver;
	unsigned int at = driver->next_used + nth;

	if (!driver->is_packed) {
		rig_put16(rig, RIG_DRIVER + 4 + 2u * driver->size,
			  (uint16_t)at);
		return;
	}
	rig_put16(
		rig, RIG_DRIVER,
		(uint16_t)(at % driver->size |
			   (driver->used_wrap != (at >= driver->size)) << 15));
	rig_put16(rig, RIG_DRIVER + 2, VRING_PACKED_EVENT_FLAG_DESC);
}

void rig_want_calls(struct rig *rig, bool is_wanted)
{
	if (rig->driver.is_packed)
		rig_put16(rig, RIG_DRIVER + 2,
			  is_wanted ? VRING_PACKED_EVENT_FLAG_ENABLE
				    : VRING_PACKED_EVENT_FLAG_DISABLE);
	else
		rig_put16(rig, RIG_DRIVER,
			  is_wanted ? 0 : VRING_AVAIL_F_NO_INTERRUPT);
}

bool rig_take_dirty(struct rig *rig, uint64_t gpa)
{
	struct ram_block *block = gpa >= RIG_HIGH ? rig->high : rig->low;
	uint64_t page = (gpa % RIG_HIGH) >> RAM_PAGE_SHIFT;
	uint64_t bit = 1ull << page % BITMAP_WORD_BITS;

	return __atomic_fetch_and(&block->dirty[page / BITMAP_WORD_BITS], ~bit,
				  __ATOMIC_ACQ_REL) &
	       bit;
}
