// SPDX-License-Identifier: Apache-2.0
/* Devices whose back ends fall silent, are let go, or come back with less than they
 * had. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>

#include "fake.h"

#define DEVICES 3u

struct end {
	struct fake fake; /* first */
	bool is_silent;   /* it answers nothing */
	unsigned int
		room; /* so many rings may be asked to stop before it answers */
	int resumes;
};

struct fixture {
	struct world world;
	struct end ends[DEVICES];
};

static struct end *end_of(struct vh_dev *dev)
{
	return container_of(container_of(dev, struct fake, dev), struct end,
			    fake);
}

static int ask_base(struct vh_dev *dev, unsigned int index, uint32_t *ret_base,
		    struct err *err)
{
	struct end *end = end_of(dev);

	if (!end->room)
		return err_set(err, -ETIMEDOUT, "no room");
	end->room--;
	return fake_stop_ring(dev, index, ret_base, err);
}

static int settle(struct vh_dev *dev, struct err *err)
{
	uint64_t now = clock_mono_ns();

	if (!end_of(dev)->is_silent)
		return 0;
	if (dev->deadline_ns > now)
		poll(NULL, 0, (int)((dev->deadline_ns - now) / NS_PER_MS) + 1);
	return err_set(err, -ETIMEDOUT, "silent");
}

static void resume(struct vh_dev *dev)
{
	end_of(dev)->resumes++;
}

static struct vh_ops ops_of_ends(void)
{
	struct vh_ops ops = fake_ops;

	ops.get_vring_base = ask_base;
	ops.settle = settle;
	ops.resume = resume;
	return ops;
}

static int setup(void **state)
{
	static struct vh_ops ops; /* the same for all tests */
	struct fixture *f = calloc(1, sizeof(*f));

	ops = ops_of_ends();
	world_init(&f->world, false);
	for (unsigned int i = 0; i < DEVICES; i++) {
		const char name[] = { (char)('a' + i), '\0' };

		fake_init(&f->ends[i].fake, &f->world, name);
		f->ends[i].fake.dev.ops = &ops;
		f->ends[i].room = UINT32_MAX;
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mem_log_global_stop(f->world.mem, 0);
	for (unsigned int i = 0; i < DEVICES; i++) {
		f->ends[i].is_silent = false;
		f->ends[i].room = UINT32_MAX;
		fake_fini(&f->ends[i].fake);
	}
	world_fini(&f->world);
	free(f);
	return 0;
}

static struct vh_dev *dev_at(struct fixture *f, unsigned int index)
{
	return &f->ends[index].fake.dev;
}

static void start_all(struct fixture *f)
{
	for (unsigned int i = 0; i < DEVICES; i++)
		fake_start_at(&f->ends[i].fake, 0x10000 * (i + 1));
}

/* ---- one that was let go ---- */

static void
test_end_of_a_back_end_behind_rings_that_are_nowhere_is_harmless(void **state)
{
	struct fixture *f = *state;
	struct fake *fake = &f->ends[0].fake;
	const struct vh_queues queues = fake_queues(fake);

	fake_set_queues(fake, 0x10000);
	fake_die(fake);
	vh_dev_lock(&fake->dev);
	fake->dev.is_leaving = true;
	vh_dev_unlock(&fake->dev);
	fake->queues[1].device = WORLD_LOW_SIZE - 0x40;
	assert_int_equal(vh_dev_start(&fake->dev, &queues, NULL), -EFAULT);
	vh_dev_lock(&fake->dev);
	vh_dev_left(&fake->dev);
	vh_dev_unlock(&fake->dev);
	assert_false(fake->dev.is_leaving);
	fake_arrive(fake);
	fake_start_at(fake, 0x10000);
	assert_true(vh_dev_is_live(&fake->dev));
}

/* It was silent, and may have written until now what its log does not say. */
static void
test_all_is_dirty_again_when_one_that_was_let_go_has_left(void **state)
{
	struct fixture *f = *state;
	struct fake *fake = &f->ends[0].fake;

	start_all(f);
	assert_int_equal(mem_log_global_start(f->world.mem, NULL), 0);
	bitmap_set(f->world.high->known, 7, 1);
	fake_die(fake);
	vh_dev_lock(&fake->dev);
	fake->dev.is_leaving = true;
	vh_dev_unlock(&fake->dev);
	mem_log_sync(f->world.mem, false);
	assert_true(bitmap_test(f->world.high->dirty, 7));
	bitmap_clear(f->world.high->dirty, 7, 1);
	mem_region_set_enabled(f->world.high_region, false);
	mem_log_sync(f->world.mem, false);
	assert_false(bitmap_test(f->world.high->dirty, 7));
	vh_dev_lock(&fake->dev);
	vh_dev_left(&fake->dev);
	vh_dev_unlock(&fake->dev);
	mem_log_sync(f->world.mem, false);
	assert_true(bitmap_test(f->world.high->dirty, 7));
	mem_region_set_enabled(f->world.high_region, true);
}

static void
test_back_end_that_takes_only_half_of_what_it_is_told_is_let_go(void **state)
{
	struct fixture *f = *state;
	struct fake *fake = &f->ends[0].fake;
	int ret;

	start_all(f);
	fake_die(fake);
	fake_arrive(fake);
	fake->result = -ETIMEDOUT;
	vh_dev_lock(&fake->dev);
	ret = vh_dev_back(&fake->dev, world_side(&f->world)->table, NULL,
			  UINT64_MAX, NULL);
	vh_dev_unlock(&fake->dev);
	fake->result = 0;
	/* Not to be called again, and nothing is broken. */
	assert_int_equal(ret, -ECONNRESET);
	assert_int_equal(fake->breaks, 0);
}

/* ---- one that cannot log any more ---- */

static int clear(struct fixture *f, struct err *err)
{
	const uint64_t bits = 1;

	return mem_log_clear(f->world.mem, f->world.low, 0, 64, &bits, err);
}

static void
test_back_end_that_comes_back_without_a_log_fails_the_migration_only(
	void **state)
{
	struct fixture *f = *state;
	struct fake *fake = &f->ends[1].fake;
	struct err err = ERR_INIT;

	start_all(f);
	assert_int_equal(mem_log_global_start(f->world.mem, &err), 0);
	assert_int_equal(clear(f, &err), 0);
	fake_die(fake);
	fake->dev.can_log = false;
	fake_arrive(fake);
	fake->told[0] = '\0';
	vh_dev_lock(&fake->dev);
	assert_int_equal(vh_dev_back(&fake->dev, world_side(&f->world)->table,
				     world_side(&f->world)->log, UINT64_MAX,
				     &err),
			 0);
	vh_dev_unlock(&fake->dev);
	assert_true(vh_dev_is_live(&fake->dev));
	assert_int_equal(fake->breaks, 0);
	assert_null(strstr(fake->told, "log"));
	/* What it writes is in no log, and there is something that fails. */
	bitmap_set(f->world.low->known, 7, 1);
	mem_log_sync(f->world.mem, false);
	assert_true(bitmap_test(f->world.low->dirty, 7));
	assert_int_equal(clear(f, &err), -ENOTSUP);
	assert_string_equal(err_msg(&err), "b: its back end came back and "
					   "cannot log what it writes");
	/* The next one is refused at once, and one after that is not. */
	mem_log_global_stop(f->world.mem, 0);
	err_clear(&err);
	assert_int_equal(mem_log_global_start(f->world.mem, &err), -ENOTSUP);
	fake->dev.can_log = true;
	err_clear(&err);
	assert_int_equal(mem_log_global_start(f->world.mem, &err), 0);
	assert_int_equal(clear(f, &err), 0);
}

/* ---- silent ones ---- */

static void test_change_of_ram_waits_once_for_all_that_are_silent(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns;

	start_all(f);
	for (unsigned int i = 0; i < DEVICES; i++)
		f->ends[i].is_silent = true;
	start_ns = clock_mono_ns();
	mem_region_set_enabled(f->world.high_region, false);
	assert_true(clock_mono_ns() - start_ns < VH_REPLY_NS + NS_PER_SEC);
	for (unsigned int i = 0; i < DEVICES; i++)
		assert_int_equal(f->ends[i].fake.breaks, 1);
	mem_region_set_enabled(f->world.high_region, true);
}

static void test_start_waits_once_for_all_that_are_silent(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns = clock_mono_ns();

	for (unsigned int i = 0; i < DEVICES; i++) {
		const struct vh_queues queues = fake_queues(&f->ends[i].fake);

		fake_set_queues(&f->ends[i].fake, 0x10000 * (i + 1));
		f->ends[i].is_silent = true;
		assert_int_equal(vh_dev_start(dev_at(f, i), &queues, NULL), 0);
	}
	/* Half a second of them; the rest is their threads' to wait for. */
	for (unsigned int i = 0; i < DEVICES; i++)
		assert_int_equal(vh_dev_start_wait(dev_at(f, i), NULL), 0);
	assert_true(clock_mono_ns() - start_ns < 2 * NS_PER_SEC);
	for (unsigned int i = 0; i < DEVICES; i++)
		assert_int_equal(f->ends[i].resumes, 1);
}

static void
test_start_of_logging_waits_once_for_all_that_are_silent(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns;

	start_all(f);
	for (unsigned int i = 0; i + 1 < DEVICES; i++)
		f->ends[i].is_silent = true;
	start_ns = clock_mono_ns();
	assert_int_equal(mem_log_global_start(f->world.mem, NULL), 0);
	assert_true(clock_mono_ns() - start_ns < VH_REPLY_NS + NS_PER_SEC);
	assert_int_equal(f->ends[0].fake.breaks, 1);
	assert_int_equal(f->ends[DEVICES - 1].fake.breaks, 0);
}

struct holder {
	struct vh_dev *dev;
	pthread_t thread;
	bool is_held, is_ending; /* atomic */
};

/* As one that waits for a reply. */
static void *hold(void *opaque)
{
	struct holder *holder = opaque;

	vh_dev_lock(holder->dev);
	__atomic_store_n(&holder->is_held, true, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&holder->is_ending, __ATOMIC_ACQUIRE))
		poll(NULL, 0, 1);
	vh_dev_unlock(holder->dev);
	return NULL;
}

static void holder_begin(struct holder *holder, struct vh_dev *dev)
{
	holder->dev = dev;
	pthread_create(&holder->thread, NULL, hold, holder);
	while (!__atomic_load_n(&holder->is_held, __ATOMIC_ACQUIRE))
		poll(NULL, 0, 1);
}

static void holder_end(struct holder *holder)
{
	__atomic_store_n(&holder->is_ending, true, __ATOMIC_RELEASE);
	pthread_join(holder->thread, NULL);
}

static void *wait_for_first(void *opaque)
{
	struct fixture *f = opaque;

	vh_dev_lock(dev_at(f, 0));
	vh_dev_unlock(dev_at(f, 0));
	return NULL;
}

static void
test_stop_of_a_device_that_waits_for_a_reply_ends_at_its_deadline(void **state)
{
	struct fixture *f = *state;
	struct holder holder = { .is_held = false };
	struct err err = ERR_INIT;
	uint64_t start_ns;

	start_all(f);
	holder_begin(&holder, dev_at(f, 0));
	start_ns = clock_mono_ns();
	vh_dev_stop_begin(dev_at(f, 0));
	vh_dev_stop_ask(dev_at(f, 0), start_ns + NS_PER_SEC);
	assert_true(clock_mono_ns() - start_ns < 500 * NS_PER_MS);
	assert_int_equal(
		vh_dev_stop(dev_at(f, 0), start_ns + 50 * NS_PER_MS, &err),
		-ETIMEDOUT);
	assert_true(clock_mono_ns() - start_ns < 500 * NS_PER_MS);
	assert_non_null(strstr(err_msg(&err), "a: its back end"));
	assert_int_equal(f->ends[0].resumes, 1);
	holder_end(&holder);
	assert_true(vh_dev_is_live(dev_at(f, 0)));
	assert_int_equal(vh_dev_stop(dev_at(f, 0), UINT64_MAX, NULL), 0);
}

/* Whoever waits for one device holds up no other, and no scan. */
static void test_device_that_waits_for_a_reply_is_alone_in_it(void **state)
{
	struct fixture *f = *state;
	struct holder holder = { .is_held = false };
	uint64_t start_ns;
	pthread_t waiter;

	start_all(f);
	assert_int_equal(mem_log_global_start(f->world.mem, NULL), 0);
	holder_begin(&holder, dev_at(f, 0));
	pthread_create(&waiter, NULL, wait_for_first, f);
	poll(NULL, 0, 20); /* until it waits, most likely */
	start_ns = clock_mono_ns();
	assert_int_equal(vh_dev_stop(dev_at(f, 1), start_ns + NS_PER_SEC, NULL),
			 0);
	mem_log_sync(f->world.mem, false);
	assert_true(clock_mono_ns() - start_ns < NS_PER_SEC);
	holder_end(&holder);
	pthread_join(waiter, NULL);
}

/* Whoever ends a migration does not wait for it; it is told when it is free. */
static void test_end_of_logging_waits_for_no_device_that_is_busy(void **state)
{
	struct fixture *f = *state;
	struct holder holder = { .is_held = false };
	struct vh_dev *dev = dev_at(f, 0);
	uint64_t start_ns, took_ns;

	start_all(f);
	assert_int_equal(mem_log_global_start(f->world.mem, NULL), 0);
	holder_begin(&holder, dev);
	start_ns = clock_mono_ns();
	f->ends[0].fake.told[0] = f->ends[1].fake.told[0] = '\0';
	mem_log_global_stop(f->world.mem, 0);
	took_ns = clock_mono_ns() - start_ns;
	holder_end(&holder);
	assert_true(took_ns < NS_PER_SEC);
	assert_string_equal(f->ends[0].fake.told, "");
	assert_int_equal(f->ends[0].resumes, 1);
	assert_memory_equal(f->ends[1].fake.told, "features addr ", 14);
	vh_dev_lock(dev);
	assert_int_equal(vh_dev_back(dev, world_side(&f->world)->table, NULL,
				     UINT64_MAX, NULL),
			 0);
	vh_dev_unlock(dev);
	assert_memory_equal(f->ends[0].fake.told, "features addr ", 14);
	assert_false(dev->is_logging);
	/* The next migration has a log of its own. */
	assert_int_equal(mem_log_global_start(f->world.mem, NULL), 0);
	assert_true(dev->is_logging);
}

/* Those were asked that could be; a stop that comes later asks the others. */
static void test_ring_that_could_not_be_asked_is_asked_later(void **state)
{
	struct fixture *f = *state;
	struct vh_dev *dev = dev_at(f, 0);

	start_all(f);
	f->ends[0].room = 2;
	vh_dev_stop_begin(dev);
	assert_true(dev->rings[1].is_stopping);
	assert_false(dev->rings[2].is_stopping);
	assert_int_equal(f->ends[0].fake.breaks, 0);
	f->ends[0].room = 2;
	assert_int_equal(vh_dev_stop(dev, clock_mono_ns() + NS_PER_SEC, NULL),
			 0);
	assert_false(vh_dev_is_live(dev));
}

static void
test_rings_asked_by_a_stop_that_was_given_up_all_work_again(void **state)
{
	struct fixture *f = *state;
	struct vh_dev *dev = dev_at(f, 0);
	int ret;

	start_all(f);
	f->ends[0].room = 2;
	assert_int_equal(vh_dev_stop(dev, clock_mono_ns(), NULL), -ETIMEDOUT);
	assert_int_equal(f->ends[0].resumes, 1);
	f->ends[0].room = 2;
	vh_dev_lock(dev);
	ret = vh_dev_back(dev, world_side(&f->world)->table, NULL,
			  clock_mono_ns(), NULL);
	assert_int_equal(ret, 0);
	for (unsigned int i = 0; i < FAKE_RINGS; i++) {
		assert_true(dev->rings[i].is_live);
		assert_false(dev->rings[i].is_stopping);
	}
	vh_dev_unlock(dev);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_end_of_a_back_end_behind_rings_that_are_nowhere_is_harmless),
		TEST(test_all_is_dirty_again_when_one_that_was_let_go_has_left),
		TEST(test_back_end_that_takes_only_half_of_what_it_is_told_is_let_go),
		TEST(test_back_end_that_comes_back_without_a_log_fails_the_migration_only),
		TEST(test_change_of_ram_waits_once_for_all_that_are_silent),
		TEST(test_start_waits_once_for_all_that_are_silent),
		TEST(test_start_of_logging_waits_once_for_all_that_are_silent),
		TEST(test_stop_of_a_device_that_waits_for_a_reply_ends_at_its_deadline),
		TEST(test_device_that_waits_for_a_reply_is_alone_in_it),
		TEST(test_end_of_logging_waits_for_no_device_that_is_busy),
		TEST(test_ring_that_could_not_be_asked_is_asked_later),
		TEST(test_rings_asked_by_a_stop_that_was_given_up_all_work_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
