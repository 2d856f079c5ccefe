// SPDX-License-Identifier: Apache-2.0
/*
 * What a QMP client sends: the scanner in pieces, the JSON parser, the checks of
 * the request, and the commands themselves but for those that would reach out
 * of this process or end it.  The first byte of the input chooses the size of
 * the pieces and whether negotiation is over.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "control/qmp_commands.h"
#include "control/qmp_scan.h"
#include "migrate/side.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* On a machine that stays for the next input: so it must, whatever came. */
static void run(const struct qmp_command *command, const json_t *args)
{
	static const char *const left_out[] = {
		"qmp_capabilities", "quit",  "migrate",
		"migrate-incoming", "getfd",
	};
	static struct side side;
	struct err err = ERR_INIT;
	struct qmp_call call;
	json_t *answer;
	char *text;

	for (size_t i = 0; i < array_size(left_out); i++) {
		if (strcmp(command->name, left_out[i]) == 0)
			return;
	}
	if (!side.machine) {
		side_start(&side, 1, false);
		must(machine_start(side.machine, NULL) == 0);
		must(machine_stop(side.machine, NULL) == 0);
	}
	call = (struct qmp_call){ .machine = side.machine, .mig = side.mig };
	answer = command->run(&call, args, &err);
	/* Either an answer that can be sent, or words. */
	must(!answer == !!*err_msg(&err));
	text = answer ? json_dumps(answer, 0) : NULL;
	must(!answer == !text);
	free(text);
	json_decref(answer);
	machine_stop(side.machine, NULL); /* a guest at work costs time */
}

static void judge(const char *text, size_t size, bool is_negotiated)
{
	json_t *request = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
	struct qmp_fault fault = { .err = ERR_INIT };
	const struct qmp_command *command = NULL;
	const json_t *args;

	if (!request)
		return;
	if (qmp_request_check(request, is_negotiated, &command, &args,
			      &fault)) {
		/* A refusal has its words. */
		if (!fault.class || !*err_msg(&fault.err))
			abort();
	} else {
		must(command);
		run(command, args);
	}
	json_decref(request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qmp_scan scan = { .text = NULL };
	enum qmp_scan_result result = QMP_SCAN_MORE;
	size_t piece, used;
	bool is_negotiated;

	if (!size)
		return 0;
	piece = data[0] & 0x7f ? data[0] & 0x7f : SIZE_MAX;
	is_negotiated = !(data[0] & 0x80);
	for (data++, size--; size; data += used, size -= used) {
		used = qmp_scan_feed(&scan, (const char *)data,
				     size < piece ? size : piece, &result);
		if (result == QMP_SCAN_VALUE)
			judge(scan.text, scan.size, is_negotiated);
		else if (result != QMP_SCAN_MORE && result != QMP_SCAN_GARBAGE)
			break;
		if (!used)
			abort();
	}
	qmp_scan_fini(&scan);
	return 0;
}
