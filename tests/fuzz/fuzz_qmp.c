// SPDX-License-Identifier: Apache-2.0
/*
 * What a QMP client sends, up to the point where a command would run: the
 * scanner in pieces, the JSON parser, the checks of the request.  The first
 * byte of the input chooses the size of the pieces and whether negotiation is
 * over.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/err.h"
#include "control/qmp_commands.h"
#include "control/qmp_scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
	} else if (!command) {
		abort();
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
