/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A migration stream in memory, to be looked at and damaged: where its records
 * are, and their checksums made right again.
 */
#ifndef GODWIT_TEST_MIGRATE_STREAM_EDIT_H
#define GODWIT_TEST_MIGRATE_STREAM_EDIT_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "migrate/format.h"

struct text {
	uint8_t *bytes; /* owned */
	size_t size;
};

static inline void text_add(struct text *text, const void *bytes, size_t size)
{
	text->bytes = realloc(text->bytes, text->size + size);
	memcpy(text->bytes + text->size, bytes, size);
	text->size += size;
}

/* The whole file behind @fd. */
static inline void text_read(struct text *text, int fd)
{
	uint8_t buffer[4096];
	ssize_t size;

	*text = (struct text){ .bytes = NULL };
	while ((size = pread(fd, buffer, sizeof(buffer), (off_t)text->size)) >
	       0)
		text_add(text, buffer, (size_t)size);
}

static inline struct text text_copy(const struct text *text)
{
	struct text copy = { .bytes = NULL };

	text_add(&copy, text->bytes, text->size);
	return copy;
}

static inline void text_fini(struct text *text)
{
	free(text->bytes);
	*text = (struct text){ .bytes = NULL };
}

/* A record as it lies in a text. */
struct span {
	size_t at;  /* of its header */
	size_t end; /* behind its padding */
	uint32_t type, length;
	size_t covered; /* bytes of its body that the hash covers */
};

static inline size_t span_body(const struct span *span)
{
	return span->at + sizeof(struct fmt_record);
}

static inline size_t span_covered(const struct text *text,
				  const struct span *span)
{
	struct fmt_ram ram;
	size_t fixed;

	if (span->type != FMT_RAM || span->length < sizeof(ram))
		return span->length;
	memcpy(&ram, text->bytes + span_body(span), sizeof(ram));
	fixed = sizeof(ram) +
		(size_t)le32_get(ram.runs) * sizeof(struct fmt_run);
	return le32_get(ram.flags) & FMT_RAM_CHECKED || fixed > span->length
		       ? span->length
		       : fixed;
}

/* The record at @at; false when there is no whole one. */
static inline bool span_at(const struct text *text, size_t at,
			   struct span *ret_span)
{
	struct fmt_record record;
	struct span span = { .at = at };

	if (at > text->size || text->size - at < sizeof(record))
		return false;
	memcpy(&record, text->bytes + at, sizeof(record));
	span.type = le32_get(record.type);
	span.length = le32_get(record.length);
	span.end = span_body(&span) + align_up((size_t)span.length, 8);
	if (span.end > text->size)
		return false;
	span.covered = span_covered(text, &span);
	*ret_span = span;
	return true;
}

/* Make the hash of the record there right. */
static inline void span_repair(struct text *text, const struct span *span)
{
	const size_t hash_at = span->at + offsetof(struct fmt_record, hash);
	XXH3_state_t *hasher = XXH3_createState();
	struct le64 hash;

	XXH3_64bits_reset(hasher);
	XXH3_64bits_update(hasher, text->bytes + span->at,
			   offsetof(struct fmt_record, hash));
	XXH3_64bits_update(hasher, text->bytes + span_body(span),
			   span_covered(text, span));
	hash = le64_of(XXH3_64bits_digest(hasher));
	memcpy(text->bytes + hash_at, &hash, sizeof(hash));
	XXH3_freeState(hasher);
}

/* All records that are whole, with the header's hash: right. */
static inline void text_repair(struct text *text)
{
	const size_t hash_at = offsetof(struct fmt_header, hash);
	size_t at = sizeof(struct fmt_header);
	struct span span;
	struct le64 hash;

	if (text->size < at)
		return;
	hash = le64_of(XXH3_64bits(text->bytes, hash_at));
	memcpy(text->bytes + hash_at, &hash, sizeof(hash));
	for (; span_at(text, at, &span); at = span.end)
		span_repair(text, &span);
}

#endif
