// SPDX-License-Identifier: Apache-2.0
/*
 * Driver and device at the same time, each of which sleeps when it has nothing to do:
 * no notification and no interrupt may be lost.
 */
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "formats.h"

#define REQUESTS 60000u
#define SIZE     16u
#define LIMIT_MS 20000

struct duet {
	struct rig rig;
	int kick_fd;
	/* atomic */
	bool is_lost; /* someone waited in vain, or saw an error */
	bool is_over;
};

static void wait_for(struct duet *duet, int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	eventfd_t seen;

	if (poll(&pollfd, 1, LIMIT_MS) == 1)
		eventfd_read(fd, &seen);
	else
		__atomic_store_n(&duet->is_lost, true, __ATOMIC_RELAXED);
}

static bool is_lost(struct duet *duet)
{
	return __atomic_load_n(&duet->is_lost, __ATOMIC_RELAXED);
}

/* Completes whatever it finds, in batches of several sizes. */
static void *device(void *opaque)
{
	struct duet *duet = opaque;
	struct rig *rig = &duet->rig;
	unsigned int done = 0;

	while (done < REQUESTS && !is_lost(duet)) {
		int ret;

		vq_ignore_kicks(&rig->vq);
		while ((ret = rig_pop(rig)) > 0) {
			vq_push(&rig->vq, &rig->request, 64);
			if (++done % 3 == 0)
				vq_flush(&rig->vq);
		}
		if (ret < 0)
			__atomic_store_n(&duet->is_lost, true,
					 __ATOMIC_RELAXED);
		vq_flush(&rig->vq);
		if (done < REQUESTS && !vq_want_kicks(&rig->vq))
			wait_for(duet, duet->kick_fd);
	}
	return NULL;
}

static unsigned int take_all(struct rig *rig)
{
	unsigned int count = 0;
	uint32_t written;
	uint16_t id;

	while (rig_take(rig, &id, &written)) {
		assert_int_equal(written, 64);
		count++;
	}
	return count;
}

/* Until there is something used. */
static unsigned int wait_for_used(struct duet *duet)
{
	struct rig *rig = &duet->rig;
	unsigned int count;

	if (rig->driver.has_event_idx)
		rig_want_call_at(rig, 0);
	else
		rig_want_calls(rig, true);
	while ((count = take_all(rig)) == 0 && !is_lost(duet))
		wait_for(duet, rig->call_fd);
	if (!rig->driver.has_event_idx)
		rig_want_calls(rig, false);
	return count;
}

/* Memory that has nothing to do with it comes and goes. */
static void *mover(void *opaque)
{
	struct duet *duet = opaque;
	bool is_enabled = true;

	while (!__atomic_load_n(&duet->is_over, __ATOMIC_RELAXED)) {
		is_enabled = !is_enabled;
		mem_region_set_enabled(duet->rig.high_region, is_enabled);
	}
	return NULL;
}

static void play(void **state, bool is_moving)
{
	struct duet *duet = calloc(1, sizeof(*duet));
	struct rig *rig = &duet->rig;
	unsigned int added = 0, taken = 0, burst = 1;
	pthread_t thread, moving;

	rig_init(rig, ((struct rig *)*state)->dev.features, SIZE);
	duet->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rig->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rig_start(rig);
	pthread_create(&thread, NULL, device, duet);
	if (is_moving)
		pthread_create(&moving, NULL, mover, duet);
	while (taken < REQUESTS && !is_lost(duet)) {
		/* two descriptors each */
		for (unsigned int i = 0;
		     i < burst && added < REQUESTS && added - taken < SIZE / 2;
		     i++, added++)
			rig_add_one(rig);
		if (rig_must_kick(rig))
			eventfd_write(duet->kick_fd, 1);
		taken += wait_for_used(duet);
		burst = burst % (SIZE / 2) + 1;
	}
	pthread_join(thread, NULL);
	__atomic_store_n(&duet->is_over, true, __ATOMIC_RELAXED);
	if (is_moving)
		pthread_join(moving, NULL);
	assert_false(is_lost(duet));
	assert_int_equal(taken, REQUESTS);
	close(duet->kick_fd);
	close(rig->call_fd);
	rig_fini(rig);
	free(duet);
}

static void test_no_notification_is_lost(void **state)
{
	play(state, false);
}

static void test_memory_may_change_at_any_time(void **state)
{
	play(state, true);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST_BOTH(test_no_notification_is_lost),
		TEST_BOTH(test_memory_may_change_at_any_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
