/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State of the machine and of its vCPUs.
 *
 * CPU 0 fills in `struct machine` and every `struct vcpu` and then publishes
 * them; after that each vCPU writes only its own.
 */
#ifndef GODWIT_GUEST_VCPU_H
#define GODWIT_GUEST_VCPU_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/config.h"
#include "guest/gauge.h"
#include "guest/layout.h"
#include "guest/pattern.h"
#include "guest/ram.h"

/* A vCPU's share of an area: pages [first, first + pages) of the RAM. */
struct slice {
	uint64_t first;
	uint64_t pages;
};

/* Pages that are stamped over and over; owned by one vCPU. */
struct hot {
	struct slice slice;
	uint64_t *expected; /* sequence of each page */
	uint64_t scan_at;   /* next page to be only read */
	/*
	 * Sum of all of expected[], and of those below scan_at.  Catches pages
	 * that went back in time together with their part of expected[].
	 */
	uint64_t sum, sum_below;
};

/* Pages written once; owned by one vCPU. */
struct fill {
	struct slice slice;
	uint64_t scan_at;
};

struct vcpu {
	/* immutable after publication */
	uint64_t index;
	struct machine *machine;
	uint64_t stamp_tsc;   /* between two stamps, << 8; 0 = no limit */
	uint64_t max_backlog; /* caught up after a pause; TSC << 8 */
	uint64_t scan_tsc;    /* longest time between two scans */
	uint64_t burst_tsc;   /* stamps for so long, then none; 0 = no */

	/* written by the vCPU, read by CPU 0 */
	struct gauge gauge;
	uint64_t stamped; /* also kept in XMM15, see hot_stamp() */
	uint64_t checked;
	uint64_t errors;
	uint32_t full_checks; /* done */
	uint32_t is_warm;     /* all pages have been written once */

	/* owned by the vCPU */
	struct hot hot;
	struct fill fill;
	struct pattern pattern;
	uint64_t next_stamp; /* TSC since start << 8 */
	uint64_t next_scan;  /* TSC */
	uint64_t stamps_to_scan;

	uint32_t ring[GAUGE_RING] __attribute__((aligned(PAGE_SIZE)));
};

_Static_assert(sizeof(struct vcpu) <= VCPU_SIZE, "layout.h: VCPU_SIZE");

struct machine {
	/* immutable after publication */
	struct config config;
	struct ram ram;
	uint64_t tsc_khz;

	/* set by CPU 0 */
	uint64_t start; /* TSC */
	uint32_t is_published;
	uint32_t is_going;
	uint32_t resets;      /* how often gauges were to be cleared */
	uint32_t full_checks; /* how many were asked for */

	/* set by each vCPU */
	uint8_t has_arrived[MAX_VCPUS];
	uint32_t error_lines; /* atomic */
};

static inline struct vcpu *vcpu_of(uint64_t index)
{
	return (struct vcpu *)(VCPUS_BASE + index * VCPU_SIZE);
}

#endif
