// SPDX-License-Identifier: Apache-2.0
/*
 * From descriptors to segments.  Called by vq_split.c and vq_packed.c for each
 * descriptor of a chain, with a copy of it that the guest cannot change any more.
 *
 * The view was taken once for the chain, so that all of it is of one topology.
 * A segment lies in one RAM range; a buffer that goes on in the next range makes
 * several, and one that leaves RAM is refused: a device's registers are no
 * buffers, and a call to them from here could end anywhere.
 */
#include <errno.h>

#include "base/err.h"
#include "vq_priv.h"

/* virtio 1.2, 2.7.5.2: a chain has at most 2^32 bytes. */
#define CHAIN_SIZE_MAX (1ull << 32)

void vq_chain_begin(struct vq_chain *chain, struct vq *vq,
		    struct vq_request *request)
{
	chain->view = addr_space_view(vq->dev->memory);
	chain->request = request;
	chain->links = 0;
	chain->has_indirect = vq->has_indirect;
	request->count = 0;
	request->readable = request->writable = 0;
	request->readable_size = request->writable_size = 0;
}

/* Host memory of [gpa, gpa + size), or of as much as is in one RAM range: *@size
 * becomes less; NULL when nothing is. */
static uint8_t *map_part(const struct flat_view *view, uint64_t gpa,
			 bool is_writable, uint64_t *size,
			 struct ram_block **ret_block, uint64_t *ret_offset)
{
	const struct mem_range *range = flat_view_find(view, gpa);
	struct ram_block *block;
	u128 reach;

	if (!range || (is_writable && range->is_readonly))
		return NULL;
	block = mem_region_block(range->region);
	if (!block)
		return NULL;
	reach = range->size - (gpa - range->gpa);
	if (reach < *size)
		*size = (uint64_t)reach;
	*ret_block = block;
	*ret_offset = range->offset + (gpa - range->gpa);
	return block->host + *ret_offset;
}

static int add_segments(struct vq_request *request,
			const struct flat_view *view, uint64_t gpa,
			uint64_t size, bool is_writable, struct err *err)
{
	uint64_t piece;

	for (; size; gpa += piece, size -= piece) {
		unsigned int used = request->readable + request->writable;
		struct vq_segment *segment = &request->segments[used];

		if (used == request->room)
			return err_set(err, -E2BIG,
				       "a request of more than %u segments",
				       request->room);
		piece = size;
		segment->host = map_part(view, gpa, is_writable, &piece,
					 &segment->block, &segment->offset);
		if (!segment->host)
			return err_set(err, -EFAULT,
				       "a buffer at 0x%lx, which is no %sRAM",
				       gpa, is_writable ? "writable " : "");
		segment->size = (uint32_t)piece;
		if (is_writable)
			request->writable++;
		else
			request->readable++;
	}
	return 0;
}

int vq_chain_add(struct vq_chain *chain, const struct vq_desc *desc,
		 bool is_writable, struct err *err)
{
	struct vq_request *request = chain->request;
	uint64_t gpa = le64_get(desc->address);
	uint32_t size = le32_get(desc->size);
	uint64_t last;

	/* Linux's driver makes indirect chains that are longer than a small
	 * queue, against 2.7.5.3.1; so this is not the queue's size. */
	if (++chain->links > VDEV_QUEUE_SIZE_MAX)
		return err_set(err, -EBADMSG,
			       "a chain of more than %u descriptors",
			       VDEV_QUEUE_SIZE_MAX);
	if (size == 0)
		return err_set(err, -EBADMSG, "a buffer of 0 bytes at 0x%lx",
			       gpa);
	if (__builtin_add_overflow(gpa, size - 1, &last))
		return err_set(err, -EFAULT,
			       "a buffer of %u bytes at 0x%lx: past 2^64", size,
			       gpa);
	if (is_writable) {
		request->writable_size += size;
	} else if (request->writable) {
		return err_set(err, -EBADMSG,
			       "a readable buffer behind a writable one");
	} else {
		request->readable_size += size;
	}
	if (request->readable_size + request->writable_size > CHAIN_SIZE_MAX)
		return err_set(err, -EBADMSG,
			       "a chain of more than 2^32 bytes");
	return add_segments(request, chain->view, gpa, size, is_writable, err);
}

int vq_table_open(const struct vq_chain *chain, const struct vq_desc *desc,
		  struct vq_table *ret_table, struct err *err)
{
	uint64_t gpa = le64_get(desc->address), offset, last;
	uint32_t size = le32_get(desc->size);
	struct ram_block *block;
	uint64_t piece = size;
	const uint8_t *host;

	if (!chain->has_indirect)
		return err_set(err, -EBADMSG,
			       "an indirect table, not negotiated");
	if (size == 0 || size % sizeof(struct vq_desc))
		return err_set(err, -EBADMSG, "an indirect table of %u bytes",
			       size);
	if (__builtin_add_overflow(gpa, size - 1, &last))
		return err_set(err, -EFAULT,
			       "an indirect table at 0x%lx: past 2^64", gpa);
	host = map_part(chain->view, gpa, false, &piece, &block, &offset);
	ret_table->host = piece == size ? host : NULL;
	ret_table->gpa = gpa;
	ret_table->entries = size / sizeof(struct vq_desc);
	return 0;
}

/* An entry that may itself be in two ranges. */
static int read_split_entry(const struct flat_view *view, uint64_t gpa,
			    struct vq_desc *ret_desc, struct err *err)
{
	uint8_t bytes[sizeof(struct vq_desc)];
	uint64_t at = 0, piece, offset;
	struct ram_block *block;
	const uint8_t *host;

	for (; at < sizeof(bytes); at += piece) {
		piece = sizeof(bytes) - at;
		host = map_part(view, gpa + at, false, &piece, &block, &offset);
		if (!host)
			return err_set(err, -EFAULT,
				       "an indirect table at 0x%lx, which is "
				       "no RAM",
				       gpa + at);
		memcpy(bytes + at, host, piece);
	}
	*ret_desc = vq_desc_read(bytes);
	return 0;
}

int vq_table_read(const struct vq_chain *chain, const struct vq_table *table,
		  uint32_t index, struct vq_desc *ret_desc, struct err *err)
{
	uint64_t at = (uint64_t)index * sizeof(struct vq_desc);

	if (!table->host)
		return read_split_entry(chain->view, table->gpa + at, ret_desc,
					err);
	*ret_desc = vq_desc_read(table->host + at);
	return 0;
}
