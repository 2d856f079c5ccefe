// SPDX-License-Identifier: Apache-2.0
/*
 * A stream of hostile bytes, in a memfd as after `file:`.  The first byte
 * chooses who reads it: the frames and RAM records as a destination does, or
 * mig_explain().  With its highest bit, checksums are made right first, so that
 * what is behind them is reached.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "migrate/migrate.h"
#include "migrate/ram_recv.h"
#include "migrate/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE_MAX_USED (1u << 17)
#define BLOCK_PAGES   100

/* ---- right checksums ---- */

static size_t covered_size(const struct fmt_record *record, const uint8_t *body,
			   size_t size)
{
	struct fmt_ram ram;
	size_t fixed;

	if (le32_get(record->type) != FMT_RAM || size < sizeof(ram))
		return size;
	memcpy(&ram, body, sizeof(ram));
	fixed = sizeof(ram) +
		(size_t)le32_get(ram.runs) * sizeof(struct fmt_run);
	return le32_get(ram.flags) & FMT_RAM_CHECKED || fixed > size ? size
								     : fixed;
}

static uint64_t hash_record(const struct fmt_record *record,
			    const uint8_t *body, size_t size)
{
	XXH3_state_t *hasher = XXH3_createState();
	uint64_t hash;

	XXH3_64bits_reset(hasher);
	XXH3_64bits_update(hasher, record, offsetof(struct fmt_record, hash));
	XXH3_64bits_update(hasher, body, size);
	hash = XXH3_64bits_digest(hasher);
	XXH3_freeState(hasher);
	return hash;
}

static void repair(uint8_t *data, size_t size)
{
	struct le64 hash;
	size_t at = sizeof(struct fmt_header);

	if (size < at)
		return;
	hash = le64_of(XXH3_64bits(data, offsetof(struct fmt_header, hash)));
	memcpy(data + offsetof(struct fmt_header, hash), &hash, sizeof(hash));
	while (size - at >= sizeof(struct fmt_record)) {
		struct fmt_record record;
		uint8_t *body = data + at + sizeof(record);
		size_t left = size - at - sizeof(record), length;

		memcpy(&record, data + at, sizeof(record));
		length = le32_get(record.length);
		if (length > left)
			return;
		hash = le64_of(hash_record(
			&record, body, covered_size(&record, body, length)));
		memcpy(data + at + offsetof(struct fmt_record, hash), &hash,
		       sizeof(hash));
		length = align_up(length, 8);
		if (length > left)
			return;
		at += sizeof(record) + length;
	}
}

/* ---- readers ---- */

struct reader {
	struct mem *mem;
	struct ram_block *blocks[2];
	struct ram_recv recv;
	struct ram_blocks named; /* the same, as runs name them */
	struct record record;
	struct channel channel;
};

static int take_ram(struct reader *reader, struct err *err)
{
	struct ram_runs runs;
	int ret = ram_runs_parse(&reader->record, &reader->named, true, &runs,
				 err);

	if (ret)
		return ret;
	if (reader->record.type == FMT_RAM)
		return ram_recv_data(&reader->recv, &runs, &reader->channel,
				     &reader->record, err);
	ram_recv_zero(&reader->recv, &runs);
	return 0;
}

static int take_record(struct reader *reader, struct err *err)
{
	char reason[32];
	int ret = record_recv(&reader->channel, &reader->record, err);

	if (ret)
		return ret;
	switch (reader->record.type) {
	case FMT_RAM:
	case FMT_RAM_ZERO:
		return take_ram(reader, err);
	case FMT_ROUND:
		return record_check_size(&reader->record,
					 sizeof(struct fmt_round), err);
	default:
		record_reason(&reader->record, reason, sizeof(reason));
		return 0;
	}
}

static void read_stream(struct reader *reader)
{
	struct fmt_header header;
	struct err err = ERR_INIT;
	int ret = stream_read_header(&reader->channel, &header, &err);

	while (!ret)
		ret = take_record(reader, &err);
	if (ret >= 0 || err.code != ret)
		abort();
}

static void start_reader(struct reader *reader, int fd)
{
	if (!reader->mem) {
		reader->mem = mem_new();
		for (int i = 0; i < 2; i++) {
			if (ram_block_new(reader->mem, i ? "b" : "a",
					  BLOCK_PAGES << RAM_PAGE_SHIFT, NULL,
					  &reader->blocks[i], NULL))
				abort();
		}
		if (record_init(&reader->record, NULL))
			abort();
		reader->named = (struct ram_blocks){
			.count = 2, .pages = { BLOCK_PAGES, BLOCK_PAGES }
		};
	}
	for (int i = 0; i < 2; i++)
		fallocate(reader->blocks[i]->fd,
			  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			  (off_t)reader->blocks[i]->size);
	ram_recv_start(&reader->recv, reader->mem);
	reader->channel =
		(struct channel){ .fd = fd, .stop_fd = -1, .is_file = true };
}

static void explain(int fd)
{
	static FILE *out;
	struct err err = ERR_INIT;
	char path[64];
	int ret;

	if (!out)
		out = fopen("/dev/null", "we");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ret = mig_explain(path, out, &err);
	if (ret > 0 || (ret < 0 && !*err_msg(&err)))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[SIZE_MAX_USED];
	static struct reader reader;
	static int fd = -1;
	uint8_t what;

	if (size == 0 || size > sizeof(bytes))
		return 0;
	if (fd < 0)
		fd = memfd_create("stream", MFD_CLOEXEC);
	what = *data++;
	memcpy(bytes, data, --size);
	if (what & 0x80)
		repair(bytes, size);
	if (ftruncate(fd, 0) < 0 ||
	    pwrite(fd, bytes, size, 0) != (ssize_t)size ||
	    lseek(fd, 0, SEEK_SET) < 0)
		abort();
	if (what & 1) {
		explain(fd);
	} else {
		start_reader(&reader, fd);
		read_stream(&reader);
	}
	return 0;
}
