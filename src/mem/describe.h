/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tree and the flat view of an address space for people to read (the data
 * of query-memory-map).
 */
#ifndef GODWIT_MEM_DESCRIBE_H
#define GODWIT_MEM_DESCRIBE_H

#include <stdbool.h>
#include <stdint.h>

#include "mem/region.h"

struct addr_space;
struct mem_range;

struct mem_region_info {
	unsigned int depth; /* 0 for the root */
	const char *name;
	const char *kind; /* "container", "ram", "rom", "io" or "alias" */
	u128 addr;        /* of its first byte; 2^64 or more: out of reach */
	uint64_t offset;  /* in its container */
	u128 size;
	int priority;
	bool is_enabled, is_readonly;
	const char *alias_target; /* NULL unless an alias */
	uint64_t alias_offset;    /* in that target */
};

/* Called with the topology lock held; what is passed is valid during the
 * call.  Either may be NULL. */
struct mem_visitor {
	/* The tree, each region before its sub-regions, those in order of
	 * address.  The target of an alias is not entered. */
	void (*region)(void *opaque, const struct mem_region_info *info);
	/* Then the published view, in order of address. */
	void (*range)(void *opaque, const struct mem_range *range);
};

void mem_describe(struct addr_space *as, const struct mem_visitor *visitor,
		  void *opaque);

#endif
