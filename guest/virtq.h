/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's side of a virtqueue, split or packed (virtio 1.2, 2.7 and 2.8).
 *
 *	virtq_add() ... virtq_add(), virtq_flush(): notify if it says so
 *	virtq_take() until it has none
 *
 * A request is named by a token, which comes back when the device has used its
 * buffers; one that comes back without being out is a fault of the device.
 * Owned by one vCPU.  Addresses of buffers are pointers as well (ram.h).
 */
#ifndef GODWIT_GUEST_VIRTQ_H
#define GODWIT_GUEST_VIRTQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VIRTQ_SIZE_MAX     1024
#define VIRTQ_SEGMENTS_MAX 8
#define VIRTQ_TOKENS       0xffff /* tokens are below */

struct virtq_buffer {
	uint64_t addr;
	uint32_t size;
};

enum virtq_event {
	VIRTQ_NONE,
	VIRTQ_USED,    /* a token came back */
	VIRTQ_UNKNOWN, /* the device named a buffer that is not out */
	VIRTQ_JUMPED,  /* its index says more than can be out */
};

struct virtq_shape {
	uint16_t size;
	uint16_t segments; /* of one request, at most */
	bool is_packed, is_indirect, has_event_idx;
};

struct virtq {
	/* immutable after init */
	struct virtq_shape shape;
	void *desc, *driver, *device; /* the three areas of the ring */
	void *tables;                 /* of indirect descriptors, one an id */
	uint16_t *
		tokens; /* by head (split) or id (packed); VIRTQ_TOKENS: none */
	uint16_t *counts; /* descriptors that head or id has in the ring */
	uint16_t *free;   /* split: the next free descriptor; packed: a stack */

	uint16_t free_at;     /* split: first free one; packed: height of it */
	uint16_t free_descs;  /* in the ring */
	uint16_t avail, used; /* split: counts; packed: positions */
	uint16_t fresh;       /* added since the last flush: entries of it */
	bool avail_wrap, used_wrap;
	bool wants_interrupt;
};

/* Bytes that a ring of this shape needs, page-aligned. */
size_t virtq_bytes(const struct virtq_shape *shape);

void virtq_init(struct virtq *vq, const struct virtq_shape *shape,
		void *memory);

/*
 * Offers @out buffers for reading, then @in for writing, of which there are
 * @shape.segments or fewer.  False when there is no room.
 */
bool virtq_add(struct virtq *vq, const struct virtq_buffer *buffers,
	       unsigned int out, unsigned int in, uint16_t token);

/* Whether the device is to be notified of what was added. */
bool virtq_flush(struct virtq *vq);

/* @ret_size: bytes that the device says it wrote. */
enum virtq_event virtq_take(struct virtq *vq, uint16_t *ret_token,
			    uint32_t *ret_size);

/* Whether virtq_take() would have one. */
bool virtq_has_used(const struct virtq *vq);

/*
 * Asks for an interrupt at the next used buffer, or for none at all.  Whoever
 * asks looks at virtq_has_used() then: what was there before causes none.
 */
void virtq_want_interrupt(struct virtq *vq, bool wants);

/*
 * Offers, in a queue that is not full, a table of indirect descriptors that ends
 * in the middle of one.  The device must ask for a reset, and the queue is of no use before that.
 */
void virtq_offend(struct virtq *vq);

/* The two formats behind these. */
struct virtq_format {
	bool (*add)(struct virtq *vq, const struct virtq_buffer *buffers,
		    unsigned int out, unsigned int in, uint16_t token);
	bool (*flush)(struct virtq *vq);
	enum virtq_event (*take)(struct virtq *vq, uint16_t *ret_token,
				 uint32_t *ret_size);
	bool (*has_used)(const struct virtq *vq);
	void (*set_interrupt)(struct virtq *vq);
	void (*offend)(struct virtq *vq);
};

extern const struct virtq_format virtq_split, virtq_packed;

#endif
