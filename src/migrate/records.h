/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The records of a source, as docs/spec/stream.md has them: which may come when,
 * and what each says.  Whoever reads a stream, to build a machine from it
 * (destination.c) or to explain it (explain.c), hands each record here first and
 * gets its body back checked.
 *
 * What only the reader can judge stays with it: whether the machine is its own,
 * and whether an entry of state is known, came before, or is missing at END.
 */
#ifndef GODWIT_MIGRATE_RECORDS_H
#define GODWIT_MIGRATE_RECORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/format.h"
#include "migrate/ram_recv.h"
#include "state/state.h"

struct err;
struct record;

/* Room for a name of the wire structure @type, and a NUL. */
#define SAID_NAME(type) (sizeof(((struct type *)0)->name) + 1)

struct said_block {
	uint64_t size, page_size;
	char name[SAID_NAME(fmt_block)];
};

struct said_machine {
	uint32_t cpus, block_count;
	char name[SAID_NAME(fmt_machine)];
	struct said_block blocks[FMT_BLOCKS_MAX];
};

struct said_schema {
	char name[STATE_NAME_MAX];
	uint16_t version;
};

struct said_state {
	char name[SAID_NAME(fmt_state)];
	uint16_t version;
	uint32_t size;
	const uint8_t *data; /* in the record */
};

struct said_round {
	uint32_t number;
	bool is_near; /* SWITCH may come next */
};

struct said_stopped {
	bool is_running_wanted;
};

struct said_end {
	uint64_t pages, zero_pages;
};

struct said_verify {
	uint64_t hash, pages;
};

/* What a record says; which member is its type's. */
union said {
	struct said_machine machine;
	struct said_schema schema;
	struct said_state state; /* of all records of state */
	struct ram_runs runs;    /* of RAM and RAM_ZERO */
	struct said_round round;
	struct said_stopped stopped;
	struct said_end end;
	struct said_verify verify;
	char cancel[FMT_REASON_MAX + 1];
};

/* How far a stream has come. */
struct records {
	bool is_file;
	unsigned int step;          /* see records.c */
	bool has_verify;            /* STOPPED announced VERIFY */
	struct ram_blocks blocks;   /* of MACHINE */
	uint64_t pages, zero_pages; /* of all RAM and RAM_ZERO so far */
};

void records_start(struct records *records, bool is_file);

/*
 * Check that @record (RAM read up to its first page) may come now, and its body.
 * -EBADMSG when not; the message does not name the record (record_blame()).  An
 * optional record that is not known is right anywhere, and says nothing.
 */
int records_take(struct records *records, const struct record *record,
		 union said *said, struct err *err);

/* The last record was taken: END or VERIFY of a file, GO over a socket. */
bool records_is_over(const struct records *records);

#endif
