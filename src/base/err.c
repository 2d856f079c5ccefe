// SPDX-License-Identifier: Apache-2.0
/*
 * Where the text of an error is put together: in fixed room, cut off at its end,
 * since nothing here may fail, least of all for want of memory.
 */
#include "base/err.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static void append(struct err *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
static bool record(struct err *err, int code, const char *fmt, va_list ap)
	__attribute__((format(printf, 3, 0)));

static void append(struct err *err, const char *fmt, ...)
{
	size_t used = strlen(err->msg);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err->msg + used, sizeof(err->msg) - used, fmt, ap);
	va_end(ap);
}

/* True when this is the error that is kept. */
static bool record(struct err *err, int code, const char *fmt, va_list ap)
{
	if (!err || err->code)
		return false;
	err->code = code;
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	return true;
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	record(err, code, fmt, ap);
	va_end(ap);
	return code;
}

int err_set_errno(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (record(err, code, fmt, ap))
		append(err, ": %s", strerror(code < 0 ? -code : code));
	va_end(ap);
	return code;
}

void err_prefix(struct err *err, const char *fmt, ...)
{
	char old[ERR_MSG_MAX];
	va_list ap;

	if (!err || !err->code)
		return;
	memcpy(old, err->msg, sizeof(old));
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	append(err, ": %s", old);
}

void err_clear(struct err *err)
{
	if (err) {
		err->code = 0;
		err->msg[0] = '\0';
	}
}

const char *err_msg(const struct err *err)
{
	return err && err->code ? err->msg : "";
}
