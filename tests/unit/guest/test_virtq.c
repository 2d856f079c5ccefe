/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest programs' virtqueues, against a device that is written here from the
 * specification (virtio 1.2, 2.7 and 2.8) and shares nothing with them.
 */
#include <cmocka.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "guest/virtq.h"

#define ROUNDS     20000
#define TOKENS_MAX 256
#define AVAIL_BIT  0x80u
#define USED_BIT   0x8000u

/* A chain as the device read it. */
struct chain {
	uint16_t id;
	unsigned int descs; /* in the ring */
	unsigned int out, in;
	struct virtq_buffer buffers[VIRTQ_SEGMENTS_MAX];
};

struct device {
	struct virtq *vq;     /* its areas, never its state */
	uint16_t avail, used; /* split: counts; packed: positions */
	bool avail_wrap, used_wrap;
	struct chain held[TOKENS_MAX]; /* popped, not pushed */
	unsigned int held_count;
};

struct bench {
	struct virtq vq;
	struct device device;
	void *memory;
};

static void bench_init(struct bench *b, const struct virtq_shape *shape)
{
	memset(b, 0, sizeof(*b));
	b->memory = aligned_alloc(4096, virtq_bytes(shape));
	assert_non_null(b->memory);
	memset(b->memory, 0xa5, virtq_bytes(shape));
	virtq_init(&b->vq, shape, b->memory);
	b->device.vq = &b->vq;
	b->device.avail_wrap = true;
	b->device.used_wrap = true;
}

static void bench_fini(struct bench *b)
{
	free(b->memory);
}

static void take_desc(struct chain *chain, uint64_t addr, uint32_t size,
		      uint16_t flags)
{
	struct virtq_buffer buffer = { addr, size };

	assert_true(chain->out + chain->in < VIRTQ_SEGMENTS_MAX);
	chain->buffers[chain->out + chain->in] = buffer;
	if (flags & VRING_DESC_F_WRITE) {
		chain->in++;
	} else {
		assert_int_equal(chain->in, 0); /* 2.7.4.2: readable first */
		chain->out++;
	}
}

static bool pop_split(struct device *d, struct chain *chain)
{
	const struct vring_avail *avail = d->vq->driver;
	const struct vring_desc *table = d->vq->desc;
	uint16_t size = d->vq->shape.size, at;

	if (avail->idx == d->avail)
		return false;
	at = chain->id = avail->ring[d->avail++ % size];
	assert_true(at < size);
	if (table[at].flags & VRING_DESC_F_INDIRECT) {
		chain->descs = 1;
		table = (const struct vring_desc *)(uintptr_t)table[at].addr;
		at = 0;
	}
	for (;;) {
		take_desc(chain, table[at].addr, table[at].len,
			  table[at].flags);
		if (!(table[at].flags & VRING_DESC_F_NEXT))
			return true;
		at = table[at].next;
	}
}

static void step(uint16_t *position, bool *wrap, unsigned int by, uint16_t size)
{
	for (; by; by--) {
		if (++*position < size)
			continue;
		*position = 0;
		*wrap = !*wrap;
	}
}

static bool packed_is_avail(const struct device *d)
{
	const struct vring_packed_desc *ring = d->vq->desc;
	bool avail = ring[d->avail].flags & AVAIL_BIT;
	bool used = ring[d->avail].flags & USED_BIT;

	return avail != used && avail == d->avail_wrap;
}

static bool pop_packed(struct device *d, struct chain *chain)
{
	const struct vring_packed_desc *ring = d->vq->desc, *desc;
	uint16_t size = d->vq->shape.size, flags;

	if (!packed_is_avail(d))
		return false;
	desc = &ring[d->avail];
	if (desc->flags & VRING_DESC_F_INDIRECT) {
		const struct vring_packed_desc *table =
			(const void *)(uintptr_t)desc->addr;

		for (uint32_t i = 0; i < desc->len / sizeof(*table); i++)
			take_desc(chain, table[i].addr, table[i].len,
				  table[i].flags);
		chain->id = desc->id;
		chain->descs = 1;
		step(&d->avail, &d->avail_wrap, 1, size);
		return true;
	}
	do {
		assert_true(packed_is_avail(d));
		desc = &ring[d->avail];
		flags = desc->flags;
		take_desc(chain, desc->addr, desc->len, flags);
		chain->id = desc->id; /* 2.8.6: of the last one */
		chain->descs++;
		step(&d->avail, &d->avail_wrap, 1, size);
	} while (flags & VRING_DESC_F_NEXT);
	return true;
}

static bool device_pop(struct device *d)
{
	struct chain *chain = &d->held[d->held_count];

	memset(chain, 0, sizeof(*chain));
	if (!(d->vq->shape.is_packed ? pop_packed(d, chain)
				     : pop_split(d, chain)))
		return false;
	d->held_count++;
	return true;
}

static void push_id(struct device *d, uint32_t id, unsigned int descs,
		    uint32_t written)
{
	uint16_t size = d->vq->shape.size;

	if (d->vq->shape.is_packed) {
		struct vring_packed_desc *desc =
			(struct vring_packed_desc *)d->vq->desc + d->used;

		desc->id = (uint16_t)id;
		desc->len = written;
		desc->flags = d->used_wrap ? AVAIL_BIT | USED_BIT : 0;
		step(&d->used, &d->used_wrap, descs, size);
	} else {
		struct vring_used *used = d->vq->device;

		used->ring[d->used % size] =
			(struct vring_used_elem){ id, written };
		used->idx = ++d->used;
	}
}

/* Returns the token that the driver should get: its first buffer's address. */
static uint64_t device_push(struct device *d, unsigned int n, uint32_t written)
{
	struct chain chain = d->held[n];

	d->held[n] = d->held[--d->held_count];
	push_id(d, chain.id, chain.descs, written);
	return chain.buffers[0].addr;
}

static struct virtq_shape shape_of(unsigned int bits, uint16_t size)
{
	return (struct virtq_shape){ .size = size,
				     .segments = 4,
				     .is_packed = bits & 1,
				     .is_indirect = bits & 2,
				     .has_event_idx = bits & 4 };
}

static void add_random(struct bench *b, bool *is_out, unsigned int *out_count)
{
	unsigned int out = (unsigned int)rand() % 3, in, token;
	struct virtq_buffer buffers[4];

	in = out ? (unsigned int)rand() % 3 : 1 + (unsigned int)rand() % 2;
	for (token = 0; is_out[token]; token++)
		;
	for (unsigned int i = 0; i < out + in; i++)
		buffers[i] =
			(struct virtq_buffer){ token, 100 * out + 10 * in + i };
	if (!virtq_add(&b->vq, buffers, out, in, (uint16_t)token))
		return;
	is_out[token] = true;
	(*out_count)++;
}

static void check_held(const struct device *d)
{
	const struct chain *chain = &d->held[d->held_count - 1];

	for (unsigned int i = 0; i < chain->out + chain->in; i++) {
		assert_int_equal(chain->buffers[i].addr,
				 chain->buffers[0].addr);
		assert_int_equal(chain->buffers[i].size,
				 100 * chain->out + 10 * chain->in + i);
	}
}

static void run_random(const struct virtq_shape *shape)
{
	bool is_out[TOKENS_MAX] = { false };
	unsigned int out_count = 0, returned = 0;
	struct bench b;
	uint16_t token;
	uint32_t size;

	bench_init(&b, shape);
	for (int i = 0; i < ROUNDS; i++) {
		switch (rand() % 4) {
		case 0:
			add_random(&b, is_out, &out_count);
			break;
		case 1:
			virtq_flush(&b.vq);
			if (device_pop(&b.device))
				check_held(&b.device);
			break;
		case 2:
			if (b.device.held_count)
				device_push(&b.device,
					    (unsigned int)rand() %
						    b.device.held_count,
					    7);
			break;
		default:
			if (virtq_take(&b.vq, &token, &size) != VIRTQ_USED)
				break;
			assert_true(is_out[token]);
			assert_int_equal(size, 7);
			is_out[token] = false;
			out_count--;
			returned++;
		}
		assert_true(out_count <= shape->size);
	}
	assert_true(returned > ROUNDS / 16);
	bench_fini(&b);
}

static void test_each_request_comes_back_once_whatever_the_order(void **state)
{
	static const uint16_t sizes[] = { 4, 16, 64 };

	(void)state;
	srand(1);
	for (unsigned int bits = 0; bits < 8; bits++) {
		for (int i = 0; i < 3; i++) {
			struct virtq_shape shape = shape_of(bits, sizes[i]);

			run_random(&shape);
		}
	}
}

static void test_packed_ring_of_any_size_wraps(void **state)
{
	(void)state;
	srand(2);
	for (uint16_t size = 4; size < 20; size++) {
		struct virtq_shape shape = shape_of(1, size);

		run_random(&shape);
	}
}

static void add_one(struct bench *b, uint16_t token)
{
	const struct virtq_buffer buffer = { token, 1 };

	assert_true(virtq_add(&b->vq, &buffer, 1, 0, token));
}

static void test_full_ring_takes_no_more(void **state)
{
	const struct virtq_buffer two[] = { { 1, 1 }, { 2, 2 } };

	(void)state;
	for (unsigned int bits = 0; bits < 8; bits++) {
		struct virtq_shape shape = shape_of(bits, 4);
		struct bench b;

		bench_init(&b, &shape);
		for (uint16_t i = 0; i < 3; i++)
			add_one(&b, i);
		/* Two descriptors, or a table behind one. */
		assert_int_equal(virtq_add(&b.vq, two, 1, 1, 3),
				 shape.is_indirect);
		assert_int_equal(virtq_add(&b.vq, two, 1, 0, 4),
				 !shape.is_indirect);
		assert_false(virtq_add(&b.vq, two, 1, 0, 5));
		bench_fini(&b);
	}
}

static void test_buffer_that_is_not_out_is_a_fault(void **state)
{
	static const uint32_t ids[] = { 1, 4, 0xffff };
	uint16_t token;
	uint32_t size;

	(void)state;
	for (unsigned int bits = 0; bits < 8; bits++) {
		for (int i = 0; i < 3; i++) {
			struct virtq_shape shape = shape_of(bits, 4);
			struct bench b;

			bench_init(&b, &shape);
			add_one(&b, 9);
			virtq_flush(&b.vq);
			push_id(&b.device, ids[i], 1, 0);
			assert_int_equal(virtq_take(&b.vq, &token, &size),
					 VIRTQ_UNKNOWN);
			bench_fini(&b);
		}
	}
}

static void test_request_that_completes_twice_is_a_fault(void **state)
{
	uint16_t token;
	uint32_t size;

	(void)state;
	for (unsigned int bits = 0; bits < 8; bits++) {
		struct virtq_shape shape = shape_of(bits, 4);
		struct bench b;
		uint16_t id;

		bench_init(&b, &shape);
		add_one(&b, 9);
		virtq_flush(&b.vq);
		assert_true(device_pop(&b.device));
		id = b.device.held[0].id;
		device_push(&b.device, 0, 0);
		push_id(&b.device, id, 1, 0);
		assert_int_equal(virtq_take(&b.vq, &token, &size), VIRTQ_USED);
		assert_int_equal(token, 9);
		assert_int_equal(virtq_take(&b.vq, &token, &size),
				 VIRTQ_UNKNOWN);
		bench_fini(&b);
	}
}

static void test_broken_request_is_the_devices_like_any(void **state)
{
	(void)state;
	for (unsigned int bits = 0; bits < 8; bits++) {
		struct virtq_shape shape = shape_of(bits, 4);
		const struct virtq_buffer buffer = { 0x1000, 1 };
		struct bench b;

		bench_init(&b, &shape);
		virtq_offend(&b.vq);
		for (uint16_t token = 0; token < 3; token++)
			assert_true(virtq_add(&b.vq, &buffer, 1, 0, token));
		assert_false(virtq_add(&b.vq, &buffer, 1, 0, 3));
		bench_fini(&b);
	}
}

static void test_used_index_that_jumps_is_a_fault(void **state)
{
	struct virtq_shape shape = shape_of(0, 4);
	struct bench b;
	uint16_t token;
	uint32_t size;

	(void)state;
	bench_init(&b, &shape);
	((struct vring_used *)b.vq.device)->idx = 5;
	assert_int_equal(virtq_take(&b.vq, &token, &size), VIRTQ_JUMPED);
	bench_fini(&b);
}

/* Puts the next @count through, and says whether the driver would notify. */
static bool pass(struct bench *b, unsigned int count)
{
	bool notifies;
	uint16_t token;
	uint32_t size;

	for (unsigned int i = 0; i < count; i++)
		add_one(b, (uint16_t)i);
	notifies = virtq_flush(&b->vq);
	while (device_pop(&b->device))
		device_push(&b->device, 0, 0);
	while (virtq_take(&b->vq, &token, &size) == VIRTQ_USED)
		;
	return notifies;
}

static void set_event(struct bench *b, uint16_t after)
{
	uint16_t size = b->vq.shape.size;

	if (b->vq.shape.is_packed) {
		struct vring_packed_desc_event *event = b->vq.device;
		uint16_t at = b->device.avail;
		bool wrap = b->device.avail_wrap;

		step(&at, &wrap, after, size);
		event->flags = VRING_PACKED_EVENT_FLAG_DESC;
		event->off_wrap = (uint16_t)(at | (wrap ? 0x8000 : 0));
	} else {
		struct vring_used *used = b->vq.device;
		uint16_t event = (uint16_t)(b->device.avail + after);

		memcpy(&used->ring[size], &event, sizeof(event));
	}
}

static void test_notifies_exactly_when_the_event_is_passed(void **state)
{
	(void)state;
	srand(3);
	for (unsigned int packed = 0; packed < 2; packed++) {
		struct virtq_shape shape = shape_of(4 | packed, 8);
		struct bench b;

		bench_init(&b, &shape);
		for (int i = 0; i < 1000; i++) {
			unsigned int count = 1 + (unsigned int)rand() % 8;
			uint16_t after = (uint16_t)(rand() % 8);

			set_event(&b, after);
			assert_int_equal(pass(&b, count), after < count);
		}
		bench_fini(&b);
	}
}

static void test_device_that_wants_no_notification_gets_none(void **state)
{
	(void)state;
	for (unsigned int packed = 0; packed < 2; packed++) {
		struct virtq_shape shape = shape_of(packed, 8);
		struct bench b;

		bench_init(&b, &shape);
		assert_true(pass(&b, 2));
		if (packed)
			((struct vring_packed_desc_event *)b.vq.device)->flags =
				VRING_PACKED_EVENT_FLAG_DISABLE;
		else
			((struct vring_used *)b.vq.device)->flags =
				VRING_USED_F_NO_NOTIFY;
		assert_false(pass(&b, 2));
		bench_fini(&b);
	}
}

/* Whether the device would send an interrupt for the next used buffer. */
static bool asks_for_interrupt(const struct bench *b)
{
	const struct vring_avail *avail = b->vq.driver;
	const struct vring_packed_desc_event *event = b->vq.driver;
	uint16_t used = b->device.used;

	if (!b->vq.shape.is_packed)
		return b->vq.shape.has_event_idx
			       ? vring_need_event(avail->ring[b->vq.shape.size],
						  (uint16_t)(used + 1), used)
			       : !(avail->flags & VRING_AVAIL_F_NO_INTERRUPT);
	if (event->flags == VRING_PACKED_EVENT_FLAG_DESC)
		return event->off_wrap ==
		       (used | (b->device.used_wrap ? 0x8000 : 0));
	return event->flags == VRING_PACKED_EVENT_FLAG_ENABLE;
}

static void test_interrupts_come_only_when_wanted(void **state)
{
	(void)state;
	for (unsigned int bits = 0; bits < 8; bits++) {
		struct virtq_shape shape = shape_of(bits, 8);
		struct bench b;

		bench_init(&b, &shape);
		for (int i = 0; i < 100; i++) {
			assert_false(asks_for_interrupt(&b));
			pass(&b, 1 + (unsigned int)i % 8);
			assert_false(asks_for_interrupt(&b));
			virtq_want_interrupt(&b.vq, true);
			assert_true(asks_for_interrupt(&b));
			virtq_want_interrupt(&b.vq, false);
		}
		bench_fini(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_each_request_comes_back_once_whatever_the_order),
		cmocka_unit_test(test_packed_ring_of_any_size_wraps),
		cmocka_unit_test(test_full_ring_takes_no_more),
		cmocka_unit_test(test_buffer_that_is_not_out_is_a_fault),
		cmocka_unit_test(test_request_that_completes_twice_is_a_fault),
		cmocka_unit_test(test_broken_request_is_the_devices_like_any),
		cmocka_unit_test(test_used_index_that_jumps_is_a_fault),
		cmocka_unit_test(
			test_notifies_exactly_when_the_event_is_passed),
		cmocka_unit_test(
			test_device_that_wants_no_notification_gets_none),
		cmocka_unit_test(test_interrupts_come_only_when_wanted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
