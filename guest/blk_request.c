/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of `blk`: which come next, and what came of them.  See blk.h. */
#include <linux/virtio_blk.h>
#include <stddef.h>

#include "guest/blk.h"
#include "guest/cpu.h"

#define TRIES 4

static uint64_t next_random(struct blk_slice *slice, uint64_t below)
{
	slice->random += 0x9e3779b97f4a7c15;
	return mul_high(mix64(slice->random), below);
}

/* By chance, or one of two kinds that are as frequent would never be due. */
static bool is_due(struct blk_slice *slice, uint64_t every)
{
	return every && !next_random(slice, every);
}

static uint32_t choose_type(struct blk_slice *slice,
			    const struct blk_config *config)
{
	const struct blk_disk *disk = slice->disk;

	if (slice->is_checking)
		return VIRTIO_BLK_T_IN;
	if (is_due(slice, config->flush) && disk->can_flush)
		return VIRTIO_BLK_T_FLUSH;
	if (disk->is_read_only)
		return VIRTIO_BLK_T_IN;
	if (is_due(slice, config->discard) && disk->discard_max)
		return VIRTIO_BLK_T_DISCARD;
	if (is_due(slice, config->zeroes) && disk->zeroes_max)
		return VIRTIO_BLK_T_WRITE_ZEROES;
	if (next_random(slice, 100) < config->reads)
		return VIRTIO_BLK_T_IN;
	return VIRTIO_BLK_T_OUT;
}

/* Sectors of a request, a multiple of @ret_unit, which is also its alignment. */
static uint32_t choose_length(struct blk_slice *slice,
			      const struct blk_config *config, uint32_t type,
			      uint32_t *ret_unit)
{
	const struct size_mix *mix = &config->io.size;
	uint64_t bytes = mix->sizes[next_random(slice, mix->count)];
	uint32_t unit = slice->disk->unit, max = UINT32_MAX, sectors;

	if (type == VIRTIO_BLK_T_DISCARD) {
		unit = slice->disk->discard_unit;
		max = slice->disk->discard_max;
	} else if (type == VIRTIO_BLK_T_WRITE_ZEROES) {
		max = slice->disk->zeroes_max;
	}
	sectors = (uint32_t)(bytes / SECTOR_SIZE);
	if (sectors > max)
		sectors = max;
	sectors -= sectors % unit;
	*ret_unit = unit;
	return sectors ? sectors : unit;
}

static bool mark_busy(struct blk_slice *slice, uint64_t sector,
		      uint32_t sectors)
{
	for (uint32_t i = 0; i < sectors; i++) {
		if (slice->expected[sector + i] & EXPECT_BUSY)
			return false;
	}
	for (uint32_t i = 0; i < sectors; i++)
		slice->expected[sector + i] |= EXPECT_BUSY;
	return true;
}

static bool place_in_order(struct blk_slice *slice, uint64_t *at,
			   struct blk_request *request, uint32_t unit)
{
	uint64_t sector = (*at + unit - 1) / unit * unit;

	if (sector + request->sectors > slice->sectors)
		sector = 0;
	if (request->sectors > slice->sectors ||
	    !mark_busy(slice, sector, request->sectors))
		return false;
	request->sector = sector;
	*at = sector + request->sectors;
	return true;
}

static bool place_anywhere(struct blk_slice *slice, struct blk_request *request,
			   uint32_t unit)
{
	uint64_t places;

	if (request->sectors > slice->sectors)
		return false;
	places = (slice->sectors - request->sectors) / unit + 1;
	for (int i = 0; i < TRIES; i++) {
		request->sector = next_random(slice, places) * unit;
		if (mark_busy(slice, request->sector, request->sectors))
			return true;
	}
	return false;
}

/* The slice from its begin to its end, once. */
static bool choose_check(struct blk_slice *slice,
			 const struct blk_config *config,
			 struct blk_request *request)
{
	uint64_t rest = slice->sectors - slice->check_at;
	uint32_t unit;

	request->sectors = choose_length(slice, config, VIRTIO_BLK_T_IN, &unit);
	if (request->sectors > rest)
		request->sectors = (uint32_t)rest;
	return rest && place_in_order(slice, &slice->check_at, request, unit);
}

bool blk_choose(struct blk_slice *slice, const struct blk_config *config,
		struct blk_request *request)
{
	uint32_t unit;

	request->type = choose_type(slice, config);
	request->sectors = 0;
	request->sector = 0;
	if (slice->is_checking)
		return choose_check(slice, config, request);
	if (request->type != VIRTIO_BLK_T_FLUSH) {
		request->sectors =
			choose_length(slice, config, request->type, &unit);
		if (config->pattern == BLK_SEQ
			    ? !place_in_order(slice, &slice->next, request,
					      unit)
			    : !place_anywhere(slice, request, unit))
			return false;
	}
	if (request->type == VIRTIO_BLK_T_OUT) {
		if (slice->sequence++ == EXPECT_MAX)
			slice->sequence = EXPECT_FIRST;
		request->sequence = slice->sequence;
	}
	return true;
}

static struct sector_stamp stamp_of(const struct blk_slice *slice,
				    uint64_t sector, uint64_t sequence)
{
	return (struct sector_stamp){ slice->disk->dev->index,
				      slice->first + sector, sequence };
}

static void write_stamps(const struct blk_slice *slice,
			 const struct blk_request *request)
{
	for (uint32_t i = 0; i < request->sectors; i++) {
		struct sector_stamp stamp =
			stamp_of(slice, request->sector + i, request->sequence);

		sector_write(
			(uint64_t *)(request->data + (uint64_t)i * SECTOR_SIZE),
			&stamp);
	}
}

/* The data in so many segments, sectors each; the last has the rest. */
static unsigned int add_data(struct virtq_buffer *buffers,
			     const struct blk_request *request,
			     uint64_t segments)
{
	uint32_t sectors = request->sectors;
	uint32_t each = (uint32_t)(sectors / segments), at = 0;
	unsigned int n = 0;

	for (; n + 1 < segments && each; n++, at += each)
		buffers[n] = (struct virtq_buffer){
			(uint64_t)request->data + (uint64_t)at * SECTOR_SIZE,
			each * SECTOR_SIZE
		};
	buffers[n] = (struct virtq_buffer){ (uint64_t)request->data +
						    (uint64_t)at * SECTOR_SIZE,
					    (sectors - at) * SECTOR_SIZE };
	return n + 1;
}

bool blk_offer(struct blk_slice *slice, const struct blk_config *config,
	       uint16_t number)
{
	struct blk_request *request = &slice->requests[number];
	struct blk_dma *dma = request->dma;
	struct virtq_buffer buffers[VIRTQ_SEGMENTS_MAX];
	unsigned int out = 1, in = 1;

	dma->header = (struct virtio_blk_outhdr){
		.type = request->type,
		.sector = slice->first + request->sector,
	};
	dma->status = 0xff;
	buffers[0] = (struct virtq_buffer){ (uint64_t)&dma->header,
					    sizeof(dma->header) };
	switch (request->type) {
	case VIRTIO_BLK_T_OUT:
		write_stamps(slice, request);
		out += add_data(&buffers[1], request, config->segments);
		break;
	case VIRTIO_BLK_T_IN:
		in += add_data(&buffers[1], request, config->segments);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		dma->header.sector = 0;
		dma->range = (struct virtio_blk_discard_write_zeroes){
			.sector = slice->first + request->sector,
			.num_sectors = request->sectors,
		};
		buffers[out++] = (struct virtq_buffer){ (uint64_t)&dma->range,
							sizeof(dma->range) };
		break;
	default:
		break;
	}
	buffers[out + in - 1] =
		(struct virtq_buffer){ (uint64_t)&dma->status, 1 };
	return virtq_add(&slice->queue->vq, buffers, out, in, number);
}

static void report_sector(struct blk_slice *slice, uint64_t sector,
			  uint32_t expected, const uint64_t *words)
{
	struct sector_stamp stamp =
		stamp_of(slice, sector, expected == EXPECT_ZERO ? 0 : expected);
	struct sector_stamp found;
	enum sector_fault fault = sector_judge(words, &stamp, &found);
	struct line line;

	if (!io_error_begin(slice->cpu, &line, sector_fault_names[fault],
			    slice->disk->dev->index))
		return;
	line_decimal(&line, " queue=", slice->queue->index);
	line_decimal(&line, " lba=", stamp.sector);
	line_decimal(&line, " expected=", stamp.sequence);
	line_decimal(&line, " found=", found.sequence);
	if (fault == SECTOR_MISPLACED) {
		line_decimal(&line, " from_dev=", found.disk);
		line_decimal(&line, " from_lba=", found.sector);
	}
	io_error_end(&line);
}

static void check_sector(struct blk_slice *slice, uint64_t sector,
			 const uint64_t *words)
{
	uint32_t expected = slice->expected[sector] & ~EXPECT_BUSY;
	bool is_good = true;

	if (expected == EXPECT_UNKNOWN)
		return;
	slice->counts.checked++;
	if (expected == EXPECT_ZERO) {
		is_good = sector_is_zero(words);
	} else {
		struct sector_stamp stamp = stamp_of(slice, sector, expected);

		is_good = sector_is_good(words, &stamp);
	}
	if (is_good)
		return;
	report_sector(slice, sector, expected, words);
	/* So that it is reported once. */
	slice->expected[sector] = EXPECT_UNKNOWN | EXPECT_BUSY;
}

/* What the sectors must read as from now on; they are busy no more. */
static void settle(struct blk_slice *slice, const struct blk_request *request,
		   uint32_t expected)
{
	for (uint32_t i = 0; i < request->sectors; i++)
		slice->expected[request->sector + i] = expected;
}

static void complete_read(struct blk_slice *slice,
			  const struct blk_request *request, bool verify)
{
	for (uint32_t i = 0; i < request->sectors; i++) {
		uint64_t sector = request->sector + i;

		if (verify)
			check_sector(slice, sector,
				     (uint64_t *)(request->data +
						  (uint64_t)i * SECTOR_SIZE));
		slice->expected[sector] &= ~EXPECT_BUSY;
	}
}

static void report_status(struct blk_slice *slice,
			  const struct blk_request *request, const char *kind,
			  uint64_t value)
{
	struct line line;

	if (!io_error_begin(slice->cpu, &line, kind, slice->disk->dev->index))
		return;
	line_decimal(&line, " queue=", slice->queue->index);
	line_decimal(&line, " type=", request->type);
	line_decimal(&line, " lba=", slice->first + request->sector);
	line_decimal(&line, " sectors=", request->sectors);
	line_decimal(&line, " value=", value);
	io_error_end(&line);
}

static void complete_good(struct blk_slice *slice,
			  const struct blk_request *request)
{
	struct blk_counts *counts = &slice->counts;

	switch (request->type) {
	case VIRTIO_BLK_T_IN:
		counts->reads++;
		complete_read(slice, request, slice->cpu->io->config->verify);
		break;
	case VIRTIO_BLK_T_OUT:
		counts->writes++;
		settle(slice, request, request->sequence);
		break;
	case VIRTIO_BLK_T_DISCARD:
		counts->discards++;
		settle(slice, request, EXPECT_UNKNOWN);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		counts->zeroes++;
		settle(slice, request, EXPECT_ZERO);
		break;
	default:
		counts->flushes++;
		break;
	}
}

void blk_complete(struct blk_slice *slice, struct blk_request *request,
		  uint32_t written)
{
	uint32_t expected = 1;

	if (request->type == VIRTIO_BLK_T_IN)
		expected += request->sectors * SECTOR_SIZE;
	if (request->dma->status != VIRTIO_BLK_S_OK) {
		report_status(slice, request, "status", request->dma->status);
		if (request->type == VIRTIO_BLK_T_IN)
			complete_read(slice, request, false);
		else
			settle(slice, request, EXPECT_UNKNOWN);
		return;
	}
	if (written != expected)
		report_status(slice, request, "length", written);
	complete_good(slice, request);
}
