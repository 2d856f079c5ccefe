// SPDX-License-Identifier: Apache-2.0
/*
 * Dirty rings on real KVM: options and kernels, full rings, what a ring may name,
 * resets that stop early, and processors that keep a log of their own (PML).
 *
 * The program is linked with --wrap=ioctl and --wrap=mmap.  A test may put a
 * processor's log in front of the rings: godwit then maps a ring of the test's,
 * which entries of the kernel's reach only when their vCPU leaves the guest.
 */
#include <cmocka.h>
#include <errno.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "stamp_guest.h"

#define RING_MIN             256u
#define RING_DEFAULT         4096
#define REFILLED_ENTRIES     65536u
#define CAP_RING_WITH_BITMAP 225 /* KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP */

/* ---- the kernel, from outside ---- */

struct log_ring {
	int vcpu_fd;
	struct kvm_dirty_gfn *kernel, *shown;
	size_t size;              /* bytes of each */
	uint32_t moved, given_up; /* to @shown; back to @kernel */
};

static struct {
	/* What the kernel says it has; 0: what it has. */
	int ring_max; /* -1: no rings */
	bool is_acq_rel_missing;
	bool has_backup_bitmap, is_backup_bitmap_on;
	bool refuses_rings;

	bool has_processor_log;
	struct log_ring logs[VM_CPUS];
	unsigned int log_count;
	pthread_mutex_t log_lock;

	/* KVM_RESET_DIRTY_RINGS, once each: is stopped in the middle */
	struct kv *forgetful;
	int owed;               /* entries, of which the next call tells */
	int interrupted_resets; /* says EINTR, or does nothing: no progress */
	unsigned int resets,
		open_resets; /* the latter: with a kick let through */
	bool resets_fail;
	/* Says that it has reset all, while this vCPU has filled its ring. */
	struct kv_vcpu *refilled;
	uint32_t refill_at;
	bool is_slow; /* until the reaper is to end */
	sem_t in_reset, may_reset;

	pthread_barrier_t *when_full; /* all vCPUs wait for each other there */
	unsigned int full_exits;
	uint64_t backup_page; /* of slot 0, told by KVM_GET_DIRTY_LOG */
	unsigned int relogs;  /* memslots whose logging went off */
	unsigned int gets;
	uint64_t protect_flags;
} kernel = { .log_lock = PTHREAD_MUTEX_INITIALIZER };

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
void *__real_mmap64(void *addr, size_t size, int prot, int flags, int fd,
		    off_t offset);
void *__wrap_mmap64(void *addr, size_t size, int prot, int flags, int fd,
		    off_t offset);
void __real_kv_vcpus_flush(struct kv *kv);
void __wrap_kv_vcpus_flush(struct kv *kv);
int __real_pthread_join(pthread_t thread, void **ret_value);
int __wrap_pthread_join(pthread_t thread, void **ret_value);
int __real_lock_wait_until(struct lock *lock, pthread_cond_t *cond,
			   uint64_t until_ns);
int __wrap_lock_wait_until(struct lock *lock, pthread_cond_t *cond,
			   uint64_t until_ns);

void *__wrap_mmap64(void *addr, size_t size, int prot, int flags, int fd,
		    off_t offset)
{
	void *real = __real_mmap64(addr, size, prot, flags, fd, offset);
	struct log_ring *log = &kernel.logs[kernel.log_count];

	if (!kernel.has_processor_log || fd < 0 ||
	    offset != KVM_DIRTY_LOG_PAGE_OFFSET * 4096)
		return real;
	*log = (struct log_ring){ .vcpu_fd = fd, .kernel = real, .size = size };
	log->shown = __real_mmap64(NULL, size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	kernel.log_count++;
	return log->shown;
}

static struct kvm_dirty_gfn *log_entry(const struct log_ring *log,
				       struct kvm_dirty_gfn *entries,
				       uint32_t index)
{
	return &entries[index & (log->size / sizeof(*entries) - 1)];
}

/* The vCPU left the guest: its processor's log goes to the ring. */
static void log_flush(int vcpu_fd)
{
	pthread_mutex_lock(&kernel.log_lock);
	for (unsigned int i = 0; i < kernel.log_count; i++) {
		struct log_ring *log = &kernel.logs[i];

		while (log->vcpu_fd == vcpu_fd) {
			struct kvm_dirty_gfn *from =
				log_entry(log, log->kernel, log->moved);
			struct kvm_dirty_gfn *to =
				log_entry(log, log->shown, log->moved);

			if (__atomic_load_n(&from->flags, __ATOMIC_ACQUIRE) !=
				    KVM_DIRTY_GFN_F_DIRTY ||
			    __atomic_load_n(&to->flags, __ATOMIC_ACQUIRE))
				break;
			to->slot = from->slot;
			to->offset = from->offset;
			__atomic_store_n(&to->flags, KVM_DIRTY_GFN_F_DIRTY,
					 __ATOMIC_RELEASE);
			log->moved++;
		}
	}
	pthread_mutex_unlock(&kernel.log_lock);
}

/* Entries that godwit collected are collected from the kernel's rings. */
static int log_reset(int vm_fd)
{
	uint32_t from[VM_CPUS];
	int ret;

	pthread_mutex_lock(&kernel.log_lock);
	for (unsigned int i = 0; i < kernel.log_count; i++) {
		struct log_ring *log = &kernel.logs[i];

		from[i] = log->given_up;
		while (__atomic_load_n(
			       &log_entry(log, log->shown, log->given_up)
					->flags,
			       __ATOMIC_ACQUIRE) == KVM_DIRTY_GFN_F_RESET) {
			__atomic_store_n(
				&log_entry(log, log->kernel, log->given_up)
					 ->flags,
				KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
			/* Its slot is free again after the reset. */
			log_entry(log, log->shown, log->given_up)->flags = 3;
			log->given_up++;
		}
	}
	ret = __real_ioctl(vm_fd, KVM_RESET_DIRTY_RINGS, NULL);
	for (unsigned int i = 0; i < kernel.log_count; i++) {
		struct log_ring *log = &kernel.logs[i];

		for (uint32_t at = from[i]; at != log->given_up; at++)
			__atomic_store_n(&log_entry(log, log->shown, at)->flags,
					 0, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&kernel.log_lock);
	return ret;
}

static int check_extension(int fd, uintptr_t cap)
{
	if ((cap == KVM_CAP_DIRTY_LOG_RING ||
	     cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL) &&
	    kernel.ring_max)
		return kernel.ring_max < 0 ? 0 : kernel.ring_max;
	if (cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL && kernel.is_acq_rel_missing)
		return 0;
	if (cap == CAP_RING_WITH_BITMAP && kernel.has_backup_bitmap)
		return 1;
	return __real_ioctl(fd, KVM_CHECK_EXTENSION, (void *)cap);
}

static int enable_cap(int fd, struct kvm_enable_cap *cap)
{
	if (cap->cap == CAP_RING_WITH_BITMAP && kernel.has_backup_bitmap) {
		kernel.is_backup_bitmap_on = true;
		return 0;
	}
	if (cap->cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL &&
	    kernel.refuses_rings) {
		errno = EINVAL;
		return -1;
	}
	if (cap->cap == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)
		kernel.protect_flags = cap->args[0];
	return __real_ioctl(fd, KVM_ENABLE_CAP, cap);
}

/* One page, in each entry that was collected since the last time. */
static void refill(const struct kv_vcpu *vcpu)
{
	for (uint32_t i = 0; i < REFILLED_ENTRIES; i++) {
		struct kvm_dirty_gfn *entry =
			&vcpu->ring
				 .entries[kernel.refill_at % REFILLED_ENTRIES];

		if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) ==
		    KVM_DIRTY_GFN_F_DIRTY)
			return;
		entry->slot = 1;
		entry->offset = 5;
		__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_DIRTY,
				 __ATOMIC_RELEASE);
		kernel.refill_at++;
	}
}

static unsigned int unreset_entries(const struct kv *kv)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < VM_CPUS; i++) {
		const struct kvm_dirty_gfn *entry = kv->vcpus[i]->ring.entries;

		for (int j = 0; j < RING_DEFAULT; j++)
			count += entry[j].flags == KVM_DIRTY_GFN_F_RESET;
	}
	return count;
}

/* Of a vCPU's entries that are to be reset @most become nobody's. */
static int forget(const struct kv_vcpu *vcpu, int most)
{
	struct kvm_dirty_gfn *entry = vcpu->ring.entries;
	int forgotten = 0;

	for (int i = 0; i < RING_DEFAULT && forgotten < most; i++) {
		if (entry[i].flags != KVM_DIRTY_GFN_F_RESET)
			continue;
		entry[i].slot = UINT16_MAX;
		forgotten++;
	}
	return forgotten;
}

/* As Linux for a signal: what it has gathered by then stays writable, but counts as
 * reset.  The next call finds the rest. */
static int reset_forgetfully(int fd, struct kv *kv)
{
	int forgotten = 0, ret;

	for (unsigned int i = 0; i < VM_CPUS && !forgotten; i++)
		forgotten = forget(kv->vcpus[i], 64);
	ret = __real_ioctl(fd, KVM_RESET_DIRTY_RINGS, NULL);
	if (ret > forgotten)
		kernel.owed = ret - forgotten;
	else
		kernel.owed = 1;
	return ret - kernel.owed;
}

static int reset_rings(int fd)
{
	struct kv *forgetful;
	int left =
		__atomic_load_n(&kernel.interrupted_resets, __ATOMIC_RELAXED);
	sigset_t blocked;

	pthread_sigmask(SIG_SETMASK, NULL, &blocked);
	__atomic_add_fetch(&kernel.resets, 1, __ATOMIC_RELAXED);
	if (!sigismember(&blocked, ACCEL_KICK_SIGNAL))
		__atomic_add_fetch(&kernel.open_resets, 1, __ATOMIC_RELAXED);
	if (__atomic_load_n(&kernel.resets_fail, __ATOMIC_RELAXED)) {
		errno = EIO;
		return -1;
	}
	if (__atomic_load_n(&kernel.is_slow, __ATOMIC_ACQUIRE)) {
		sem_post(&kernel.in_reset);
		sem_wait(&kernel.may_reset);
	}
	if (kernel.refilled) {
		refill(kernel.refilled);
		return INT32_MAX;
	}
	if (left > 0) {
		__atomic_store_n(&kernel.interrupted_resets, left - 1,
				 __ATOMIC_RELAXED);
		errno = EINTR;
		return left % 2 ? -1 : 0;
	}
	if (kernel.owed) {
		left = kernel.owed;
		kernel.owed = 0;
		return left;
	}
	forgetful =
		__atomic_exchange_n(&kernel.forgetful, NULL, __ATOMIC_ACQ_REL);
	if (forgetful && unreset_entries(forgetful) > 1)
		return reset_forgetfully(fd, forgetful);
	if (forgetful) /* it would not show */
		__atomic_store_n(&kernel.forgetful, forgetful,
				 __ATOMIC_RELEASE);
	return kernel.log_count ? log_reset(fd)
				: __real_ioctl(fd, KVM_RESET_DIRTY_RINGS, NULL);
}

static int run_vcpu(int fd)
{
	int ret = __real_ioctl(fd, KVM_RUN, NULL);
	pthread_barrier_t *barrier;
	struct kvm_run *run;

	if (kernel.has_processor_log)
		log_flush(fd);
	barrier = __atomic_load_n(&kernel.when_full, __ATOMIC_ACQUIRE);
	if (ret || !barrier)
		return ret;
	run = __real_mmap64(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (run->exit_reason == KVM_EXIT_DIRTY_RING_FULL) {
		__atomic_add_fetch(&kernel.full_exits, 1, __ATOMIC_RELAXED);
		pthread_barrier_wait(barrier);
	}
	munmap(run, 4096);
	return ret;
}

static int get_dirty_log(int fd, struct kvm_dirty_log *log)
{
	uint64_t *bits = log->dirty_bitmap;

	kernel.gets++;
	if (!kernel.is_backup_bitmap_on)
		return __real_ioctl(fd, KVM_GET_DIRTY_LOG, log);
	memset(bits, 0, STAMP_RAM / RAM_PAGE_SIZE / 8);
	if (log->slot == 0)
		bitmap_set(bits, kernel.backup_page, 1);
	return 0;
}

static int set_slot(int fd, const struct kvm_userspace_memory_region *region)
{
	if (region->memory_size && !(region->flags & KVM_MEM_LOG_DIRTY_PAGES))
		__atomic_fetch_add(&kernel.relogs, 1, __ATOMIC_RELAXED);
	return __real_ioctl(fd, KVM_SET_USER_MEMORY_REGION, (void *)region);
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	switch (request) {
	case KVM_SET_USER_MEMORY_REGION:
		return set_slot(fd, arg);
	case KVM_CHECK_EXTENSION:
		return check_extension(fd, (uintptr_t)arg);
	case KVM_ENABLE_CAP:
		return enable_cap(fd, arg);
	case KVM_RESET_DIRTY_RINGS:
		return reset_rings(fd);
	case KVM_RUN:
		return run_vcpu(fd);
	case KVM_GET_DIRTY_LOG:
		return get_dirty_log(fd, arg);
	default:
		return __real_ioctl(fd, request, arg);
	}
}

static bool has_no_flush;

void __wrap_kv_vcpus_flush(struct kv *kv)
{
	if (!has_no_flush)
		__real_kv_vcpus_flush(kv);
}

/* Whoever joins the reaper has told it to end. */
int __wrap_pthread_join(pthread_t thread, void **ret_value)
{
	if (__atomic_exchange_n(&kernel.is_slow, false, __ATOMIC_ACQ_REL))
		sem_post(&kernel.may_reset);
	return __real_pthread_join(thread, ret_value);
}

/* Pauses of the reaper, the one at work first: here it alone waits for a time. */
static struct {
	uint64_t ns[2];
	unsigned int count;
	sem_t both;
} pauses;

int __wrap_lock_wait_until(struct lock *lock, pthread_cond_t *cond,
			   uint64_t until_ns)
{
	if (pauses.count < array_size(pauses.ns)) {
		pauses.ns[pauses.count++] = until_ns - clock_mono_ns();
		if (pauses.count == array_size(pauses.ns))
			sem_post(&pauses.both);
	}
	return __real_lock_wait_until(lock, cond, until_ns);
}

static int setup(void **state)
{
	(void)state;
	memset(&kernel, 0, sizeof(kernel));
	pthread_mutex_init(&kernel.log_lock, NULL);
	sem_init(&kernel.in_reset, 0, 0);
	sem_init(&kernel.may_reset, 0, 0);
	has_no_flush = false;
	return 0;
}

/* ---- kernels and numbers ---- */

/* Make a VM as --accel @text says: 0, or the error that @reason is part of. */
static int try_vm(const char *text, const char *reason, bool *ret_has_rings)
{
	struct mem *mem = mem_new();
	struct mem_region *root =
		mem_region_new_container(mem, "root", MEM_SIZE_2_64);
	struct mem_region *ports_root =
		mem_region_new_container(mem, "ports", 0x10000);
	struct state_registry setup_state, registry;
	struct accel_config config = {
		.cpus = 1,
		.memory = addr_space_new(mem, "memory", root),
		.ports = addr_space_new(mem, "ports", ports_root),
		.setup_state = &setup_state,
		.state = &registry,
	};
	struct accel *accel = NULL;
	struct accel_ring_stats stats;
	struct err err = ERR_INIT;
	int ret;

	state_registry_init(&setup_state);
	state_registry_init(&registry);
	assert_int_equal(accel_options_parse(text, &config.options, NULL), 0);
	ret = accel_new(&config, &accel, &err);
	if (ret && !strstr(err_msg(&err), reason))
		fail_msg("'%s' has no '%s'", err_msg(&err), reason);
	assert_true(!strchr(err_msg(&err), '\n'));
	if (!ret)
		*ret_has_rings = accel->ops->ring_stats(accel, &stats);
	accel_free(accel);
	addr_space_free(config.memory);
	addr_space_free(config.ports);
	mem_region_put(root);
	mem_region_put(ports_root);
	mem_synchronize(mem);
	mem_free(mem);
	return ret;
}

static void test_rings_are_made_only_when_asked_for(void **state)
{
	bool has_rings;

	(void)state;
	assert_int_equal(try_vm("kvm", "", &has_rings), 0);
	assert_false(has_rings);
	kernel.protect_flags = 0;
	assert_int_equal(try_vm("kvm,dirty=ring", "", &has_rings), 0);
	assert_true(has_rings);
	assert_int_equal(try_vm("kvm,dirty=ring-or-bitmap", "", &has_rings), 0);
	assert_true(has_rings);
	/* With INITIALLY_SET nothing would be protected. */
	assert_int_equal(kernel.protect_flags, 0);
}

static void test_kernels_that_know_the_older_name_have_rings(void **state)
{
	bool has_rings = false;

	(void)state;
	kernel.is_acq_rel_missing = true;
	assert_int_equal(try_vm("kvm,dirty=ring", "", &has_rings), 0);
	assert_true(has_rings);
}

static void test_kernel_without_rings_falls_back_only_if_asked_to(void **state)
{
	bool has_rings = true;

	(void)state;
	kernel.ring_max = -1;
	assert_int_equal(try_vm("kvm,dirty=ring",
				"use dirty=bitmap, or "
				"dirty=ring-or-bitmap",
				&has_rings),
			 -ENOTSUP);
	assert_int_equal(try_vm("kvm,dirty=ring-or-bitmap,ring-entries=1024",
				"", &has_rings),
			 0);
	assert_false(has_rings);
	assert_int_not_equal(kernel.protect_flags, 0);
}

static void test_ring_sizes_that_the_kernel_lacks_are_refused(void **state)
{
	bool has_rings;

	(void)state;
	assert_int_equal(
		try_vm("kvm,dirty=ring,ring-entries=256", "", &has_rings), 0);
	assert_int_equal(try_vm("kvm,dirty=ring,ring-entries=128",
				"ring-entries=128; this KVM takes 256 to 65536",
				&has_rings),
			 -ERANGE);
	assert_int_equal(try_vm("kvm,dirty=ring,ring-entries=131072",
				"ring-entries=131072; this KVM takes 256 to ",
				&has_rings),
			 -ERANGE);
	/* Its size in bytes is past 32 bits. */
	assert_int_equal(try_vm("kvm,dirty=ring,ring-entries=2147483648",
				"this KVM takes", &has_rings),
			 -ERANGE);
	/* A wrong number is no reason to fall back. */
	assert_int_equal(try_vm("kvm,dirty=ring-or-bitmap,ring-entries=1",
				"this KVM takes", &has_rings),
			 -ERANGE);
	kernel.ring_max = 4096 * sizeof(struct kvm_dirty_gfn);
	assert_int_equal(try_vm("kvm,dirty=ring,ring-entries=8192",
				"this KVM takes 256 to 4096", &has_rings),
			 -ERANGE);
	kernel.ring_max = 0;
	kernel.refuses_rings = true;
	assert_int_equal(try_vm("kvm,dirty=ring,ring-entries=256",
				"use 1024 or more", &has_rings),
			 -EINVAL);
}

/* ---- writers ---- */

static struct stamp_guest *begin(const char *accel, uint64_t pages,
				 uint64_t stride, uint64_t stamps)
{
	struct stamp_guest *g = stamp_new(accel, pages, stride);

	stamp_start(g, stamps);
	stamp_log_start(g);
	return g;
}

/* Stop, last sync, send, compare; the logging ends. */
static void assert_none_lost(struct stamp_guest *g)
{
	stamp_stop(g);
	ram_send_sync(&g->send, true);
	stamp_send(g);
	ram_send_stop(&g->send, 0);
	assert_int_equal(stamp_count_lost(g), 0);
}

static struct accel_ring_stats stats_of(const struct stamp_guest *g)
{
	struct accel_ring_stats stats;

	assert_true(g->vm.accel->ops->ring_stats(g->vm.accel, &stats));
	return stats;
}

#define STARTS_MAX 20

/* Another start while no ring was full: on a busy machine the reaper can be ahead of
 * slow writers. */
static void write_until_full(struct stamp_guest *g)
{
	for (int i = 0; i < STARTS_MAX && !stats_of(g).full_exits; i++) {
		uint64_t least = STAMP_MAX;

		stamp_stop(g);
		for (unsigned int j = 0; j < VM_CPUS; j++) {
			if (g->vcpus[j].stamps < least)
				least = g->vcpus[j].stamps;
		}
		stamp_start(g, 100000);
		while (!stats_of(g).full_exits &&
		       !stamp_is_past(g, least + 100000 - 8))
			stamp_round(g);
	}
	if (!stats_of(g).full_exits)
		fail_msg("no ring was ever full");
}

/* It leaves the guest for nothing but full rings. */
static void test_smallest_rings_under_the_heaviest_writers(void **state)
{
	struct stamp_guest *g =
		stamp_new("kvm,dirty=ring,ring-entries=256", 16384, 1000000);

	(void)state;
	memset(g->vm.window_block->host, 0, g->vm.window_block->size);
	stamp_log_start(g);
	stamp_round(g);
	stamp_start(g, 100000);
	for (uint64_t stamp = 9000; stamp < 100000; stamp += 10000) {
		while (!stamp_is_past(g, stamp))
			sched_yield();
		stamp_round(g);
	}
	write_until_full(g);
	assert_none_lost(g);
	/* More often than not by full exits, if the reaper is not faster. */
	assert_true(stats_of(g).entries > 16000);
	assert_int_equal(stats_of(g).strays, 0);
	stamp_free(g);
}

static void test_rings_that_are_full_all_at_once(void **state)
{
	pthread_barrier_t barrier;
	struct stamp_guest *g;

	(void)state;
	pthread_barrier_init(&barrier, NULL, VM_CPUS);
	g = stamp_new("kvm,dirty=ring,ring-entries=256", 4096, 1000000);
	memset(g->vm.window_block->host, 0, g->vm.window_block->size);
	stamp_log_start(g);
	stamp_round(g);
	__atomic_store_n(&kernel.when_full, &barrier, __ATOMIC_RELEASE);
	/* Each is full at least once in that many, and then no more: the other
	 * would wait for ever. */
	stamp_start(g, 300);
	stamp_wait(g, 1000000);
	__atomic_store_n(&kernel.when_full, NULL, __ATOMIC_RELEASE);
	assert_none_lost(g);
	assert_int_equal(kernel.full_exits, VM_CPUS);
	stamp_free(g);
	pthread_barrier_destroy(&barrier);
}

/* A few pages, written again and again while they are protected again. */
static void test_resets_race_with_writers(void **state)
{
	struct stamp_guest *g = stamp_new("kvm,dirty=ring", 16, 100);

	(void)state;
	g->lead = 100; /* it does not finish before the test has begun */
	stamp_start(g, STAMP_MAX / 2);
	stamp_log_start(g);
	while (stats_of(g).entries < 5000) {
		stamp_wait(g, 1000);
		stamp_round(g);
	}
	assert_none_lost(g);
	stamp_free(g);
}

static void test_resets_that_stop_early_are_finished(void **state)
{
	struct stamp_guest *g =
		begin("kvm,dirty=ring", STAMP_PAGES, 100, STAMP_MAX / 2);

	(void)state;
	for (int i = 0; i < 50; i++) {
		__atomic_store_n(&kernel.interrupted_resets, i % 8,
				 __ATOMIC_RELAXED);
		stamp_wait(g, 1000);
		stamp_round(g);
	}
	assert_none_lost(g);
	stamp_free(g);
}

/* SIGSTOP, the freezer, a debugger: nothing that a thread could block. */
static void test_resets_that_are_stopped_lose_nothing(void **state)
{
	struct stamp_guest *g = stamp_new("kvm,dirty=ring", STAMP_PAGES, 100);
	unsigned int relogs = kernel.relogs;

	(void)state;
	g->lead = 100; /* it is never done before the test is */
	stamp_start(g, STAMP_MAX / 4);
	stamp_log_start(g);
	for (int i = 0; i < 50; i++) {
		if (i % 5 == 3)
			__atomic_store_n(&kernel.forgetful, g->vm.kv,
					 __ATOMIC_RELEASE);
		stamp_wait(g, 2000);
		stamp_round(g);
	}
	assert_true(kernel.relogs > relogs);
	/* Once more before the last sync of a move that then fails; the logging
	 * stays on until the next. */
	__atomic_store_n(&kernel.forgetful, g->vm.kv, __ATOMIC_RELEASE);
	stamp_wait(g, 2000);
	mem_log_sync(g->vm.mem, false);
	stamp_stop(g);
	ram_send_sync(&g->send, true);
	stamp_send(g);
	ram_send_stop(&g->send, 60 * NS_PER_SEC);
	assert_int_equal(stamp_count_lost(g), 0);
	stamp_start(g, 100000);
	stamp_log_start(g);
	for (int i = 0; i < 10; i++) {
		stamp_wait(g, 2000);
		stamp_round(g);
	}
	assert_none_lost(g);
	stamp_free(g);
}

/* Linux forgets what it gathered in a reset that a signal stops: 513 pages of the
 * built-in guest were lost when a vCPU that made room in its ring was kicked. */
static void test_no_signal_stops_a_reset(void **state)
{
	struct stamp_guest *g =
		stamp_new("kvm,dirty=ring,ring-entries=256", 16384, 1000000);

	(void)state;
	memset(g->vm.window_block->host, 0, g->vm.window_block->size);
	stamp_log_start(g);
	stamp_round(g);
	write_until_full(g); /* on vCPU threads too */
	assert_none_lost(g);
	assert_true(kernel.resets > 0);
	assert_int_equal(kernel.open_resets, 0);
	stamp_free(g);
}

/* The guest's first @stamps or so, to pages that are known and clean until then. */
static void write_known(struct stamp_guest *g, uint64_t stamps)
{
	memset(g->vm.window_block->host, 0, g->vm.window_block->size);
	stamp_log_start(g);
	stamp_round(g);
	stamp_start(g, stamps);
	while (!stamp_is_past(g, stamps - 8))
		sched_yield();
}

/* The reaper's pause once it has been at work. */
static uint64_t await_pause(void)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 20;
	if (sem_timedwait(&pauses.both, &limit))
		fail_msg("the reaper does not come, or does not pause");
	return pauses.ns[1];
}

/* A sync finds what @stamps left in the rings of each vCPU; the entries, and how long the
 * reaper pauses when it has heard of them. */
static uint64_t reaper_pause(uint64_t stamps, uint64_t *ret_entries)
{
	struct stamp_guest *g = stamp_new("kvm,dirty=ring,ring-entries=65536",
					  STAMP_PAGES, 1000000);
	uint64_t pause_ns;

	pauses.count = 0;
	sem_init(&pauses.both, 0, 0);
	write_known(g, stamps);
	stamp_stop(g);
	kernel.resets = 0;
	ram_send_sync(&g->send, false);
	*ret_entries = stats_of(g).entries;
	pause_ns = await_pause();
	stamp_free(g);
	sem_destroy(&pauses.both);
	return pause_ns;
}

static void test_many_entries_are_reset_at_once(void **state)
{
	uint64_t entries;

	(void)state;
	reaper_pause(1500, &entries);
	assert_in_range(entries, 1500, 4096); /* a batch has room for them */
	assert_int_equal(kernel.resets, 1);
}

/* Dozens of times as many, after a millisecond or little more each time. */
static void test_reaper_comes_sooner_the_faster_rings_fill(void **state)
{
	uint64_t slow_ns, fast_ns, entries;

	(void)state;
	slow_ns = reaper_pause(16, &entries);
	assert_in_range(entries, 2 * 8, 2 * 20);
	fast_ns = reaper_pause(1500, &entries);
	assert_in_range(fast_ns, 1, slow_ns / 4);
}

/* Nothing is known of the pages that were not protected again: all are sent. */
static void test_resets_that_fail_lose_nothing(void **state)
{
	struct stamp_guest *g = begin("kvm,dirty=ring,ring-entries=65536",
				      STAMP_PAGES, 100, 60000 / VM_CPUS);

	(void)state;
	stamp_round(g);
	for (int i = 0; i < 20; i++) {
		__atomic_store_n(&kernel.resets_fail, i == 5 || i == 6,
				 __ATOMIC_RELAXED);
		stamp_wait(g, 1000);
		stamp_round(g);
	}
	assert_none_lost(g);
	/* A next time begins anew. */
	stamp_start(g, STAMP_MAX / 4);
	stamp_log_start(g);
	for (int i = 0; i < 20; i++)
		stamp_round(g);
	assert_none_lost(g);
	stamp_free(g);
}

/* After a last sync nothing is protected: the next move sees to that first. */
static void test_guest_goes_on_after_a_last_sync_and_moves_again(void **state)
{
	struct stamp_guest *g =
		begin("kvm,dirty=ring", STAMP_PAGES, 100, STAMP_MAX / 4);

	(void)state;
	for (int i = 0; i < 10; i++) {
		stamp_wait(g, 500);
		stamp_round(g);
		stamp_stop(g);
		ram_send_sync(&g->send, true);
		stamp_send(g);
		/* Logging stays on, for a minute. */
		ram_send_stop(&g->send, 60 * NS_PER_SEC);
		assert_int_equal(stamp_count_lost(g), 0);
		stamp_start(g, 100000);
		stamp_log_start(g);
	}
	for (int i = 0; i < 50; i++) {
		stamp_wait(g, 500);
		stamp_round(g);
	}
	assert_none_lost(g);
	stamp_free(g);
}

/* ---- what a ring names ---- */

static void put_entry_of(struct stamp_guest *g, unsigned int vcpu, uint32_t at,
			 uint32_t slot, uint64_t offset)
{
	struct kv_vcpu_ring *ring = &kv_vcpu_of(g->vm.vcpus[vcpu])->ring;

	ring->entries[at] = (struct kvm_dirty_gfn){
		.flags = KVM_DIRTY_GFN_F_DIRTY,
		.slot = slot,
		.offset = offset,
	};
}

static void put_entry(struct stamp_guest *g, uint32_t at, uint32_t slot,
		      uint64_t offset)
{
	put_entry_of(g, 0, at, slot, offset);
}

static void test_entries_that_name_no_memory_change_none(void **state)
{
	struct stamp_guest *g = stamp_new("kvm,dirty=ring", 64, 1);
	uint64_t ram_pages = g->vm.block->pages;
	struct ram_block *block = NULL;

	(void)state;
	stamp_log_start(g);
	stamp_round(g);
	/* The kernel resets what it wrote itself, so these stay unreset. */
	put_entry(g, 0, 0, ram_pages);
	put_entry(g, 1, 0, UINT64_MAX);
	put_entry(g, 2, 2, 0); /* no such slot */
	put_entry(g, 3, 0x7fff, 0);
	put_entry(g, 4, 0x10000, 0); /* another address space */
	put_entry(g, 5, UINT32_MAX, UINT64_MAX);
	ram_send_sync(&g->send, true);
	while ((block = ram_block_next(g->vm.mem, block)))
		assert_int_equal(bitmap_count(block->dirty, 0, block->pages),
				 0);
	assert_int_equal(stats_of(g).strays, 6);
	put_entry(g, 6, 1, 5);
	memset(g->vm.window_block->host, 1, 64 * RAM_PAGE_SIZE);
	bitmap_set(g->vm.window_block->known, 0, 64);
	ram_send_sync(&g->send, true);
	assert_true(bitmap_test(g->vm.window_block->dirty, 5));
	assert_int_equal(bitmap_count(g->vm.window_block->dirty, 0, 65), 1);
	stamp_free(g);
}

/* All of the window's pages known, and clean. */
static struct stamp_guest *new_clean(const char *accel)
{
	struct stamp_guest *g = stamp_new(accel, 64, 1);

	stamp_log_start(g);
	stamp_round(g);
	memset(g->vm.window_block->host, 1, 64 * RAM_PAGE_SIZE);
	bitmap_set(g->vm.window_block->known, 0, 64);
	return g;
}

static void
test_ring_that_is_always_full_does_not_hide_the_next_one(void **state)
{
	struct stamp_guest *g = new_clean("kvm,dirty=ring,ring-entries=65536");

	(void)state;
	kernel.refilled = kv_vcpu_of(g->vm.vcpus[0]);
	refill(kernel.refilled);
	put_entry_of(g, 1, 0, 1, 6);
	ram_send_sync(&g->send, false);
	assert_true(bitmap_test(g->vm.window_block->dirty, 5));
	assert_true(bitmap_test(g->vm.window_block->dirty, 6));
	kernel.refilled = NULL;
	stamp_free(g);
}

/* It is urgent: nothing of the host that is not would run beside it. */
static void
test_reaper_pauses_and_ends_though_a_ring_is_always_full(void **state)
{
	struct stamp_guest *g = new_clean("kvm,dirty=ring,ring-entries=65536");
	struct kv_vcpu *vcpu = kv_vcpu_of(g->vm.vcpus[0]);
	unsigned int resets;

	(void)state;
	pauses.count = 0;
	sem_init(&pauses.both, 0, 0);
	__atomic_store_n(&vcpu->run_seq, 1,
			 __ATOMIC_SEQ_CST); /* in the guest */
	kernel.refilled = vcpu;
	refill(vcpu);
	assert_int_equal(kv_ring_full(vcpu, NULL), 0);
	await_pause();
	/* It is in the middle of it again when it is told to end. */
	__atomic_store_n(&kernel.is_slow, true, __ATOMIC_RELEASE);
	sem_wait(&kernel.in_reset);
	resets = __atomic_load_n(&kernel.resets, __ATOMIC_RELAXED);
	ram_send_stop(&g->send, 0);
	assert_int_equal(kernel.resets, resets);
	__atomic_store_n(&vcpu->run_seq, 0, __ATOMIC_SEQ_CST);
	kernel.refilled = NULL;
	sem_destroy(&pauses.both);
	stamp_free(g);
}

static uint64_t writes_of(const struct stamp_guest *g)
{
	uint64_t pages;

	assert_int_equal(g->vm.accel->ops->vcpu_writes(g->vm.accel, 0, &pages),
			 0);
	return pages;
}

/* Harvested by itself each time, or twice in one batch. */
static void test_page_that_waits_to_be_sent_counts_once(void **state)
{
	struct stamp_guest *g = new_clean("kvm,dirty=ring");
	uint64_t *dirty = g->vm.window_block->dirty;

	(void)state;
	put_entry(g, 0, 1, 5);
	assert_int_equal(writes_of(g), 1);
	ram_send_sync(&g->send, true);
	assert_int_equal(writes_of(g), 1);
	put_entry(g, 1, 1, 5);
	put_entry(g, 2, 1, 6);
	assert_int_equal(writes_of(g), 3); /* page 5 may be sent by then */
	ram_send_sync(&g->send, true);
	assert_int_equal(writes_of(g), 2);
	bitmap_take_word_atomic(dirty, 0);
	put_entry(g, 3, 1, 5);
	put_entry(g, 4, 1, 6);
	put_entry(g, 5, 1, 5);
	ram_send_sync(&g->send, true);
	assert_int_equal(writes_of(g), 4);
	stamp_free(g);
}

/* Its number is the next one's, of which nothing was written. */
static void test_entries_of_a_slot_that_went_are_not_the_next_ones(void **state)
{
	struct stamp_guest *g = begin("kvm,dirty=ring", 64, 1, 200);
	struct ram_block *other;
	struct mem_region *region;

	(void)state;
	stamp_round(g);
	stamp_wait(g, 150);
	stamp_stop(g);
	mem_region_del(g->vm.window);
	assert_int_equal(ram_block_new(g->vm.mem, "other", 64 * RAM_PAGE_SIZE,
				       NULL, &other, NULL),
			 0);
	memset(other->host, 1, other->size);
	bitmap_set(other->known, 0, other->pages);
	region = mem_region_new_ram(g->vm.mem, "other", other);
	mem_region_add(g->vm.root, STAMP_DATA, region, 0);
	mem_log_sync(g->vm.mem, false);
	assert_int_equal(bitmap_count(other->dirty, 0, other->pages), 0);
	assert_int_equal(stats_of(g).strays, 0);
	mem_region_del(region);
	mem_region_put(region);
	mem_synchronize(g->vm.mem);
	ram_block_free(other);
	stamp_free(g);
}

/* ---- a processor with a log of its own ---- */

/* Stamps that a sync does not report, though they were written before it. */
static uint64_t count_unseen(void)
{
	const uint64_t stamps = 3000;
	struct stamp_guest *g;
	uint64_t unseen = 0;

	kernel.has_processor_log = true;
	g = stamp_new("kvm,dirty=ring,ring-entries=65536", STAMP_PAGES,
		      1 << 30);
	g->is_spinning = true;
	write_known(g, stamps);
	mem_log_sync(g->vm.mem, false);
	for (unsigned int i = 0; i < VM_CPUS; i++) {
		for (uint64_t s = 1; s < stamps - 8; s++)
			unseen += !bitmap_test(g->vm.window_block->dirty,
					       stamp_log(g, i)[s]);
	}
	while (!stamp_is_past(g, stamps - 1))
		sched_yield();
	assert_none_lost(g);
	stamp_free(g);
	return unseen;
}

static void test_sync_finds_what_a_processor_has_in_its_own_log(void **state)
{
	(void)state;
	assert_int_equal(count_unseen(), 0);
}

static void test_this_test_finds_that_the_flush_is_missing(void **state)
{
	(void)state;
	has_no_flush = true;
	assert_int_not_equal(count_unseen(), 0);
}

static void test_processors_with_a_log_lose_nothing(void **state)
{
	struct stamp_guest *g;

	(void)state;
	kernel.has_processor_log = true;
	g = begin("kvm,dirty=ring,ring-entries=1024", STAMP_PAGES, 5000,
		  STAMP_MAX / 2);
	for (int i = 0; i < 100; i++) {
		stamp_wait(g, 5000);
		stamp_round(g);
	}
	assert_none_lost(g);
	stamp_free(g);
}

/* ---- writes with no vCPU behind them ---- */

static void test_backup_bitmap_is_read_in_the_last_sync(void **state)
{
	struct stamp_guest *g;

	(void)state;
	kernel.has_backup_bitmap = true;
	kernel.backup_page = 7;
	g = stamp_new("kvm,dirty=ring", 64, 1);
	assert_true(kernel.is_backup_bitmap_on);
	stamp_log_start(g);
	stamp_round(g);
	stamp_round(g);
	assert_int_equal(kernel.gets, 0);
	ram_send_sync(&g->send, true);
	assert_int_not_equal(kernel.gets, 0);
	assert_true(bitmap_test(g->vm.block->dirty, 7));
	assert_int_equal(
		bitmap_count(g->vm.block->dirty, 0, g->vm.block->pages), 1);
	stamp_free(g);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, setup)
	const struct CMUnitTest tests[] = {
		TEST(test_rings_are_made_only_when_asked_for),
		TEST(test_kernels_that_know_the_older_name_have_rings),
		TEST(test_kernel_without_rings_falls_back_only_if_asked_to),
		TEST(test_ring_sizes_that_the_kernel_lacks_are_refused),
		TEST(test_smallest_rings_under_the_heaviest_writers),
		TEST(test_rings_that_are_full_all_at_once),
		TEST(test_resets_race_with_writers),
		TEST(test_resets_that_stop_early_are_finished),
		TEST(test_resets_that_are_stopped_lose_nothing),
		TEST(test_no_signal_stops_a_reset),
		TEST(test_many_entries_are_reset_at_once),
		TEST(test_reaper_comes_sooner_the_faster_rings_fill),
		TEST(test_resets_that_fail_lose_nothing),
		TEST(test_guest_goes_on_after_a_last_sync_and_moves_again),
		TEST(test_entries_that_name_no_memory_change_none),
		TEST(test_ring_that_is_always_full_does_not_hide_the_next_one),
		TEST(test_reaper_pauses_and_ends_though_a_ring_is_always_full),
		TEST(test_page_that_waits_to_be_sent_counts_once),
		TEST(test_entries_of_a_slot_that_went_are_not_the_next_ones),
		TEST(test_sync_finds_what_a_processor_has_in_its_own_log),
		TEST(test_this_test_finds_that_the_flush_is_missing),
		TEST(test_processors_with_a_log_lose_nothing),
		TEST(test_backup_bitmap_is_read_in_the_last_sync),
	};

	need_kvm();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
