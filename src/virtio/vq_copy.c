// SPDX-License-Identifier: Apache-2.0
/*
 * Between a request's segments and a back end's own memory; called for headers
 * and status bytes, and by back ends that copy everything.
 */
#include <string.h>

#include "virtio/vq.h"

/* One of the two parts of a request, from a byte on. */
struct cursor {
	const struct vq_segment *segment, *end;
	uint64_t at; /* in @segment */
};

static struct cursor cursor_at(const struct vq_request *request,
			       bool is_writable, uint64_t at)
{
	struct cursor c = { .segment = request->segments, .at = at };

	c.end = c.segment + request->readable;
	if (is_writable) {
		c.segment = c.end;
		c.end += request->writable;
	}
	while (c.segment < c.end && c.at >= c.segment->size) {
		c.at -= c.segment->size;
		c.segment++;
	}
	return c;
}

/* The next piece, at most @size bytes of it; NULL at the end. */
static uint8_t *cursor_next(struct cursor *c, size_t size, size_t *ret_piece)
{
	uint8_t *host;
	size_t piece;

	if (c->segment == c->end)
		return NULL;
	host = c->segment->host + c->at;
	piece = c->segment->size - c->at;
	if (piece > size)
		piece = size;
	c->at += piece;
	if (c->at == c->segment->size) {
		c->segment++;
		c->at = 0;
	}
	*ret_piece = piece;
	return host;
}

size_t vq_read(const struct vq_request *request, uint64_t at, void *buf,
	       size_t size)
{
	struct cursor c = cursor_at(request, false, at);
	size_t done = 0, piece;
	const uint8_t *host;

	while (done < size && (host = cursor_next(&c, size - done, &piece))) {
		memcpy((uint8_t *)buf + done, host, piece);
		done += piece;
	}
	/* What was copied is what the caller checks, and not read again. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	return done;
}

size_t vq_write(const struct vq_request *request, uint64_t at, const void *buf,
		size_t size)
{
	struct cursor c = cursor_at(request, true, at);
	size_t done = 0, piece;
	uint8_t *host;

	while (done < size && (host = cursor_next(&c, size - done, &piece))) {
		memcpy(host, (const uint8_t *)buf + done, piece);
		done += piece;
	}
	return done;
}

unsigned int vq_iovecs(const struct vq_request *request, bool is_writable,
		       uint64_t at, struct iovec *iovecs, unsigned int room)
{
	struct cursor c = cursor_at(request, is_writable, at);
	unsigned int count = 0;
	uint8_t *host;
	size_t piece;

	while (count < room && (host = cursor_next(&c, SIZE_MAX, &piece))) {
		iovecs[count].iov_base = host;
		iovecs[count].iov_len = piece;
		count++;
	}
	return count;
}
