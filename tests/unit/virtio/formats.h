/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of virtqueues, each for both formats with and without event indices. */
#ifndef GODWIT_TESTS_VIRTIO_FORMATS_H
#define GODWIT_TESTS_VIRTIO_FORMATS_H

#include <stdlib.h>

#include "rig.h"

#define QUEUE_SIZE 8u

#define PACKED   (1ull << VIRTIO_F_RING_PACKED)
#define INDIRECT (1ull << VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT    (1ull << VIRTIO_RING_F_EVENT_IDX)

static inline int setup_with(void **state, uint64_t features)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	rig_init(rig, features, QUEUE_SIZE);
	*state = rig;
	return 0;
}

static inline int setup_split(void **state)
{
	return setup_with(state, INDIRECT);
}

static inline int setup_split_event(void **state)
{
	return setup_with(state, INDIRECT | EVENT);
}

static inline int setup_packed(void **state)
{
	return setup_with(state, INDIRECT | PACKED);
}

static inline int setup_packed_event(void **state)
{
	return setup_with(state, INDIRECT | EVENT | PACKED);
}

static inline int teardown(void **state)
{
	rig_fini(*state);
	free(*state);
	return 0;
}

#define TEST_OF(test, format)                                                \
	{                                                                    \
#test " (" #format ")", test, setup_##format, teardown, NULL \
	}
#define TEST_SPLIT(test)  TEST_OF(test, split), TEST_OF(test, split_event)
#define TEST_PACKED(test) TEST_OF(test, packed), TEST_OF(test, packed_event)
#define TEST_BOTH(test)   TEST_SPLIT(test), TEST_PACKED(test)
#define TEST_FLAGS(test)  TEST_OF(test, split), TEST_OF(test, packed)
#define TEST_EVENTS(test) \
	TEST_OF(test, split_event), TEST_OF(test, packed_event)

#endif
