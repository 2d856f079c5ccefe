/* SPDX-License-Identifier: Apache-2.0 */
/* What a disk says of itself: see blk.h. */
#include <linux/virtio_blk.h>
#include <stddef.h>

#include "guest/blk.h"
#include "guest/cpu.h"
#include "guest/tsc.h"

#define ID_TIMEOUT_US 10000000
#define FIELD(dev, field)                                           \
	vdev_config(dev, offsetof(struct virtio_blk_config, field), \
		    sizeof(((struct virtio_blk_config *)0)->field))

/* Waits for the answer: nothing else is in flight yet. */
static bool read_id(struct io *io, struct vdev *dev,
		    char ret_id[VIRTIO_BLK_ID_BYTES + 1])
{
	struct vdev_queue *queue = &dev->queues[0];
	struct blk_dma *dma = io_take(io, PAGE_SIZE);
	char *id = (char *)(dma + 1);
	uint64_t end = cpu_tsc() + tsc_of_us(io->tsc_khz, ID_TIMEOUT_US);
	const struct virtq_buffer buffers[] = {
		{ (uint64_t)&dma->header, sizeof(dma->header) },
		{ (uint64_t)id, VIRTIO_BLK_ID_BYTES },
		{ (uint64_t)&dma->status, 1 },
	};
	uint16_t token;
	uint32_t size;

	dma->header.type = VIRTIO_BLK_T_GET_ID;
	dma->status = 0xff;
	if (!virtq_add(&queue->vq, buffers, 1, 2, 0))
		return false;
	io_flush(dev, queue);
	while (virtq_take(&queue->vq, &token, &size) != VIRTQ_USED) {
		if (cpu_tsc() >= end)
			return false;
		cpu_pause();
	}
	for (int i = 0; i < VIRTIO_BLK_ID_BYTES; i++)
		ret_id[i] = id[i] >= ' ' && id[i] <= '~' ? id[i] : '\0';
	ret_id[VIRTIO_BLK_ID_BYTES] = '\0';
	return dma->status == VIRTIO_BLK_S_OK;
}

static void print_disk(struct io *io, const struct blk_disk *disk)
{
	char id[VIRTIO_BLK_ID_BYTES + 1] = "";
	bool has_id = read_id(io, disk->dev, id);
	const struct virtq_shape *shape = &disk->dev->queues[0].vq.shape;
	struct line line;

	line_begin(&line, &io_cpu_of(0)->gauge, "@disk ");
	line_decimal(&line, "dev=", disk->dev->index);
	line_hex(&line, " devfn=", disk->dev->function->devfn);
	line_decimal(&line, " sectors=", disk->sectors);
	line_decimal(&line, " queues=", disk->queues);
	line_decimal(&line, " ring=", shape->size);
	line_hex(&line, " features=", disk->dev->features);
	line_decimal(&line, " vectors=", disk->dev->msix.count);
	line_text(&line, " id=");
	line_text(&line, has_id ? id : "?");
	line_end(&line);
}

void blk_describe(struct io *io, struct blk_disk *disk)
{
	struct vdev *dev = disk->dev;
	uint32_t alignment = (uint32_t)FIELD(dev, discard_sector_alignment);

	disk->sectors = FIELD(dev, capacity);
	disk->unit = 1;
	if (vdev_has(dev, VIRTIO_BLK_F_BLK_SIZE))
		disk->unit = (uint32_t)FIELD(dev, blk_size) / SECTOR_SIZE;
	if (!disk->unit)
		disk->unit = 1;
	disk->is_read_only = vdev_has(dev, VIRTIO_BLK_F_RO);
	disk->can_flush = vdev_has(dev, VIRTIO_BLK_F_FLUSH);
	if (vdev_has(dev, VIRTIO_BLK_F_DISCARD))
		disk->discard_max = (uint32_t)FIELD(dev, max_discard_sectors);
	if (vdev_has(dev, VIRTIO_BLK_F_WRITE_ZEROES))
		disk->zeroes_max =
			(uint32_t)FIELD(dev, max_write_zeroes_sectors);
	disk->discard_unit = alignment > disk->unit ? alignment : disk->unit;
	print_disk(io, disk);
}
