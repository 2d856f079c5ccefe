// SPDX-License-Identifier: Apache-2.0
/* Only the change of the reset bit from 0 to 1 acts, as on the chip. */
#include "dev/pch_reset.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/lock.h"
#include "mem/region.h"
#include "state/state.h"

#define SYS_RST  0x02 /* hard rather than soft */
#define RST_CPU  0x04 /* resets on its way from 0 to 1 */
#define FULL_RST 0x08 /* with power cycle */
#define RST_MASK (SYS_RST | RST_CPU | FULL_RST)

struct pch_reset {
	/* immutable after init */
	struct mem_region *region; /* owned reference, or NULL */
	void (*on_reset)(void *opaque);
	void *opaque; /* borrowed */
	struct state_entry state;

	/* protected by lock (LOCK_DEVICE) */
	struct lock lock;
	uint8_t control;
};

uint8_t pch_reset_read(struct pch_reset *dev)
{
	uint8_t value;

	lock_acquire(&dev->lock);
	value = dev->control;
	lock_release(&dev->lock);
	return value;
}

void pch_reset_write(struct pch_reset *dev, uint8_t value)
{
	bool is_reset;

	lock_acquire(&dev->lock);
	is_reset = (value & RST_CPU) && !(dev->control & RST_CPU);
	dev->control = value & RST_MASK;
	lock_release(&dev->lock);
	if (is_reset)
		dev->on_reset(dev->opaque);
}

static uint64_t io_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)offset;
	(void)size;
	return pch_reset_read(opaque);
}

static void io_write(void *opaque, uint64_t offset, uint64_t value,
		     unsigned int size)
{
	(void)offset;
	(void)size;
	pch_reset_write(opaque, (uint8_t)value);
}

static const struct mem_io_ops io_ops = {
	.read = io_read,
	.write = io_write,
	.max_access = 1,
};

static const struct state_field fields[] = {
	STATE_FIELD_MAX(struct pch_reset, control, STATE_U8, RST_MASK),
};

static int check_loaded(void *obj, uint16_t version, struct err *err)
{
	const struct pch_reset *dev = obj;

	(void)version;
	if (dev->control & ~RST_MASK)
		return err_set(err, -EBADMSG, "control: 0x%x, not in 0x%x",
			       dev->control, RST_MASK);
	return 0;
}

static const struct state_desc state = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.load = check_loaded,
};

struct pch_reset *pch_reset_new(struct mem *mem, struct mem_region *io_root,
				void (*on_reset)(void *opaque), void *opaque,
				struct state_registry *registry,
				const char *name)
{
	struct pch_reset *dev = calloc(1, sizeof(*dev));

	if (!dev)
		return NULL;
	dev->on_reset = on_reset;
	dev->opaque = opaque;
	lock_init(&dev->lock, LOCK_DEVICE);
	if (io_root) {
		dev->region = mem_region_new_io(mem, name, 1, &io_ops, dev);
		if (!dev->region) {
			pch_reset_free(dev);
			return NULL;
		}
		mem_region_add(io_root, PCH_RESET_PORT, dev->region, 0);
	}
	state_register(registry, &dev->state, name, &state, dev);
	return dev;
}

void pch_reset_free(struct pch_reset *dev)
{
	if (!dev)
		return;
	if (dev->region) {
		mem_region_del(dev->region);
		mem_region_put(dev->region);
	}
	state_unregister(&dev->state);
	lock_fini(&dev->lock);
	free(dev);
}
