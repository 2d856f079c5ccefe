// SPDX-License-Identifier: Apache-2.0
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "guest_priv.h"
#include "mem/ram.h"
#include "virtio/pci.h"

/* The layout of RAM; rings are script.c's. */
#define MAILBOXES 0x700000ull
#define PAGES     0x1000000ull
#define BUFFERS   0x3000u /* behind a queue's rings */
#define SECTOR    512u

enum {
	MAIL_NONE,
	MAIL_WAKE,
	MAIL_PARK
};

/* There is a bell for what comes sooner. */
#define IDLE_NS (500 * NS_PER_US)
#define POLL_NS (20 * NS_PER_US)

struct guest guest = { .mutex = PTHREAD_MUTEX_INITIALIZER,
		       .changed = PTHREAD_COND_INITIALIZER };

void guest_init(uint64_t seed)
{
	memset(guest.cpus, 0, sizeof(guest.cpus));
	memset(guest.devices, 0, sizeof(guest.devices));
	guest.device_count = 0;
	guest.fault[0] = '\0';
	for (unsigned int i = 0; i < GUEST_CPUS; i++)
		guest.cpus[i].random = seed * GUEST_CPUS + i;
	guest.cpus[0].is_up = true;
}

void guest_complain(const char *fmt, ...)
{
	va_list args;

	pthread_mutex_lock(&guest.mutex);
	va_start(args, fmt);
	if (!guest.fault[0])
		vsnprintf(guest.fault, sizeof(guest.fault), fmt, args);
	va_end(args);
	pthread_cond_broadcast(&guest.changed);
	pthread_mutex_unlock(&guest.mutex);
}

static struct guest_cpu *cpu_of(const struct sim_vcpu *vcpu)
{
	return &guest.cpus[vcpu->vcpu.index];
}

/* ---- registers ---- */

static void write_by_ports(struct sim_vcpu *vcpu, const struct access *access)
{
	uint32_t address = 1u << 31 | access->dev->regs.slot << 11 |
			   (access->offset & ~3u);
	uint32_t value = (uint32_t)access->value;

	sim_out(vcpu, 0xcf8, &address, 1, 4);
	sim_out(vcpu, (uint16_t)(0xcfc + access->offset % 4), &value, 1,
		access->size);
}

static bool is_zero(struct sim_vcpu *vcpu, const struct access *access)
{
	return sim_load(vcpu,
			guest_bar_at(access->dev, BAR_VIRTIO, access->offset),
			access->size) == 0;
}

/* ---- requests ---- */

static void clear_rings(struct sim_vcpu *vcpu, struct guest_queue *queue,
			uint64_t at)
{
	queue->at = at;
	queue->avail = 0;
	for (unsigned int part = 0; part < 3; part++) {
		for (unsigned int i = 0; i < 0x400; i += 8)
			sim_store(vcpu, at + 0x1000 * part + i, 0, 8);
	}
}

static void put_desc(struct sim_vcpu *vcpu, const struct guest_queue *queue,
		     unsigned int i, uint64_t gpa, uint32_t size,
		     uint16_t flags)
{
	uint64_t at = queue->at + 16 * i;

	sim_store(vcpu, at, gpa, 8);
	sim_store(vcpu, at + 8, size, 4);
	sim_store(vcpu, at + 12, flags, 2);
	sim_store(vcpu, at + 14, i + 1, 2);
}

static void put_disk_request(struct sim_vcpu *vcpu, struct guest_queue *queue,
			     unsigned int number, uint64_t value)
{
	uint64_t at = queue->at + BUFFERS;

	queue->sector = (unsigned int)(value % GUEST_SECTORS);
	queue->is_write = value >> 32 & 1;
	sim_store(vcpu, at,
		  queue->is_write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 8);
	sim_store(vcpu, at + 8, number * GUEST_SECTORS + queue->sector, 8);
	if (queue->is_write)
		queue->stamps[queue->sector] = value;
	for (unsigned int i = 0; i < SECTOR / 8; i++)
		sim_store(vcpu, at + 16 + 8 * i,
			  queue->is_write ? guest_word(value, i) : ~0ull, 8);
	sim_store(vcpu, at + 16 + SECTOR, 0xff, 1);
	put_desc(vcpu, queue, 0, at, 16, VRING_DESC_F_NEXT);
	put_desc(vcpu, queue, 1, at + 16, SECTOR,
		 VRING_DESC_F_NEXT |
			 (queue->is_write ? 0 : VRING_DESC_F_WRITE));
	put_desc(vcpu, queue, 2, at + 16 + SECTOR, 1, VRING_DESC_F_WRITE);
}

static void put_rng_request(struct sim_vcpu *vcpu, struct guest_queue *queue)
{
	uint64_t at = queue->at + BUFFERS;

	for (unsigned int i = 0; i < 8; i++)
		sim_store(vcpu, at + 8 * i, 0, 8);
	put_desc(vcpu, queue, 0, at, 64, VRING_DESC_F_WRITE);
}

static void submit(struct sim_vcpu *vcpu, const struct access *access)
{
	struct guest_device *dev = access->dev;
	struct guest_queue *queue = &dev->queues[access->bar];
	unsigned int size = dev->regs.queues[access->bar].size;

	if (dev->kind == GUEST_DISK)
		put_disk_request(vcpu, queue, access->bar, access->value);
	else
		put_rng_request(vcpu, queue);
	sim_store(vcpu, queue->at + 0x1000 + 4 + 2 * (queue->avail % size), 0,
		  2);
	queue->avail++;
	sim_store(vcpu, queue->at + 0x1002, queue->avail, 2);
	sim_store(
		vcpu,
		guest_bar_at(dev, BAR_VIRTIO,
			     VDEV_PCI_NOTIFY +
				     access->bar * VDEV_PCI_NOTIFY_MULTIPLIER),
		access->bar, 2);
}

static void check_disk_request(struct sim_vcpu *vcpu,
			       const struct guest_device *dev,
			       const struct guest_queue *queue)
{
	uint64_t at = queue->at + BUFFERS;
	uint64_t stamp = queue->stamps[queue->sector];
	uint64_t status = sim_load(vcpu, at + 16 + SECTOR, 1);

	if (status != VIRTIO_BLK_S_OK)
		guest_complain("%s: status %lu of a request", dev->name,
			       status);
	for (unsigned int i = 0; i < SECTOR / 8; i++) {
		uint64_t found = sim_load(vcpu, at + 16 + 8 * i, 8);
		uint64_t expected = stamp ? guest_word(stamp, i) : 0;

		if (found != expected)
			guest_complain("%s: sector %u word %u is 0x%lx, not "
				       "0x%lx",
				       dev->name, queue->sector, i, found,
				       expected);
	}
}

static bool collect(struct sim_vcpu *vcpu, const struct access *access)
{
	struct guest_device *dev = access->dev;
	struct guest_queue *queue = &dev->queues[access->bar];

	if (sim_load(vcpu, queue->at + 0x2002, 2) != queue->avail)
		return false;
	if (dev->kind == GUEST_DISK)
		check_disk_request(vcpu, dev, queue);
	else if (!sim_load(vcpu, queue->at + BUFFERS, 8))
		guest_complain("%s: no random bytes", dev->name);
	return true;
}

/* ---- RAM behind a BAR ---- */

static void stamp_shmem(struct sim_vcpu *vcpu, const struct access *access)
{
	struct guest_device *dev = access->dev;
	const struct reg_bar *bar = &dev->regs.bars[2];

	guest_check_shmem(vcpu, dev);
	dev->shmem_stamp = access->value | 1;
	for (uint64_t at = 0; at < bar->size; at += RAM_PAGE_SIZE)
		sim_store(vcpu, bar->address + at,
			  guest_word(dev->shmem_stamp, (unsigned int)at), 8);
}

/* ---- vCPUs ---- */

static uint64_t mailbox_of(uint64_t cpu)
{
	return MAILBOXES + 64 * cpu;
}

static bool mail(struct sim_vcpu *vcpu, struct guest_cpu *cpu, uint64_t to,
		 uint64_t what)
{
	if (!cpu->is_under_way)
		sim_store(vcpu, mailbox_of(to), what, 8);
	if (sim_load(vcpu, mailbox_of(to), 8) != MAIL_NONE)
		return false;
	pthread_mutex_lock(&guest.mutex);
	guest.cpus[to].is_up = what == MAIL_WAKE;
	pthread_mutex_unlock(&guest.mutex);
	return true;
}

static bool has_work(const struct guest_cpu *cpu)
{
	bool ret;

	pthread_mutex_lock(&guest.mutex);
	ret = cpu->done != cpu->asked && !guest.fault[0];
	pthread_mutex_unlock(&guest.mutex);
	return ret;
}

/* It parks once it has done what it was asked for before that. */
static void read_mail(struct sim_vcpu *vcpu, const struct guest_cpu *cpu)
{
	uint64_t at = mailbox_of(vcpu->vcpu.index);
	uint64_t what = sim_load(vcpu, at, 8);

	if (what == MAIL_NONE || (what == MAIL_PARK && has_work(cpu)))
		return;
	sim_reg_set(&vcpu->regs.stage,
		    what == MAIL_WAKE ? SIM_WORK : SIM_READY);
	sim_store(vcpu, at, MAIL_NONE, 8);
}

/* ---- one access ---- */

/* False: it is to be tried again. */
static bool make_access(struct sim_vcpu *vcpu, struct guest_cpu *cpu,
			const struct access *access)
{
	struct guest_device *dev = access->dev;

	switch (access->kind) {
	case ACCESS_CONFIG:
		sim_store(vcpu, guest_config_at(dev, access->offset),
			  access->value, access->size);
		registers_config(&dev->regs, access->offset,
				 (uint32_t)access->value);
		return true;
	case ACCESS_PORTS:
		write_by_ports(vcpu, access);
		registers_config(&dev->regs, access->offset,
				 (uint32_t)access->value);
		return true;
	case ACCESS_MMIO:
		sim_store(vcpu, guest_bar_at(dev, access->bar, access->offset),
			  access->value, access->size);
		registers_mmio(&dev->regs, access->bar, access->offset,
			       access->value);
		return true;
	case ACCESS_RESET:
		return is_zero(vcpu, access);
	case ACCESS_CLEAR:
		clear_rings(vcpu, &dev->queues[access->bar], access->value);
		return true;
	case ACCESS_SUBMIT:
		submit(vcpu, access);
		return true;
	case ACCESS_COLLECT:
		return collect(vcpu, access);
	case ACCESS_STAMP:
		stamp_shmem(vcpu, access);
		return true;
	case ACCESS_WAKE:
		return mail(vcpu, cpu, access->value, MAIL_WAKE);
	case ACCESS_PARK:
		return mail(vcpu, cpu, access->value, MAIL_PARK);
	}
	return true;
}

static void digest(struct guest_cpu *cpu, const struct access *access)
{
	uint64_t words[] = {
		access->kind,   access->dev ? access->dev->regs.slot : 0,
		access->bar,    access->size,
		access->offset, access->value
	};

	for (unsigned int i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		cpu->digest = (cpu->digest ^ words[i]) * 0x100000001b3ull;
}

/* Content, beside devices: each access has a page with it. */
static void write_page(struct sim_vcpu *vcpu, struct guest_cpu *cpu)
{
	unsigned int number = (unsigned int)(cpu->total * 7 % GUEST_PAGES);
	uint64_t at = PAGES +
		      (vcpu->vcpu.index * GUEST_PAGES + number) * RAM_PAGE_SIZE;
	uint64_t *stamp = &cpu->pages[number];

	if (sim_load(vcpu, at, 8) != *stamp ||
	    sim_load(vcpu, at + RAM_PAGE_SIZE - 8, 8) != *stamp)
		guest_complain("vCPU %u: page %u is not as it was written",
			       vcpu->vcpu.index, number);
	*stamp = guest_word(cpu->total, vcpu->vcpu.index);
	sim_store(vcpu, at, *stamp, 8);
	sim_store(vcpu, at + RAM_PAGE_SIZE - 8, *stamp, 8);
}

static uint64_t work(struct sim_vcpu *vcpu, struct guest_cpu *cpu)
{
	const struct access *access;

	if (cpu->at == cpu->count)
		script_next(cpu);
	access = &cpu->script[cpu->at];
	if (!make_access(vcpu, cpu, access)) {
		cpu->is_under_way = true;
		return POLL_NS;
	}
	cpu->is_under_way = false;
	digest(cpu, access);
	write_page(vcpu, cpu);
	sim_reg_set(&vcpu->regs.stamped, vcpu->regs.stamped + 1);
	cpu->total++;
	cpu->at++;
	pthread_mutex_lock(&guest.mutex);
	if (++cpu->done == cpu->asked)
		pthread_cond_broadcast(&guest.changed);
	pthread_mutex_unlock(&guest.mutex);
	return 0;
}

/* ---- in place of the accelerator's workload ---- */

int __wrap_sim_program_bind(struct sim_vcpu *vcpu, struct err *err);
uint64_t __wrap_sim_program_step(struct sim_vcpu *vcpu);
void __wrap_sim_program_slept(struct sim_vcpu *vcpu, uint64_t until_tsc);

int __wrap_sim_program_bind(struct sim_vcpu *vcpu, struct err *err)
{
	(void)err;
	vcpu->is_program_checked = true;
	return 0;
}

void __wrap_sim_program_slept(struct sim_vcpu *vcpu, uint64_t until_tsc)
{
	(void)vcpu;
	(void)until_tsc;
}

uint64_t __wrap_sim_program_step(struct sim_vcpu *vcpu)
{
	struct guest_cpu *cpu = cpu_of(vcpu);
	bool is_check_asked;

	if (!vcpu->vcpu.index && vcpu->regs.stage == SIM_WARM)
		sim_reg_set(&vcpu->regs.stage, SIM_WORK);
	if (vcpu->regs.stage == SIM_WORK && has_work(cpu))
		return work(vcpu, cpu);
	pthread_mutex_lock(&guest.mutex);
	is_check_asked = cpu->is_check_asked;
	pthread_mutex_unlock(&guest.mutex);
	if (vcpu->regs.stage == SIM_WORK && is_check_asked)
		guest_check(vcpu, cpu);
	if (vcpu->vcpu.index)
		read_mail(vcpu, cpu);
	return IDLE_NS;
}
