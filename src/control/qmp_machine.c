// SPDX-License-Identifier: Apache-2.0
/* Commands about the machine: version, name, status, vCPUs, stop, cont, quit. */
#include "control/qmp_machine.h"

#include <errno.h>

#include "control/control.h"
#include "control/qmp_server.h"
#include "control/qmp_stats.h"
#include "machine/machine.h"
#include "machine/vcpu.h"

json_t *qmp_run_query_version(struct qmp_call *call, const json_t *args,
			      struct err *err)
{
	(void)call;
	(void)args;
	(void)err;
	return qmp_version_new();
}

/* As in QEMU, without the member for a machine that was given no name. */
json_t *qmp_run_query_name(struct qmp_call *call, const json_t *args,
			   struct err *err)
{
	const char *name = machine_options(call->machine)->name;
	json_t *result = json_object();

	(void)args;
	(void)err;
	if (*name)
		json_object_set_new(result, "name", qmp_string_new(name));
	return result;
}

json_t *qmp_run_query_status(struct qmp_call *call, const json_t *args,
			     struct err *err)
{
	enum run_state state = machine_run_state(call->machine);

	(void)args;
	(void)err;
	return json_pack("{s:b, s:s}", "running", state == RUN_STATE_RUNNING,
			 "status", run_state_name(state));
}

json_t *qmp_run_query_cpus_fast(struct qmp_call *call, const json_t *args,
				struct err *err)
{
	unsigned int i, cpus = machine_options(call->machine)->cpus;
	json_t *list = json_array();

	(void)args;
	(void)err;
	for (i = 0; i < cpus; i++)
		json_array_append_new(
			list,
			json_pack("{s:i, s:o, s:i, s:s}", "cpu-index", (int)i,
				  "qom-path", qmp_vcpu_path_new(i), "thread-id",
				  vcpu_set_thread_id(
					  machine_vcpus(call->machine), i),
				  "target", "x86_64"));
	return list;
}

json_t *qmp_run_stop(struct qmp_call *call, const json_t *args, struct err *err)
{
	(void)args;
	return machine_stop(call->machine, err) ? NULL : json_object();
}

json_t *qmp_run_cont(struct qmp_call *call, const json_t *args, struct err *err)
{
	bool force = qmp_arg_bool(args, "force", false);

	return machine_cont(call->machine, force, err) ? NULL : json_object();
}

json_t *qmp_run_quit(struct qmp_call *call, const json_t *args, struct err *err)
{
	(void)args;
	(void)err;
	control_quit(call->control);
	return json_object();
}

json_t *qmp_run_system_powerdown(struct qmp_call *call, const json_t *args,
				 struct err *err)
{
	(void)args;
	return machine_power_down(call->machine, err) ? NULL : json_object();
}
