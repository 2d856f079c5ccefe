// SPDX-License-Identifier: Apache-2.0
/*
 * Builds with assertions keep what each thread holds in a thread-local list and
 * abort on a wrong order; without them a lock is a mutex and a condition.
 */
#include "base/lock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"

/* gcc 12's thread sanitizer has not heard of pthread_mutex_clocklock(). */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define BEFORE_CLOCKLOCK(mutex) \
	__tsan_mutex_pre_lock((mutex), __tsan_mutex_try_lock)
#define AFTER_CLOCKLOCK(mutex, ret)                                         \
	__tsan_mutex_post_lock((mutex),                                     \
			       (ret) ? __tsan_mutex_try_lock |              \
					       __tsan_mutex_try_lock_failed \
				     : __tsan_mutex_try_lock,               \
			       0)
#else
#define BEFORE_CLOCKLOCK(mutex)     ((void)(mutex))
#define AFTER_CLOCKLOCK(mutex, ret) ((void)(mutex), (void)(ret))
#endif

#ifndef NDEBUG

#define MAX_HELD 16

static _Thread_local const struct lock *held[MAX_HELD];
static _Thread_local unsigned int held_count;

static void note_acquired(struct lock *lock)
{
	assert(held_count < MAX_HELD);
	assert(held_count == 0 || held[held_count - 1]->rank < lock->rank);
	held[held_count++] = lock;
	lock->owner = pthread_self();
	lock->is_held = true;
}

/* Locks may be released in any order. */
static void note_released(struct lock *lock)
{
	unsigned int i = held_count;

	while (i > 0 && held[i - 1] != lock)
		i--;
	assert(i > 0);
	for (; i < held_count; i++)
		held[i - 1] = held[i];
	held_count--;
	lock->is_held = false;
}

#else

static void note_acquired(struct lock *lock)
{
	(void)lock;
}

static void note_released(struct lock *lock)
{
	(void)lock;
}

#endif

void lock_init(struct lock *lock, enum lock_rank rank)
{
	pthread_mutex_init(&lock->mutex, NULL);
	lock->rank = rank;
	lock->is_held = false;
}

void lock_fini(struct lock *lock)
{
	pthread_mutex_destroy(&lock->mutex);
}

void lock_acquire(struct lock *lock)
{
	int ret = pthread_mutex_lock(&lock->mutex);

	assert(ret == 0);
	(void)ret;
	note_acquired(lock);
}

bool lock_try(struct lock *lock)
{
	if (pthread_mutex_trylock(&lock->mutex))
		return false;
	note_acquired(lock);
	return true;
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){
		.tv_sec = (time_t)(ns / NS_PER_SEC),
		.tv_nsec = (long)(ns % NS_PER_SEC),
	};
}

int lock_acquire_until(struct lock *lock, uint64_t deadline_ns)
{
	const struct timespec ts = timespec_of(deadline_ns);
	int ret;

	if (deadline_ns == UINT64_MAX) {
		lock_acquire(lock);
		return 0;
	}
	BEFORE_CLOCKLOCK(&lock->mutex);
	ret = pthread_mutex_clocklock(&lock->mutex, CLOCK_MONOTONIC, &ts);
	AFTER_CLOCKLOCK(&lock->mutex, ret);
	if (ret)
		return -ETIMEDOUT;
	note_acquired(lock);
	return 0;
}

void lock_release(struct lock *lock)
{
	note_released(lock);
	pthread_mutex_unlock(&lock->mutex);
}

void lock_wait(struct lock *lock, pthread_cond_t *cond)
{
	note_released(lock);
	pthread_cond_wait(cond, &lock->mutex);
	note_acquired(lock);
}

int lock_wait_until(struct lock *lock, pthread_cond_t *cond,
		    uint64_t deadline_ns)
{
	const struct timespec ts = timespec_of(deadline_ns);
	int ret;

	note_released(lock);
	ret = pthread_cond_timedwait(cond, &lock->mutex, &ts);
	note_acquired(lock);
	return ret == ETIMEDOUT ? -ETIMEDOUT : 0;
}

void lock_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

void lock_assert_held(const struct lock *lock)
{
#ifndef NDEBUG
	assert(lock->is_held && pthread_equal(lock->owner, pthread_self()));
#else
	(void)lock;
#endif
}
