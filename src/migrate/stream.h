/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Headers and records of the migration stream (docs/spec/stream.md), above a
 * channel: framing, bounds and checksums for all record types; what is in them
 * is the callers' business.
 */
#ifndef GODWIT_MIGRATE_STREAM_H
#define GODWIT_MIGRATE_STREAM_H

#include <xxhash.h>

#include "base/bytes.h"
#include "migrate/channel.h"
#include "migrate/format.h"

/* "STOPPED", or "of unknown type". */
const char *record_name(uint32_t type);

/* Append a record: between _begin and _end its body is appended to @w as well.
 * record_put() is for a body that is there already.  Several records are sent by
 * one stream_flush(). */
size_t record_begin(struct bytes_writer *w, uint32_t type);
void record_end(struct bytes_writer *w, size_t begin);
void record_put(struct bytes_writer *w, uint32_t type, const void *body,
		size_t size);
void record_put_header(struct bytes_writer *w, uint32_t flags);
/* Send what is in @w and empty it. */
int stream_flush(struct channel *channel, struct bytes_writer *w,
		 struct err *err);

/* -EBADMSG unless it is a version 1 header whose flags fit the channel. */
int stream_read_header(struct channel *channel, struct fmt_header *ret_header,
		       struct err *err);

/* A file has nothing behind its last record: -EBADMSG. */
int stream_check_end(struct channel *channel, struct err *err);

/* A record as received.  Embedded; record_fini() frees the buffer. */
struct record {
	uint64_t number; /* received so far, this one included */
	uint32_t type, length;
	uint8_t *body; /* owned; length bytes, or for RAM the part before the
			   first page */
	size_t fixed;  /* bytes in body */
	size_t capacity;
	uint64_t hash;        /* as told by the peer */
	XXH3_state_t *hasher; /* owned; over header and body so far */
};

int record_init(struct record *record, struct err *err);
void record_fini(struct record *record);

/*
 * Read the next record.  A complete body is checked against its hash.  Of RAM,
 * only the part before the pages is read: the caller reads the pages, hashes
 * them when the record says `checked`, and calls record_end_ram().
 * Errors as channel_recv(), or -EBADMSG; the message names the record, or the
 * one before it.
 */
int record_recv(struct channel *channel, struct record *record,
		struct err *err);
int record_end_ram(struct channel *channel, struct record *record,
		   struct err *err);

/* "record 17, STATE: " in front of what is wrong with it, for whoever read it
 * and found it so.  The checks below, in ram_recv.c and in records.c leave that to
 * him. */
void record_blame(const struct record *record, struct err *err);

/* 0 unless the body's size is @size. */
int record_check_size(const struct record *record, size_t size,
		      struct err *err);

/* The same, and copy it out. */
int record_take(const struct record *record, void *to, size_t size,
		struct err *err);

/* Copy a reason text out, printable and NUL-terminated. */
void record_reason(const struct record *record, char *to, size_t size);

#endif
