// SPDX-License-Identifier: Apache-2.0
/* x-query-vhost: how often back ends of each type were told and their logs scanned. */
#include "control/qmp_vhost.h"

#include "control/qmp_server.h"
#include "machine/machine.h"
#include "vhost/vhost.h"

static void add(json_t *entry, const char *name, uint64_t value)
{
	json_object_set_new(entry, name, json_integer((json_int_t)value));
}

static json_t *counts_new(struct vh_board *board, enum vh_type type)
{
	json_t *entry = json_object();
	struct vh_counts counts;

	vh_board_counts(board, type, &counts);
	add(entry, "tables-built", counts.tables_built);
	add(entry, "tables-told", counts.tables_told);
	add(entry, "logs-told", counts.logs_told);
	add(entry, "scans", counts.scans);
	add(entry, "ring-scans", counts.ring_scans);
	add(entry, "scan-ns", counts.scan_ns);
	add(entry, "calls", counts.calls);
	return entry;
}

json_t *qmp_run_query_vhost(struct qmp_call *call, const json_t *args,
			    struct err *err)
{
	static const char *const names[VH_TYPE_COUNT] = { "kernel", "user" };
	struct vh_board *board = machine_vhost(call->machine);
	json_t *types = json_object();

	(void)args;
	(void)err;
	for (int i = 0; board && i < VH_TYPE_COUNT; i++)
		json_object_set_new(types, names[i],
				    counts_new(board, (enum vh_type)i));
	return types;
}
