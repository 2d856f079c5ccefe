/* SPDX-License-Identifier: Apache-2.0 */
/* The controller's registers, for i8042.c and its tests. */
#ifndef GODWIT_DEV_I8042_PRIV_H
#define GODWIT_DEV_I8042_PRIV_H

#include <stdint.h>

#include "base/lock.h"
#include "dev/i8042.h"
#include "mem/region.h"
#include "state/state.h"

struct i8042 {
	/* immutable after init */
	struct mem_region *data, *command; /* owned references */
	void (*on_reset)(void *opaque);
	void *opaque; /* borrowed */
	struct state_entry state;

	/* protected by lock (LOCK_DEVICE) */
	struct lock lock;
	uint8_t status;  /* without the bits that never change */
	uint8_t control; /* the command byte */
	uint8_t pending; /* command that waits for its byte, or 0 */
	uint8_t output;  /* for the guest; status says whether it is there */
};

extern const struct mem_io_ops i8042_data_ops, i8042_command_ops;
extern const struct state_desc i8042_state;

void i8042_init(struct i8042 *dev, void (*on_reset)(void *opaque),
		void *opaque);
void i8042_fini(struct i8042 *dev);

#endif
