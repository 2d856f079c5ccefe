/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM on the destination: pages go from the channel straight into guest
 * memory, or the file that it is.  Here ram_block.known says which pages hold received data, so that a
 * zero page over a hole stays a hole.
 */
#ifndef GODWIT_MIGRATE_RAM_RECV_H
#define GODWIT_MIGRATE_RAM_RECV_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "migrate/format.h"

struct channel;
struct err;
struct mem;
struct record;

/* The RAM blocks that a stream may name, by index. */
struct ram_blocks {
	uint32_t count;
	uint64_t pages[FMT_BLOCKS_MAX];
};

/* What a RAM or RAM_ZERO record says. */
struct ram_runs {
	uint32_t block, flags, count;
	uint64_t pages;            /* of all runs */
	const struct fmt_run *run; /* in the record */
};

/* Check a record (RAM read up to its first page) against @blocks: -EBADMSG for a
 * block that is not there, runs that are empty, overlap, are out of order or
 * outside of the block, reserved bits, a length that does not fit, or live RAM in
 * a file. */
int ram_runs_parse(const struct record *record, const struct ram_blocks *blocks,
		   bool is_file, struct ram_runs *ret_runs, struct err *err);

struct ram_recv {
	struct ram_block *block[FMT_BLOCKS_MAX]; /* borrowed */
	struct iovec iov[FMT_RUNS_MAX];
};

void ram_recv_start(struct ram_recv *ram, struct mem *mem);

/* @runs passed ram_runs_parse() with blocks as large as @mem's.  @record is RAM,
 * read up to its first page; what is left of it is read. */
int ram_recv_data(struct ram_recv *ram, const struct ram_runs *runs,
		  struct channel *channel, struct record *record,
		  struct err *err);
void ram_recv_zero(struct ram_recv *ram, const struct ram_runs *runs);

#endif
