/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eventfds that another process has too: kicks and interrupts of vhost-user devices.
 *
 * Whether an eventfd blocks is a flag of the open file, which is one for all who got
 * it by SCM_RIGHTS, as its counter is.  So a back end that clears O_NONBLOCK, and then
 * empties or fills the counter, has read() or write() here wait for ever, whatever was
 * looked at before the call.  What is done here never waits:
 *
 * - a read says of itself that it does not (RWF_NOWAIT; eventfds know it since
 *   Linux 5.8);
 * - a write cannot say so: eventfds do not know RWF_NOWAIT there.  What the kernel
 *   signals when an asynchronous read has ended (IOCB_FLAG_RESFD of io_submit(2)) it
 *   signals as vhost and KVM do: a full counter stays full, and nobody waits.  So
 *   nothing is read, of a file of our own, and the eventfd is told.
 *
 * An event_writer costs 1.2 us a write instead of 0.3, and a thread for 36 ms when it is freed: one
 * is made for a machine that has such devices, and others write by themselves.
 */
#ifndef GODWIT_BASE_EVENT_H
#define GODWIT_BASE_EVENT_H

#include <stdbool.h>

struct err;
struct event_writer;

/* Empty the eventfd; whether there was anything in it. */
bool event_take(int fd);

/* What memfd_create() or io_setup() said. */
int event_writer_new(struct event_writer **ret_writer, struct err *err);
void event_writer_free(struct event_writer *writer); /* NULL is accepted */

/* Add 1 to the eventfd's counter, or leave it full.  NULL: of one that nobody else has.
 * Any thread, any lock. */
void event_write(struct event_writer *writer, int fd);
/* Of each of @count, some of which may be the same, or none (-1): two calls for 32 of
 * them. */
void event_write_all(struct event_writer *writer, const int *fds,
		     unsigned int count);

#endif
