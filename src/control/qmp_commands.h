/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a QMP request to a QMP response: the table of commands and the checks
 * before one runs.  Class and wording of errors are QEMU's (qapi/qmp-dispatch.c
 * and docs/interop/qmp-spec of QEMU 7).
 *
 * Handlers run on the loop's thread and do not block for long: what takes time
 * (a migration) has threads of its own.
 */
#ifndef GODWIT_CONTROL_QMP_COMMANDS_H
#define GODWIT_CONTROL_QMP_COMMANDS_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "control/qmp_args.h"

struct control;
struct machine;
struct mig;
struct qmp_peer;

/* What a handler works on; borrowed for the length of the call. */
struct qmp_call {
	struct control *control;
	struct machine *machine;
	struct mig *mig;
	struct qmp_peer *peer;
};

/* The "return" member (a new reference), or NULL with @err set (a
 * GenericError); @args is an object that matches the command's schema. */
typedef json_t *qmp_handler_fn(struct qmp_call *call, const json_t *args,
			       struct err *err);

struct qmp_command {
	const char *name;
	qmp_handler_fn *run;
	const struct qmp_arg *args;
};

/* All commands, ended by one without a name. */
const struct qmp_command *qmp_commands(void);

/* Why a request cannot be run. */
struct qmp_fault {
	const char *class;
	struct err err;
};

/*
 * 0 when @request is a well-formed execution of a command that exists, is
 * allowed now (before negotiation only qmp_capabilities, afterwards all but
 * it) and has matching arguments.  *ret_args is borrowed from @request, NULL
 * when it has none.
 */
int qmp_request_check(const json_t *request, bool is_negotiated,
		      const struct qmp_command **ret_command,
		      const json_t **ret_args, struct qmp_fault *fault);

/* Check and run @request; the complete response with its id. */
json_t *qmp_request_execute(struct qmp_call *call, const json_t *request);

#endif
