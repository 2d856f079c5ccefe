/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guests that write numbered stamps to pages drawn at random, and log in memory
 * of their own which page each stamp went to; and the copy of their memory that a
 * destination would have.  What a page of the copy must hold follows from the
 * guest's log alone.
 *
 * vCPU N writes word N of each data page.  Every @stride stamps it leaves for a
 * port, where it can be stopped, and where it waits when it is too far ahead of
 * a test that would have it go on meanwhile.
 */
#ifndef GODWIT_TEST_ACCEL_STAMP_GUEST_H
#define GODWIT_TEST_ACCEL_STAMP_GUEST_H

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/err.h"
#include "kvm_ring3.h"
#include "kvm_vm.h"
#include "mem/access.h"
#include "migrate/ram_send.h"

#define STAMP_MAX   (4u << 20) /* a vCPU, over its life */
#define STAMP_LOG   (16ull << 20)
#define STAMP_RAM   (STAMP_LOG + VM_CPUS * STAMP_MAX * 4ull)
#define STAMP_DATA  (1ull << 30) /* guest-physical, in a block of its own */
#define STAMP_PAGES 4096ull      /* a power of two */

/* In the program: from behind the first to the second a stamp is half written. */
#define STAMP_INC   0x19u
#define STAMP_STORE 0x24u

#define STAMP_STRIDE 50u
/* In visits to the port: a part of a round, so that whatever keeps the test from
 * running, the guest has not finished before it is logged, or between rounds. */
#define STAMP_LEAD 100

#define STAMP_WINDOW 1024ull /* pages that are cleared at once */

struct stamp_vcpu {
	struct stamp_guest *guest;
	unsigned int index;
	pthread_t thread;
	bool is_running;
	enum accel_exit exit;
	struct err err;
	uint64_t stamps, seed; /* so far */
};

struct stamp_guest {
	struct test_vm vm;
	struct ram_send send;
	struct mem_region *port;
	uint64_t pages, stride;
	bool is_spinning; /* at its last stamp, instead of leaving */
	sem_t exits;      /* one for each visit to the port */
	/* So many visits ahead of stamp_wait() at most; 0: any number. */
	int lead;
	bool is_last_sync; /* under way, for who watches it */
	sem_t may_go;
	struct stamp_vcpu vcpus[VM_CPUS];
	uint8_t *copy[2]; /* of each block, by index */
};

static uint64_t stamp_port_read(void *opaque, uint64_t offset,
				unsigned int size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

static void stamp_port_write(void *opaque, uint64_t offset, uint64_t value,
			     unsigned int size)
{
	struct stamp_guest *g = opaque;

	(void)offset;
	(void)value;
	(void)size;
	sem_post(&g->exits);
	while (g->lead && sem_wait(&g->may_go))
		assert_int_equal(errno, EINTR);
}

static const struct mem_io_ops stamp_port_ops = { .read = stamp_port_read,
						  .write = stamp_port_write };

/* @pages (a power of two) are written, and there is one more page behind them. */
static inline struct stamp_guest *stamp_new(const char *accel, uint64_t pages,
					    uint64_t stride)
{
	static const uint8_t program[] = {
		0x4c, 0x89, 0xd1,       /* again: mov rcx, r10  (stride) */
		0x4d, 0x39, 0xf1,       /* next: cmp r9, r14  (stamp, limit) */
		0x73, 0x27,             /* jae done */
		0x4d, 0x0f, 0xaf, 0xdc, /* imul r11, r12  (seed) */
		0x4d, 0x01, 0xeb,       /* add r11, r13 */
		0x4c, 0x89, 0xd8,       /* mov rax, r11 */
		0x48, 0xc1, 0xe8, 0x28, /* shr rax, 40 */
		0x48, 0x21, 0xd0,       /* and rax, rdx  (pages - 1) */
		0x49, 0xff, 0xc1,       /* inc r9 */
		0x43, 0x89, 0x04, 0x88, /* mov [r8 + r9 * 4], eax  (log) */
		0x48, 0xc1, 0xe0, 0x0c, /* shl rax, 12 */
		0x4c, 0x89, 0x0c, 0x03, /* mov [rbx + rax], r9  (data) */
		0x48, 0xff, 0xc9,       /* dec rcx */
		0x75, 0xd6,             /* jnz next */
		0xeb, 0x05,             /* jmp port */
		0x4d, 0x85, 0xff,       /* done: test r15, r15 */
		0x75, 0xcc,             /* jnz again */
		0xe6, 0x80,             /* port: out 0x80, al */
		0xeb, 0xc8,             /* jmp again */
	};
	struct stamp_guest *g = calloc(1, sizeof(*g));

	g->pages = pages;
	g->stride = stride;
	vm_init(&g->vm, STAMP_RAM, accel);
	vm_window_new(&g->vm, (pages + 1) * RAM_PAGE_SIZE);
	mem_region_add(g->vm.root, STAMP_DATA, g->vm.window, 0);
	g->port = mem_region_new_io(g->vm.mem, "port", 1, &stamp_port_ops, g);
	mem_region_add(g->vm.ports_root, 0x80, g->port, 0);
	sem_init(&g->exits, 0, 0);
	sem_init(&g->may_go, 0, 0);
	ring3_load(g->vm.block->host, program, sizeof(program));
	for (unsigned int i = 0; i < VM_CPUS; i++)
		g->vcpus[i] = (struct stamp_vcpu){ .guest = g,
						   .index = i,
						   .seed = i + 1 };
	/* What nobody sends is zero: a vCPU may not have come to write yet. */
	g->copy[g->vm.block->index] = calloc(1, g->vm.block->size);
	g->copy[g->vm.window_block->index] =
		calloc(1, g->vm.window_block->size);
	return g;
}

static inline void stamp_free(struct stamp_guest *g)
{
	ram_send_stop(&g->send, 0);
	mem_region_del(g->port);
	mem_region_put(g->port);
	vm_fini(&g->vm);
	sem_destroy(&g->exits);
	sem_destroy(&g->may_go);
	free(g->copy[0]);
	free(g->copy[1]);
	free(g);
}

/* ---- running ---- */

static void *stamp_thread(void *opaque)
{
	struct stamp_vcpu *v = opaque;
	struct accel_vcpu *vcpu = v->guest->vm.vcpus[v->index];

	v->exit = vcpu->ops->vcpu_run(vcpu, &v->err);
	return NULL;
}

/* Of an earlier start nothing counts. */
static inline void stamp_reset_visits(struct stamp_guest *g)
{
	sem_destroy(&g->exits);
	sem_destroy(&g->may_go);
	sem_init(&g->exits, 0, 0);
	sem_init(&g->may_go, 0, (unsigned int)g->lead);
}

/* Each vCPU writes @more stamps, unless it is stopped before. */
static inline void stamp_start(struct stamp_guest *g, uint64_t more)
{
	stamp_reset_visits(g);
	for (unsigned int i = 0; i < VM_CPUS; i++) {
		struct stamp_vcpu *v = &g->vcpus[i];
		const struct kvm_regs regs = {
			.rbx = STAMP_DATA + i * sizeof(uint64_t),
			.rdx = g->pages - 1,
			.r8 = STAMP_LOG + i * STAMP_MAX * 4ull,
			.r9 = v->stamps,
			.r10 = g->stride,
			.r11 = v->seed,
			.r12 = 6364136223846793005,
			.r13 = 1442695040888963407,
			.r14 = v->stamps + more,
			.r15 = g->is_spinning,
		};

		assert_true(v->stamps + more < STAMP_MAX);
		assert_int_equal(ring3_regs(vm_vcpu_fd(&g->vm, i), &regs), 0);
		g->vm.accel->ops->vcpu_unkick(g->vm.vcpus[i]);
		assert_int_equal(
			pthread_create(&v->thread, NULL, stamp_thread, v), 0);
		v->is_running = true;
	}
}

/* By its next exit, mostly at the port; but one that spins. */
static inline void stamp_stop(struct stamp_guest *g)
{
	for (unsigned int i = 0; i < VM_CPUS; i++)
		g->vm.accel->ops->vcpu_kick(g->vm.vcpus[i]);
	for (unsigned int i = 0; i < VM_CPUS; i++)
		sem_post(&g->may_go); /* who waits there sees the kick */
	for (unsigned int i = 0; i < VM_CPUS; i++) {
		struct stamp_vcpu *v = &g->vcpus[i];
		struct kvm_regs regs;

		if (!v->is_running)
			continue;
		if (g->is_spinning)
			pthread_kill(v->thread, ACCEL_KICK_SIGNAL);
		pthread_join(v->thread, NULL);
		v->is_running = false;
		if (v->exit != ACCEL_EXIT_KICKED)
			fail_msg("vCPU %u ended: %d, %s", i, v->exit,
				 err_msg(&v->err));
		assert_int_equal(
			ioctl(vm_vcpu_fd(&g->vm, i), KVM_GET_REGS, &regs), 0);
		/* Left for another reason, it sees the kick wherever it is. */
		v->stamps = regs.r9 - (regs.rip > GUEST_CODE + STAMP_INC &&
				       regs.rip <= GUEST_CODE + STAMP_STORE);
		v->seed = regs.r11;
	}
}

static inline const uint32_t *stamp_log(const struct stamp_guest *g,
					unsigned int vcpu)
{
	return (const uint32_t *)(g->vm.block->host + STAMP_LOG) +
	       vcpu * (size_t)STAMP_MAX;
}

/* How far the guest is, from outside: the first stamp not logged.  Page 0 is
 * logged as 0 too; a few of those in a row do not matter. */
static inline bool stamp_is_past(const struct stamp_guest *g, uint64_t stamp)
{
	for (unsigned int i = 0; i < VM_CPUS; i++) {
		const uint32_t *log = stamp_log(g, i) + stamp;
		uint32_t any = 0;

		for (int j = 0; j < 8; j++)
			any |= __atomic_load_n(&log[j], __ATOMIC_RELAXED);
		if (!any)
			return false;
	}
	return true;
}

/* Until the guest wrote about @stamps more, or has no more to write. */
static inline void stamp_wait(struct stamp_guest *g, uint64_t stamps)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 60;
	for (uint64_t i = 0; i < stamps / g->stride; i++) {
		if (sem_timedwait(&g->exits, &limit))
			fail_msg("the guest does not get on");
		sem_post(&g->may_go);
	}
}

/* ---- the copy ---- */

static inline void stamp_log_start(struct stamp_guest *g)
{
	struct err err = ERR_INIT;

	if (ram_send_start(&g->send, g->vm.mem, NULL, false, &err))
		fail_msg("%s", err_msg(&err));
	/* Of what came in a move that was given up nothing counts. */
	memset(g->copy[g->vm.window_block->index], 0xee,
	       g->vm.window_block->size);
}

/* In order: take, watch again, read (D1). */
static inline void stamp_send(struct stamp_guest *g)
{
	struct ram_block *block = NULL;

	while ((block = ram_block_next(g->vm.mem, block))) {
		uint8_t *copy = g->copy[block->index];

		for (uint64_t at = 0; at < block->pages; at += STAMP_WINDOW) {
			uint64_t count = block->pages - at, page = 0;
			uint64_t bits[STAMP_WINDOW / 64], any = 0;

			if (count > STAMP_WINDOW)
				count = STAMP_WINDOW;
			for (uint64_t w = 0; w < bitmap_words(count); w++) {
				bits[w] = bitmap_take_word_atomic(block->dirty,
								  at / 64 + w);
				any |= bits[w];
			}
			if (!any)
				continue;
			assert_int_equal(mem_log_clear(g->vm.mem, block, at,
						       count, bits, NULL),
					 0);
			while ((page = bitmap_next_set(bits, page, count)) <
			       count) {
				memcpy(copy + (at + page) * RAM_PAGE_SIZE,
				       block->host +
					       (at + page) * RAM_PAGE_SIZE,
				       RAM_PAGE_SIZE);
				page++;
			}
		}
	}
}

static inline void stamp_round(struct stamp_guest *g)
{
	ram_send_sync(&g->send, false);
	stamp_send(g);
}

/* How many data words of the copy lack the last stamp that the log has for them. */
static inline uint64_t stamp_count_lost(const struct stamp_guest *g)
{
	const uint8_t *copy = g->copy[g->vm.window_block->index];
	const uint8_t *log_copy = g->copy[g->vm.block->index] + STAMP_LOG;
	uint32_t *last = calloc(g->pages, sizeof(*last));
	uint64_t lost = 0;

	for (unsigned int i = 0; i < VM_CPUS; i++) {
		const uint32_t *log = stamp_log(g, i);
		uint64_t stamps = g->vcpus[i].stamps;

		lost += memcmp(log, log_copy + i * STAMP_MAX * 4ull,
			       (stamps + 1) * sizeof(*log)) != 0;
		memset(last, 0, g->pages * sizeof(*last));
		for (uint64_t s = 1; s <= stamps; s++)
			last[log[s]] = (uint32_t)s;
		for (uint64_t page = 0; page < g->pages; page++) {
			uint64_t word;

			memcpy(&word,
			       copy + page * RAM_PAGE_SIZE + i * sizeof(word),
			       sizeof(word));
			lost += last[page] && word != last[page];
		}
	}
	free(last);
	return lost;
}

/* ---- a move ---- */

/* A page of I/O behind the data: the slot with the data is taken away and comes
 * back as two, or the two as one.  The guest's writes meanwhile come to godwit,
 * which finds the memory. */
static inline void stamp_split(struct stamp_guest *g, struct mem_region *io,
			       bool is_on)
{
	if (is_on)
		mem_region_add(g->vm.root,
			       STAMP_DATA + g->pages * RAM_PAGE_SIZE, io, 1);
	else
		mem_region_del(io);
}

/* Of @a_round stamps each; with @io, memory goes and returns meanwhile. */
static inline void stamp_rounds_until(struct stamp_guest *g,
				      struct mem_region *io, uint64_t stamp,
				      uint64_t a_round)
{
	bool is_split = false;

	for (int i = 0; !stamp_is_past(g, stamp); i++) {
		stamp_wait(g, a_round);
		stamp_round(g);
		if (io && i % 3 == 0) {
			is_split = !is_split;
			stamp_split(g, io, is_split);
		}
	}
	if (is_split)
		stamp_split(g, io, false);
}

/* What a switch does: stop, last sync, send. */
static inline uint64_t stamp_switch_and_count(struct stamp_guest *g)
{
	stamp_stop(g);
	g->is_last_sync = true;
	ram_send_sync(&g->send, true);
	g->is_last_sync = false;
	stamp_send(g);
	ram_send_stop(&g->send, 0);
	return stamp_count_lost(g);
}

#endif
