/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSI-X: the vectors of one PCI function.
 *
 * Each vector has an eventfd; whoever writes it (a thread of this process,
 * vhost-net, a vhost-user back end) interrupts, and need not know more.  While
 * the vector can be delivered the eventfd is bound to a route of the accelerator;
 * while it is masked, by its own bit, by the function's or since MSI-X is off,
 * it is not bound, and what was written stays in the eventfd: that is the pending
 * bit, and binding it later delivers it.
 *
 *	            enabled and unmasked
 *	  unbound ------------------------> bound (route = its message)
 *	  pending <------------------------
 *	               masked
 *
 * However many vectors a guest's write changes, the routes change in one commit.
 *
 * Source: PCI Express base specification 4.0, 7.7.2; PCI local bus 3.0, 6.8.2.
 */
#ifndef GODWIT_DEV_MSIX_H
#define GODWIT_DEV_MSIX_H

#include <stdbool.h>
#include <stdint.h>

#define MSIX_VECTORS_MAX 2048u
#define MSIX_NO_VECTOR   0xffffu

struct accel;
struct err;
struct event_writer;
struct mem;
struct mem_region;
struct msix;
struct state_registry;

/* @vectors 1 to MSIX_VECTORS_MAX; saved as "@name-msix", as
 * "@name-msix-setup" in @setup_state (NULL:
 * none) without pending bits.  The table is at offset 0 of msix_region(), the
 * pending bits at msix_pba_offset(). */
int msix_new(struct mem *mem, const char *name, struct accel *accel,
	     unsigned int vectors, struct state_registry *setup_state,
	     struct state_registry *state, struct msix **ret_msix,
	     struct err *err);
void msix_free(struct msix *msix); /* NULL is accepted */

/* Borrowed; its size is a power of two, at least 4 KiB. */
struct mem_region *msix_region(struct msix *msix);
uint32_t msix_pba_offset(const struct msix *msix);
unsigned int msix_vectors(const struct msix *msix);

/* The eventfd of @vector, borrowed while the msix lives; -1 for a vector that
 * there is not (MSIX_NO_VECTOR). */
int msix_fd(const struct msix *msix, unsigned int vector);
/* Another process will have those eventfds, and may do to them what it likes
 * (base/event.h).  Before the first interrupt; @writer is borrowed while the msix
 * lives. */
void msix_share(struct msix *msix, struct event_writer *writer);
/* Interrupt.  Any thread, any lock; of a vector that there is not, nothing. */
void msix_notify(struct msix *msix, unsigned int vector);

/* The message control register changed (dev/pci.c). */
void msix_set_control(struct msix *msix, bool is_enabled, bool is_masked);
/* As after power-up. */
void msix_reset(struct msix *msix);

#endif
