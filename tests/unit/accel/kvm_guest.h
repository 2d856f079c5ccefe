/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM (kvm_vm.h) with a guest that writes, and the copy of its memory that a
 * destination would have: for tests of dirty logging on real KVM.
 */
#ifndef GODWIT_TEST_ACCEL_KVM_GUEST_H
#define GODWIT_TEST_ACCEL_KVM_GUEST_H

#include <cmocka.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "kvm_ring3.h"
#include "kvm_vm.h"
#include "mem/access.h"
#include "migrate/ram_send.h"

#define PAGE     RAM_PAGE_SIZE
#define MIB      (1ull << 20)
#define GIB      (1ull << 30)
#define RAM_SIZE (16 * MIB)

struct fixture {
	struct test_vm vm;
	struct ram_send send;
	uint8_t *copy[2]; /* of each block, by index */

	struct mem_region *port;
	sem_t pass; /* the guest has written all its pages once more */
	pthread_t thread;
	enum accel_exit exit;
	struct err err;
};

/* All of the RAM is resident afterwards. */
static inline void guest_load(struct fixture *f)
{
	static const uint8_t program[] = {
		0x48, 0x89, 0xdf, /* again: mov rdi, rbx  (first address) */
		0x48, 0x89, 0xd1, /* mov rcx, rdx  (pages) */
		0x48, 0xff, 0x07, /* next: inc qword [rdi] */
		0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, /* add rdi, 4096 */
		0x48, 0xff, 0xc9,                         /* dec rcx */
		0x75, 0xf1,                               /* jnz next */
		0xe6, 0x80,                               /* out 0x80, al */
		0xeb, 0xe7,                               /* jmp again */
	};

	memset(f->vm.block->host, 0, RAM_SIZE);
	ring3_load(f->vm.block->host, program, sizeof(program));
}

static inline uint64_t port_read(void *opaque, uint64_t offset,
				 unsigned int size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

static inline void port_write(void *opaque, uint64_t offset, uint64_t value,
			      unsigned int size)
{
	struct fixture *f = opaque;

	(void)offset;
	(void)value;
	(void)size;
	sem_post(&f->pass);
}

static const struct mem_io_ops port_ops = { .read = port_read,
					    .write = port_write };

static inline struct fixture *fixture_new(const char *accel)
{
	struct fixture *f = calloc(1, sizeof(*f));

	vm_init(&f->vm, RAM_SIZE, accel);
	f->port = mem_region_new_io(f->vm.mem, "port", 1, &port_ops, f);
	mem_region_add(f->vm.ports_root, 0x80, f->port, 0);
	sem_init(&f->pass, 0, 0);
	guest_load(f);
	return f;
}

static inline void fixture_free(struct fixture *f)
{
	ram_send_stop(&f->send, 0);
	mem_region_del(f->port);
	mem_region_put(f->port);
	vm_fini(&f->vm);
	sem_destroy(&f->pass);
	free(f->copy[0]);
	free(f->copy[1]);
	free(f);
}

static inline void *guest_thread(void *opaque)
{
	struct fixture *f = opaque;
	struct accel_vcpu *vcpu = f->vm.vcpus[0];

	f->exit = vcpu->ops->vcpu_run(vcpu, &f->err);
	sem_post(&f->pass);
	return NULL;
}

static inline void guest_wait_pass(struct fixture *f)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 60;
	while (sem_trywait(&f->pass) == 0)
		;
	/* The first may have begun before the call. */
	for (int i = 0; i < 2; i++) {
		if (sem_timedwait(&f->pass, &limit))
			fail_msg("the guest does not get on");
	}
}

/* It adds 1 to the first word of each of @pages pages, over and over. */
static inline void guest_start(struct fixture *f, uint64_t gpa, uint64_t pages)
{
	const struct kvm_regs regs = { .rbx = gpa, .rdx = pages };

	assert_int_equal(ring3_regs(vm_vcpu_fd(&f->vm, 0), &regs), 0);
	f->vm.vcpus[0]->ops->vcpu_unkick(f->vm.vcpus[0]);
	assert_int_equal(pthread_create(&f->thread, NULL, guest_thread, f), 0);
}

static inline void guest_stop(struct fixture *f)
{
	/* It leaves for its port after every pass and sees the kick then. */
	f->vm.vcpus[0]->ops->vcpu_kick(f->vm.vcpus[0]);
	pthread_join(f->thread, NULL);
	if (f->exit != ACCEL_EXIT_KICKED)
		fail_msg("the guest ended: %d, %s", f->exit, err_msg(&f->err));
}

static inline void guest_write(struct fixture *f, uint64_t gpa, uint64_t pages)
{
	guest_start(f, gpa, pages);
	guest_wait_pass(f);
	guest_stop(f);
}

/* Send what is dirty, in order: take, watch again, read (D1). */
static inline uint64_t send_dirty(struct fixture *f)
{
	struct ram_block *block = NULL;
	uint64_t sent = 0;

	while ((block = ram_block_next(f->vm.mem, block))) {
		uint8_t **copy = &f->copy[block->index];

		if (!*copy)
			*copy = calloc(1, block->size);
		for (uint64_t w = 0; w < bitmap_words(block->pages); w++) {
			uint64_t bits =
				bitmap_take_word_atomic(block->dirty, w);
			uint64_t at = w * 64, page = 0;
			uint64_t count = block->pages - at;

			if (!bits)
				continue;
			assert_int_equal(mem_log_clear(f->vm.mem, block, at,
						       count < 64 ? count : 64,
						       &bits, NULL),
					 0);
			while ((page = bitmap_next_set(&bits, page, 64)) < 64) {
				memcpy(*copy + (at + page) * PAGE,
				       block->host + (at + page) * PAGE, PAGE);
				page++;
				sent++;
			}
		}
	}
	return sent;
}

static inline void log_start(struct fixture *f)
{
	struct err err = ERR_INIT;

	if (ram_send_start(&f->send, f->vm.mem, NULL, false, &err))
		fail_msg("%s", err_msg(&err));
}

static inline uint64_t round_of(struct fixture *f)
{
	ram_send_sync(&f->send, false);
	return send_dirty(f);
}

static inline void assert_copy_is_whole(struct fixture *f)
{
	struct ram_block *block = NULL;

	while ((block = ram_block_next(f->vm.mem, block))) {
		for (uint64_t page = 0; page < block->pages; page++) {
			if (memcmp(f->copy[block->index] + page * PAGE,
				   block->host + page * PAGE, PAGE))
				fail_msg("page %lu of %s was lost", page,
					 block->name);
		}
	}
}

/* Of the pages in @f's RAM behind the guest's own tables. */
static inline void assert_dirty_data(struct fixture *f, uint64_t gpa,
				     uint64_t pages)
{
	const uint64_t *dirty = f->vm.block->dirty;
	uint64_t first = gpa / PAGE;

	assert_int_equal(
		bitmap_next_set(dirty, GUEST_DATA / PAGE, f->vm.block->pages),
		pages ? first : f->vm.block->pages);
	assert_int_equal(bitmap_count(dirty, first, first + pages), pages);
	assert_int_equal(
		bitmap_count(dirty, GUEST_DATA / PAGE, f->vm.block->pages),
		pages);
}

#endif
