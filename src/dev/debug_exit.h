/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port to which a guest writes a number to end the machine with it (QEMU's
 * isa-debug-exit, at the same default port).  It has no state.
 */
#ifndef GODWIT_DEV_DEBUG_EXIT_H
#define GODWIT_DEV_DEBUG_EXIT_H

#include <stdint.h>

struct debug_exit;
struct mem;
struct mem_region;

#define DEBUG_EXIT_PORT  0xf4u
#define DEBUG_EXIT_PORTS 4u

/* Called by a vCPU thread with no lock held, for every write of 1 to 4 bytes.
 * The vCPU may run on afterwards. */
typedef void debug_exit_fn(void *opaque, uint32_t value);

/* At @port of @io_root.  @opaque is borrowed.  NULL without memory. */
struct debug_exit *debug_exit_new(struct mem *mem, struct mem_region *io_root,
				  uint16_t port, debug_exit_fn *on_exit,
				  void *opaque);
/* No vCPU runs.  NULL is accepted. */
void debug_exit_free(struct debug_exit *dev);

#endif
