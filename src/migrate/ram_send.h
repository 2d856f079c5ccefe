/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM on the source: sending the pages that the destination lacks.
 *
 * A dirty page (ram_watch.h) is taken, watched again (ram_watch_again(), D1), then
 * read and sent.  When the send fails, or the migration does, its bit is given
 * back (D4).
 */
#ifndef GODWIT_MIGRATE_RAM_SEND_H
#define GODWIT_MIGRATE_RAM_SEND_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "mem/ram.h"
#include "migrate/format.h"
#include "migrate/ram_watch.h"

struct channel;
struct err;
struct mem;

struct ram_send {
	struct ram_watch watch;
	struct channel *channel;
	bool is_checked;      /* copy live pages and send their hash */
	XXH3_state_t *hasher; /* owned; of the record under construction */
	uint8_t *bounce;      /* owned; one record's pages, for is_checked */

	uint64_t pages, zero_pages; /* sent, counting repeats */

	/* one record under construction */
	struct bytes_writer out; /* of zero runs */
	uint64_t window[FMT_RAM_PAGES / 64];
	struct fmt_run runs[FMT_RUNS_MAX], zero_runs[FMT_RUNS_MAX];
	uint32_t run_count, zero_run_count;
	struct iovec iov[FMT_RUNS_MAX + 2];
};

/* Turn logging on, which takes as long for any amount of memory; every resident page
 * becomes dirty in the first sync.  -EBUSY while somebody else has it on. */
int ram_send_start(struct ram_send *ram, struct mem *mem,
		   struct channel *channel, bool is_checked, struct err *err);
/* Let logging end, not before @grace_ns, if ram_send_start() turned it on; after a
 * failed start too.  Returns at once. */
void ram_send_stop(struct ram_send *ram, uint64_t grace_ns);

/* Ask every dirty source once and residency again; returns the pages to send.
 * @is_last: nothing writes any more (D3). */
uint64_t ram_send_sync(struct ram_send *ram, bool is_last);

/*
 * Send all dirty pages once.  @between is called after each record with the
 * pages sent so far in this pass; what it returns other than 0 ends the pass.
 * @is_stopped: the guest is, so pages need no watching and are hashed in place.
 */
typedef int ram_send_fn(void *opaque, uint64_t pages, struct err *err);
int ram_send_pass(struct ram_send *ram, bool is_stopped, ram_send_fn *between,
		  void *opaque, struct err *err);

#endif
