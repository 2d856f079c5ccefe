/* SPDX-License-Identifier: Apache-2.0 */
/* Options that the programs which drive devices have in common. */
#ifndef GODWIT_GUEST_IO_CONFIG_H
#define GODWIT_GUEST_IO_CONFIG_H

#include "guest/options.h"

#define IO_TEXT_MAX 1024
#define IO_ALL      UINT32_MAX

enum msix_mode {
	MSIX_OFF,
	MSIX_ON,     /* messages are looked for in the APIC */
	MSIX_MASKED, /* and these in the array of pending bits */
};

enum pci_access {
	PCI_BY_ECAM,
	PCI_BY_PORTS, /* ECAM, and ports must show the same */
};

/* Bits of io_config.churn_what. */
enum churn_kind {
	CHURN_BARS,
	CHURN_RESET,
	CHURN_MSIX,
	CHURN_QUEUES,
	CHURN_SHMEM,
	/* only when asked for */
	CHURN_COMMAND,
	CHURN_CPUS,
	CHURN_BREAK,
	CHURN_MASTER,
	CHURN_KINDS,
};

struct io_config {
	char text[IO_TEXT_MAX]; /* the command line, for the first line */
	uint64_t cpus;
	uint64_t device; /* which one of its kind, or IO_ALL */
	uint64_t queues; /* of a device; pairs of them where they are pairs */
	uint64_t depth;  /* requests in flight, a queue */
	uint64_t ring;   /* largest size of a queue */
	struct size_mix size; /* bytes of a request */
	uint64_t rate_per_s;  /* requests, of the machine; 0 = no limit */
	uint64_t is_packed, is_indirect, has_event_idx; /* bool: if offered */
	uint64_t msix;                                  /* enum msix_mode */
	uint64_t pci;                                   /* enum pci_access */
	uint64_t verify;                                /* bool */
	uint64_t churn_us;                              /* 0 = never */
	uint64_t churn_what;  /* mask of enum churn_kind */
	uint64_t timeout_us;  /* of a request: an error, once */
	uint64_t watch_us;    /* looks at the status of devices; 0 = never */
	uint64_t tick_us;     /* 0 = none */
	uint64_t poll_us;     /* 0 = never */
	uint64_t interval_us; /* of the work record */
	uint64_t report_s;    /* 0 = only when asked */
	uint64_t run_s;       /* 0 = for ever */
	uint64_t seed;
	uint64_t tsc_khz; /* 0 = not given */
};

/* Rows of all fields, for a struct that begins with a struct io_config. */
extern const struct option_table io_options;

extern const char *const churn_names[CHURN_KINDS + 1];

#define IO_CONFIG_DEFAULTS                                                     \
	{                                                                      \
		.cpus = 1, .device = IO_ALL, .queues = 1, .depth = 32,         \
		.ring = 256, .has_event_idx = 1, .msix = MSIX_ON, .verify = 1, \
		.churn_what = (1 << CHURN_COMMAND) - 1,                        \
		.timeout_us = 30000000, .watch_us = 20000, .tick_us = 1000,    \
		.poll_us = 10000, .interval_us = 10000, .seed = 1,             \
	}

#endif
