/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers, sizes, switches and sub-options as people type them.
 *
 * Every function takes the whole text: leading or trailing characters that do
 * not belong (spaces and signs too) make it -EINVAL.  An error message quotes
 * the text and says what would be right; the caller prefixes which option it
 * came from.
 */
#ifndef GODWIT_BASE_PARSE_H
#define GODWIT_BASE_PARSE_H

#include <stdbool.h>
#include <stdint.h>

struct err;

/* Decimal with one optional binary suffix K, M, G, T or P of either case:
 * "4096", "64M", "1g".  -EINVAL; -ERANGE past 64 bits. */
int parse_size(const char *text, uint64_t *ret_size, struct err *err);

/* Decimal with one optional suffix k, M or G, of thousands: "20k".  -EINVAL;
 * -ERANGE past 64 bits. */
int parse_count(const char *text, uint64_t *ret_count, struct err *err);

/* Bits or bytes a second, the unit said: "10Gb/s", "500MB/s" (thousands),
 * "2GiB/s" (1024).  -EINVAL; -ERANGE past 64 bits. */
int parse_rate(const char *text, uint64_t *ret_bytes_per_s, struct err *err);

/* "50us", with ns, us, ms or s; "0" needs none.  -EINVAL; -ERANGE. */
int parse_duration(const char *text, uint64_t *ret_ns, struct err *err);

/* Decimal, or hexadecimal after "0x".  -EINVAL; -ERANGE outside [min, max]. */
int parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value,
	      struct err *err);

/* on, off, true, false, yes, no.  -EINVAL. */
int parse_bool(const char *text, bool *ret_value, struct err *err);

#define PARSE_KEY_MAX   64
#define PARSE_VALUE_MAX 4096

/* One "key=value", or a "key" alone, whose value is then NULL. */
struct parse_kv {
	char key[PARSE_KEY_MAX];
	const char *value; /* NULL, or points at @buf */
	char buf[PARSE_VALUE_MAX];
};

/*
 * Step through "key=value,flag,key=value":
 *
 *	const char *at = text;
 *
 *	while ((ret = parse_kv_next(&at, &kv)) > 0)
 *		...
 *
 * 1 with the next one in @kv, 0 at the end of the text, -EINVAL for an empty
 * key (as in "a=1,,b"), -ENAMETOOLONG for a key or value that has no room.
 * In a value ",," stands for one comma.  An empty text has no pairs.
 */
int parse_kv_next(const char **at, struct parse_kv *kv);

#endif
