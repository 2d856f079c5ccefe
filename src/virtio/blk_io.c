// SPDX-License-Identifier: Apache-2.0
/* A disk request's memory: copies, and the buffers to copy through. */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "virtio/blk_backend.h"

void blk_io_gather(const struct blk_io *io, uint8_t *buf, size_t size)
{
	for (unsigned int i = 0; i < io->iovec_count && size > 0; i++) {
		size_t part = io->iovecs[i].iov_len;

		if (part > size)
			part = size;
		memcpy(buf, io->iovecs[i].iov_base, part);
		buf += part;
		size -= part;
	}
	assert(size == 0);
}

void blk_io_scatter(const struct blk_io *io, const uint8_t *buf, size_t size)
{
	for (unsigned int i = 0; i < io->iovec_count && size > 0; i++) {
		size_t part = io->iovecs[i].iov_len;

		if (part > size)
			part = size;
		memcpy(io->iovecs[i].iov_base, buf, part);
		buf += part;
		size -= part;
	}
	assert(size == 0);
}

void blk_io_advance(struct blk_io *io, size_t size)
{
	assert(size <= io->size);
	io->offset += size;
	io->size -= size;
	while (io->iovec_count > 0 && size >= io->iovecs->iov_len) {
		size -= io->iovecs->iov_len;
		io->iovecs++;
		io->iovec_count--;
	}
	if (io->iovec_count > 0) {
		io->iovecs->iov_base = (uint8_t *)io->iovecs->iov_base + size;
		io->iovecs->iov_len -= size;
	}
}

static uint8_t *map(size_t size, int protection)
{
	void *memory = mmap(NULL, size, protection,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

int blk_bounce_init(struct blk_bounce *bounce, bool has_buffers)
{
	*bounce = (struct blk_bounce){ .free_count = 0 };
	/* Never written, so all of it is the kernel's one zero page. */
	bounce->zeroes = map(BLK_BOUNCE_SIZE, PROT_READ);
	if (!bounce->zeroes)
		return -ENOMEM;
	if (!has_buffers)
		return 0;
	bounce->memory = map((size_t)BLK_BOUNCE_SIZE * BLK_BOUNCE_COUNT,
			     PROT_READ | PROT_WRITE);
	if (!bounce->memory)
		return -ENOMEM;
	for (unsigned int i = 0; i < BLK_BOUNCE_COUNT; i++)
		blk_bounce_put(bounce,
			       bounce->memory + (size_t)BLK_BOUNCE_SIZE * i);
	return 0;
}

void blk_bounce_fini(struct blk_bounce *bounce)
{
	if (bounce->zeroes)
		munmap(bounce->zeroes, BLK_BOUNCE_SIZE);
	if (bounce->memory)
		munmap(bounce->memory,
		       (size_t)BLK_BOUNCE_SIZE * BLK_BOUNCE_COUNT);
}

/* The one given back last is taken first: it is in the cache. */
uint8_t *blk_bounce_get(struct blk_bounce *bounce)
{
	return bounce->free_count > 0 ? bounce->free[--bounce->free_count]
				      : NULL;
}

void blk_bounce_put(struct blk_bounce *bounce, uint8_t *buf)
{
	assert(bounce->free_count < BLK_BOUNCE_COUNT);
	bounce->free[bounce->free_count++] = buf;
}
