// SPDX-License-Identifier: Apache-2.0
/*
 * Lines of --trace; the probes are in the macro.  Called only where a pattern is
 * set, so it may be slow.
 */
#include "base/trace.h"

#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

const char *trace_pattern;

void trace_enable(const char *pattern)
{
	trace_pattern = pattern;
}

bool trace_is_on(const char *name)
{
	const char *at = trace_pattern;

	while (at) {
		const char *end = strchrnul(at, ',');
		char one[64];

		snprintf(one, sizeof(one), "%.*s", (int)(end - at), at);
		if (fnmatch(one, name, 0) == 0)
			return true;
		at = *end ? end + 1 : NULL;
	}
	return false;
}

void trace_print(const char *name, const char *fmt, ...)
{
	uint64_t us = clock_mono_ns() / NS_PER_US;
	char text[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stderr, "%llu.%06llu %ld %s: %s\n",
		(unsigned long long)(us / 1000000),
		(unsigned long long)(us % 1000000), syscall(SYS_gettid), name,
		text);
}
