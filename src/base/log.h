/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines for the operator, on stderr, each one "godwit: " and a phrase.
 * What a caller can act on is an error (base/err.h) and not a log line; what
 * only a developer wants is a trace point (base/trace.h).  So these belong to
 * control/ and cli/; below them, only a bug of our own prints, just before it
 * aborts.
 */
#ifndef GODWIT_BASE_LOG_H
#define GODWIT_BASE_LOG_H

void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
