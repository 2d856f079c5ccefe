// SPDX-License-Identifier: Apache-2.0
/* Both cursors remember their first failure, so that callers check once. */
#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

const void *bytes_take(struct bytes_reader *r, size_t size)
{
	const void *at = r->at;

	if (r->is_short || bytes_left(r) < size) {
		r->is_short = true;
		return NULL;
	}
	r->at += size;
	return at;
}

void bytes_take_copy(struct bytes_reader *r, void *to, size_t size)
{
	const void *from = bytes_take(r, size);

	if (from)
		memcpy(to, from, size);
	else
		memset(to, 0, size);
}

uint8_t bytes_take_u8(struct bytes_reader *r)
{
	uint8_t v;

	bytes_take_copy(r, &v, sizeof(v));
	return v;
}

uint16_t bytes_take_u16(struct bytes_reader *r)
{
	struct le16 v;

	bytes_take_copy(r, &v, sizeof(v));
	return le16_get(v);
}

uint32_t bytes_take_u32(struct bytes_reader *r)
{
	struct le32 v;

	bytes_take_copy(r, &v, sizeof(v));
	return le32_get(v);
}

uint64_t bytes_take_u64(struct bytes_reader *r)
{
	struct le64 v;

	bytes_take_copy(r, &v, sizeof(v));
	return le64_get(v);
}

void bytes_writer_fini(struct bytes_writer *w)
{
	free(w->data);
	*w = (struct bytes_writer){ .data = NULL };
}

void bytes_reserve(struct bytes_writer *w, size_t capacity)
{
	size_t size = w->size;

	if (capacity <= w->capacity)
		return;
	bytes_put_space(w, capacity - size); /* which writes to all of it */
	if (!w->is_failed)
		w->size = size;
}

void *bytes_put_space(struct bytes_writer *w, size_t size)
{
	void *at;

	if (w->is_failed)
		return NULL;
	if (w->capacity - w->size < size) {
		size_t want = w->capacity * 2 + size;
		uint8_t *data = realloc(w->data, want);

		if (!data) {
			w->is_failed = true;
			return NULL;
		}
		w->data = data;
		w->capacity = want;
	}
	at = w->data + w->size;
	memset(at, 0, size);
	w->size += size;
	return at;
}

void bytes_put(struct bytes_writer *w, const void *data, size_t size)
{
	void *at = bytes_put_space(w, size);

	if (at && size)
		memcpy(at, data, size);
}

void bytes_put_u8(struct bytes_writer *w, uint8_t v)
{
	bytes_put(w, &v, sizeof(v));
}

void bytes_put_u16(struct bytes_writer *w, uint16_t v)
{
	struct le16 le = le16_of(v);

	bytes_put(w, &le, sizeof(le));
}

void bytes_put_u32(struct bytes_writer *w, uint32_t v)
{
	struct le32 le = le32_of(v);

	bytes_put(w, &le, sizeof(le));
}

void bytes_put_u64(struct bytes_writer *w, uint64_t v)
{
	struct le64 le = le64_of(v);

	bytes_put(w, &le, sizeof(le));
}

void bytes_put_padding(struct bytes_writer *w)
{
	bytes_put_space(w, align_up(w->size, 8) - w->size);
}
