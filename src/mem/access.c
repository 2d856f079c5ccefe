// SPDX-License-Identifier: Apache-2.0
/*
 * Access by address: split at range boundaries, then memory is copied and
 * devices are called.  Called by vCPU threads for exits and by devices for
 * DMA, from any thread.
 */
#include "mem/access.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "mem/ram.h"
#include "mem_priv.h"

/* The largest aligned piece of 1, 2, 4 or 8 bytes at @offset that is within
 * @size and what the device takes. */
static unsigned int io_piece(const struct mem_io_ops *ops, uint64_t offset,
			     uint64_t size)
{
	unsigned int piece = ops->max_access ? ops->max_access : 8;

	while (piece > size || offset % piece)
		piece /= 2;
	return piece;
}

static void io_read(const struct mem_region *region, uint64_t offset,
		    uint8_t *buf, uint64_t size)
{
	while (size) {
		unsigned int piece = io_piece(region->ops, offset, size);
		uint64_t value = ~0ull;

		if (region->ops->read)
			value = region->ops->read(region->dev, offset, piece);
		value = htole64(value);
		memcpy(buf, &value, piece);
		offset += piece;
		buf += piece;
		size -= piece;
	}
}

static void io_write(const struct mem_region *region, uint64_t offset,
		     const uint8_t *buf, uint64_t size)
{
	while (size) {
		unsigned int piece = io_piece(region->ops, offset, size);
		uint64_t value = 0;

		memcpy(&value, buf, piece);
		if (region->ops->write)
			region->ops->write(region->dev, offset, le64toh(value),
					   piece);
		offset += piece;
		buf += piece;
		size -= piece;
	}
}

static void range_read(const struct mem_range *range, uint64_t offset,
		       uint8_t *buf, uint64_t size)
{
	const struct mem_region *region = range->region;

	if (region->block)
		memcpy(buf, region->block->host + offset, size);
	else
		io_read(region, offset, buf, size);
}

static void range_write(const struct mem_range *range, uint64_t offset,
			const uint8_t *buf, uint64_t size)
{
	const struct mem_region *region = range->region;

	if (range->is_readonly)
		return;
	if (!region->block) {
		io_write(region, offset, buf, size);
		return;
	}
	memcpy(region->block->host + offset, buf, size);
	/* After the write, in release order: whoever takes the bit reads the
	 * new bytes (D1). */
	ram_block_mark_dirty(region->block, offset, size);
}

/* The range at @gpa, or NULL for a gap; how many of @size bytes it reaches. */
static const struct mem_range *translate(struct addr_space *as, uint64_t gpa,
					 size_t size, size_t *ret_size)
{
	/* asked again for each piece: the device before may have moved it */
	const struct flat_view *view = addr_space_view(as);
	const struct mem_range *range = flat_view_find(view, gpa);
	u128 reach = MEM_SIZE_2_64 - gpa;

	if (range) {
		reach = range->size - (gpa - range->gpa);
	} else {
		const struct mem_range *next = flat_view_find_from(view, gpa);

		if (next)
			reach = next->gpa - gpa;
	}
	*ret_size = reach < size ? (size_t)reach : size;
	return range;
}

int mem_read(struct addr_space *as, uint64_t gpa, void *buf, size_t size)
{
	uint8_t *to = buf;
	int ret = 0;

	rcu_read_lock();
	while (size) {
		size_t piece;
		const struct mem_range *range =
			translate(as, gpa, size, &piece);

		if (range) {
			range_read(range, range->offset + (gpa - range->gpa),
				   to, piece);
		} else {
			memset(to, 0xff, piece);
			ret = -EFAULT;
		}
		to += piece;
		size -= piece;
		if (__builtin_add_overflow(gpa, piece, &gpa) && size) {
			memset(to, 0xff, size);
			ret = -EFAULT;
			break;
		}
	}
	rcu_read_unlock();
	return ret;
}

int mem_write(struct addr_space *as, uint64_t gpa, const void *buf, size_t size)
{
	const uint8_t *from = buf;
	int ret = 0;

	rcu_read_lock();
	while (size) {
		size_t piece;
		const struct mem_range *range =
			translate(as, gpa, size, &piece);

		if (range)
			range_write(range, range->offset + (gpa - range->gpa),
				    from, piece);
		else
			ret = -EFAULT;
		from += piece;
		size -= piece;
		if (__builtin_add_overflow(gpa, piece, &gpa) && size) {
			ret = -EFAULT;
			break;
		}
	}
	rcu_read_unlock();
	return ret;
}

void *mem_map(struct addr_space *as, uint64_t gpa, size_t size, int for_write,
	      struct ram_block **ret_block, uint64_t *ret_offset)
{
	const struct mem_range *range =
		flat_view_find(addr_space_view(as), gpa);
	uint64_t offset;

	if (!range || !range->region->block ||
	    (for_write && range->is_readonly) ||
	    size > range->size - (gpa - range->gpa))
		return NULL;
	offset = range->offset + (gpa - range->gpa);
	if (ret_block)
		*ret_block = range->region->block;
	if (ret_offset)
		*ret_offset = offset;
	return range->region->block->host + offset;
}
