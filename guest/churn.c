/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of devices: see churn.h. */
#include "guest/churn.h"

#include <linux/pci_regs.h>

#include "guest/cpu.h"
#include "guest/exit.h"
#include "guest/io.h"
#include "guest/tsc.h"

#define RING_MIN         8
#define REST_LIMIT_US    2000000
#define SHMEM_BAR        2
#define SHMEM_STAMPS_MAX 1024
#define DEVICE_FIRST     0x1000 /* virtio's device IDs */
#define DEVICE_END       0x1080

static uint64_t next_random(struct churn *c, uint64_t below)
{
	c->random += 0x9e3779b97f4a7c15;
	return mul_high(mix64(c->random), below);
}

/* Half to one and a half of the period from @now on. */
static void plan(struct io *io, uint64_t now)
{
	uint64_t period = tsc_of_us(io->tsc_khz, io->config->churn_us);

	io->churn.next = now + period / 2 + next_random(&io->churn, period);
}

static struct pci_function *find_shmem(struct pci *pci)
{
	for (unsigned int i = 0; i < pci->count; i++) {
		struct pci_function *f = &pci->functions[i];
		const struct pci_bar *bar = &f->bars[SHMEM_BAR];
		bool is_virtio =
			f->device >= DEVICE_FIRST && f->device < DEVICE_END;

		if (f->vendor == VDEV_VENDOR && !is_virtio &&
		    bar->is_prefetchable && bar->size >= PAGE_SIZE)
			return f;
	}
	return NULL;
}

static uint64_t *shmem_word(const struct pci_bar *bar, uint64_t i)
{
	uint64_t pages = bar->size / PAGE_SIZE;
	uint64_t stamps = pages < SHMEM_STAMPS_MAX ? pages : SHMEM_STAMPS_MAX;
	uint64_t page = i * (pages / stamps);

	return i < stamps ? (uint64_t *)(bar->addr + page * PAGE_SIZE) : NULL;
}

static void stamp_shmem(struct churn *c)
{
	const struct pci_bar *bar = &c->shmem->bars[SHMEM_BAR];
	uint64_t *word;

	c->shmem_stamps++;
	for (uint64_t i = 0; (word = shmem_word(bar, i)); i++)
		write_once(*word, mix64(c->shmem_stamps << 32 | i));
}

static void check_shmem(struct io *io)
{
	struct churn *c = &io->churn;
	const struct pci_bar *bar = &c->shmem->bars[SHMEM_BAR];
	struct line line;
	uint64_t *word;

	for (uint64_t i = 0; (word = shmem_word(bar, i)); i++) {
		uint64_t expected = mix64(c->shmem_stamps << 32 | i);

		if (read_once(*word) == expected ||
		    !io_error_begin(io_cpu_of(0), &line, "shmem",
				    c->shmem->devfn))
			continue;
		line_hex(&line, " offset=", (uint64_t)word - bar->addr);
		line_hex(&line, " expected=", expected);
		line_hex(&line, " found=", read_once(*word));
		io_error_end(&line);
	}
}

/*
 * Somewhere else in the window.  Decoding is off meanwhile, or not: then it is only
 * one register that changes, and there is no third place between.
 */
static void move_bar(struct io *io, struct pci_function *f, unsigned int i)
{
	struct pci_bar *bar = &f->bars[i];
	uint64_t size = bar->size < PAGE_SIZE ? PAGE_SIZE : bar->size;
	uint64_t from = PCI_WINDOW +
			next_random(&io->churn, PCI_WINDOW_END - PCI_WINDOW);
	uint64_t place = pci_find_place(&io->pci, size, from);
	bool may_stay_on = place >> 32 == bar->addr >> 32;

	if (!may_stay_on || next_random(&io->churn, 2))
		pci_set_decoding(f, false);
	if (place)
		pci_move_bar(f, i, place);
	pci_set_decoding(f, true);
}

static void move_some_bar(struct io *io, struct pci_function *f)
{
	unsigned int first = (unsigned int)next_random(&io->churn, PCI_BARS);

	for (unsigned int n = 0; n < PCI_BARS; n++) {
		unsigned int i = (first + n) % PCI_BARS;

		if (!f->bars[i].size)
			continue;
		move_bar(io, f, i);
		return;
	}
}

/* Gone every other time, until the next change. */
static void change_shmem(struct io *io)
{
	struct churn *c = &io->churn;

	if (!c->is_shmem_off) {
		check_shmem(io);
		stamp_shmem(c);
		c->is_shmem_off = !next_random(c, 2);
	} else {
		c->is_shmem_off = false;
	}
	if (c->is_shmem_off) {
		pci_set_decoding(c->shmem, false);
		return;
	}
	move_bar(io, c->shmem, SHMEM_BAR);
	check_shmem(io);
}

void churn_check(struct io *io)
{
	struct churn *c = &io->churn;

	if (!c->shmem_stamps)
		return;
	pci_set_decoding(c->shmem, true);
	c->is_shmem_off = false;
	check_shmem(io);
}

static void program_vectors(struct io *io, struct vdev *dev)
{
	for (unsigned int n = 0; n < VDEV_QUEUES_MAX; n++) {
		struct vdev_queue *queue = &dev->queues[n];

		if (!queue->owner)
			continue;
		virtq_want_interrupt(&queue->vq, false);
		irq_program(io, dev, queue, queue->owner);
	}
}

/* Of all that a device writes to tell what it has done. */
static uint64_t sum_rings(const struct vdev *dev)
{
	uint64_t sum = 0;

	for (unsigned int n = 0; n < VDEV_QUEUES_MAX; n++) {
		const struct vdev_queue *queue = &dev->queues[n];
		const uint64_t *words = queue->memory;

		if (!queue->owner)
			continue;
		for (size_t i = 0; i < virtq_bytes(&queue->vq.shape) / 8; i++)
			sum = mix64(sum ^ read_once(words[i]));
	}
	return sum;
}

/* Requests are under way, and wait while the device may access no memory. */
static void rest(struct io *io, struct vdev *dev)
{
	uint64_t period = tsc_of_us(io->tsc_khz, io->config->churn_us), sum;
	uint64_t start = cpu_tsc();
	bool is_pending;
	struct line line;

	pci_set_master(dev->function, false);
	do {
		is_pending = pci_is_pending(dev->function);
	} while (is_pending &&
		 cpu_tsc() - start < tsc_of_us(io->tsc_khz, REST_LIMIT_US));
	sum = sum_rings(dev);
	start = cpu_tsc();
	period = next_random(&io->churn, period);
	while (cpu_tsc() - start < period)
		cpu_pause();
	if ((is_pending || sum_rings(dev) != sum) &&
	    io_error_begin(io_cpu_of(0), &line, "master", dev->index)) {
		line_decimal(&line, " pending=", is_pending);
		io_error_end(&line);
	}
	pci_set_master(dev->function, true);
}

/* Decoding, bus mastering or both are off for up to a period. */
static void toggle_command(struct io *io, struct pci_function *f)
{
	static const uint16_t left[] = { 0, PCI_COMMAND_MEMORY,
					 PCI_COMMAND_MASTER };
	uint64_t period = tsc_of_us(io->tsc_khz, io->config->churn_us);
	uint64_t end = cpu_tsc() + next_random(&io->churn, period);
	uint16_t command = pci_read16(f, PCI_COMMAND);

	pci_write16(f, PCI_COMMAND,
		    (uint16_t)((command &
				~(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)) |
			       left[next_random(&io->churn, 3)]));
	while (cpu_tsc() < end)
		cpu_pause();
	pci_write16(f, PCI_COMMAND, command);
}

/* A power of two, as split queues need it. */
static unsigned int other_ring(struct io *io)
{
	unsigned int ring = RING_MIN;

	while (ring * 2 <= io->config->ring && next_random(&io->churn, 4))
		ring *= 2;
	return ring;
}

/* The device has to notice, and to ask for a reset, which io.c sees. */
static void offend(struct vdev *dev)
{
	for (unsigned int n = 0; n < VDEV_QUEUES_MAX; n++) {
		struct vdev_queue *queue = &dev->queues[n];

		/* A full one would only seem to be empty. */
		if (!queue->owner || !queue->vq.free_descs)
			continue;
		virtq_offend(&queue->vq);
		vdev_notify(dev, queue);
		return;
	}
}

void churn_start(struct io *io)
{
	struct churn *c = &io->churn;

	*c = (struct churn){
		.what = io->config->churn_what,
		.next = UINT64_MAX,
		.random = mix64(io->config->seed ^ 0x636875726e),
		.shmem = find_shmem(&io->pci),
	};
	if (!c->shmem)
		c->what &= ~(1ULL << CHURN_SHMEM);
	if ((c->what & 1ULL << CHURN_CPUS) && !spare_init(io))
		machine_fail("cpus= has to leave one vCPU over", NULL);
	if (io->config->msix == MSIX_OFF)
		c->what &= ~(1ULL << CHURN_MSIX);
	if (!io->config->churn_us || !c->what)
		return;
	if (c->what & 1ULL << CHURN_SHMEM) {
		pci_set_decoding(c->shmem, true);
		stamp_shmem(c);
	}
	plan(io, io->start);
}

/* What a device had in flight would be lost. */
static bool must_drain(enum churn_kind kind)
{
	return kind == CHURN_RESET || kind == CHURN_QUEUES ||
	       kind == CHURN_COMMAND;
}

bool churn_begin(struct io *io, uint64_t now)
{
	struct churn *c = &io->churn;

	/* Frames that resets lose would be sent again without end. */
	if (now < c->next || io->is_finishing)
		return false;
	do {
		c->kind = (enum churn_kind)next_random(c, CHURN_KINDS);
	} while (!(c->what & 1ULL << c->kind));
	c->dev = &io->devices[next_random(c, io->device_count)];
	c->is_pending = true;
	io_give_order(io, must_drain(c->kind) ? IO_DRAIN : IO_STOP);
	return true;
}

void churn_put_off(struct io *io, uint64_t now)
{
	io->churn.is_pending = false;
	plan(io, now);
}

void churn_do(struct io *io, uint64_t now)
{
	struct churn *c = &io->churn;

	switch (c->kind) {
	case CHURN_BARS:
		move_some_bar(io, c->dev->function);
		break;
	case CHURN_RESET:
		io_program.restart(io, c->dev, (unsigned int)io->config->ring);
		break;
	case CHURN_MSIX:
		program_vectors(io, c->dev);
		break;
	case CHURN_QUEUES:
		io_program.restart(io, c->dev, other_ring(io));
		break;
	case CHURN_SHMEM:
		change_shmem(io);
		break;
	case CHURN_BREAK:
		offend(c->dev);
		break;
	case CHURN_COMMAND:
		toggle_command(io, c->dev->function);
		break;
	case CHURN_CPUS:
		if (!spare_change(io, next_random(c, UINT64_MAX), now))
			c->counts[c->kind]--;
		break;
	case CHURN_MASTER:
		rest(io, c->dev);
		break;
	case CHURN_KINDS:
		break;
	}
	c->counts[c->kind]++;
	churn_put_off(io, now);
}
