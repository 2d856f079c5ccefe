// SPDX-License-Identifier: Apache-2.0
/* One register of one to four bytes; what the value means is its owner's business. */
#include "dev/debug_exit.h"

#include <stdlib.h>

#include "mem/region.h"

struct debug_exit {
	/* immutable after init */
	struct mem_region *region; /* owned reference */
	debug_exit_fn *on_exit;
	void *opaque; /* borrowed */
};

static uint64_t io_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

static void io_write(void *opaque, uint64_t offset, uint64_t value,
		     unsigned int size)
{
	struct debug_exit *dev = opaque;

	(void)offset;
	(void)size;
	dev->on_exit(dev->opaque, (uint32_t)value);
}

static const struct mem_io_ops io_ops = {
	.read = io_read,
	.write = io_write,
	.max_access = 4,
};

struct debug_exit *debug_exit_new(struct mem *mem, struct mem_region *io_root,
				  uint16_t port, debug_exit_fn *on_exit,
				  void *opaque)
{
	struct debug_exit *dev = malloc(sizeof(*dev));

	if (!dev)
		return NULL;
	dev->on_exit = on_exit;
	dev->opaque = opaque;
	dev->region = mem_region_new_io(mem, "debug-exit", DEBUG_EXIT_PORTS,
					&io_ops, dev);
	if (!dev->region) {
		free(dev);
		return NULL;
	}
	mem_region_add(io_root, port, dev->region, 0);
	return dev;
}

void debug_exit_free(struct debug_exit *dev)
{
	if (!dev)
		return;
	mem_region_del(dev->region);
	mem_region_put(dev->region);
	free(dev);
}
