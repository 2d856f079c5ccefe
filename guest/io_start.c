/* SPDX-License-Identifier: Apache-2.0 */
/* Start of `blk` and `net`: see io_start.h; what io.h offers for it. */
#include "guest/io_start.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stddef.h>

#include "guest/cpu.h"
#include "guest/exit.h"
#include "guest/io_report.h"
#include "guest/tsc.h"

#define ARRIVAL_TIMEOUT_US 10000000
#define MAX_BACKLOG_US     1000

void io_require(const char *wrong)
{
	if (wrong)
		machine_fail(wrong, NULL);
}

void *io_take(struct io *io, uint64_t bytes)
{
	uint64_t *memory = (uint64_t *)io->memory;

	bytes = (bytes + PAGE_SIZE - 1) & ~(uint64_t)(PAGE_SIZE - 1);
	if (bytes > io->memory_end - io->memory)
		machine_fail("too little RAM", NULL);
	io->memory += bytes;
	for (uint64_t i = 0; i < bytes / sizeof(*memory); i++)
		memory[i] = 0;
	return memory;
}

bool io_error_begin(struct io_cpu *cpu, struct line *line, const char *kind,
		    uint64_t device)
{
	write_once(cpu->errors, cpu->errors + 1);
	if (__atomic_fetch_add(&cpu->io->error_lines, 1, __ATOMIC_RELAXED) >=
	    IO_ERROR_LINES_MAX)
		return false;
	line_begin(line, &cpu->gauge, "@error ");
	line_text(line, kind);
	line_decimal(line, " dev=", device);
	return true;
}

void io_error_end(struct line *line)
{
	line_decimal(line, " tsc=", cpu_tsc());
	line_end(line);
}

uint64_t io_ring_features(const struct io *io)
{
	const struct io_config *config = io->config;

	return config->is_packed << VIRTIO_F_RING_PACKED |
	       config->is_indirect << VIRTIO_RING_F_INDIRECT_DESC |
	       config->has_event_idx << VIRTIO_RING_F_EVENT_IDX;
}

void io_pace(const struct io *io, struct pace *pace, uint64_t sharers)
{
	*pace = (struct pace){ 0 };
	if (!io->config->rate_per_s)
		return;
	pace->step =
		((io->tsc_khz * 1000 * sharers) << 8) / io->config->rate_per_s;
	pace->max_backlog = tsc_of_us(io->tsc_khz, MAX_BACKLOG_US) << 8;
}

static uint16_t ring_size(uint16_t offered, unsigned int limit, bool is_packed)
{
	uint16_t size = 1;

	if (is_packed)
		return offered < limit ? offered : (uint16_t)limit;
	while (size * 2 <= offered && size * 2U <= limit)
		size *= 2;
	return size;
}

/* The memory of a queue is taken once, for the largest ring it may have. */
static void *queue_memory(struct io *io, struct vdev_queue *queue,
			  const struct virtq_shape *shape)
{
	size_t size = virtq_bytes(shape);

	if (queue->memory_size < size) {
		queue->memory = io_take(io, size);
		queue->memory_size = size;
	}
	return queue->memory;
}

struct vdev_queue *io_start_queue(struct io *io, struct vdev *dev,
				  unsigned int n, struct io_cpu *owner,
				  unsigned int ring, unsigned int segments)
{
	struct vdev_queue *queue = &dev->queues[n];
	struct virtq_shape shape = {
		.segments = (uint16_t)segments,
		.is_packed = vdev_has(dev, VIRTIO_F_RING_PACKED),
		.is_indirect = vdev_has(dev, VIRTIO_RING_F_INDIRECT_DESC),
		.has_event_idx = vdev_has(dev, VIRTIO_RING_F_EVENT_IDX),
	};
	uint16_t offered = vdev_queue_size(dev, n), vector = VDEV_VECTOR_NONE;

	if (n >= VDEV_QUEUES_MAX || offered < segments)
		machine_fail("a virtio device lacks a queue", NULL);
	if (io->config->msix != MSIX_OFF && n < dev->msix.count)
		vector = (uint16_t)n;
	shape.size = ring_size(offered, ring, shape.is_packed);
	io_require(vdev_queue_start(dev, n, &shape,
				    queue_memory(io, queue, &shape), vector));
	queue->owner = owner;
	irq_program(io, dev, queue, owner);
	return queue;
}

static void find_devices(struct io *io)
{
	const uint16_t id =
		(uint16_t)(VDEV_DEVICE_BASE + io_program.device_type);
	uint64_t number = 0;

	for (unsigned int i = 0; i < io->pci.count; i++) {
		struct pci_function *f = &io->pci.functions[i];
		struct vdev *dev = &io->devices[io->device_count];

		if (f->vendor != VDEV_VENDOR || f->device != id)
			continue;
		if (io->config->device != IO_ALL &&
		    io->config->device != number++)
			continue;
		if (io->device_count == IO_DEVICES_MAX)
			machine_fail("too many devices", NULL);
		io_require(vdev_open(dev, io->device_count, f));
		if (io->config->msix != MSIX_OFF && dev->msix.function)
			msix_enable(&dev->msix, true);
		io->device_count++;
	}
	if (!io->device_count)
		machine_fail("there is no such device", NULL);
}

static void wait_for_arrivals(const struct io *io)
{
	uint64_t end = cpu_tsc() + tsc_of_us(io->tsc_khz, ARRIVAL_TIMEOUT_US);

	for (uint64_t i = 1; i < io->config->cpus; i++) {
		while (!load_acquire(io->has_arrived[i])) {
			if (cpu_tsc() >= end)
				machine_fail("fewer vCPUs came up than cpus= "
					     "says",
					     NULL);
			cpu_pause();
		}
	}
}

void io_start(struct io *io, uint64_t start_info)
{
	const char *wrong;

	serial_init();
	io_require(ram_init(&io->ram, start_info));
	wrong = io_program.parse(io, ram_cmdline(start_info));
	if (wrong)
		machine_fail("bad option ", wrong);
	io->tsc_khz = tsc_find_khz(io->config->tsc_khz);
	io->memory = AREA_BASE;
	io->memory_end = AREA_BASE + io->ram.low_pages * PAGE_SIZE;
	for (uint64_t i = 0; i < io->config->cpus; i++)
		*io_cpu_of(i) = (struct io_cpu){ .index = i,
						 .io = io,
						 .apic_id = (uint32_t)i };
	gauge_start(&io_cpu_of(0)->gauge, cpu_tsc(), io->tsc_khz,
		    io_cpu_of(0)->ring);
	io_require(pci_scan(&io->pci));
	if (io->config->pci == PCI_BY_PORTS && pci_compare_ports(&io->pci))
		machine_fail("ports CF8 and CFC disagree with ECAM", NULL);
	find_devices(io);
	io_report_start(io);
	wait_for_arrivals(io);
	store_release(io->is_published, 1);
}

void io_go(struct io *io)
{
	io_program.setup(io);
	io_report_ready();
	io->start = cpu_tsc();
	io->next_watch = io->config->watch_us ? io->start : UINT64_MAX;
	churn_start(io);
	store_release(io->is_going, 1);
}
