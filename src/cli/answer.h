/* SPDX-License-Identifier: Apache-2.0 */
/* Members of QMP answers, for people: what is missing is "" or 0. */
#ifndef GODWIT_CLI_ANSWER_H
#define GODWIT_CLI_ANSWER_H

#include <jansson.h>

/* Borrowed from @object, which may be NULL. */
const char *answer_text(const json_t *object, const char *name);
json_int_t answer_int(const json_t *object, const char *name);
double answer_number(const json_t *object, const char *name);

#endif
