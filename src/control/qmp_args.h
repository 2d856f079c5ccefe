/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a command's arguments may be, and the check of what came.
 *
 * A schema is an array of struct qmp_arg ended by one without a name.  After
 * qmp_args_check() a handler may take every required member, and every
 * optional one that is there, without looking at its type again.  Messages
 * are worded as QEMU's, which scripts match on.
 */
#ifndef GODWIT_CONTROL_QMP_ARGS_H
#define GODWIT_CONTROL_QMP_ARGS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

enum qmp_type {
	QMP_STRING,
	QMP_BOOL,
	QMP_UINT,    /* an integer from 0 to 2^63 - 1 */
	QMP_STRINGS, /* an array of strings */
	QMP_OBJECTS, /* an array of objects that match .members */
};

struct qmp_arg {
	const char *name;
	enum qmp_type type;
	bool is_optional;
	const struct qmp_arg *members;
};

/* -EINVAL with "Parameter 'x' ...".  @args is an object; @path is put before
 * member names ("" at the top). */
int qmp_args_check(const struct qmp_arg *schema, const json_t *args,
		   const char *path, struct err *err);

/* Members of arguments that were checked.  Absent: NULL, or @otherwise. */
const char *qmp_arg_string(const json_t *args, const char *name);
bool qmp_arg_bool(const json_t *args, const char *name, bool otherwise);
uint64_t qmp_arg_uint(const json_t *args, const char *name, uint64_t otherwise);

#endif
