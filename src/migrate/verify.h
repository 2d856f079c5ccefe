/* SPDX-License-Identifier: Apache-2.0 */
/* The hash of all RAM that `verify` compares (docs/spec/stream.md, VERIFY). */
#ifndef GODWIT_MIGRATE_VERIFY_H
#define GODWIT_MIGRATE_VERIFY_H

#include <stdint.h>

struct err;
struct mem;

/* The guest is stopped.  @ret_pages: pages that are not all zero.  -ECANCELED
 * once @stop_fd is readable, which is looked at now and then. */
int verify_ram(struct mem *mem, int stop_fd, uint64_t *ret_hash,
	       uint64_t *ret_pages, struct err *err);

#endif
