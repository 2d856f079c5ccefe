/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Live migration of one machine: what control/ and cli/ call.
 *
 * A struct mig belongs to one machine and holds parameters, the state of the
 * current or last outgoing migration, and that of an incoming one.  mig_start()
 * and mig_incoming() return at once; a thread of their own does the work and
 * reports through the event callback and mig_query().  See source.c and
 * destination.c for the two state machines and docs/spec/stream.md for who owns
 * the guest at each step.
 */
#ifndef GODWIT_MIGRATE_MIGRATE_H
#define GODWIT_MIGRATE_MIGRATE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "machine/calls.h"
#include "migrate/timeline.h"

struct converge;
struct dirty_limit;
struct dirty_rate;
struct dirty_rate_params;
struct machine;
struct mig;

/* Source and destination states, drawn in states.c. */
enum mig_state {
	MIG_NONE,
	/* source, under way */
	MIG_SETUP,
	MIG_ACTIVE,
	MIG_DEVICE,      /* guest stopped, the rest travels */
	MIG_SENT,        /* all of it; READY comes next */
	MIG_READY,       /* GO (or what stands for it): too late to cancel */
	MIG_HANDED_OVER, /* GO was sent */
	MIG_CANCELLING,
	/* over */
	MIG_COMPLETED,
	MIG_FAILED,
	MIG_CANCELLED,
	/* destination */
	MIG_LISTENING,
	MIG_BUILDING,
	MIG_RECEIVING,
	MIG_STOPPED, /* the guest, at the source */
	MIG_LOADING, /* all bytes are here */
	MIG_LOADED,
	MIG_TAKING_OVER, /* GO is here */
	MIG_STARTED,     /* the guest runs; RUNNING comes next */
	MIG_RUNNING,
	MIG_STATE_COUNT
};

/* As clients see it: QEMU's names, "device" from MIG_DEVICE to completed. */
const char *mig_status(enum mig_state state);

/* x-switch, of a destination (state_recv.h): what is loaded when. */
enum mig_switch {
	MIG_SWITCH_EARLY, /* the default */
	MIG_SWITCH_BATCHED,
	MIG_SWITCH_NAIVE,
	MIG_SWITCH_COUNT
};

/* migrate-set-parameters; names and units are QEMU's. */
struct mig_params {
	uint64_t max_bandwidth;     /* bytes a second, 0: no limit */
	uint64_t downtime_limit_ms; /* default 300 */
	/* How much of their writing vCPUs may be denied, in per cent, so that the
	 * limit is met (converge.h): default 99; 0: they are left alone. */
	uint64_t max_cpu_throttle;
	/* x-log-stop-delay: how long dirty logging stays on after the end
	 * (default 1000); a migration until then finds it on. */
	uint64_t log_stop_delay_ms;
	enum mig_switch how_to_switch;
	/* x-estimate=size instead of costs: see policy.divides_only. */
	bool divides_only;
};

#define MIG_DOWNTIME_LIMIT_MAX_MS 2000000ull /* QEMU's limit */
#define MIG_CPU_THROTTLE_MAX      99u        /* QEMU's limit */
#define MIG_LOG_STOP_DELAY_MAX_MS 3600000ull

/* migrate-set-capabilities.  `ram-checksum` copies and checks RAM that is sent
 * live; `verify` hashes RAM on both sides at the switch; `events` sends
 * MIGRATION events as in QEMU (on by default here). */
struct mig_caps {
	bool ram_checksum, verify, events;
};

/* The pause, phase by phase, in order. */
enum mig_phase {
	/* measured by the source */
	MIG_PHASE_STOP_VCPUS,    /* signal all, wait for all */
	MIG_PHASE_STOP_BACKENDS, /* devices quiesced */
	MIG_PHASE_SAVE_VCPUS,    /* in parallel, on their threads */
	MIG_PHASE_LAST_SYNC,     /* dirty log and residency */
	MIG_PHASE_SEND_RAM,      /* the remaining pages */
	MIG_PHASE_SEND_STATE,    /* device state */
	MIG_PHASE_VERIFY,        /* hashing, with `verify` only */
	MIG_PHASE_WAIT_READY,    /* until READY arrived */
	MIG_PHASE_WAIT_RUNNING,  /* from GO until RUNNING arrived */
	/* measured by the destination, told in READY and RUNNING */
	MIG_PHASE_DST_RECEIVE, /* from the STOPPED record to the last byte */
	MIG_PHASE_DST_VERIFY,
	MIG_PHASE_DST_LOAD,     /* device fields, one commit */
	MIG_PHASE_DST_ACTIVATE, /* devices and, in parallel, vCPUs */
	MIG_PHASE_DST_START,    /* from GO arrived to vCPUs released */
	MIG_PHASE_COUNT
};

const char *mig_phase_name(enum mig_phase phase);

struct mig_info {
	enum mig_state state;
	bool is_incoming;
	char uri[200];
	struct err error; /* why it failed */
	uint64_t total_ns, setup_ns,
		downtime_ns; /* downtime: stop to RUNNING */
	uint64_t expected_downtime_ns;
	/* The part of that which no round makes less; above the limit, the
	 * limit is out of reach. */
	uint64_t fixed_downtime_ns, downtime_limit_ns;
	bool is_out_of_reach;
	uint64_t ram_total, ram_remaining, ram_transferred; /* bytes */
	uint64_t pages_normal, pages_zero;                  /* sent */
	uint64_t pages_hole;       /* never touched, not sent */
	uint64_t dirty_pages_rate; /* a second, in the last round */
	uint64_t rounds;           /* dirty syncs so far */
	uint64_t bandwidth;        /* bytes a second, socket busy */
	uint64_t precopy_bytes, downtime_bytes;
	uint64_t phase_ns[MIG_PHASE_COUNT];
	uint64_t switch_commits; /* topology commits of its load */
	/* In the pause.  The destination's: when it told (has_calls). */
	struct machine_calls source_calls, destination_calls;
	bool has_calls;
	struct timeline timeline; /* of a source */
	bool has_rings;           /* dirty rings, and of this migration: */
	uint64_t ring_full_exits, ring_entries, ring_reset_ns;
	uint64_t ring_strays; /* of the entries: those that named no memory */
	bool is_verified;     /* hashes were compared and agreed */
	uint64_t verified_pages;
	uint64_t verify_hash;
};

/* Called from any thread: it may only queue. */
struct mig_event {
	bool is_pass; /* MIGRATION_PASS; otherwise MIGRATION */
	enum mig_state state;
	uint64_t pass;
};
typedef void mig_event_fn(void *opaque, const struct mig_event *event);

struct mig *mig_new(struct machine *machine, mig_event_fn *on_event,
		    void *opaque);
/* Cancels what is under way and waits for its threads. */
void mig_free(struct mig *mig);

/* -EBUSY while one is under way, -EINVAL for a bad URI or run state. */
int mig_start(struct mig *mig, const char *uri, struct err *err);
/* Returns at once; the guest runs on if it was not given away.  No-op without a
 * migration. */
void mig_cancel(struct mig *mig);
/* Listen (or open the file) and return; the migration arrives on a thread of
 * its own. */
int mig_incoming(struct mig *mig, const char *uri, struct err *err);

void mig_query(struct mig *mig, struct mig_info *ret_info);
void mig_params(struct mig *mig, struct mig_params *ret_params);
const char *mig_switch_name(enum mig_switch how);
/* -ERANGE with a reason; takes effect at once, also on a running migration. */
int mig_set_params(struct mig *mig, const struct mig_params *params,
		   struct err *err);

/* Break a migration on purpose (fail.h), once: "ARC[,action=ACTION]", or "" for
 * nothing.  -EINVAL.  And what is still to be broken, in the same form. */
#define MIG_FAIL_MAX 64
int mig_set_fail(struct mig *mig, const char *text, struct err *err);
void mig_fail(struct mig *mig, char ret_text[MIG_FAIL_MAX]);
int mig_check_fail(const char *text, struct err *err);
/* The arcs, one a line: name, side, who owns the guest there. */
void mig_print_arcs(FILE *out);

void mig_caps(struct mig *mig, struct mig_caps *ret_caps);
/* -EBUSY while a migration is under way. */
int mig_set_caps(struct mig *mig, const struct mig_caps *caps, struct err *err);

/* Hand a file descriptor in under a name for `fd:NAME` (QMP getfd), and close
 * it again (closefd; -ENOENT). */
int mig_add_fd(struct mig *mig, const char *name, int fd, struct err *err);
int mig_del_fd(struct mig *mig, const char *name, struct err *err);

/* dirty_rate_start(), but -EBUSY while a migration is under way, and -EINVAL for a
 * machine that never ran or is gone. */
int mig_calc_dirty_rate(struct mig *mig, const struct dirty_rate_params *params,
			struct err *err);
/* dirty_limit_set(), but -EINVAL for a limit on a machine that never ran or is
 * gone. */
int mig_set_dirty_limit(struct mig *mig, unsigned int vcpu,
			uint64_t mib_per_sec, struct err *err);
/* To be asked. */
struct dirty_rate *mig_dirty_rate(struct mig *mig);
struct dirty_limit *mig_dirty_limit(struct mig *mig);
struct converge *mig_converge(struct mig *mig);
unsigned int mig_cpus(const struct mig *mig);

/* `godwit stream`: explain the stream in @path on @out.  0, or the error that
 * makes the stream unusable (with the record that has it). */
int mig_explain(const char *path, FILE *out, struct err *err);

#endif
