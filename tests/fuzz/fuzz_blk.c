// SPDX-License-Identifier: Apache-2.0
/*
 * Requests of a driver to the block device (virtio/blk_request.c).
 *
 * The input: a byte of the disk's kind (bit 0 read-only, 1 blocks of 4 KiB, 2 no
 * discard), one of features, then a header of 16 bytes, three 16-bit sizes that cut
 * readable memory into segments, three that cut the writable one; what is left of the
 * input is what the readable memory says.  What must hold: what goes to the back end
 * lies within the disk, in whole blocks, in exactly the data part of the request's
 * memory; what is answered at once has a status that there is; and nothing but an id
 * is written.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "virtio/blk_priv.h"

#define DISK_SIZE (64u << 20)
#define MEMORY    (3u * UINT16_MAX)
#define HEADER    16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned int cut(struct bytes_reader *from, struct vq_segment *segments,
			uint8_t *memory, uint64_t *ret_size)
{
	unsigned int count = 0;

	*ret_size = 0;
	for (unsigned int i = 0; i < 3; i++) {
		uint16_t size = bytes_take_u16(from);

		if (size == 0)
			continue;
		segments[count++] = (struct vq_segment){
			.host = memory + *ret_size,
			.size = size,
		};
		*ret_size += size;
	}
	return count;
}

static void check_memory(const struct blk_io *io, const uint8_t *start)
{
	for (unsigned int i = 0; i < io->iovec_count; i++) {
		must(io->iovecs[i].iov_len > 0);
		must(io->iovecs[i].iov_base == start);
		start += io->iovecs[i].iov_len;
	}
}

static void check_io(const struct blk *blk, const struct blk_request *request,
		     const uint8_t *readable, const uint8_t *writable)
{
	const struct blk_info *info = &blk->backend->info;
	const struct blk_io *io = &request->io;
	uint64_t data = 0;

	must(io->offset % info->block_size == 0);
	must(io->size % info->block_size == 0);
	must(io->offset <= info->size && io->size <= info->size - io->offset);
	must(!info->is_readonly || io->op == BLK_READ || io->op == BLK_FLUSH);
	for (unsigned int i = 0; i < io->iovec_count; i++)
		data += io->iovecs[i].iov_len;
	must(data ==
	     (io->op == BLK_READ || io->op == BLK_WRITE ? io->size : 0));
	if (io->op == BLK_READ) {
		must(data == request->vq.writable_size - 1);
		check_memory(io, writable);
	} else if (io->op == BLK_WRITE) {
		must(data == request->vq.readable_size - HEADER);
		check_memory(io, readable + HEADER);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t readable[MEMORY], writable[MEMORY];
	static struct blk_request request;
	struct bytes_reader from = bytes_read(data, size);
	struct blk_backend backend = { .info = { .size = DISK_SIZE } };
	struct blk blk = { .backend = &backend };
	uint8_t kind = bytes_take_u8(&from), status = 0xff;
	struct err err = ERR_INIT;
	int ret;

	backend.info.is_readonly = kind & 1;
	backend.info.block_size = kind & 2 ? 4096 : 512;
	blk.has_discard = !(kind & 4);
	blk.dev.features = (uint64_t)bytes_take_u8(&from) << 8;
	memset(writable, 0xee, sizeof(writable));
	bytes_take_copy(&from, readable, HEADER);
	request.vq.segments = request.segments;
	request.vq.readable = cut(&from, request.segments, readable,
				  &request.vq.readable_size);
	request.vq.writable = cut(&from, request.segments + request.vq.readable,
				  writable, &request.vq.writable_size);
	if (request.vq.readable_size > HEADER) {
		size_t rest = bytes_left(&from);

		if (rest > MEMORY - HEADER)
			rest = MEMORY - HEADER;
		bytes_take_copy(&from, readable + HEADER, rest);
	}
	ret = blk_request_read(&blk, &request, &status, &err);
	must(ret == 1 || ret == 0 || ret == -EBADMSG);
	if (ret == 1)
		check_io(&blk, &request, readable, writable);
	else if (ret == 0)
		must(status <= VIRTIO_BLK_S_UNSUPP);
	for (unsigned int i = VIRTIO_BLK_ID_BYTES; i < MEMORY; i++)
		must(writable[i] == 0xee);
	return 0;
}
