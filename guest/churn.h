/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes devices at random moments while they work: BARs move, devices are
 * reset and set up again, interrupts get other vectors.  All of it is CPU 0's.
 */
#ifndef GODWIT_GUEST_CHURN_H
#define GODWIT_GUEST_CHURN_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/io_config.h"

struct io;
struct pci_function;
struct vdev;

struct churn {
	uint64_t what;   /* mask of enum churn_kind that is possible here */
	uint64_t next;   /* TSC; UINT64_MAX for never */
	uint64_t random; /* state of the generator */
	uint64_t counts[CHURN_KINDS];

	/* the change that was decided on */
	bool is_pending;
	enum churn_kind kind;
	struct vdev *dev; /* borrowed */

	struct pci_function *shmem; /* one with RAM in BAR 2, or NULL */
	uint64_t shmem_stamps;      /* which of them is in that RAM; 0: none */
	bool is_shmem_off;          /* decoding is */
};

void churn_start(struct io *io);

/* Whether one is due: decides which, and gives the order for it. */
bool churn_begin(struct io *io, uint64_t now);

/* All vCPUs have followed. */
void churn_do(struct io *io, uint64_t now);
/* Something came between. */
void churn_put_off(struct io *io, uint64_t now);

/* What it has written must be there. */
void churn_check(struct io *io);

#endif
