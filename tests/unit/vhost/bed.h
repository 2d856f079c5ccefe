/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine without vCPUs around one vhost-user device, and the driver's side of it:
 * registers through the device's BAR, requests through its rings.
 *
 *	0x0000000  RAM "low", 8 MiB: the rings of queue q at 0x10000 * (q + 1);
 *	           data from BED_DATA on
 *	0x1040000  RAM "high", 4 MiB, in the middle of a log word
 */
#ifndef GODWIT_TESTS_VHOST_BED_H
#define GODWIT_TESTS_VHOST_BED_H

#include <cmocka.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "../dev/pci_board.h"
#include "back_end.h"
#include "base/clock.h"
#include "mem/ram.h"
#include "vhost/vhost.h"
#include "virtio/pci.h"
#include "virtio/vdev.h"

#define BED_LOW_SIZE  0x800000u
#define BED_HIGH      0x1040000u
#define BED_HIGH_SIZE 0x400000u
#define BED_DATA      0x400000u
#define BED_QUEUE     64u /* size of a queue, as the driver sets it */
#define BED_QUEUES    8u
#define BED_LIMIT_NS  (20 * NS_PER_SEC)

#define BED_IMAGE_SECTORS 4096u

struct bed_queue {
	uint16_t next_avail, next_used, free_at;
};

struct bed {
	struct board board;
	struct ram_block *low, *high;
	struct mem_region *low_region, *high_region; /* owned references */
	struct vh_board *vhost;
	char folder[64], image[96], socket[96];

	struct vdev *vdev; /* owned; NULL: none yet */
	uint64_t bar;
	unsigned int queues; /* that the driver uses */
	uint64_t wanted;     /* features that it does, where they are offered */
	bool has_vector; /* it wants all interrupts by vector 0; else none */
	struct bed_queue driver[BED_QUEUES];
	uint8_t answer; /* bed_has_answer() */
};

/* A machine, an image of BED_IMAGE_SECTORS in a folder of its own, and a name for a
 * socket there. */
void bed_init(struct bed *bed, bool scan_each);
void bed_fini(struct bed *bed);

/* The disk of bed->socket.  What vh_user_blk_new() said. */
int bed_disk_new(struct bed *bed, unsigned int queues, struct err *err);
void bed_disk_free(struct bed *bed);

/* The same with vh_net_new() and @pairs of queues; on another back end, which @option
 * names. */
int bed_net_new(struct bed *bed, unsigned int pairs, struct err *err);
int bed_net_new_on(struct bed *bed, const char *option, unsigned int pairs,
		   struct err *err);
/* A card's driver wants to use @pairs pairs; the device has answered, what is in
 * bed->answer then. */
void bed_begin_pairs(struct bed *bed, uint16_t pairs);
bool bed_has_answer(void *bed);
/* The driver up to DRIVER_OK; vdev_run() was called. */
void bed_drive(struct bed *bed);
/* A reset by the driver, and waiting until the device has done it. */
void bed_reset(struct bed *bed);
/* The function's, until it is quiet; and its registers as they were. */
void bed_function_reset(struct bed *bed);
/* Bus mastering. */
void bed_set_master(struct bed *bed, bool is_on);
uint8_t bed_status(struct bed *bed);
bool bed_needs_reset(struct bed *bed);

void *bed_at(struct bed *bed, uint64_t gpa);
struct bed_part {
	uint64_t gpa;
	uint32_t size;
	bool is_writable;
};

/* Make a chain available; returns its head. */
uint16_t bed_add(struct bed *bed, unsigned int queue,
		 const struct bed_part *parts, unsigned int count);
/* Take what was used: false when there is nothing. */
bool bed_take(struct bed *bed, unsigned int queue, uint16_t *ret_head,
	      uint32_t *ret_size);
/* Make a disk request available: one data segment of @size bytes at @gpa. */
void bed_submit(struct bed *bed, unsigned int queue, uint32_t type,
		uint64_t sector, uint64_t gpa, uint32_t size);
void bed_kick(struct bed *bed, unsigned int queue);
/* Until @count requests more have been used; false at the limit or when the device
 * needs a reset.  Each must have succeeded. */
bool bed_wait(struct bed *bed, unsigned int queue, unsigned int count);
/* All three. */
bool bed_do(struct bed *bed, unsigned int queue, uint32_t type, uint64_t sector,
	    uint64_t gpa, uint32_t size);

/* Wait until it asks for a reset. */
void bed_wait_broken(struct bed *bed);
/* Wait until the device knows that its back end has ended: what is made available
 * before that may have been taken. */
void bed_wait_away(struct bed *bed);
/* Wait until @is_true, with a limit. */
bool bed_until(bool (*is_true)(void *opaque), void *opaque);

#endif
