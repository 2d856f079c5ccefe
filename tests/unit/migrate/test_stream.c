// SPDX-License-Identifier: Apache-2.0
/*
 * Framing, bounds and checksums (docs/spec/stream.md).  Streams are bytes in a
 * memfd, so that any byte can be cut, flipped or lied about.
 */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migrate/stream.h"

#define FLIPS      20000
#define RAM_RECORD (FMT_RAM_PAGES << 12)

struct fixture {
	struct bytes_writer w; /* what the stream consists of */
	struct channel channel;
	struct record record;
	uint8_t *pages;
	size_t open_start, open_end; /* bytes that no checksum covers */
	size_t ends[32], end_count;  /* where records end */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->channel = (struct channel)CHANNEL_INIT;
	f->channel.fd = memfd_create("stream", MFD_CLOEXEC);
	f->channel.is_file = true;
	f->pages = malloc(RAM_RECORD + 0x10000);
	assert_int_equal(record_init(&f->record, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	record_fini(&f->record);
	channel_close(&f->channel);
	bytes_writer_fini(&f->w);
	free(f->pages);
	free(f);
	return 0;
}

/* ---- writing ---- */

/* The hash of a record whose covered part is @size bytes of its body. */
static struct le64 hash_of(uint32_t type, uint32_t length, const void *body,
			   size_t size)
{
	struct fmt_record head = { le32_of(type), le32_of(length), { 0 } };
	XXH3_state_t *hasher = XXH3_createState();
	struct le64 hash;

	XXH3_64bits_reset(hasher);
	XXH3_64bits_update(hasher, &head, 8);
	XXH3_64bits_update(hasher, body, size);
	hash = le64_of(XXH3_64bits_digest(hasher));
	XXH3_freeState(hasher);
	return hash;
}

/* A record as told, true or not: no padding and no bounds of its own. */
static void put_raw(struct fixture *f, uint32_t type, uint32_t length,
		    const void *body, size_t size)
{
	struct fmt_record head = {
		.type = le32_of(type),
		.length = le32_of(length),
		.hash = hash_of(type, length, body,
				size < length ? size : length),
	};

	bytes_put(&f->w, &head, sizeof(head));
	bytes_put(&f->w, body, size);
}

static void put_ram(struct fixture *f, uint32_t flags, uint32_t pages)
{
	struct {
		struct fmt_ram head;
		struct fmt_run run;
	} top = {
		.head = { .flags = le32_of(flags), .runs = le32_of(1) },
		.run = { le64_of(7), le64_of(pages) },
	};
	size_t size = pages << 12, covered = flags ? size : 0;
	uint8_t *body = malloc(sizeof(top) + size);
	struct fmt_record record = {
		.type = le32_of(FMT_RAM),
		.length = le32_of((uint32_t)(sizeof(top) + size)),
	};

	memcpy(body, &top, sizeof(top));
	memset(body + sizeof(top), 0x5a, size);
	record.hash = hash_of(FMT_RAM, le32_get(record.length), body,
			      sizeof(top) + covered);
	bytes_put(&f->w, &record, sizeof(record));
	bytes_put(&f->w, body, sizeof(top) + size);
	if (!covered) {
		f->open_start = f->w.size - size;
		f->open_end = f->w.size;
	}
	free(body);
}

/* One of each kind, with every length of padding. */
static void put_small_stream(struct fixture *f)
{
	static const uint8_t body[] = "0123456789abcdefghijklmnopqrstuvwxyz";

	record_put_header(&f->w, FMT_FLAG_NO_PATH);
	f->ends[f->end_count++] = f->w.size;
	for (uint32_t size = 0; size < 9; size++) {
		record_put(&f->w, FMT_SCHEMA, body + size, size);
		f->ends[f->end_count++] = f->w.size;
	}
	put_ram(f, 0, 1);
	f->ends[f->end_count++] = f->w.size;
	put_ram(f, FMT_RAM_CHECKED, 1);
	f->ends[f->end_count++] = f->w.size;
	record_put(&f->w, 0x7777 | FMT_OPTIONAL, body, 33);
	f->ends[f->end_count++] = f->w.size;
	record_put(&f->w, FMT_END, body, sizeof(struct fmt_end));
	f->ends[f->end_count++] = f->w.size;
}

/* ---- reading ---- */

static void load(struct fixture *f, size_t size)
{
	assert_int_equal(ftruncate(f->channel.fd, 0), 0);
	assert_int_equal(pwrite(f->channel.fd, f->w.data, size, 0), size);
	lseek(f->channel.fd, 0, SEEK_SET);
}

static int read_ram(struct fixture *f, struct err *err)
{
	struct fmt_ram ram;
	size_t size = f->record.length - f->record.fixed;
	int ret;

	assert_in_range(size, 0, RAM_RECORD + 0x8000);
	memcpy(&ram, f->record.body, sizeof(ram));
	ret = channel_recv_bytes(&f->channel, f->pages, size, err);
	if (ret == -ENODATA) /* as ram_recv_data() says it */
		return err->code = -EBADMSG;
	if (ret)
		return ret;
	if (le32_get(ram.flags) & FMT_RAM_CHECKED)
		XXH3_64bits_update(f->record.hasher, f->pages, size);
	return record_end_ram(&f->channel, &f->record, err);
}

static int read_record(struct fixture *f, struct err *err)
{
	int ret = record_recv(&f->channel, &f->record, err);

	return !ret && f->record.type == FMT_RAM ? read_ram(f, err) : ret;
}

static int read_all(struct fixture *f, struct err *err)
{
	struct fmt_header header;
	int ret;

	ret = stream_read_header(&f->channel, &header, err);
	f->record.type = 0;
	while (!ret && f->record.type != FMT_END)
		ret = read_record(f, err);
	return ret;
}

static int read_quietly(struct fixture *f)
{
	struct err err = ERR_INIT;

	return read_all(f, &err);
}

static void assert_read_refused(struct fixture *f, const char *reason)
{
	struct err err = ERR_INIT;
	int ret;

	load(f, f->w.size);
	ret = read_record(f, &err);
	if (ret != -EBADMSG || err.code != ret ||
	    !strstr(err_msg(&err), reason))
		fail_msg("%d, '%s' has no '%s'", ret, err_msg(&err), reason);
	f->w.size = 0;
}

/* ---- whole streams ---- */

static void test_what_was_put_is_read(void **state)
{
	struct fixture *f = *state;
	struct fmt_header header;
	struct err err = ERR_INIT;

	put_small_stream(f);
	assert_int_equal(f->w.size % 8, 0);
	load(f, f->w.size);
	if (read_all(f, &err))
		fail_msg("%s", err_msg(&err));
	assert_int_equal(lseek(f->channel.fd, 0, SEEK_CUR), f->w.size);

	load(f, f->w.size);
	assert_int_equal(stream_read_header(&f->channel, &header, NULL), 0);
	for (uint32_t size = 0; size < 9; size++) {
		assert_int_equal(read_record(f, NULL), 0);
		assert_int_equal(f->record.type, FMT_SCHEMA);
		assert_int_equal(f->record.length, size);
		assert_int_equal(f->record.fixed, size);
		assert_memory_equal(f->record.body, &"0123456789abcdefgh"[size],
				    size);
	}
}

static void test_every_truncation_is_an_error(void **state)
{
	struct fixture *f = *state;
	size_t boundary = 0;

	put_small_stream(f);
	for (size_t size = 0; size < f->w.size; size++) {
		struct err err = ERR_INIT;
		bool is_between = size == 0 || size == f->ends[boundary];

		load(f, size);
		assert_int_equal(read_all(f, &err),
				 is_between ? -ENODATA : -EBADMSG);
		assert_int_equal(err.code, is_between ? -ENODATA : -EBADMSG);
		boundary += size == f->ends[boundary];
	}
}

static void flip(struct fixture *f, size_t at, uint8_t bits)
{
	uint8_t byte = f->w.data[at] ^ bits;

	assert_int_equal(pwrite(f->channel.fd, &byte, 1, (off_t)at), 1);
	lseek(f->channel.fd, 0, SEEK_SET);
}

static void test_every_flip_in_what_is_covered_is_found(void **state)
{
	struct fixture *f = *state;
	unsigned int found = 0, open = 0;

	put_small_stream(f);
	load(f, f->w.size);
	srand(1);
	for (int i = 0; i < FLIPS; i++) {
		size_t at = (size_t)rand() % f->w.size;
		bool is_open = at >= f->open_start && at < f->open_end;
		struct err err = ERR_INIT;
		int ret;

		if (i % 2) /* the pages are most of it */
			at = at % (f->open_start - 64);
		is_open = at >= f->open_start && at < f->open_end;
		flip(f, at, (uint8_t)(1 << rand() % 8));
		ret = read_all(f, &err);
		if (is_open ? ret != 0 : ret >= 0 || err.code != ret)
			fail_msg("byte %zu: %d %s", at, ret, err_msg(&err));
		found += ret != 0;
		open += is_open;
		flip(f, at, 0);
	}
	assert_int_equal(found + open, FLIPS);
	assert_true(found > FLIPS / 2 && open > 0);
	assert_int_equal(read_quietly(f), 0);
}

static void test_every_bit_of_every_frame_counts(void **state)
{
	struct fixture *f = *state;

	put_small_stream(f);
	load(f, f->w.size);
	for (size_t at = 0; at < f->open_start; at++) {
		for (int bit = 0; bit < 8; bit++) {
			flip(f, at, (uint8_t)(1 << bit));
			if (read_quietly(f) >= 0)
				fail_msg("byte %zu, bit %d", at, bit);
			flip(f, at, 0);
		}
	}
}

static void test_random_bytes_are_refused(void **state)
{
	struct fixture *f = *state;

	bytes_put_space(&f->w, 300);
	srand(2);
	for (int i = 0; i < 3000; i++) {
		for (size_t at = 0; at < f->w.size; at++)
			f->w.data[at] = (uint8_t)rand();
		load(f, f->w.size);
		assert_true(read_record(f, NULL) < 0);
	}
}

/* ---- header ---- */

static void put_header(struct fixture *f, const struct fmt_header *header)
{
	struct fmt_header hashed = *header;

	hashed.hash = le64_of(
		XXH3_64bits(&hashed, offsetof(struct fmt_header, hash)));
	f->w.size = 0;
	bytes_put(&f->w, &hashed, sizeof(hashed));
	load(f, f->w.size);
}

static void assert_header(struct fixture *f, const struct fmt_header *header,
			  int code, const char *reason)
{
	struct fmt_header read = { .major = le16_of(99) };
	struct err err = ERR_INIT;
	int ret;

	put_header(f, header);
	ret = stream_read_header(&f->channel, &read, &err);
	if (ret != code || !strstr(err_msg(&err), reason))
		fail_msg("%d, '%s' has no '%s'", ret, err_msg(&err), reason);
	assert_int_equal(le16_get(read.major), code ? 99 : FMT_MAJOR);
}

static void test_headers_of_other_streams_are_refused(void **state)
{
	const struct fmt_header good = { .magic = FMT_MAGIC,
					 .major = { FMT_MAJOR },
					 .flags = { FMT_FLAG_NO_PATH } };
	struct fixture *f = *state;
	struct fmt_header h;

	assert_header(f, &good, 0, "");
	h = good;
	h.magic[7] = 'X';
	assert_header(f, &h, -EBADMSG, "not a godwit migration stream");
	h = good;
	h.major = le16_of(FMT_MAJOR + 1);
	assert_header(f, &h, -ENOTSUP, "version 2.0");
	h.major = le16_of(0);
	assert_header(f, &h, -ENOTSUP, "version 0.0");
	h = good;
	h.minor = le16_of(FMT_MINOR + 1);
	assert_header(f, &h, 0, "");
	for (int bit = 1; bit < 32; bit++) {
		h = good;
		h.flags = le32_of(FMT_FLAG_NO_PATH | 1u << bit);
		assert_header(f, &h, -EBADMSG, "reserved");
	}
	h = good;
	h.reserved = le64_of(1ull << 63);
	assert_header(f, &h, -EBADMSG, "reserved");
}

static void test_a_wrong_header_checksum_is_refused(void **state)
{
	struct fixture *f = *state;
	struct fmt_header header;
	struct err err = ERR_INIT;

	record_put_header(&f->w, FMT_FLAG_NO_PATH);
	f->w.data[31] ^= 1;
	load(f, f->w.size);
	assert_int_equal(stream_read_header(&f->channel, &header, &err),
			 -EBADMSG);
	assert_non_null(strstr(err_msg(&err), "checksum"));
}

static void test_the_direction_must_fit_the_channel(void **state)
{
	struct fixture *f = *state;
	const struct fmt_header file = { .magic = FMT_MAGIC,
					 .major = { FMT_MAJOR },
					 .flags = { FMT_FLAG_NO_PATH } };
	const struct fmt_header live = { .magic = FMT_MAGIC,
					 .major = { FMT_MAJOR } };

	assert_header(f, &live, -EBADMSG, "way back");
	f->channel.is_file = false;
	assert_header(f, &live, 0, "");
	assert_header(f, &file, -EBADMSG, "use file:PATH");
}

/* ---- lengths ---- */

static void
test_too_long_a_record_is_refused_before_anything_is_allocated(void **state)
{
	static const struct {
		uint32_t type, length;
	} bad[] = {
		{ FMT_STATE, FMT_BODY_MAX + 1 },
		{ FMT_STATE, UINT32_MAX },
		{ FMT_RAM_ZERO, FMT_BODY_MAX + 1 },
		{ FMT_RAM, 16 + 16 * 1024 + (4 << 20) + 1 },
		{ FMT_RAM, UINT32_MAX },
		{ FMT_CANCEL, FMT_REASON_MAX + 1 },
		{ FMT_FAILED, FMT_REASON_MAX + 1 },
		{ FMT_RAM | FMT_OPTIONAL, FMT_BODY_MAX + 1 },
		{ 0x7777 | FMT_OPTIONAL, FMT_BODY_MAX + 1 },
	};
	struct fixture *f = *state;
	size_t before = f->record.capacity;

	for (size_t i = 0; i < array_size(bad); i++) {
		put_raw(f, bad[i].type, bad[i].length, "", 0);
		assert_read_refused(f, "at most");
		assert_int_equal(f->record.capacity, before);
	}
}

static void test_the_longest_records_are_read(void **state)
{
	struct fixture *f = *state;
	uint8_t *body = calloc(FMT_BODY_MAX, 1);

	record_put(&f->w, FMT_STATE, body, FMT_BODY_MAX);
	record_put(&f->w, FMT_CANCEL, body, FMT_REASON_MAX);
	put_ram(f, FMT_RAM_CHECKED, FMT_RAM_PAGES);
	load(f, f->w.size);
	assert_int_equal(read_record(f, NULL), 0);
	assert_int_equal(read_record(f, NULL), 0);
	assert_int_equal(read_record(f, NULL), 0);
	assert_int_equal(f->record.type, FMT_RAM);
	assert_int_equal(read_record(f, NULL), -ENODATA);
	free(body);
}

static void test_ram_that_does_not_fit_its_own_length_is_refused(void **state)
{
	struct {
		struct fmt_ram head;
		struct fmt_run runs[2];
	} body = { .head = { .runs = le32_of(1) } };
	struct fixture *f = *state;

	put_raw(f, FMT_RAM, 15, &body, 16);
	assert_read_refused(f, "too short");
	put_raw(f, FMT_RAM, 16, &body, 16);
	assert_read_refused(f, "too short for its runs");
	put_raw(f, FMT_RAM, 31, &body, 32);
	assert_read_refused(f, "too short for its runs");
	body.head.runs = le32_of(0);
	put_raw(f, FMT_RAM, 32, &body, 32);
	assert_read_refused(f, "number of runs");
	body.head.runs = le32_of(FMT_RUNS_MAX + 1);
	put_raw(f, FMT_RAM, 1 << 20, &body, 32);
	assert_read_refused(f, "number of runs");
	body.head.runs = le32_of(1u << 28); /* times 16: 0 */
	put_raw(f, FMT_RAM, 32, &body, 32);
	assert_read_refused(f, "number of runs");
}

/* ---- frames ---- */

static void test_padding_that_is_not_zero_is_refused(void **state)
{
	struct fixture *f = *state;

	for (uint32_t length = 1; length < 8; length++) {
		for (uint32_t at = length; at < 8; at++) {
			uint8_t body[8] = { 0 };

			body[at] = 1;
			put_raw(f, FMT_SCHEMA, length, body, 8);
			assert_read_refused(f, "padding");
		}
	}
}

static void test_types_nobody_knows_are_left_to_the_caller(void **state)
{
	struct fixture *f = *state;

	record_put(&f->w, 0x7777 | FMT_OPTIONAL, "later", 5);
	record_put(&f->w, 0x7777, "new", 3);
	record_put(&f->w, FMT_RAM | FMT_OPTIONAL, "no RAM", 6);
	load(f, f->w.size);
	assert_int_equal(read_record(f, NULL), 0);
	assert_int_equal(f->record.type, 0x7777 | FMT_OPTIONAL);
	assert_memory_equal(f->record.body, "later", 5);
	assert_int_equal(read_record(f, NULL), 0);
	assert_int_equal(f->record.type, 0x7777);
	assert_string_equal(record_name(f->record.type), "of unknown type");
	assert_int_equal(record_recv(&f->channel, &f->record, NULL), 0);
	assert_int_equal(f->record.fixed, 6);
}

static void test_every_type_has_a_name_of_its_own(void **state)
{
	const char *names[64];
	size_t count = 0;

	(void)state;
	for (uint32_t t = FMT_MACHINE; t <= FMT_SWITCH; t++)
		names[count++] = record_name(t);
	for (uint32_t t = FMT_BUILT; t <= FMT_ROUND_DONE; t++)
		names[count++] = record_name(t);
	names[count++] = record_name(FMT_COSTS);
	names[count++] = record_name(FMT_CALLS);
	names[count++] = record_name(FMT_TIMES);
	for (size_t a = 0; a < count; a++) {
		assert_string_not_equal(names[a], "of unknown type");
		for (size_t b = 0; b < a; b++)
			assert_string_not_equal(names[a], names[b]);
	}
}

static void test_a_body_of_another_size_is_named(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	char text[16];

	record_put(&f->w, FMT_ROUND, "12345678", 8);
	load(f, f->w.size);
	assert_int_equal(read_record(f, NULL), 0);
	assert_int_equal(record_check_size(&f->record, 8, NULL), 0);
	assert_int_equal(record_check_size(&f->record, 16, &err), -EBADMSG);
	assert_string_equal(err_msg(&err), "8 bytes, must be 16");
	assert_int_equal(record_take(&f->record, text, 16, NULL), -EBADMSG);
	assert_int_equal(record_take(&f->record, text, 8, NULL), 0);
	assert_memory_equal(text, "12345678", 8);
}

static void test_reasons_are_printable_and_cut_to_their_room(void **state)
{
	struct fixture *f = *state;
	char text[8];

	record_put(&f->w, FMT_FAILED, "no\033[2J\nway", 10);
	record_put(&f->w, FMT_FAILED, NULL, 0);
	load(f, f->w.size);
	assert_int_equal(read_record(f, NULL), 0);
	record_reason(&f->record, text, sizeof(text));
	assert_string_equal(text, "no?[2J?");
	assert_int_equal(read_record(f, NULL), 0);
	record_reason(&f->record, text, sizeof(text));
	assert_string_equal(text, "");
}

static void test_a_flush_sends_all_and_leaves_the_writer_empty(void **state)
{
	struct fixture *f = *state;
	size_t size;

	put_small_stream(f);
	size = f->w.size;
	assert_int_equal(stream_flush(&f->channel, &f->w, NULL), 0);
	assert_int_equal(f->w.size, 0);
	assert_int_equal(f->channel.sent, size);
	assert_int_equal(stream_flush(&f->channel, &f->w, NULL), 0);
	assert_int_equal(f->channel.sent, size);
	lseek(f->channel.fd, 0, SEEK_SET);
	assert_int_equal(read_quietly(f), 0);
	f->w.is_failed = true;
	assert_int_equal(stream_flush(&f->channel, &f->w, NULL), -ENOMEM);
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_what_was_put_is_read),
		fact(test_every_truncation_is_an_error),
		fact(test_every_flip_in_what_is_covered_is_found),
		fact(test_every_bit_of_every_frame_counts),
		fact(test_random_bytes_are_refused),
		fact(test_headers_of_other_streams_are_refused),
		fact(test_a_wrong_header_checksum_is_refused),
		fact(test_the_direction_must_fit_the_channel),
		fact(test_too_long_a_record_is_refused_before_anything_is_allocated),
		fact(test_the_longest_records_are_read),
		fact(test_ram_that_does_not_fit_its_own_length_is_refused),
		fact(test_padding_that_is_not_zero_is_refused),
		fact(test_types_nobody_knows_are_left_to_the_caller),
		fact(test_every_type_has_a_name_of_its_own),
		fact(test_a_body_of_another_size_is_named),
		fact(test_reasons_are_printable_and_cut_to_their_room),
		fact(test_a_flush_sends_all_and_leaves_the_writer_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
