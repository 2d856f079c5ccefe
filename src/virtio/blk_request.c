// SPDX-License-Identifier: Apache-2.0
/*
 * Requests of the driver: a header (type, sector), data, a status byte as the
 * last writable one.  All of it is hostile; what is read here was read from guest
 * memory once.
 *
 * A request without room for a status byte or without a whole header is a broken
 * driver's, as there is nothing to answer.  What else is wrong with a request is
 * its status, and the device works on.
 *
 * Source: virtio 1.2, 5.2.6.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "virtio/blk_priv.h"

struct header {
	struct le32 type;
	struct le32 reserved;
	struct le64 sector;
};
_Static_assert(sizeof(struct header) == 16, "virtio 1.2, 5.2.6");

struct range {
	struct le64 sector;
	struct le32 sectors;
	struct le32 flags;
};
_Static_assert(sizeof(struct range) == 16, "virtio 1.2, 5.2.6");

/* Bytes [*ret_offset, + size) of the disk; false when they are not all there, or
 * no whole blocks. */
static bool find_bytes(const struct blk *blk, uint64_t sector, uint64_t size,
		       uint64_t *ret_offset)
{
	const struct blk_info *info = &blk->backend->info;
	uint64_t offset, end;

	if (__builtin_mul_overflow(sector, (uint64_t)BLK_SECTOR_SIZE,
				   &offset) ||
	    __builtin_add_overflow(offset, size, &end) || end > info->size)
		return false;
	if (offset % info->block_size || size % info->block_size)
		return false;
	*ret_offset = offset;
	return true;
}

/* The status byte is behind the data to read. */
static void drop_last_byte(struct blk_io *io)
{
	struct iovec *last = &io->iovecs[io->iovec_count - 1];

	last->iov_len--;
	if (last->iov_len == 0)
		io->iovec_count--;
}

static int read_transfer(const struct blk *blk, struct blk_request *request,
			 uint64_t sector, bool is_write, uint8_t *ret_status)
{
	const struct vq_request *vq = &request->vq;
	struct blk_io *io = &request->io;

	io->op = is_write ? BLK_WRITE : BLK_READ;
	io->size = is_write ? vq->readable_size - sizeof(struct header)
			    : vq->writable_size - 1;
	if ((is_write && blk->backend->info.is_readonly) ||
	    !find_bytes(blk, sector, io->size, &io->offset)) {
		*ret_status = VIRTIO_BLK_S_IOERR;
		return 0;
	}
	if (io->size == 0)
		return 0;
	io->is_durable = __atomic_load_n(&blk->is_durable, __ATOMIC_RELAXED);
	io->iovecs = request->iovecs;
	io->iovec_count =
		vq_iovecs(vq, !is_write, is_write ? sizeof(struct header) : 0,
			  request->iovecs, BLK_SEGMENTS);
	if (!is_write)
		drop_last_byte(io);
	return 1;
}

/* One range a request: that is what max_discard_seg and max_write_zeroes_seg
 * say. */
static int read_range(const struct blk *blk, struct blk_request *request,
		      bool is_discard, uint8_t *ret_status)
{
	struct blk_io *io = &request->io;
	struct range range;
	uint32_t flags;
	uint64_t size;

	*ret_status = VIRTIO_BLK_S_IOERR;
	if (blk->backend->info.is_readonly ||
	    request->vq.readable_size != sizeof(struct header) + sizeof(range))
		return 0;
	vq_read(&request->vq, sizeof(struct header), &range, sizeof(range));
	flags = le32_get(range.flags);
	if (flags & ~VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP ||
	    (is_discard && flags)) {
		*ret_status = VIRTIO_BLK_S_UNSUPP;
		return 0;
	}
	if (le32_get(range.sectors) >
	    (is_discard ? BLK_DISCARD_MAX : BLK_ZERO_MAX))
		return 0;
	size = (uint64_t)le32_get(range.sectors) << BLK_SECTOR_SHIFT;
	if (!find_bytes(blk, le64_get(range.sector), size, &io->offset))
		return 0;
	*ret_status = VIRTIO_BLK_S_OK;
	io->op = is_discard ? BLK_DISCARD : BLK_ZERO;
	io->size = size;
	io->may_unmap = flags && blk->has_discard;
	io->is_durable = __atomic_load_n(&blk->is_durable, __ATOMIC_RELAXED);
	return size > 0;
}

static int read_flush(struct blk_request *request)
{
	request->io.op = BLK_FLUSH;
	return 1;
}

static int read_id(const struct blk *blk, const struct blk_request *request)
{
	uint64_t room = request->vq.writable_size - 1;

	/* Shorter when the driver asks for less; no NUL when it is full. */
	vq_write(&request->vq, 0, blk->serial,
		 room < VIRTIO_BLK_ID_BYTES ? room : VIRTIO_BLK_ID_BYTES);
	return 0;
}

int blk_request_read(const struct blk *blk, struct blk_request *request,
		     uint8_t *ret_status, struct err *err)
{
	struct header header;

	request->io = (struct blk_io){ .op = BLK_READ };
	*ret_status = VIRTIO_BLK_S_OK;
	if (request->vq.writable_size == 0)
		return err_set(err, -EBADMSG,
			       "a request without room for its status");
	/* The used ring says in 32 bits how much was written. */
	if (request->vq.writable_size > UINT32_MAX)
		return err_set(err, -EBADMSG,
			       "a request of %llu writable bytes, at most %u",
			       (unsigned long long)request->vq.writable_size,
			       UINT32_MAX);
	if (vq_read(&request->vq, 0, &header, sizeof(header)) < sizeof(header))
		return err_set(err, -EBADMSG,
			       "a request with a header of %llu bytes, not %zu",
			       (unsigned long long)request->vq.readable_size,
			       sizeof(header));
	switch (le32_get(header.type)) {
	case VIRTIO_BLK_T_IN:
		return read_transfer(blk, request, le64_get(header.sector),
				     false, ret_status);
	case VIRTIO_BLK_T_OUT:
		return read_transfer(blk, request, le64_get(header.sector),
				     true, ret_status);
	case VIRTIO_BLK_T_FLUSH:
		return read_flush(request);
	case VIRTIO_BLK_T_GET_ID:
		return read_id(blk, request);
	case VIRTIO_BLK_T_DISCARD:
		if (vdev_has(&blk->dev, VIRTIO_BLK_F_DISCARD))
			return read_range(blk, request, true, ret_status);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		if (vdev_has(&blk->dev, VIRTIO_BLK_F_WRITE_ZEROES))
			return read_range(blk, request, false, ret_status);
		break;
	}
	*ret_status = VIRTIO_BLK_S_UNSUPP;
	return 0;
}
