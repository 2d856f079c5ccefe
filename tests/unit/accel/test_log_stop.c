// SPDX-License-Identifier: Apache-2.0
/*
 * Logging that ends later, on real KVM: who may do what to a memslot while the
 * worker waits for it, or is at it.
 *
 * The program is linked with --wrap=ioctl: what KVM is told of memslots is kept
 * in a model beside it, and the worker can be held inside its call.  The window
 * at 64 GiB is many small slots, since each of its parts is a range of its own.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "kvm_guest.h"

#define SLOTS_SEEN 256
#define PARTS      8
#define PART_SIZE  (2 * MIB)
#define PART_GPA   (64 * MIB)
#define LOGGED     KVM_MEM_LOG_DIRTY_PAGES
#define NEVER_NS   (3600 * NS_PER_SEC)

static struct {
	pthread_mutex_t mutex;
	struct kvm_userspace_memory_region slots[SLOTS_SEEN];
	unsigned int starts, stops; /* of logging, slots that were told */
	int fail_stops;             /* this many fail */
	/* The worker waits for `go` before it tells KVM, and posts `held`. */
	bool is_held;
	sem_t held, go;
} seen = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static _Thread_local bool is_test_thread;

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*body)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*body)(void *), void *arg);

static int slot_ioctl(int fd, struct kvm_userspace_memory_region *region)
{
	const struct kvm_userspace_memory_region *old;
	bool is_held, is_failing;
	int ret;

	pthread_mutex_lock(&seen.mutex);
	old = &seen.slots[region->slot];
	is_held = seen.is_held && !is_test_thread;
	is_failing = old->flags & LOGGED && !(region->flags & LOGGED) &&
		     region->memory_size && seen.fail_stops &&
		     seen.fail_stops--;
	pthread_mutex_unlock(&seen.mutex);
	if (is_held) {
		sem_post(&seen.held);
		sem_wait(&seen.go);
	}
	if (is_failing) {
		errno = ENOMEM;
		return -1;
	}
	ret = __real_ioctl(fd, KVM_SET_USER_MEMORY_REGION, region);
	if (ret < 0)
		abort(); /* overlaps and the like: never, not even in passing */
	pthread_mutex_lock(&seen.mutex);
	if (region->memory_size && old->memory_size) {
		seen.starts += !(old->flags & LOGGED) && region->flags & LOGGED;
		seen.stops += old->flags & LOGGED && !(region->flags & LOGGED);
		/* Nobody tells KVM of a slot that is another by now. */
		if (old->guest_phys_addr != region->guest_phys_addr ||
		    old->memory_size != region->memory_size ||
		    old->userspace_addr != region->userspace_addr)
			abort();
	}
	seen.slots[region->slot] = *region;
	pthread_mutex_unlock(&seen.mutex);
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (request == KVM_SET_USER_MEMORY_REGION)
		return slot_ioctl(fd, arg);
	return __real_ioctl(fd, request, arg);
}

static int thread_limit = -1; /* no thread after so many; -1: no limit */

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*body)(void *), void *arg)
{
	if (thread_limit == 0)
		return EAGAIN;
	return __real_pthread_create(thread, attr, body, arg);
}

/* How many slots that exist are (not) logged, among all or at one address. */
static unsigned int count_slots(bool is_logged)
{
	unsigned int count = 0;

	pthread_mutex_lock(&seen.mutex);
	for (size_t i = 0; i < SLOTS_SEEN; i++)
		count += seen.slots[i].memory_size != 0 &&
			 !(seen.slots[i].flags & LOGGED) == !is_logged;
	pthread_mutex_unlock(&seen.mutex);
	return count;
}

static uint32_t flags_at(uint64_t gpa)
{
	uint32_t flags = UINT32_MAX;

	pthread_mutex_lock(&seen.mutex);
	for (size_t i = 0; i < SLOTS_SEEN; i++) {
		if (seen.slots[i].memory_size &&
		    seen.slots[i].guest_phys_addr == gpa)
			flags = seen.slots[i].flags;
	}
	pthread_mutex_unlock(&seen.mutex);
	return flags;
}

static unsigned int take_count(unsigned int *count)
{
	unsigned int was;

	pthread_mutex_lock(&seen.mutex);
	was = *count;
	*count = 0;
	pthread_mutex_unlock(&seen.mutex);
	return was;
}

/* ---- a VM of a slot of RAM and PARTS small ones ---- */

struct bed {
	struct fixture *f;
	struct mem *mem;
	struct mem_region *part[PARTS];
};

static uint64_t part_gpa(size_t i)
{
	return PART_GPA + i * 2 * PART_SIZE;
}

static void part_add(struct bed *bed, size_t i)
{
	mem_region_add(bed->f->vm.root, part_gpa(i), bed->part[i], 0);
}

static int set_up(void **state, const char *accel)
{
	struct bed *bed = calloc(1, sizeof(*bed));

	is_test_thread = true;
	memset(seen.slots, 0, sizeof(seen.slots));
	seen.is_held = false;
	seen.fail_stops = 0;
	sem_init(&seen.held, 0, 0);
	sem_init(&seen.go, 0, 0);
	bed->f = fixture_new(accel);
	bed->mem = bed->f->vm.mem;
	vm_window_new(&bed->f->vm, PARTS * PART_SIZE);
	memset(bed->f->vm.window_block->host, 1, PARTS * PART_SIZE);
	for (size_t i = 0; i < PARTS; i++) {
		bed->part[i] = mem_region_new_alias(bed->mem, "part",
						    bed->f->vm.window,
						    i * PART_SIZE, PART_SIZE);
		part_add(bed, i);
	}
	take_count(&seen.starts);
	take_count(&seen.stops);
	*state = bed;
	return 0;
}

static int setup(void **state)
{
	return set_up(state, "kvm");
}

static int setup_plain(void **state)
{
	return set_up(state, "kvm,x-plain-log");
}

static int setup_ring(void **state)
{
	return set_up(state, "kvm,dirty=ring,ring-entries=1024");
}

static int teardown(void **state)
{
	struct bed *bed = *state;

	for (size_t i = 0; i < PARTS; i++)
		mem_region_put(bed->part[i]);
	fixture_free(bed->f);
	free(bed);
	sem_destroy(&seen.held);
	sem_destroy(&seen.go);
	return 0;
}

/* A migration that sent all there is, and ended. */
static void migrate(struct bed *bed, uint64_t grace_ns)
{
	log_start(bed->f);
	round_of(bed->f);
	ram_send_stop(&bed->f->send, grace_ns);
}

/* Returns once the worker is inside its first call. */
static void hold_worker(void)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 60;
	if (sem_timedwait(&seen.held, &limit))
		fail_msg("the worker does not begin");
}

static void let_worker_go(void)
{
	pthread_mutex_lock(&seen.mutex);
	seen.is_held = false;
	pthread_mutex_unlock(&seen.mutex);
	sem_post(&seen.go);
}

static void wait_worker(struct bed *bed)
{
	vm_wait_log_stop(&bed->f->vm);
}

static const struct kv_slot *slot_busy(struct bed *bed)
{
	struct kv_log_stop *stop = &bed->f->vm.kv->log_stop;
	const struct kv_slot *busy;

	lock_acquire(&stop->lock);
	busy = stop->busy;
	lock_release(&stop->lock);
	return busy;
}

/* ---- facts ---- */

static void test_slots_stay_logged_until_the_grace_period_is_over(void **state)
{
	struct bed *bed = *state;
	uint64_t start = clock_mono_ns();

	migrate(bed, 200 * NS_PER_MS);
	assert_int_equal(count_slots(true), 1 + PARTS);
	wait_worker(bed);
	assert_true(clock_mono_ns() - start >= 200 * NS_PER_MS);
	assert_int_equal(count_slots(false), 1 + PARTS);
	assert_int_equal(take_count(&seen.stops), 1 + PARTS);
}

static void test_inline_stop_leaves_nothing_logged_nor_a_worker(void **state)
{
	struct bed *bed = *state;

	bed->f->vm.kv->log_stop.is_inline = true;
	migrate(bed, NEVER_NS); /* grace is the worker's */
	assert_int_equal(count_slots(false), 1 + PARTS);
	assert_int_equal(take_count(&seen.stops), 1 + PARTS);
	assert_false(bed->f->vm.kv->log_stop.has_thread);
	migrate(bed, NEVER_NS); /* the next one logs again */
	assert_int_equal(take_count(&seen.stops), 1 + PARTS);
}

static void test_only_slots_that_were_logged_are_told(void **state)
{
	struct bed *bed = *state;

	log_start(bed->f);
	ram_send_stop(&bed->f->send, 0);
	assert_false(bed->f->vm.kv->log_stop.has_thread);
	log_start(bed->f);
	ram_send_sync(&bed->f->send, false);
	mem_log_clear(bed->mem, bed->f->vm.block, 0, 64,
		      bed->f->vm.block->dirty, NULL);
	ram_send_stop(&bed->f->send, 0);
	wait_worker(bed);
	assert_int_equal(take_count(&seen.stops), 1);
	assert_int_equal(count_slots(false), 1 + PARTS);
}

static void test_the_caller_does_not_wait_for_a_worker_at_work(void **state)
{
	struct bed *bed = *state;

	seen.is_held = true;
	migrate(bed, 0); /* would not return */
	hold_worker();
	/* Nor does anybody who wants the lock of the topology. */
	mem_begin(bed->mem);
	mem_commit(bed->mem);
	log_start(bed->f);
	ram_send_sync(&bed->f->send, false);
	assert_non_null(slot_busy(bed));
	let_worker_go();
	wait_worker(bed);
	/* The rest was called off. */
	assert_int_equal(take_count(&seen.stops), 1);
	assert_int_equal(count_slots(true), PARTS);
}

static void
test_a_new_migration_finds_logging_on_and_loses_nothing(void **state)
{
	struct bed *bed = *state;
	struct fixture *f = bed->f;
	const uint64_t all = f->vm.block->pages + f->vm.window_block->pages;

	migrate(bed, NEVER_NS);
	take_count(&seen.starts);
	for (int i = 0; i < 3; i++) {
		/* some that it reported before, and some that it did not */
		guest_write(f, GUEST_DATA, 50);
		log_start(f);
		guest_write(f, part_gpa(1), 30);
		assert_int_equal(round_of(f), all);
		assert_copy_is_whole(f);
		guest_write(f, part_gpa(2), 40);
		guest_write(f, GUEST_DATA, 20);
		mem_log_sync(bed->mem, false);
		assert_dirty_data(f, GUEST_DATA, 20);
		assert_int_equal(bitmap_count(f->vm.window_block->dirty, 0,
					      f->vm.window_block->pages),
				 40);
		send_dirty(f);
		assert_copy_is_whole(f);
		ram_send_stop(&f->send, NEVER_NS);
	}
	assert_int_equal(take_count(&seen.starts), 0);
	assert_int_equal(take_count(&seen.stops), 0);
}

/* The memslot that the worker is turning off is turned on again before it is
 * read. */
static void test_a_new_migration_meets_the_worker_at_a_slot(void **state)
{
	struct bed *bed = *state;
	struct fixture *f = bed->f;

	for (int i = 0; i < 10; i++) {
		guest_start(f, GUEST_DATA, 200);
		seen.is_held = true;
		migrate(bed, 0);
		hold_worker();
		log_start(f);
		ram_send_sync(&f->send, false);
		let_worker_go();
		send_dirty(f);
		round_of(f);
		assert_int_equal(count_slots(true), 1 + PARTS);
		guest_stop(f);
		round_of(f);
		assert_copy_is_whole(f);
		ram_send_stop(&f->send, 0);
		wait_worker(bed);
		assert_int_equal(count_slots(false), 1 + PARTS);
	}
}

static void test_a_slot_that_waits_may_be_removed(void **state)
{
	struct bed *bed = *state;
	struct ram_block *block = bed->f->vm.window_block;

	migrate(bed, 100 * NS_PER_MS);
	mem_region_del(bed->part[0]);
	mem_region_del(bed->part[5]);
	/* Nobody reads their logs: nothing becomes dirty. */
	assert_int_equal(bitmap_count(block->dirty, 0, block->pages), 0);
	wait_worker(bed);
	assert_int_equal(take_count(&seen.stops), 1 + PARTS - 2);
	assert_int_equal(count_slots(false), 1 + PARTS - 2);
	assert_int_equal(count_slots(true), 0);
}

static void test_a_slot_that_waits_may_be_replaced(void **state)
{
	struct bed *bed = *state;

	migrate(bed, 100 * NS_PER_MS);
	/* The same number in KVM, other memory (slot_ioctl() aborts when the
	 * worker mixes them up). */
	mem_region_set_offset(bed->part[0], part_gpa(PARTS + 1));
	mem_region_set_size(bed->part[3], PART_SIZE / 2);
	assert_int_equal(flags_at(part_gpa(PARTS + 1)), 0);
	assert_int_equal(flags_at(part_gpa(3)), 0);
	wait_worker(bed);
	assert_int_equal(take_count(&seen.stops), 1 + PARTS - 2);
	assert_int_equal(count_slots(false), 1 + PARTS);
}

/* As the kernel would make it wait, too. */
static void *remove_busy(void *opaque)
{
	struct bed *bed = opaque;

	is_test_thread = true;
	mem_begin(bed->mem);
	mem_region_del(bed->part[0]);
	mem_commit(bed->mem);
	return NULL;
}

static void test_a_slot_that_the_worker_is_at_is_removed_after_it(void **state)
{
	struct bed *bed = *state;
	pthread_t thread;

	/* Alone on the list. */
	log_start(bed->f);
	ram_send_sync(&bed->f->send, false);
	mem_log_clear(bed->mem, bed->f->vm.window_block, 0, 64,
		      bed->f->vm.window_block->dirty, NULL);
	seen.is_held = true;
	ram_send_stop(&bed->f->send, 0);
	hold_worker();
	assert_int_equal(slot_busy(bed)->gpa, part_gpa(0));
	assert_int_equal(pthread_create(&thread, NULL, remove_busy, bed), 0);
	assert_int_equal(flags_at(part_gpa(0)), LOGGED);
	let_worker_go();
	pthread_join(thread, NULL);
	wait_worker(bed);
	assert_int_equal(flags_at(part_gpa(0)), UINT32_MAX);
	assert_int_equal(count_slots(true), 0);
	assert_int_equal(take_count(&seen.stops), 1);
}

static void test_the_machine_ends_while_the_worker_waits(void **state)
{
	struct bed *bed = *state;
	uint64_t start = clock_mono_ns();

	migrate(bed, NEVER_NS);
	for (size_t i = 0; i < PARTS; i++)
		mem_region_put(bed->part[i]);
	fixture_free(bed->f);
	assert_true(clock_mono_ns() - start < 60 * NS_PER_SEC);
	assert_int_equal(take_count(&seen.stops), 0);
	set_up(state, "kvm");
	free(bed);
}

static void *go_later(void *opaque)
{
	struct kv_log_stop *stop = opaque;

	/* Once the end is being waited for. */
	lock_acquire(&stop->lock);
	while (!stop->is_ending)
		lock_wait(&stop->lock, &stop->changed);
	lock_release(&stop->lock);
	let_worker_go();
	return NULL;
}

static void test_the_machine_ends_while_the_worker_is_at_a_slot(void **state)
{
	struct bed *bed = *state;
	struct kv_log_stop *stop = &bed->f->vm.kv->log_stop;
	pthread_t thread;

	seen.is_held = true;
	migrate(bed, 0);
	hold_worker();
	assert_int_equal(pthread_create(&thread, NULL, go_later, stop), 0);
	kv_log_stop_end(bed->f->vm.kv);
	pthread_join(thread, NULL);
	assert_int_equal(take_count(&seen.stops), 1);
	/* What comes after that starts no worker. */
	migrate(bed, 0);
	assert_false(stop->has_thread);
}

static void test_what_cannot_be_stopped_is_tried_at_the_next_end(void **state)
{
	struct bed *bed = *state;

	seen.fail_stops = 3;
	migrate(bed, 0);
	wait_worker(bed);
	assert_int_equal(count_slots(true), 3);
	migrate(bed, 0);
	wait_worker(bed);
	assert_int_equal(count_slots(true), 0);

	thread_limit = 0;
	migrate(bed, 0);
	thread_limit = -1;
	assert_int_equal(count_slots(true), 1 + PARTS);
	migrate(bed, 0);
	wait_worker(bed);
	assert_int_equal(count_slots(true), 0);
}

static void test_a_slot_logged_for_a_region_is_left_alone(void **state)
{
	struct bed *bed = *state;

	migrate(bed, 100 * NS_PER_MS);
	mem_region_set_log(bed->f->vm.ram, true);
	wait_worker(bed);
	assert_int_equal(count_slots(true), 1);
	assert_int_equal(flags_at(0), LOGGED);
	migrate(bed, NEVER_NS);
	mem_region_set_log(bed->f->vm.ram, false);
	assert_int_equal(flags_at(0), 0);
}

/* The worker sees every one of these at some point of its work: memory that
 * comes and goes, migrations, a writer. */
static void test_everything_at_once_loses_nothing(void **state)
{
	struct bed *bed = *state;
	struct fixture *f = bed->f;
	bool is_there[PARTS];
	uint32_t seed = 20261121;

	memset(is_there, true, sizeof(is_there));
	guest_start(f, GUEST_DATA, 100);
	for (int i = 0; i < 150; i++) {
		log_start(f);
		round_of(f);
		for (int change = 0; change < 3; change++) {
			size_t which;

			seed = seed * 1664525u + 1013904223u;
			which = seed >> 8 & (PARTS - 1);
			if (is_there[which])
				mem_region_del(bed->part[which]);
			else
				part_add(bed, which);
			is_there[which] = !is_there[which];
			if (change == 1)
				ram_send_stop(&f->send, (seed >> 16 & 3) * 50 *
								NS_PER_US);
		}
		if (seed >> 20 & 1)
			wait_worker(bed);
	}
	guest_stop(f);
	log_start(f);
	guest_start(f, GUEST_DATA, 100);
	round_of(f);
	guest_stop(f);
	ram_send_sync(&f->send, true);
	send_dirty(f);
	assert_copy_is_whole(f);
	ram_send_stop(&f->send, 0);
	wait_worker(bed);
	assert_int_equal(count_slots(true), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
/* Also as on kernels without manual protect, and with rings. */
#define TEST_ALL(name)                                                  \
	TEST(name),                                                     \
		{ #name "_with_plain_log", name, setup_plain, teardown, \
		  NULL },                                               \
	{                                                               \
#name "_with_rings", name, setup_ring, teardown, NULL   \
	}
	const struct CMUnitTest tests[] = {
		TEST(test_slots_stay_logged_until_the_grace_period_is_over),
		TEST(test_inline_stop_leaves_nothing_logged_nor_a_worker),
		TEST(test_only_slots_that_were_logged_are_told),
		TEST(test_the_caller_does_not_wait_for_a_worker_at_work),
		TEST_ALL(
			test_a_new_migration_finds_logging_on_and_loses_nothing),
		TEST_ALL(test_a_new_migration_meets_the_worker_at_a_slot),
		TEST(test_a_slot_that_waits_may_be_removed),
		TEST(test_a_slot_that_waits_may_be_replaced),
		TEST(test_a_slot_that_the_worker_is_at_is_removed_after_it),
		TEST(test_the_machine_ends_while_the_worker_waits),
		TEST(test_the_machine_ends_while_the_worker_is_at_a_slot),
		TEST(test_what_cannot_be_stopped_is_tried_at_the_next_end),
		TEST(test_a_slot_logged_for_a_region_is_left_alone),
		TEST_ALL(test_everything_at_once_loses_nothing),
	};

	need_kvm();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
