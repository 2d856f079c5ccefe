/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operator's limits on how fast vCPUs write: set-vcpu-dirty-limit, with QEMU's
 * names and units.
 *
 * Writes are counted while dirty logging is on, a page once each time that it is
 * watched.  So while there is a limit, and nobody else watches, a thread here does:
 * all pages, and each second those again that were written.  Who has the log to
 * itself, a migration or a measurement, has it handed over; limits hold meanwhile.
 * They stay with the machine: the destination of a migration has none.
 */
#ifndef GODWIT_MIGRATE_DIRTY_LIMIT_H
#define GODWIT_MIGRATE_DIRTY_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

struct dirty_limit;
struct err;
struct governor;
struct machine;

#define DIRTY_LIMIT_MAX_MIB UINT32_MAX

/* NULL without memory.  Both outlive it. */
struct dirty_limit *dirty_limit_new(struct machine *machine,
				    struct governor *governor);
/* NULL is accepted. */
void dirty_limit_free(struct dirty_limit *limit);

/* Any thread.  vCPU @vcpu may write @mib_per_sec; 0: as much as it likes.  -ERANGE
 * with a reason, -EAGAIN for want of a thread, or governor_set()'s error; then nothing
 * has changed. */
int dirty_limit_set(struct dirty_limit *limit, unsigned int vcpu,
		    uint64_t mib_per_sec, struct err *err);

struct dirty_limit_info {
	uint64_t limit;   /* MiB a second; 0: none */
	uint64_t current; /* likewise, in the last second that was looked at */
};
/* False while no vCPU has a limit. */
bool dirty_limit_query(struct dirty_limit *limit, unsigned int vcpu,
		       struct dirty_limit_info *ret_info);

/* The log is the caller's from here on, until it gives it back.  Several may take
 * it; whether they can use it together is theirs to find out. */
void dirty_limit_take_log(struct dirty_limit *limit);
void dirty_limit_give_log(struct dirty_limit *limit);

#endif
