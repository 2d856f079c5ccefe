/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest program `blk`: writes stamped sectors, reads them back and checks
 * them; every request must come back exactly once.
 */
#include "guest/blk.h"

#include <linux/virtio_blk.h>
#include <stddef.h>

#include "guest/cpu.h"
#include "guest/exit.h"
#include "guest/io.h"
#include "guest/tsc.h"

#define SLICES_MAX 256
#define LATE_US    100000
#define FEATURES                                                   \
	(1ULL << VIRTIO_BLK_F_RO | 1ULL << VIRTIO_BLK_F_BLK_SIZE | \
	 1ULL << VIRTIO_BLK_F_FLUSH | 1ULL << VIRTIO_BLK_F_MQ |    \
	 1ULL << VIRTIO_BLK_F_DISCARD | 1ULL << VIRTIO_BLK_F_WRITE_ZEROES)

static struct blk_config config;
static struct blk_disk disks[IO_DEVICES_MAX];
static struct blk_slice slices[SLICES_MAX];
static unsigned int slice_count;

static const char *blk_parse(struct io *io, const char *cmdline)
{
	const struct option_table tables[] = { io_options, blk_options };

	blk_config_init(&config);
	io->config = &config.io;
	return options_parse(tables, 2, &config, "blk", config.io.text,
			     sizeof(config.io.text), cmdline);
}

static uint64_t largest_size(void)
{
	uint64_t largest = PAGE_SIZE;

	for (uint64_t i = 0; i < config.io.size.count; i++) {
		if (config.io.size.sizes[i] > largest)
			largest = config.io.size.sizes[i];
	}
	return largest;
}

/* Features, queues and readiness; also after a reset. */
static void start_disk(struct io *io, struct blk_disk *disk, unsigned int ring)
{
	struct vdev *dev = disk->dev;

	io_require(vdev_begin(dev, FEATURES | io_ring_features(io)));
	if (!disk->queues) {
		uint64_t queues = 1;

		if (vdev_has(dev, VIRTIO_BLK_F_MQ))
			queues = vdev_config(
				dev,
				offsetof(struct virtio_blk_config, num_queues),
				2);
		if (queues > config.io.queues)
			queues = config.io.queues;
		if (queues > VDEV_QUEUES_MAX)
			queues = VDEV_QUEUES_MAX;
		disk->queues = (unsigned int)queues;
	}
	for (unsigned int n = 0; n < disk->queues; n++) {
		struct io_cpu *owner = dev->queues[n].owner;

		if (!owner)
			owner = io_cpu_of((dev->index + n) % config.io.cpus);
		io_start_queue(io, dev, n, owner, ring,
			       (unsigned int)config.segments + 2);
	}
	vdev_ready(dev);
}

static void make_requests(struct io *io, struct blk_slice *slice)
{
	uint64_t size = largest_size(), depth = config.io.depth;
	struct blk_dma *dma = io_take(io, depth * sizeof(*dma));
	uint8_t *data = io_take(io, depth * size);

	slice->requests = io_take(io, depth * sizeof(*slice->requests));
	slice->idle = io_take(io, depth * sizeof(*slice->idle));
	slice->idle_count = slice->depth = (unsigned int)depth;
	for (unsigned int i = 0; i < depth; i++) {
		slice->requests[i].dma = &dma[i];
		slice->requests[i].data = data + i * size;
		slice->idle[i] = (uint16_t)i;
	}
}

static void make_slice(struct io *io, struct blk_disk *disk, unsigned int n)
{
	struct blk_slice *slice = &slices[slice_count];
	uint64_t span = config.span / SECTOR_SIZE;
	uint64_t unit = disk->discard_unit > 8 ? disk->discard_unit : 8;

	if (slice_count++ == SLICES_MAX)
		machine_fail("too many queues", NULL);
	if (span > disk->sectors)
		span = disk->sectors;
	*slice = (struct blk_slice){
		.disk = disk,
		.queue = &disk->dev->queues[n],
		.cpu = disk->dev->queues[n].owner,
		.sectors = span / disk->queues / unit * unit,
		.random = mix64(config.io.seed + slice_count),
		.sequence = EXPECT_FIRST - 1,
	};
	slice->first = n * slice->sectors;
	if (slice->sectors * SECTOR_SIZE < largest_size())
		machine_fail("span is too small", NULL);
	slice->expected =
		io_take(io, slice->sectors * sizeof(*slice->expected));
	make_requests(io, slice);
}

static void blk_setup(struct io *io)
{
	for (unsigned int i = 0; i < io->device_count; i++) {
		struct blk_disk *disk = &disks[i];

		disk->dev = &io->devices[i];
		start_disk(io, disk, (unsigned int)config.io.ring);
		blk_describe(io, disk);
		for (unsigned int n = 0; n < disk->queues; n++)
			make_slice(io, disk, n);
	}
	for (unsigned int i = 0; i < slice_count; i++)
		io_pace(io, &slices[i].pace, slice_count);
}

/* Those in flight are begun again: nobody knows what became of them. */
static void blk_restart(struct io *io, struct vdev *dev, unsigned int ring)
{
	struct blk_disk *disk = &disks[dev->index];

	start_disk(io, disk, ring);
	for (unsigned int i = 0; i < slice_count; i++) {
		struct blk_slice *slice = &slices[i];

		if (slice->disk != disk)
			continue;
		for (unsigned int n = 0; n < slice->depth; n++)
			slice->requests[n].is_waiting =
				slice->requests[n].is_busy;
		slice->waiting = slice->depth - slice->idle_count;
	}
}

static void report_event(struct blk_slice *slice, enum virtq_event event)
{
	struct line line;

	slice->queue->is_broken = true;
	io_break(slice->cpu->io, slice->disk->dev);
	if (!io_error_begin(slice->cpu, &line,
			    event == VIRTQ_JUMPED ? "jumped" : "unknown",
			    slice->disk->dev->index))
		return;
	line_decimal(&line, " queue=", slice->queue->index);
	io_error_end(&line);
}

static void take_back(struct blk_slice *slice, uint16_t number, uint32_t size,
		      uint64_t now)
{
	struct blk_request *request = &slice->requests[number];
	struct io_cpu *cpu = slice->cpu;

	latency_add(&cpu->latency, now - request->begun);
	write_once(cpu->ops, cpu->ops + 1);
	write_once(cpu->bytes,
		   cpu->bytes + (uint64_t)request->sectors * SECTOR_SIZE);
	blk_complete(slice, request, size);
	request->is_busy = false;
	slice->idle[slice->idle_count++] = number;
}

static void take_all(struct blk_slice *slice, uint64_t now)
{
	enum virtq_event event;
	unsigned int taken = 0;
	uint16_t number;
	uint32_t size;

	while ((event = virtq_take(&slice->queue->vq, &number, &size)) ==
	       VIRTQ_USED) {
		take_back(slice, number, size, now);
		taken++;
	}
	if (event != VIRTQ_NONE)
		report_event(slice, event);
	else
		irq_look(slice->cpu, slice->disk->dev, slice->queue, now,
			 taken);
}

/* Requests from before a reset, again. */
static void offer_waiting(struct blk_slice *slice)
{
	for (unsigned int n = 0; slice->waiting && n < slice->depth; n++) {
		struct blk_request *request = &slice->requests[n];

		if (!request->is_waiting)
			continue;
		if (!blk_offer(slice, &config, (uint16_t)n))
			break;
		request->is_waiting = false;
		slice->waiting--;
	}
}

static void offer_new(struct blk_slice *slice, uint64_t now)
{
	uint64_t elapsed = now - slice->cpu->io->start;

	while (slice->idle_count) {
		uint16_t number = slice->idle[slice->idle_count - 1];
		struct blk_request *request = &slice->requests[number];

		if (!slice->is_checking && !pace_takes(&slice->pace, elapsed))
			break;
		if (!blk_choose(slice, &config, request))
			break;
		request->is_busy = true;
		request->is_late = false;
		request->begun = now;
		slice->idle_count--;
		if (blk_offer(slice, &config, number))
			continue;
		/* The ring is smaller than depth=: when there is room. */
		request->is_waiting = true;
		slice->waiting++;
		break;
	}
}

static void look_for_late(struct blk_slice *slice, uint64_t now)
{
	uint64_t khz = slice->cpu->io->tsc_khz;
	uint64_t limit = tsc_of_us(khz, config.io.timeout_us);
	struct line line;

	if (now < slice->next_late)
		return;
	slice->next_late = now + tsc_of_us(khz, LATE_US);
	for (unsigned int n = 0; n < slice->depth; n++) {
		struct blk_request *request = &slice->requests[n];

		if (!request->is_busy || request->is_late ||
		    now - request->begun < limit)
			continue;
		request->is_late = true;
		if (!io_error_begin(slice->cpu, &line, "late",
				    slice->disk->dev->index))
			continue;
		line_decimal(&line, " queue=", slice->queue->index);
		line_decimal(&line, " type=", request->type);
		line_decimal(&line, " lba=", slice->first + request->sector);
		io_error_end(&line);
	}
}

static void work_slice(struct blk_slice *slice, uint64_t now, bool may_start)
{
	if (slice->queue->is_broken)
		return;
	take_all(slice, now);
	if (slice->queue->is_broken)
		return;
	if (slice->waiting)
		offer_waiting(slice);
	if (may_start && !slice->waiting)
		offer_new(slice, now);
	io_flush(slice->disk->dev, slice->queue);
	look_for_late(slice, now);
}

static void blk_work(struct io_cpu *cpu, uint64_t now, bool may_start)
{
	for (unsigned int i = 0; i < slice_count; i++) {
		if (slices[i].cpu == cpu)
			work_slice(&slices[i], now, may_start);
	}
}

static bool blk_is_idle(const struct io_cpu *cpu, uint64_t ticks)
{
	(void)ticks;
	for (unsigned int i = 0; i < slice_count; i++) {
		if (slices[i].cpu == cpu &&
		    slices[i].idle_count != slices[i].depth)
			return false;
	}
	return true;
}

static void blk_check(struct io_cpu *cpu)
{
	for (unsigned int i = 0; i < slice_count; i++) {
		if (slices[i].cpu != cpu)
			continue;
		slices[i].check_at = 0;
		slices[i].is_checking = true;
	}
}

static bool blk_is_checked(const struct io_cpu *cpu)
{
	for (unsigned int i = 0; i < slice_count; i++) {
		struct blk_slice *slice = &slices[i];

		if (slice->cpu != cpu || !slice->is_checking)
			continue;
		if (slice->check_at < slice->sectors ||
		    slice->idle_count != slice->depth)
			return false;
		/* Before the end, counters are to stand still. */
		slice->is_checking = read_once(cpu->io->is_finishing);
	}
	return true;
}

static void blk_report(const struct io *io, struct line *line)
{
	struct blk_counts sum = { 0 };

	(void)io;
	for (unsigned int i = 0; i < slice_count; i++) {
		const struct blk_counts *counts = &slices[i].counts;

		sum.reads += read_once(counts->reads);
		sum.writes += read_once(counts->writes);
		sum.flushes += read_once(counts->flushes);
		sum.discards += read_once(counts->discards);
		sum.zeroes += read_once(counts->zeroes);
		sum.checked += read_once(counts->checked);
	}
	line_decimal(line, " reads=", sum.reads);
	line_decimal(line, " writes=", sum.writes);
	line_decimal(line, " flushes=", sum.flushes);
	line_decimal(line, " discards=", sum.discards);
	line_decimal(line, " zeroes=", sum.zeroes);
	line_decimal(line, " checked=", sum.checked);
}

const struct io_program io_program = {
	.name = "blk",
	.device_type = 2,
	.parse = blk_parse,
	.setup = blk_setup,
	.work = blk_work,
	.is_idle = blk_is_idle,
	.check = blk_check,
	.is_checked = blk_is_checked,
	.restart = blk_restart,
	.report = blk_report,
};
