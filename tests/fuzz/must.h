/* SPDX-License-Identifier: Apache-2.0 */
/* For headers of tests/unit in a fuzz target: what must hold, or abort(). */
#ifndef GODWIT_FUZZ_MUST_H
#define GODWIT_FUZZ_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define fail_msg(...)                         \
	do {                                  \
		fprintf(stderr, __VA_ARGS__); \
		fputc('\n', stderr);          \
		abort();                      \
	} while (0)

#define must(condition) ((condition) ? (void)0 : abort())

#define assert_true(condition)     must(condition)
#define assert_non_null(pointer)   must((pointer) != NULL)
#define assert_int_equal(a, b)     must((a) == (b))
#define assert_int_not_equal(a, b) must((a) != (b))

#endif
