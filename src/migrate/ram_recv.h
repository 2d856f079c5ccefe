/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM on the destination: pages go from the channel straight into guest
 * memory.  Here ram_block.known says which pages hold received data, so that a
 * zero page over a hole stays a hole.
 */
#ifndef GODWIT_MIGRATE_RAM_RECV_H
#define GODWIT_MIGRATE_RAM_RECV_H

#include <stdint.h>
#include <sys/uio.h>

#include "migrate/format.h"

struct channel;
struct err;
struct mem;
struct record;

struct ram_recv {
	struct mem *mem;
	uint64_t pages, zero_pages; /* received, counting repeats */
	struct iovec iov[FMT_RUNS_MAX];
};

void ram_recv_start(struct ram_recv *ram, struct mem *mem);

/* @record is RAM (read up to its first page) or RAM_ZERO (complete); -EBADMSG
 * for a block or run that is not there. */
int ram_recv_data(struct ram_recv *ram, struct channel *channel,
		  struct record *record, struct err *err);
int ram_recv_zero(struct ram_recv *ram, const struct record *record,
		  struct err *err);

#endif
