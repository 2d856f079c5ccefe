/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes with a defined order, and cursors over byte buffers.
 *
 * le16/le32/le64 are one-member structs, so that a field of a wire or ring
 * structure cannot be used without its conversion.
 *
 * bytes_reader reads hostile input: every take is bounded, and after the first
 * one that does not fit the reader is `is_short` and yields zeroes, so that a
 * parser may check once at the end of a fixed part.  bytes_writer appends to a
 * growing buffer; after a failed allocation it is `is_failed` and stays so.
 */
#ifndef GODWIT_BASE_BYTES_H
#define GODWIT_BASE_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct le16 {
	uint16_t raw;
};
struct le32 {
	uint32_t raw;
};
struct le64 {
	uint64_t raw;
};

static inline uint16_t le16_get(struct le16 v)
{
	return le16toh(v.raw);
}
static inline uint32_t le32_get(struct le32 v)
{
	return le32toh(v.raw);
}
static inline uint64_t le64_get(struct le64 v)
{
	return le64toh(v.raw);
}
static inline struct le16 le16_of(uint16_t v)
{
	return (struct le16){ htole16(v) };
}
static inline struct le32 le32_of(uint32_t v)
{
	return (struct le32){ htole32(v) };
}
static inline struct le64 le64_of(uint64_t v)
{
	return (struct le64){ htole64(v) };
}

/* @align is a power of two. */
#define align_up(v, align)   (((v) + (align)-1) & ~((__typeof__(v))(align)-1))
#define align_down(v, align) ((v) & ~((__typeof__(v))(align)-1))
#define array_size(a)        (sizeof(a) / sizeof((a)[0]))

struct bytes_reader {
	const uint8_t *at, *end; /* borrowed from the caller of bytes_read() */
	bool is_short;           /* something did not fit */
};

/* @data may be NULL when @size is 0. */
static inline struct bytes_reader bytes_read(const void *data, size_t size)
{
	const uint8_t *at = data;

	return (struct bytes_reader){ .at = at, .end = size ? at + size : at };
}

static inline size_t bytes_left(const struct bytes_reader *r)
{
	return (size_t)(r->end - r->at);
}

/* A pointer to the next @size bytes and a step past them; NULL when short. */
const void *bytes_take(struct bytes_reader *r, size_t size);
/* Copy the next @size bytes out; zeroes when short. */
void bytes_take_copy(struct bytes_reader *r, void *to, size_t size);
uint8_t bytes_take_u8(struct bytes_reader *r);
uint16_t bytes_take_u16(struct bytes_reader *r);
uint32_t bytes_take_u32(struct bytes_reader *r);
uint64_t bytes_take_u64(struct bytes_reader *r);

struct bytes_writer {
	uint8_t *data; /* owned; freed by bytes_writer_fini() */
	size_t size, capacity;
	bool is_failed; /* out of memory: contents are incomplete */
};

void bytes_writer_fini(struct bytes_writer *w);
/* Have @capacity bytes allocated and touched, so that filling them costs no page
 * fault. */
void bytes_reserve(struct bytes_writer *w, size_t capacity);
/* Room for @size bytes at the end, zeroed; NULL when is_failed. */
void *bytes_put_space(struct bytes_writer *w, size_t size);
void bytes_put(struct bytes_writer *w, const void *data, size_t size);
void bytes_put_u8(struct bytes_writer *w, uint8_t v);
void bytes_put_u16(struct bytes_writer *w, uint16_t v);
void bytes_put_u32(struct bytes_writer *w, uint32_t v);
void bytes_put_u64(struct bytes_writer *w, uint64_t v);
/* Zeroes up to a multiple of 8 counted from the start of the buffer. */
void bytes_put_padding(struct bytes_writer *w);

#endif
