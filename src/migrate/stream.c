// SPDX-License-Identifier: Apache-2.0
/*
 * Writing is done in place, in a buffer or in front of an iovec.  Reading takes the
 * fixed part of a body first, so that a length is known to be right before there
 * is room for the rest.
 */
#include "migrate/stream.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/trace.h"

/* A vCPU's state fits; longer bodies make room as they come. */
#define BODY_ROOM (16u << 10)

static const struct {
	uint32_t type;
	const char *name;
} names[] = {
	{ FMT_MACHINE, "MACHINE" },
	{ FMT_SCHEMA, "SCHEMA" },
	{ FMT_SETUP_STATE, "SETUP_STATE" },
	{ FMT_EARLY_STATE, "EARLY_STATE" },
	{ FMT_SETUP_END, "SETUP_END" },
	{ FMT_RAM, "RAM" },
	{ FMT_RAM_ZERO, "RAM_ZERO" },
	{ FMT_ROUND, "ROUND" },
	{ FMT_STOPPED, "STOPPED" },
	{ FMT_STATE, "STATE" },
	{ FMT_VERIFY, "VERIFY" },
	{ FMT_END, "END" },
	{ FMT_GO, "GO" },
	{ FMT_CANCEL, "CANCEL" },
	{ FMT_BUILT, "BUILT" },
	{ FMT_READY, "READY" },
	{ FMT_RUNNING, "RUNNING" },
	{ FMT_FAILED, "FAILED" },
	{ FMT_SWITCH, "SWITCH" },
	{ FMT_ROUND_DONE, "ROUND_DONE" },
	{ FMT_COSTS, "COSTS" },
	{ FMT_CALLS, "CALLS" },
	{ FMT_TIMES, "TIMES" },
	{ FMT_SETUP_AGAIN, "SETUP_AGAIN" },
};

const char *record_name(uint32_t type)
{
	for (size_t i = 0; i < array_size(names); i++) {
		if (names[i].type == type)
			return names[i].name;
	}
	return "of unknown type";
}

size_t record_begin(struct bytes_writer *w, uint32_t type)
{
	const struct fmt_record record = { .type = le32_of(type) };
	size_t begin = w->size;

	bytes_put(w, &record, sizeof(record));
	return begin;
}

void record_end(struct bytes_writer *w, size_t begin)
{
	XXH3_state_t *hasher = XXH3_createState();
	struct fmt_record *record;
	size_t size;

	if (!hasher)
		w->is_failed = true;
	if (w->is_failed) {
		XXH3_freeState(hasher);
		return;
	}
	record = (struct fmt_record *)(w->data + begin);
	size = w->size - begin - sizeof(*record);
	record->length = le32_of((uint32_t)size);
	XXH3_64bits_reset(hasher);
	XXH3_64bits_update(hasher, record, offsetof(struct fmt_record, hash));
	XXH3_64bits_update(hasher, record + 1, size);
	record->hash = le64_of(XXH3_64bits_digest(hasher));
	XXH3_freeState(hasher);
	trace(mig_record_put, "%s, %zu bytes",
	      record_name(le32_get(record->type)), size);
	/* @begin is a multiple of 8: so is the end */
	bytes_put_padding(w);
}

void record_put(struct bytes_writer *w, uint32_t type, const void *body,
		size_t size)
{
	size_t begin = record_begin(w, type);

	bytes_put(w, body, size);
	record_end(w, begin);
}

void record_put_header(struct bytes_writer *w, uint32_t flags)
{
	struct fmt_header header = {
		.major = le16_of(FMT_MAJOR),
		.minor = le16_of(FMT_MINOR),
		.flags = le32_of(flags),
	};

	memcpy(header.magic, FMT_MAGIC, sizeof(header.magic));
	header.hash = le64_of(
		XXH3_64bits(&header, offsetof(struct fmt_header, hash)));
	bytes_put(w, &header, sizeof(header));
}

int stream_flush(struct channel *channel, struct bytes_writer *w,
		 struct err *err)
{
	struct iovec iov = { .iov_base = w->data, .iov_len = w->size };
	int ret;

	if (w->is_failed)
		return err_set(err, -ENOMEM, "no memory for a record");
	ret = channel_send(channel, &iov, 1, err);
	w->size = 0;
	return ret;
}

int stream_read_header(struct channel *channel, struct fmt_header *ret_header,
		       struct err *err)
{
	struct fmt_header header;
	bool has_path;
	int ret;

	ret = channel_recv_bytes(channel, &header, sizeof(header), err);
	if (ret) {
		err_prefix(err, "stream header");
		return ret;
	}
	if (memcmp(header.magic, FMT_MAGIC, sizeof(header.magic)) != 0)
		return err_set(err, -EBADMSG,
			       "this is not a godwit migration stream");
	if (le16_get(header.major) != FMT_MAJOR)
		return err_set(err, -ENOTSUP,
			       "stream version %u.%u, this godwit reads %u",
			       le16_get(header.major), le16_get(header.minor),
			       FMT_MAJOR);
	if (le64_get(header.hash) !=
	    XXH3_64bits(&header, offsetof(struct fmt_header, hash)))
		return err_set(err, -EBADMSG, "stream header: wrong checksum");
	if (le32_get(header.flags) & ~FMT_FLAG_NO_PATH ||
	    le64_get(header.reserved))
		return err_set(err, -EBADMSG,
			       "stream header: reserved bits are set");
	has_path = !(le32_get(header.flags) & FMT_FLAG_NO_PATH);
	if (has_path == channel->is_file)
		return err_set(err, -EBADMSG,
			       has_path ? "this stream needs a way back to its "
					  "source"
					: "a saved stream came over a "
					  "connection; use file:PATH");
	*ret_header = header;
	return 0;
}

int stream_check_end(struct channel *channel, struct err *err)
{
	uint8_t byte;

	if (channel_recv_bytes(channel, &byte, 1, NULL) == -ENODATA)
		return 0;
	return err_set(err, -EBADMSG, "data after this last record");
}

int record_init(struct record *record, struct err *err)
{
	*record = (struct record){ .capacity = BODY_ROOM };
	record->body = malloc(record->capacity);
	record->hasher = XXH3_createState();
	if (!record->body || !record->hasher) {
		record_fini(record);
		return err_set(err, -ENOMEM, "no memory for records");
	}
	memset(record->body, 0xff, record->capacity); /* touch it now */
	return 0;
}

void record_fini(struct record *record)
{
	free(record->body);
	XXH3_freeState(record->hasher);
	*record = (struct record){ .body = NULL };
}

/* The end of the stream is no end inside a record. */
static int recv_part(struct channel *channel, void *to, size_t size,
		     struct err *err)
{
	int ret = channel_recv_bytes(channel, to, size, err);

	if (ret != -ENODATA)
		return ret;
	err_clear(err);
	return err_set(err, -EBADMSG, "cut off");
}

static int recv_body(struct channel *channel, struct record *record,
		     size_t size, struct err *err)
{
	int ret;

	if (record->fixed + size > record->capacity) {
		uint8_t *body = realloc(record->body, record->fixed + size);

		if (!body)
			return err_set(err, -ENOMEM, "no memory for a record");
		record->body = body;
		record->capacity = record->fixed + size;
	}
	ret = recv_part(channel, record->body + record->fixed, size, err);
	if (ret)
		return ret;
	XXH3_64bits_update(record->hasher, record->body + record->fixed, size);
	record->fixed += size;
	return 0;
}

/* Padding, and the hash of what was fed to the hasher. */
static int finish(struct channel *channel, struct record *record,
		  struct err *err)
{
	size_t pad = align_up(record->length, 8) - record->length;
	uint8_t zeroes[8];

	if (pad) {
		int ret = recv_part(channel, zeroes, pad, err);

		if (ret)
			return ret;
		for (size_t i = 0; i < pad; i++) {
			if (zeroes[i])
				return err_set(err, -EBADMSG,
					       "padding is not zero");
		}
	}
	if (XXH3_64bits_digest(record->hasher) != record->hash)
		return err_set(err, -EBADMSG, "wrong checksum");
	return 0;
}

static int recv_ram_head(struct channel *channel, struct record *record,
			 struct err *err)
{
	struct fmt_ram ram;
	uint32_t runs;
	int ret;

	if (record->length < sizeof(ram))
		return err_set(err, -EBADMSG, "too short");
	ret = recv_body(channel, record, sizeof(ram), err);
	if (ret)
		return ret;
	memcpy(&ram, record->body, sizeof(ram));
	runs = le32_get(ram.runs);
	if (runs == 0 || runs > FMT_RUNS_MAX)
		return err_set(err, -EBADMSG, "number of runs out of range");
	if (record->length - sizeof(ram) < runs * sizeof(struct fmt_run))
		return err_set(err, -EBADMSG, "too short for its runs");
	return recv_body(channel, record, runs * sizeof(struct fmt_run), err);
}

static uint32_t body_limit(uint32_t type)
{
	switch (type) {
	case FMT_RAM:
		return sizeof(struct fmt_ram) +
		       FMT_RUNS_MAX * sizeof(struct fmt_run) +
		       (FMT_RAM_PAGES << 12);
	case FMT_CANCEL:
	case FMT_FAILED:
		return FMT_REASON_MAX;
	default:
		return FMT_BODY_MAX;
	}
}

/* What follows the header of a record. */
static int recv_rest(struct channel *channel, struct record *record,
		     struct err *err)
{
	uint32_t limit = body_limit(record->type);
	int ret;

	if (record->length > limit)
		return err_set(err, -EBADMSG, "%u bytes, at most %u",
			       record->length, limit);
	if (record->type == FMT_RAM)
		return recv_ram_head(channel, record, err);
	ret = recv_body(channel, record, record->length, err);
	return ret ? ret : finish(channel, record, err);
}

int record_recv(struct channel *channel, struct record *record, struct err *err)
{
	struct fmt_record header;
	int ret;

	ret = channel_recv_bytes(channel, &header, sizeof(header), err);
	if (ret) {
		if (record->number)
			err_prefix(err, "after record %lu, %s", record->number,
				   record_name(record->type));
		else
			err_prefix(err, "before the first record");
		return ret;
	}
	record->number++;
	record->type = le32_get(header.type);
	record->length = le32_get(header.length);
	record->hash = le64_get(header.hash);
	record->fixed = 0;
	XXH3_64bits_reset(record->hasher);
	XXH3_64bits_update(record->hasher, &header,
			   offsetof(struct fmt_record, hash));
	trace(mig_record_recv, "%s, %u bytes", record_name(record->type),
	      record->length);
	ret = recv_rest(channel, record, err);
	if (ret)
		record_blame(record, err);
	return ret;
}

int record_end_ram(struct channel *channel, struct record *record,
		   struct err *err)
{
	return finish(channel, record, err);
}

void record_blame(const struct record *record, struct err *err)
{
	err_prefix(err, "record %lu, %s", record->number,
		   record_name(record->type));
}

int record_check_size(const struct record *record, size_t size, struct err *err)
{
	if (record->length == size)
		return 0;
	return err_set(err, -EBADMSG, "%u bytes, must be %zu", record->length,
		       size);
}

int record_take(const struct record *record, void *to, size_t size,
		struct err *err)
{
	int ret = record_check_size(record, size, err);

	if (!ret)
		memcpy(to, record->body, size);
	return ret;
}

void record_reason(const struct record *record, char *to, size_t size)
{
	size_t used = record->length < size - 1 ? record->length : size - 1;

	for (size_t i = 0; i < used; i++)
		to[i] = isprint(record->body[i]) ? (char)record->body[i] : '?';
	to[used] = '\0';
}
