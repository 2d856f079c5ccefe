// SPDX-License-Identifier: Apache-2.0
/*
 * One epoll descriptor, and an eventfd by which others hand in work.  Called by
 * devices; @ready and @work are called by the thread.
 *
 * A batch of events is of sources that were there when it was collected; a source
 * that is deleted by an earlier one of the same batch is struck out of it.
 */
#include "virtio/io_thread.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/thread.h"

#define BATCH 32

/* Work that waits to be called; freed behind the call, or by who waits for it. */
struct io_work {
	struct list link;
	void (*work)(void *opaque);
	void *opaque;
	bool is_waited_for; /* io_thread_call(), io_thread_finish() */
	bool has_begun, is_done;
};

struct io_thread {
	/* immutable after init */
	char name[16];
	int epoll_fd;            /* owned */
	struct io_source posted; /* owned eventfd: there is work, or the end */
	pthread_t thread;
	bool has_thread;

	struct lock lock; /* LOCK_IO_THREAD */
	/* protected by lock */
	struct list works;
	pthread_cond_t done; /* some work that is waited for */
	bool is_ending;

	/* the thread's */
	struct epoll_event batch[BATCH];
	int batch_count, batch_at;
	bool has_ended;
};

static void wake(struct io_thread *thread)
{
	uint64_t one = 1;

	/* A full counter is readable as well. */
	if (write(thread->posted.fd, &one, sizeof(one)) < 0)
		assert(errno == EAGAIN);
}

/* With the lock, which is not held during the call. */
static void do_first(struct io_thread *thread)
{
	struct io_work *work =
		list_entry(thread->works.next, struct io_work, link);

	list_del(&work->link);
	work->has_begun = true;
	lock_release(&thread->lock);
	work->work(work->opaque);
	lock_acquire(&thread->lock);
	work->is_done = true;
	if (work->is_waited_for)
		pthread_cond_broadcast(&thread->done);
	else
		free(work);
}

/* What is posted before the end is done before it. */
static void do_posted(void *opaque)
{
	struct io_thread *thread = opaque;
	uint64_t count;

	if (read(thread->posted.fd, &count, sizeof(count)) < 0)
		assert(errno == EAGAIN);
	lock_acquire(&thread->lock);
	while (!list_is_empty(&thread->works))
		do_first(thread);
	thread->has_ended = thread->is_ending;
	lock_release(&thread->lock);
}

static void *run(void *opaque)
{
	struct io_thread *thread = opaque;

	thread_want_low_latency();
	while (!thread->has_ended) {
		int count =
			epoll_wait(thread->epoll_fd, thread->batch, BATCH, -1);

		thread->batch_count = count < 0 ? 0 : count;
		for (thread->batch_at = 0;
		     thread->batch_at < thread->batch_count;
		     thread->batch_at++) {
			struct io_source *source =
				thread->batch[thread->batch_at].data.ptr;

			if (source)
				source->ready(source->opaque);
		}
	}
	return NULL;
}

/* Signals are for the threads that expect them. */
static int start_thread(struct io_thread *thread, struct err *err)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&thread->thread, NULL, run, thread);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return err_set_errno(err, -ret, "thread %s", thread->name);
	thread->has_thread = true;
	pthread_setname_np(thread->thread, thread->name);
	return 0;
}

int io_thread_new(const char *name, struct io_thread **ret_thread,
		  struct err *err)
{
	struct io_thread *thread = calloc(1, sizeof(*thread));
	int ret;

	if (!thread)
		return err_set(err, -ENOMEM, "thread %s: no memory", name);
	snprintf(thread->name, sizeof(thread->name), "%s", name);
	lock_init(&thread->lock, LOCK_IO_THREAD);
	lock_cond_init(&thread->done);
	list_init(&thread->works);
	thread->posted.events = EPOLLIN;
	thread->posted.ready = do_posted;
	thread->posted.opaque = thread;
	thread->posted.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	thread->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (thread->epoll_fd < 0 || thread->posted.fd < 0)
		ret = err_set_errno(err, -errno, "thread %s: descriptors",
				    name);
	else
		ret = io_thread_add(thread, &thread->posted);
	if (ret == 0)
		ret = start_thread(thread, err);
	if (ret)
		io_thread_free(thread);
	else
		*ret_thread = thread;
	return ret;
}

void io_thread_free(struct io_thread *thread)
{
	if (!thread)
		return;
	if (thread->has_thread) {
		lock_acquire(&thread->lock);
		thread->is_ending = true;
		lock_release(&thread->lock);
		wake(thread);
		pthread_join(thread->thread, NULL);
	}
	if (thread->posted.fd >= 0)
		close(thread->posted.fd);
	if (thread->epoll_fd >= 0)
		close(thread->epoll_fd);
	pthread_cond_destroy(&thread->done);
	lock_fini(&thread->lock);
	free(thread);
}

int io_thread_add(struct io_thread *thread, struct io_source *source)
{
	struct epoll_event event = { .events = source->events,
				     .data.ptr = source };

	if (epoll_ctl(thread->epoll_fd, EPOLL_CTL_ADD, source->fd, &event) < 0)
		return -errno;
	return 0;
}

void io_thread_del(struct io_thread *thread, struct io_source *source)
{
	epoll_ctl(thread->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
	for (int i = thread->batch_at + 1; i < thread->batch_count; i++) {
		if (thread->batch[i].data.ptr == source)
			thread->batch[i].data.ptr = NULL;
	}
}

static struct io_work *hand_in(struct io_thread *thread,
			       void (*work)(void *opaque), void *opaque,
			       bool is_waited_for)
{
	struct io_work *item = malloc(sizeof(*item));

	if (!item) {
		log_warn("no memory for work of thread %s", thread->name);
		abort();
	}
	*item = (struct io_work){ .work = work,
				  .opaque = opaque,
				  .is_waited_for = is_waited_for };
	lock_acquire(&thread->lock);
	list_add_tail(&thread->works, &item->link);
	lock_release(&thread->lock);
	wake(thread);
	return item;
}

void io_thread_post(struct io_thread *thread, void (*work)(void *opaque),
		    void *opaque)
{
	hand_in(thread, work, opaque, false);
}

/* With the lock. */
static int await(struct io_thread *thread, const struct io_work *item,
		 uint64_t deadline_ns)
{
	int ret = 0;

	assert(!pthread_equal(pthread_self(), thread->thread));
	while (!item->is_done && ret == 0) {
		if (deadline_ns == UINT64_MAX)
			lock_wait(&thread->lock, &thread->done);
		else
			ret = lock_wait_until(&thread->lock, &thread->done,
					      deadline_ns);
	}
	return item->is_done ? 0 : ret;
}

int io_thread_call(struct io_thread *thread, void (*work)(void *opaque),
		   void *opaque, uint64_t deadline_ns)
{
	struct io_work *item = hand_in(thread, work, opaque, true);
	int ret;

	lock_acquire(&thread->lock);
	ret = await(thread, item, deadline_ns);
	if (ret == 0)
		free(item);
	else
		item->is_waited_for = false;
	lock_release(&thread->lock);
	return ret;
}

struct io_work *io_thread_begin(struct io_thread *thread,
				void (*work)(void *opaque), void *opaque)
{
	return hand_in(thread, work, opaque, true);
}

int io_thread_finish(struct io_thread *thread, struct io_work *work,
		     uint64_t deadline_ns)
{
	int ret;

	lock_acquire(&thread->lock);
	ret = await(thread, work, deadline_ns);
	if (ret && work->has_begun)
		ret = await(thread, work, UINT64_MAX);
	if (ret)
		list_del(&work->link);
	lock_release(&thread->lock);
	free(work);
	return ret;
}
