// SPDX-License-Identifier: Apache-2.0
/* One call a line, so that lines of several threads stay whole. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static void print(const char *level, const char *fmt, va_list ap)
	__attribute__((format(printf, 2, 0)));

static void print(const char *level, const char *fmt, va_list ap)
{
	char text[512];

	vsnprintf(text, sizeof(text), fmt, ap);
	fprintf(stderr, "godwit: %s%s\n", level, text);
}

void log_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	print("warning: ", fmt, ap);
	va_end(ap);
}

void log_info(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	print("", fmt, ap);
	va_end(ap);
}
