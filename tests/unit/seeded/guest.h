/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that reconfigures its devices at random, on the simulated accelerator: the
 * test's program wraps sim_program_step(), so that this runs on vCPU threads, and reaches
 * RAM, ports and devices as the accelerator's own workload does.
 *
 *	find.c    finds the devices, as firmware does
 *	script.c  decides what comes next: whole changes, cut into single accesses
 *	guest.c   makes one access a step
 *	check.c   reads everything back
 *
 * Each vCPU has devices of its own and makes so many accesses as it is asked for, no
 * more: the same seed and the same requests are the same accesses in the same order,
 * whenever the machine is stopped, which may be between any two of them.  vCPU 0 brings
 * the others up and down, by a word in RAM for each, as firmware's mailbox has it.
 *
 * What is known of devices, disks and pages is here, beside the machines, so that nothing
 * of it gets lost with them.
 */
#ifndef GODWIT_TEST_SEEDED_GUEST_H
#define GODWIT_TEST_SEEDED_GUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "registers.h"

#define GUEST_CPUS     4u
#define GUEST_DEVICES  6u
#define GUEST_ACCESSES 96u /* of one script */
#define GUEST_PAGES    64u /* that a vCPU writes and checks */
#define GUEST_SECTORS  16u /* of each queue of a disk */

#define GUEST_MEMORY (32ull << 20)

struct addr_space;
struct sim_vcpu;

enum guest_kind {
	GUEST_DISK,
	GUEST_RNG,
	GUEST_CONSOLE,
	GUEST_SHMEM,
};

/* What a script does. */
enum guest_change {
	CHANGE_BAR,      /* moved */
	CHANGE_COMMAND,  /* decoding, bus mastering and what else there is */
	CHANGE_MSIX,     /* an entry, its mask, the function's, or on and off */
	CHANGE_QUEUE,    /* reset, elsewhere, of another size */
	CHANGE_RESET,    /* by the status, then set up */
	CHANGE_FUNCTION, /* by PCI Express, then set up from the BARs on */
	CHANGE_REQUEST,  /* none: a request */
	CHANGE_CPU,      /* brought up, or down */
	CHANGES,
};

struct guest_queue {
	uint64_t at; /* gpa: rings, then buffers */
	uint16_t avail;
	/* a disk's */
	bool is_write;
	unsigned int sector;
	uint64_t stamps[GUEST_SECTORS]; /* what was written; 0: nothing */
};

struct guest_device {
	enum guest_kind kind;
	const char *name;
	struct registers regs;
	struct guest_queue queues[REG_QUEUES];
	uint64_t shmem_stamp; /* 0: none was written */
};

enum access_kind {
	ACCESS_CONFIG,  /* write configuration space, by ECAM */
	ACCESS_PORTS,   /* the same by ports */
	ACCESS_MMIO,    /* write a BAR */
	ACCESS_RESET,   /* read a common register until it is 0 */
	ACCESS_CLEAR,   /* queue @bar: empty rings at @value */
	ACCESS_SUBMIT,  /* queue @bar: a request, of @value */
	ACCESS_COLLECT, /* and wait until it is used */
	ACCESS_STAMP,   /* RAM behind BAR 2, after a check */
	ACCESS_WAKE,    /* bring vCPU @value up, and wait until it is */
	ACCESS_PARK,
};

struct access {
	enum access_kind kind;
	struct guest_device *dev;
	unsigned int bar, size;
	uint32_t offset;
	uint64_t value;
};

/* Phases of a migration, as the test counts them. */
#define GUEST_PHASES 8u

struct guest_cpu {
	/* the vCPU's thread's, or anybody's while it has nothing to do */
	uint64_t random;
	uint64_t digest; /* of all accesses, in order */
	struct access script[GUEST_ACCESSES];
	unsigned int count, at;
	bool is_under_way; /* the access at @at waits */
	uint64_t pages[GUEST_PAGES], total;
	uint64_t changes[GUEST_PHASES][CHANGES]; /* begun, by phase */
	/* protected by the guest's mutex */
	uint64_t asked, done;
	unsigned int phase; /* in which it was asked */
	bool is_up, is_check_asked;
};

struct guest {
	struct guest_cpu cpus[GUEST_CPUS];
	struct guest_device devices[GUEST_DEVICES];
	unsigned int device_count;

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	/* protected by mutex */
	char fault[256]; /* the first */
};

/* The guest that all machines of the process run, one after the other. */
extern struct guest guest;

/* Nothing is known. */
void guest_init(uint64_t seed);
/* find.c: the devices of the machine whose memory is @as, which does not run yet. */
void guest_find_devices(struct addr_space *as);

static inline uint64_t guest_random(uint64_t *state, uint64_t below)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (z ^ z >> 31) % below;
}

/* Whose @dev is: of two that are parked, or one that is and one that is not, only one
 * uses it. */
unsigned int guest_owner(const struct guest_device *dev);

/* script.c: @cpu's next change. */
void script_next(struct guest_cpu *cpu);

/* Of the guest's own findings; printf. */
void guest_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
