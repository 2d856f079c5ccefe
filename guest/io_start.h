/* SPDX-License-Identifier: Apache-2.0 */
/* Start of the programs that drive devices; CPU 0, once. */
#ifndef GODWIT_GUEST_IO_START_H
#define GODWIT_GUEST_IO_START_H

#include "guest/io.h"

/* From the start information to a published machine. */
void io_start(struct io *io, uint64_t start_info);

/* Sets up the devices and lets all vCPUs go. */
void io_go(struct io *io);

#endif
