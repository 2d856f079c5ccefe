/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queues of one tap interface: opened, attached, and told what the guest
 * wants of the kernel.  For whoever moves the packets: net_tap.c, and vhost-net.
 *
 * The kernel spreads an interface's packets over all queues that are attached,
 * whoever has them open, so a queue that nobody reads swallows its share.  What
 * follows from that:
 *
 * - Of a tap with many queues only as many are attached as the guest uses.
 * - In a move within one host both sides name the same tap.  The destination
 *   attaches nothing before it may run the guest (claim), the source detaches
 *   once it may not (disclaim), and attaches again when it may after all.  Packets
 *   that come between the two are dropped by the kernel, as are those that waited
 *   in the source's queues: some of one pause, which is what a move to another
 *   host loses too.
 * - A destination that hangs after its claim keeps its share of the packets until
 *   it ends; what the source gets back is its guest, and a trace point.
 * - Without a move, a tap that another process has a queue of is refused.
 * - A tap that was made without multi_queue has one queue, which one process can
 *   have open.  It is held from the beginning to the end; a destination that
 *   names it fails at once (-EBUSY), not in the pause.
 *
 * Costs, Linux 6.18: attach 20 us a queue, open and attach 25 us, detach 150 to
 * 350 us (it waits for RCU), which is why disclaim is not waited for (net.c) and
 * queues are opened when they are first used.
 *
 * One thread at a time, but for tap_fd(), tap_announce() and tap_features().
 */
#ifndef GODWIT_VIRTIO_TAP_H
#define GODWIT_VIRTIO_TAP_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct tap;

/* struct virtio_net_hdr_v1, in front of each packet in both directions. */
#define TAP_HEADER_SIZE 12u

/*
 * @name: an existing tap, or it is made, and is up, for as long as this process
 * has it open.  Its first queue is attached now, but for an incoming machine
 * where it exists and can be shared (above).  -EINVAL: @name is no interface
 * name, no tap, or has one queue and @queues are more; -EBUSY; or what the kernel
 * said.
 */
int tap_new(const char *name, unsigned int queues, bool is_incoming,
	    struct tap **ret_tap, struct err *err);
void tap_free(struct tap *tap); /* NULL is accepted */

/* Attach the first @active queues and no others: those in use, at a claim too; 0 to
 * disclaim.  A failure leaves as many as there were.  Nothing for a tap of one
 * queue. */
int tap_set_active(struct tap *tap, unsigned int active, struct err *err);

/* Borrowed and O_NONBLOCK; -1 for a queue that was never attached.  A detached
 * one is EPOLLERR all the time. */
int tap_fd(const struct tap *tap, unsigned int queue);

/* Features of the device type (a mask) that the kernel's part makes possible. */
uint64_t tap_features(const struct tap *tap);
/* What of these the driver chose: what it takes from the kernel.  Belongs to the
 * interface, so it is set at every start. */
int tap_set_features(struct tap *tap, uint64_t features, struct err *err);
/* A RARP request from @mac, so that switches learn where it is. */
void tap_announce(const struct tap *tap, const uint8_t mac[6]);

#endif
