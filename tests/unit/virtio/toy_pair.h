/* SPDX-License-Identifier: Apache-2.0 */
/* Two toys in machines of their own: one that runs, and one that its guest moves to. */
#ifndef GODWIT_TESTS_VIRTIO_TOY_PAIR_H
#define GODWIT_TESTS_VIRTIO_TOY_PAIR_H

#include "base/bytes.h"
#include "toy.h"

struct pair {
	struct toy from, to;
	struct bytes_writer bytes; /* of what "from" saved */
	struct err err;
};

static inline int pair_setup(void **state)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	toy_init(&pair->from);
	toy_init(&pair->to);
	vdev_run(&pair->from.dev);
	*state = pair;
	return 0;
}

static inline int pair_teardown(void **state)
{
	struct pair *pair = *state;

	toy_fini(&pair->from);
	toy_fini(&pair->to);
	bytes_writer_fini(&pair->bytes);
	free(pair);
	return 0;
}

#endif
