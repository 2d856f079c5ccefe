/* SPDX-License-Identifier: Apache-2.0 */
/* Who is in front of a disk's back end in tests: hands requests to its thread and
 * waits for them. */
#ifndef GODWIT_TESTS_VIRTIO_BLK_FRONT_H
#define GODWIT_TESTS_VIRTIO_BLK_FRONT_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "virtio/blk_backend.h"
#include "virtio/io_thread.h"

#define FRONT_LIMIT_NS (30 * NS_PER_SEC)

struct front {
	struct blk_backend *backend;
	struct io_thread *thread;
	pthread_mutex_t mutex;
	pthread_cond_t is_done;
	unsigned int in_flight; /* protected by mutex */
};

struct front_io {
	struct blk_io io;
	struct iovec iovecs[8], *at;
	struct front *front;
	int result;
	bool is_done;
};

static inline void front_done(void *opaque, struct blk_io *io, int result)
{
	struct front *front = opaque;
	struct front_io *request = container_of(io, struct front_io, io);

	pthread_mutex_lock(&front->mutex);
	assert_false(request->is_done);
	request->result = result;
	request->is_done = true;
	front->in_flight--;
	pthread_cond_broadcast(&front->is_done);
	pthread_mutex_unlock(&front->mutex);
}

/* The thread: all there is to do, until it may sleep. */
static inline void front_poll(void *opaque)
{
	struct blk_backend *backend = ((struct front *)opaque)->backend;

	do {
		while (backend->ops->poll(backend) > 0)
			continue;
	} while (!backend->ops->arm(backend));
}

static inline void front_attach(void *opaque)
{
	struct front *front = opaque;
	struct err err = ERR_INIT;

	assert_int_equal(front->backend->ops->attach(front->backend,
						     front->thread, &err),
			 0);
	front_poll(front);
}

static inline void front_detach(void *opaque)
{
	struct front *front = opaque;

	front->backend->ops->detach(front->backend);
}

/* @backend is the front's from here on. */
static inline void front_init(struct front *front, struct blk_backend *backend)
{
	*front = (struct front){ .backend = backend };
	pthread_mutex_init(&front->mutex, NULL);
	pthread_cond_init(&front->is_done, NULL);
	backend->front = (struct blk_front){ .done = front_done,
					     .ready = front_poll,
					     .opaque = front };
	assert_int_equal(io_thread_new("front", &front->thread, NULL), 0);
	assert_int_equal(
		io_thread_call(front->thread, front_attach, front, UINT64_MAX),
		0);
}

static inline void front_fini(struct front *front)
{
	if (!front->backend)
		return;
	io_thread_call(front->thread, front_detach, front, UINT64_MAX);
	io_thread_free(front->thread);
	front->backend->ops->free(front->backend);
	pthread_cond_destroy(&front->is_done);
	pthread_mutex_destroy(&front->mutex);
	front->backend = NULL;
}

static inline void front_submit(void *opaque)
{
	struct front_io *request = opaque;
	struct blk_backend *backend = request->front->backend;

	backend->ops->submit(backend, &request->io);
	front_poll(request->front);
}

/* Hand @request in; its op, offset and iovecs are set. */
static inline void front_begin(struct front *front, struct front_io *request)
{
	request->front = front;
	request->is_done = false;
	request->io.iovecs = request->iovecs;
	pthread_mutex_lock(&front->mutex);
	front->in_flight++;
	pthread_mutex_unlock(&front->mutex);
	io_thread_post(front->thread, front_submit, request);
}

static inline int front_wait(struct front_io *request)
{
	struct front *front = request->front;
	struct timespec limit;
	int ret = 0;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += FRONT_LIMIT_NS / NS_PER_SEC;
	pthread_mutex_lock(&front->mutex);
	while (!request->is_done && ret == 0)
		ret = pthread_cond_timedwait(&front->is_done, &front->mutex,
					     &limit);
	pthread_mutex_unlock(&front->mutex);
	assert_int_equal(ret, 0);
	return request->result;
}

/* One request in one piece of memory, and its result. */
static inline int front_do(struct front *front, enum blk_op op, uint64_t offset,
			   void *buf, size_t size)
{
	struct front_io request = {
		.io = { .op = op, .offset = offset, .size = size },
	};

	if (buf) {
		request.iovecs[0] = (struct iovec){ buf, size };
		request.io.iovec_count = 1;
	}
	front_begin(front, &request);
	return front_wait(&request);
}

#endif
