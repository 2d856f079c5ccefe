/* SPDX-License-Identifier: Apache-2.0 */
/* How a guest program ends: by itself, by bad options, by a trap. */
#ifndef GODWIT_GUEST_EXIT_H
#define GODWIT_GUEST_EXIT_H

#include <stdint.h>

enum exit_code {
	EXIT_OK,
	EXIT_ERRORS,
	EXIT_CONFIG,
	EXIT_TRAP
};

_Noreturn void machine_exit(enum exit_code code);

/*
 * Ends with a line "@fail" and EXIT_CONFIG.  @culprit: more text up to a
 * separator, or NULL.
 */
_Noreturn void machine_fail(const char *why, const char *culprit);

#endif
