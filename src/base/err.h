/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors that explain themselves.
 *
 * A function returns 0 or a negative errno.  When its caller cannot explain
 * the failure from that number alone, it takes `struct err *err` last and
 * leaves one phrase there:
 *
 *	if (size > limit)
 *		return err_set(err, -ERANGE, "initrd: %zu bytes, at most %zu",
 *			       size, limit);
 *
 * The first err_set() wins, so that the cause is kept and not what followed
 * from it; err_prefix() adds context on the way up.  Every function here
 * accepts NULL and none allocates.  Only control/ and cli/ show an error to
 * people; all others hand it up.
 */
#ifndef GODWIT_BASE_ERR_H
#define GODWIT_BASE_ERR_H

#define ERR_MSG_MAX 400

struct err {
	int code; /* 0 (nothing set) or the negative errno of err_set() */
	char msg[ERR_MSG_MAX];
};

#define ERR_INIT          \
	{                 \
		.code = 0 \
	}

/* Record @code and the message unless an error is recorded; returns @code. */
int err_set(struct err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As err_set(), with ": " and the text of @code (an errno) appended. */
int err_set_errno(struct err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Put "prefix: " before the recorded message, if there is one. */
void err_prefix(struct err *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Forget what is recorded. */
void err_clear(struct err *err);

/* The message, never NULL; "" when nothing is recorded. */
const char *err_msg(const struct err *err);

#endif
