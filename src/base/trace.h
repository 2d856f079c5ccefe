/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trace points: every state change, round and record type is one.
 *
 *	trace(mig_round, "round %u: %" PRIu64 " pages", round, pages);
 *
 * Each is a USDT probe godwit:<name> with the arguments in order (readable by
 * bpftrace, perf and SystemTap at no cost while nobody listens) and, when its
 * name matches `--trace PATTERN`, a line on stderr.
 *
 * The pattern is the one piece of mutable file-scope state in the tree: it is
 * the process's, not a machine's, and main() sets it before any thread runs.
 */
#ifndef GODWIT_BASE_TRACE_H
#define GODWIT_BASE_TRACE_H

#include <stdbool.h>

#define SDT_USE_VARIADIC
#include <sys/sdt.h>

/* @pattern: comma-separated fnmatch(3) patterns, kept by reference. */
void trace_enable(const char *pattern);
bool trace_is_on(const char *name);
void trace_print(const char *name, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

extern const char *trace_pattern;

#define trace(name, fmt, ...)                                   \
	do {                                                    \
		STAP_PROBEV(godwit, name, ##__VA_ARGS__);       \
		if (__builtin_expect(trace_pattern != 0, 0) &&  \
		    trace_is_on(#name))                         \
			trace_print(#name, fmt, ##__VA_ARGS__); \
	} while (0)

#endif
