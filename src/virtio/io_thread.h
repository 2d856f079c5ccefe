/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread of a back end in this process: it waits for descriptors (kicks,
 * completions, a tap) and calls who is concerned.  One a device.
 */
#ifndef GODWIT_VIRTIO_IO_THREAD_H
#define GODWIT_VIRTIO_IO_THREAD_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct io_thread;
struct io_work;

/* A descriptor that is waited for; embedded in its owner. */
struct io_source {
	int fd;          /* borrowed */
	uint32_t events; /* EPOLLIN, EPOLLOUT */
	void (*ready)(void *opaque);
	void *opaque;
};

/* @name: of the thread, at most 15 bytes. */
int io_thread_new(const char *name, struct io_thread **ret_thread,
		  struct err *err);
/* Ends and joins it.  NULL is accepted. */
void io_thread_free(struct io_thread *thread);

/* By the thread itself or while it is known to rest; @source stays until it is
 * deleted. */
int io_thread_add(struct io_thread *thread, struct io_source *source);
void io_thread_del(struct io_thread *thread, struct io_source *source);

/* Have the thread call @work; returns at once.  Calls are made in order. */
void io_thread_post(struct io_thread *thread, void (*work)(void *opaque),
		    void *opaque);
/* The same, and wait until it was called: 0, or -ETIMEDOUT at @deadline_ns
 * (clock_mono_ns(); UINT64_MAX: no limit), when it may be called still. */
int io_thread_call(struct io_thread *thread, void (*work)(void *opaque),
		   void *opaque, uint64_t deadline_ns);
/* A call in two halves, so that several threads are called at a time.  finish: 0; or
 * -ETIMEDOUT at @deadline_ns, and it is called no more.  One that has begun by then is
 * waited for.  @work is not to be used after it. */
struct io_work *io_thread_begin(struct io_thread *thread,
				void (*work)(void *opaque), void *opaque);
int io_thread_finish(struct io_thread *thread, struct io_work *work,
		     uint64_t deadline_ns);

#endif
