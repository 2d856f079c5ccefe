/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's memory and the driver's side of one virtqueue of either format,
 * written after the specification and apart from src/virtio: what it knows of a
 * ring is in its own indices and in guest memory.
 *
 *	0x00000  RAM, 512 KiB: rings at RIG_RINGS, indirect tables, buffers
 *	0x80000  other RAM, 64 KiB: what goes on here is split into two segments
 *	0xa0000  ROM, 64 KiB
 *	0xc0000  a device's registers, 64 KiB: whoever touches them is counted
 */
#ifndef GODWIT_TESTS_VIRTIO_RIG_H
#define GODWIT_TESTS_VIRTIO_RIG_H

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "virtio/vdev.h"
#include "virtio/vq.h"

#define RIG_LOW_SIZE  0x80000u
#define RIG_HIGH      0x80000u
#define RIG_HIGH_SIZE 0x10000u
#define RIG_ROM       0xa0000u
#define RIG_MMIO      0xc0000u
#define RIG_RINGS     0x10000u /* the three parts, 0x8000 apart */
#define RIG_DRIVER    (RIG_RINGS + 0x8000u)
#define RIG_DEVICE    (RIG_RINGS + 0x10000u)
#define RIG_TABLES    0x30000u
#define RIG_BUFFERS   0x40000u

#define RIG_SEGMENTS 64u

/* A buffer as the driver describes it. */
struct rig_buffer {
	uint64_t gpa;
	uint32_t size;
	bool is_writable;
};

/* The driver's half of a queue. */
struct rig_driver {
	bool is_packed, has_event_idx; /* as negotiated */
	uint16_t size;
	uint16_t free_at;    /* split: the next table entry, round and round */
	uint16_t next_avail; /* split: an index; packed: offset */
	uint16_t next_used;
	bool avail_wrap, used_wrap;            /* packed */
	uint16_t lengths[VDEV_QUEUE_SIZE_MAX]; /* packed: by id */
	/* descriptors (packed) or chains made available since the last look at
	 * whether to notify */
	uint16_t added;
};

struct rig {
	struct mem *mem;
	struct mem_region *root;
	struct mem_region *low_region, *high_region;
	struct addr_space *memory;
	struct ram_block *low, *high, *rom;
	unsigned int mmio_accesses;

	struct vdev dev;
	struct vdev_queue queue;
	struct vq vq;
	struct vq_request request;
	struct vq_segment segments[RIG_SEGMENTS];
	unsigned int calls; /* vdev_call(); atomic */
	int call_fd;        /* what it signals, or -1 */

	struct rig_driver driver;
	struct err err;
};

/* @features: the ring features negotiated. */
void rig_init(struct rig *rig, uint64_t features, uint16_t size);
void rig_fini(struct rig *rig);
/* vq_start(), which must succeed. */
void rig_start(struct rig *rig);
/* vq_pop() into rig->request. */
int rig_pop(struct rig *rig);

/* The guest's view of its memory; 0x80000 of it. */
void *rig_at(struct rig *rig, uint64_t gpa);
uint16_t rig_get16(struct rig *rig, uint64_t gpa);
/* A full barrier, too. */
void rig_put16(struct rig *rig, uint64_t gpa, uint16_t value);

/* ---- the driver ---- */

/* Write a descriptor into the ring or table at @gpa. */
void rig_put_desc(struct rig *rig, uint64_t gpa, uint64_t address,
		  uint32_t size, uint16_t a, uint16_t b);
/* Make a chain of descriptors available; returns its id. */
uint16_t rig_add(struct rig *rig, const struct rig_buffer *buffers,
		 unsigned int count);
/* One of @count buffers in an indirect table at @table. */
uint16_t rig_add_indirect(struct rig *rig, uint64_t table,
			  const struct rig_buffer *buffers, unsigned int count);
/* One request: 16 bytes readable, 64 writable. */
uint16_t rig_add_one(struct rig *rig);
/* Whether the driver has to notify for what it made available since it last
 * asked. */
bool rig_must_kick(struct rig *rig);
/* Take a used element: false when there is none. */
bool rig_take(struct rig *rig, uint16_t *ret_id, uint32_t *ret_written);
/* The next is @id, used with @written bytes; or there is none. */
void rig_take_one(struct rig *rig, uint16_t id, uint32_t written);
void rig_take_none(struct rig *rig);
/* The device's next request is @id. */
void rig_pop_one(struct rig *rig, uint16_t id);
/* One request there and back. */
void rig_pass_one(struct rig *rig);
/* Ask to be interrupted when the @nth request from now on is used (event index), or
 * for any; or for none. */
void rig_want_call_at(struct rig *rig, unsigned int nth);
void rig_want_calls(struct rig *rig, bool is_wanted);

/* Whether the page of @gpa was marked dirty since the last call. */
bool rig_take_dirty(struct rig *rig, uint64_t gpa);

#endif
