/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire structures of docs/spec/stream.md, and nothing else.
 */
#ifndef GODWIT_MIGRATE_FORMAT_H
#define GODWIT_MIGRATE_FORMAT_H

#include <assert.h>
#include <stdint.h>

#include "base/bytes.h"

#define FMT_MAGIC        "GODWITMG"
#define FMT_MAJOR        1
#define FMT_MINOR        5
#define FMT_FLAG_NO_PATH 1u /* no return path */

#define FMT_BODY_MAX       (1u << 20)
#define FMT_BLOCKS_MAX     64u
#define FMT_RUNS_MAX       1024u
#define FMT_RAM_PAGES      1024u
#define FMT_REASON_MAX     400u
#define FMT_COSTS_MAX      (1ull << 40) /* each of them */
#define FMT_OPTIONAL       0x80000000u
#define FMT_RAM_CHECKED    1u
#define FMT_WANT_RUN       1u
#define FMT_WANT_PAUSE     2u
#define FMT_STOPPED_VERIFY 1u /* VERIFY follows END */

#define FMT_ROUND_NEAR 1u /* the next record may be SWITCH */

enum fmt_type {
	FMT_MACHINE = 1,
	FMT_SCHEMA,
	FMT_SETUP_STATE,
	FMT_SETUP_END,
	FMT_RAM,
	FMT_RAM_ZERO,
	FMT_ROUND,
	FMT_STOPPED,
	FMT_STATE,
	FMT_VERIFY,
	FMT_END,
	FMT_GO,
	FMT_CANCEL,
	FMT_SWITCH,
	/* destination to source */
	FMT_BUILT = 0x101,
	FMT_READY,
	FMT_RUNNING,
	FMT_FAILED,
	FMT_ROUND_DONE,
};

/* Since minor versions 3, 4, 1, 2 and 5; beside the others, for they do not fit an int. */
#define FMT_EARLY_STATE (FMT_OPTIONAL | 0xfu)
#define FMT_SETUP_AGAIN (FMT_OPTIONAL | 0x10u)
#define FMT_COSTS       (FMT_OPTIONAL | 0x106u)
#define FMT_CALLS       (FMT_OPTIONAL | 0x107u)
#define FMT_TIMES       (FMT_OPTIONAL | 0x108u)

struct fmt_header {
	char magic[8];
	struct le16 major, minor;
	struct le32 flags;
	struct le64 reserved;
	struct le64 hash;
};
static_assert(sizeof(struct fmt_header) == 32, "stream header");

struct fmt_record {
	struct le32 type;
	struct le32 length;
	struct le64 hash;
};
static_assert(sizeof(struct fmt_record) == 16, "record header");

struct fmt_machine {
	struct le32 cpus, blocks;
	struct le64 reserved;
	char name[64];
};
static_assert(sizeof(struct fmt_machine) == 80, "MACHINE");

struct fmt_block {
	struct le64 size, page_size;
	char name[32];
};
static_assert(sizeof(struct fmt_block) == 48, "RAM block of MACHINE");

struct fmt_state {
	char name[32];
	struct le16 version, reserved;
	struct le32 size;
};
static_assert(sizeof(struct fmt_state) == 40,
	      "STATE, SETUP_STATE and SETUP_AGAIN");

struct fmt_ram {
	struct le32 block, flags, runs, reserved;
};
static_assert(sizeof(struct fmt_ram) == 16, "RAM and RAM_ZERO");

struct fmt_run {
	struct le64 first, pages;
};
static_assert(sizeof(struct fmt_run) == 16, "run of RAM");

struct fmt_round {
	struct le32 number, flags;
};
static_assert(sizeof(struct fmt_round) == 8, "ROUND and ROUND_DONE");

struct fmt_stopped {
	struct le32 want, flags;
};
static_assert(sizeof(struct fmt_stopped) == 8, "STOPPED");

struct fmt_verify {
	struct le64 hash, pages;
};
static_assert(sizeof(struct fmt_verify) == 16, "VERIFY");

struct fmt_end {
	struct le64 pages, zero_pages;
};
static_assert(sizeof(struct fmt_end) == 16, "END");

struct fmt_built {
	struct le64 build_ns;
};
static_assert(sizeof(struct fmt_built) == 8, "BUILT");

struct fmt_costs {
	struct le64 switch_ns, state_bytes;
};
static_assert(sizeof(struct fmt_costs) == 16, "COSTS");

struct fmt_report {
	struct le64 receive_ns, verify_ns, load_ns, activate_ns, start_ns;
	struct le64 commits, verified_pages, verify_hash;
};
static_assert(sizeof(struct fmt_report) == 64, "READY and RUNNING");

struct fmt_calls {
	struct le64 commits, route_commits, eventfd_calls;
	struct le64 vhost_calls, vhost_tables;
};
static_assert(sizeof(struct fmt_calls) == 40, "CALLS");

struct fmt_times {
	struct le64 stopped_ns, load_ns, loaded_ns, end_ns, verified_ns;
	struct le64 ready_ns, go_ns, entered_ns, started_ns;
};
static_assert(sizeof(struct fmt_times) == 72, "TIMES");

#endif
