/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parser of a guest program's command line: `key=value`, separated by commas or
 * blanks.  A program says in tables which keys it knows and where in its
 * configuration each value belongs.
 */
#ifndef GODWIT_GUEST_OPTIONS_H
#define GODWIT_GUEST_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum value_kind {
	VALUE_COUNT,    /* number with k, M, G (thousands) */
	VALUE_LIMIT,    /* the same, or "all": UINT32_MAX */
	VALUE_SIZE,     /* bytes with K, M, G, T (1024) */
	VALUE_SIZES,    /* several of them, joined by "+": struct size_mix */
	VALUE_DURATION, /* us, ms, s; kept in us */
	VALUE_SECONDS,  /* or on, off */
	VALUE_RATE,     /* max, or a count, or a count/s */
	VALUE_BOOL,
	VALUE_NAME, /* one of names[], as its index */
	VALUE_SET,  /* several of names[], joined by "+", as a mask */
	VALUE_IPV4, /* four numbers, joined by "."; the first is the highest */
	VALUE_MAC, /* six bytes in hex, joined by ":"; the first is the highest */
};

#define SIZES_MAX 8

/* Each is as likely as the others; one given twice is twice as likely. */
struct size_mix {
	uint64_t count;
	uint64_t sizes[SIZES_MAX];
};

struct option {
	const char *key;
	enum value_kind kind;
	size_t offset; /* of a uint64_t or struct size_mix */
	uint64_t min, max;
	const char *const *names; /* up to NULL; "" is no name */
};

struct option_table {
	const struct option *options;
	size_t count;
};

/*
 * Reads @cmdline, of which @text keeps a copy, into @config.  The word @program
 * is skipped.  Returns NULL, or the option at fault, inside @text and up to
 * a separator.
 */
const char *options_parse(const struct option_table *tables, size_t count,
			  void *config, const char *program, char *text,
			  size_t text_size, const char *cmdline);

#endif
