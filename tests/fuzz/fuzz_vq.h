/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hostile ring memory, for fuzz_vq_split and fuzz_vq_packed.
 *
 *	0x0000  RAM, 16 KiB: descriptors at 0, driver area at 0x800, device area at
 *	        0xc00, tables and buffers from 0x1000 on
 *	0x4000  other RAM, 4 KiB, which an operation takes away and brings back
 *	0x6000  ROM, 4 KiB
 *	0x8000  a device's registers: touched by nobody
 *
 * The input: a byte of features, one of the queue's size, then operations.  What
 * must hold: a request's segments are in RAM, and those to be written in RAM that a
 * guest may write; no more requests are taken than descriptors there are; and
 * memory changes only there and where the device's half of the rings is.
 */
#ifndef GODWIT_FUZZ_VQ_H
#define GODWIT_FUZZ_VQ_H

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "virtio/vdev.h"
#include "virtio/vq.h"

#define LOW_SIZE  0x4000u
#define HIGH      0x4000u
#define HIGH_SIZE 0x1000u
#define ROM       0x6000u
#define ROM_SIZE  0x1000u
#define MMIO      0x8000u
#define DRIVER_AT 0x800u
#define DEVICE_AT 0xc00u

#define SIZE_MAX_LOG 6u /* queues of up to 64 */
#define ROOM         80u
#define HELD_MAX     64u

enum op {
	OP_MEMORY, /* u16 where, u8 size, bytes: the driver writes */
	OP_POP,
	OP_PUSH, /* u8 which, u16 how much of it */
	OP_FLUSH,
	OP_UNPOP,
	OP_KICKS, /* u8: wanted or not */
	OP_TOPOLOGY,
	OP_RESTART,
	OP_COUNT
};

struct held {
	struct vq_request request;
	struct vq_segment segments[ROOM];
};

struct arena {
	struct mem *mem;
	struct mem_region *root, *high_region;
	struct addr_space *memory;
	struct ram_block *low, *high, *rom;
	bool has_high;

	struct vdev dev;
	struct vdev_queue queue;
	struct vq vq;
	struct held held[HELD_MAX];      /* in order of pop */
	unsigned int held_count, popped; /* since the last push */

	/* memory as it has to be */
	uint8_t low_copy[LOW_SIZE], high_copy[HIGH_SIZE], rom_copy[ROM_SIZE];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __wrap_vdev_call(const struct vdev *dev, const struct vdev_queue *queue);

void __wrap_vdev_call(const struct vdev *dev, const struct vdev_queue *queue)
{
	must(queue == &dev->queues[0]);
}

static uint64_t mmio_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque, (void)offset, (void)size;
	abort();
}

static void mmio_write(void *opaque, uint64_t offset, uint64_t value,
		       unsigned int size)
{
	(void)opaque, (void)offset, (void)value, (void)size;
	abort();
}

static const struct mem_io_ops mmio_ops = {
	.read = mmio_read,
	.write = mmio_write,
};

static struct ram_block *new_block(struct arena *a, const char *name,
				   uint64_t size)
{
	const struct ram_options options = { 0 };
	struct ram_block *block;

	must(ram_block_new(a->mem, name, size, &options, &block, NULL) == 0);
	return block;
}

static struct arena *arena_new(void)
{
	struct arena *a = calloc(1, sizeof(*a));

	must(a);
	a->mem = mem_new();
	a->root = mem_region_new_container(a->mem, "root", MEM_SIZE_2_64);
	a->memory = addr_space_new(a->mem, "memory", a->root);
	a->low = new_block(a, "low", LOW_SIZE);
	a->high = new_block(a, "high", HIGH_SIZE);
	a->rom = new_block(a, "rom", ROM_SIZE);
	a->high_region = mem_region_new_ram(a->mem, "high", a->high);
	a->has_high = true;
	mem_begin(a->mem);
	mem_region_add(a->root, 0, mem_region_new_ram(a->mem, "low", a->low),
		       0);
	mem_region_add(a->root, HIGH, a->high_region, 0);
	mem_region_add(a->root, ROM, mem_region_new_rom(a->mem, "rom", a->rom),
		       0);
	mem_region_add(a->root, MMIO,
		       mem_region_new_io(a->mem, "mmio", 0x1000, &mmio_ops, a),
		       0);
	mem_commit(a->mem);
	a->dev.mem = a->mem;
	a->dev.memory = a->memory;
	a->dev.queue_count = 1;
	a->dev.queues = &a->queue;
	return a;
}

static void arena_copy(struct arena *a)
{
	memcpy(a->low_copy, a->low->host, LOW_SIZE);
	memcpy(a->high_copy, a->high->host, HIGH_SIZE);
	memcpy(a->rom_copy, a->rom->host, ROM_SIZE);
}

/* [at, at + size) of low memory is the device's. */
static void allow(struct arena *a, uint32_t at, uint32_t size)
{
	memcpy(a->low_copy + at, a->low->host + at, size);
}

static void check_memory(struct arena *a)
{
	bool is_packed = vdev_has(&a->dev, VIRTIO_F_RING_PACKED);
	uint32_t size = a->queue.size;

	if (is_packed)
		allow(a, 0, 16 * size);
	allow(a, DEVICE_AT, is_packed ? 4 : 6 + 8 * size);
	must(memcmp(a->low_copy, a->low->host, LOW_SIZE) == 0);
	must(memcmp(a->high_copy, a->high->host, HIGH_SIZE) == 0);
	must(memcmp(a->rom_copy, a->rom->host, ROM_SIZE) == 0);
}

/* ---- requests ---- */

static uint8_t *copy_of(struct arena *a, const struct vq_segment *segment)
{
	uint8_t *copy = segment->block == a->low    ? a->low_copy
			: segment->block == a->high ? a->high_copy
						    : a->rom_copy;

	return copy + segment->offset;
}

static void check_segment(struct arena *a, const struct vq_segment *segment,
			  bool is_writable)
{
	const struct ram_block *block = segment->block;

	must(block == a->low || block == a->high ||
	     (block == a->rom && !is_writable));
	must(segment->size > 0 && segment->offset < block->size &&
	     segment->size <= block->size - segment->offset);
	must(segment->host == block->host + segment->offset);
}

static void check_request(struct arena *a, const struct vq_request *request)
{
	uint64_t sizes[2] = { 0, 0 };

	must(request->readable + request->writable <= ROOM);
	must(request->count >= 1 && request->count <= a->queue.size);
	for (unsigned int i = 0; i < request->readable + request->writable;
	     i++) {
		bool is_writable = i >= request->readable;

		check_segment(a, &request->segments[i], is_writable);
		sizes[is_writable] += request->segments[i].size;
	}
	must(sizes[0] == request->readable_size &&
	     sizes[1] == request->writable_size);
}

static void pop(struct arena *a)
{
	struct held *held = &a->held[a->held_count];
	struct err err = ERR_INIT;
	int ret;

	if (a->held_count == HELD_MAX)
		return;
	held->request.segments = held->segments;
	held->request.room = ROOM;
	ret = vq_pop(&a->vq, &held->request, &err);
	must(ret <= 1 && (ret < 0) == (err.code != 0));
	if (ret <= 0)
		return;
	check_request(a, &held->request);
	a->held_count++;
	must(++a->popped <= a->queue.size);
}

/* Fill as much of it as the input says, and then look at what happened. */
static void push(struct arena *a, struct bytes_reader *r)
{
	unsigned int which = bytes_take_u8(r);
	uint32_t size = bytes_take_u16(r), left;
	struct held *held;
	uint8_t fill[256];

	if (a->held_count == 0)
		return;
	held = &a->held[which % a->held_count];
	if (size > held->request.writable_size)
		size = (uint32_t)held->request.writable_size;
	memset(fill, (int)which, sizeof(fill));
	for (uint32_t at = 0; at < size; at += sizeof(fill)) {
		uint32_t piece =
			size - at < sizeof(fill) ? size - at : sizeof(fill);

		must(vq_write(&held->request, at, fill, piece) == piece);
	}
	left = size;
	for (unsigned int i = held->request.readable; left; i++) {
		const struct vq_segment *segment = &held->segments[i];
		uint32_t piece = segment->size < left ? segment->size : left;

		memset(copy_of(a, segment), (int)which, piece);
		left -= piece;
	}
	vq_push(&a->vq, &held->request, size);
	a->popped = 0;
	a->held_count--;
	for (unsigned int i = which % (a->held_count + 1); i < a->held_count;
	     i++) {
		a->held[i] = a->held[i + 1];
		a->held[i].request.segments = a->held[i].segments;
	}
	check_memory(a);
}

static void start(struct arena *a)
{
	struct err err = ERR_INIT;

	a->held_count = a->popped = 0;
	a->queue.next_used = a->queue.next_avail;
	if (vq_start(&a->vq, &a->dev, 0, &err) == 0)
		return;
	/* From where it would go on at once. */
	a->queue.next_avail = a->queue.next_used =
		a->vq.is_packed ? 0x8000
				: le16_get(*(struct le16 *)(a->low->host +
							    DRIVER_AT + 2));
	must(vq_start(&a->vq, &a->dev, 0, NULL) == 0);
}

/* ---- the driver ---- */

static void write_memory(struct arena *a, struct bytes_reader *r)
{
	uint32_t at = bytes_take_u16(r) % LOW_SIZE, size = bytes_take_u8(r);

	if (size > LOW_SIZE - at)
		size = LOW_SIZE - at;
	bytes_take_copy(r, a->low->host + at, size);
	memcpy(a->low_copy + at, a->low->host + at, size);
}

static void move_memory(struct arena *a)
{
	a->has_high = !a->has_high;
	mem_region_set_enabled(a->high_region, a->has_high);
}

static void operate(struct arena *a, struct bytes_reader *r)
{
	switch (bytes_take_u8(r) % OP_COUNT) {
	case OP_MEMORY:
		write_memory(a, r);
		break;
	case OP_POP:
		pop(a);
		break;
	case OP_PUSH:
		push(a, r);
		break;
	case OP_FLUSH:
		vq_flush(&a->vq);
		break;
	case OP_UNPOP:
		if (a->held_count && a->popped) {
			vq_unpop(&a->vq, &a->held[--a->held_count].request);
			a->popped--;
		}
		break;
	case OP_KICKS:
		if (bytes_take_u8(r) & 1)
			vq_want_kicks(&a->vq);
		else
			vq_ignore_kicks(&a->vq);
		break;
	case OP_TOPOLOGY:
		move_memory(a);
		break;
	case OP_RESTART:
		vq_flush(&a->vq);
		start(a);
		break;
	}
	check_memory(a);
}

/* One input.  Memory is made once: that takes longer than most inputs. */
static int fuzz_vq(const uint8_t *data, size_t size, uint64_t features)
{
	static struct arena *a;
	struct bytes_reader r = bytes_read(data, size);
	uint8_t how = bytes_take_u8(&r), log = bytes_take_u8(&r);

	if (!a)
		a = arena_new();
	memset(a->low->host, 0, LOW_SIZE);
	memset(a->high->host, 0, HIGH_SIZE);
	arena_copy(a);
	a->dev.features = features |
			  (uint64_t)(how & 1) << VIRTIO_RING_F_INDIRECT_DESC |
			  (uint64_t)(how >> 1 & 1) << VIRTIO_RING_F_EVENT_IDX;
	a->queue = (struct vdev_queue){
		.size_max = 1u << SIZE_MAX_LOG,
		.size = (uint16_t)(1u << log % (SIZE_MAX_LOG + 1)),
		.is_enabled = 1,
		.driver = DRIVER_AT,
		.device = DEVICE_AT,
	};
	if (features >> VIRTIO_F_RING_PACKED & 1)
		a->queue.next_avail = 0x8000;
	start(a);
	while (bytes_left(&r) && !r.is_short)
		operate(a, &r);
	if (!a->has_high)
		move_memory(a);
	return 0;
}

#endif
