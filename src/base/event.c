// SPDX-License-Identifier: Apache-2.0
/*
 * Reads and writes of shared eventfds; called by whoever kicks, interrupts, or takes
 * back what was not delivered (dev/msix.c, virtio/pci.c, vhost/, accel/).
 *
 * Asynchronous reads have ended when io_submit() returns, and their completions are taken
 * at once, under the lock: so there is always room for the next ones.
 */
#include "base/event.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/err.h"
#include "base/lock.h"

#define BATCH 32u /* of fs.aio-max-nr, which is 65536 for all of a host */

struct event_writer {
	/* immutable after init */
	aio_context_t aio; /* 0: none */
	int empty_fd;      /* owned; -1 */

	struct lock lock; /* LOCK_EVENTFD; reads and their completions */
};

bool event_take(int fd)
{
	uint64_t count;
	struct iovec part = { &count, sizeof(count) };
	ssize_t got;

	do {
		got = preadv2(fd, &part, 1, -1, RWF_NOWAIT);
	} while (got < 0 && errno == EINTR);
	return got == (ssize_t)sizeof(count);
}

int event_writer_new(struct event_writer **ret_writer, struct err *err)
{
	struct event_writer *writer = calloc(1, sizeof(*writer));
	int ret = 0;

	if (!writer)
		return err_set(err, -ENOMEM, "no memory to write eventfds");
	lock_init(&writer->lock, LOCK_EVENTFD);
	writer->empty_fd = memfd_create("godwit:event", MFD_CLOEXEC);
	if (writer->empty_fd < 0)
		ret = err_set_errno(err, -errno, "memfd to write eventfds");
	else if (syscall(SYS_io_setup, BATCH, &writer->aio) < 0)
		ret = err_set_errno(err, -errno,
				    "io_setup, to write eventfds that a back "
				    "end shares (fs.aio-max-nr limits it)");
	if (ret)
		event_writer_free(writer);
	else
		*ret_writer = writer;
	return ret;
}

static void *destroy(void *opaque)
{
	pthread_setname_np(pthread_self(), "aio-end");
	syscall(SYS_io_destroy, (aio_context_t)(uintptr_t)opaque);
	return NULL;
}

/* Which takes 36 ms of the kernel's grace periods: nobody waits for them. */
static void destroy_aside(aio_context_t aio)
{
	void *opaque = (void *)(uintptr_t)aio;
	pthread_t thread;

	if (pthread_create(&thread, NULL, destroy, opaque))
		destroy(opaque);
	else
		pthread_detach(thread);
}

void event_writer_free(struct event_writer *writer)
{
	if (!writer)
		return;
	if (writer->aio)
		destroy_aside(writer->aio);
	if (writer->empty_fd >= 0)
		close(writer->empty_fd);
	lock_fini(&writer->lock);
	free(writer);
}

/* At most BATCH: how many of them have been dealt with, at least one.  io_submit() ends
 * at what is no eventfd, and fails where that is the first, as a write would. */
static unsigned int signal_some(struct event_writer *writer, const int *fds,
				unsigned int count)
{
	struct iocb reads[BATCH], *list[BATCH];
	struct io_event done[BATCH];
	long submitted;

	for (unsigned int i = 0; i < count; i++) {
		reads[i] = (struct iocb){
			.aio_lio_opcode = IOCB_CMD_PREAD,
			.aio_fildes = (uint32_t)writer->empty_fd,
			.aio_flags = IOCB_FLAG_RESFD,
			.aio_resfd = (uint32_t)fds[i],
		};
		list[i] = &reads[i];
	}
	lock_acquire(&writer->lock);
	submitted = syscall(SYS_io_submit, writer->aio, count, list);
	if (submitted > 0)
		syscall(SYS_io_getevents, writer->aio, 0, submitted, done,
			NULL);
	lock_release(&writer->lock);
	return submitted > 0 ? (unsigned int)submitted : 1;
}

void event_write_all(struct event_writer *writer, const int *fds,
		     unsigned int count)
{
	unsigned int i = 0;

	while (i < count) {
		unsigned int left = count - i;

		if (writer)
			i += signal_some(writer, fds + i,
					 left < BATCH ? left : BATCH);
		else /* EAGAIN: it is full, and tells already */
			eventfd_write(fds[i++], 1);
	}
}

void event_write(struct event_writer *writer, int fd)
{
	event_write_all(writer, &fd, 1);
}
