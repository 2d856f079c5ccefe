// SPDX-License-Identifier: Apache-2.0
/*
 * The table, in one array of {name, arguments, when it is allowed, handler};
 * handlers are in the files named after what they are about (qmp_machine.c).
 */
#include "control/qmp_commands.h"

#include <errno.h>
#include <string.h>

#include "base/trace.h"
#include "control/qmp_dirty_limit.h"
#include "control/qmp_dirty_rate.h"
#include "control/qmp_machine.h"
#include "control/qmp_memory.h"
#include "control/qmp_migrate.h"
#include "control/qmp_server.h"
#include "control/qmp_stats.h"

static qmp_handler_fn run_capabilities;
static qmp_handler_fn run_query_commands;

static const struct qmp_arg no_args[] = { { .name = NULL } };

static const struct qmp_arg negotiation_args[] = {
	{ .name = "enable", .type = QMP_STRINGS, .is_optional = true },
	{ .name = NULL },
};

static const struct qmp_arg cont_args[] = {
	{ .name = "force", .type = QMP_BOOL, .is_optional = true },
	{ .name = NULL },
};

static const struct qmp_arg migrate_args[] = {
	{ .name = "uri", .type = QMP_STRING },
	{ .name = "detach", .type = QMP_BOOL, .is_optional = true },
	{ .name = NULL },
};

static const struct qmp_arg incoming_args[] = {
	{ .name = "uri", .type = QMP_STRING },
	{ .name = "exit-on-error", .type = QMP_BOOL, .is_optional = true },
	{ .name = NULL },
};

static const struct qmp_arg parameter_args[] = {
	{ .name = "max-bandwidth", .type = QMP_UINT, .is_optional = true },
	{ .name = "downtime-limit", .type = QMP_UINT, .is_optional = true },
	{ .name = "max-cpu-throttle", .type = QMP_UINT, .is_optional = true },
	{ .name = "x-log-stop-delay", .type = QMP_UINT, .is_optional = true },
	{ .name = "x-switch", .type = QMP_STRING, .is_optional = true },
	{ .name = "x-estimate", .type = QMP_STRING, .is_optional = true },
	{ .name = "x-fail", .type = QMP_STRING, .is_optional = true },
	{ .name = NULL },
};

static const struct qmp_arg capability_members[] = {
	{ .name = "capability", .type = QMP_STRING },
	{ .name = "state", .type = QMP_BOOL },
	{ .name = NULL },
};

static const struct qmp_arg capability_args[] = {
	{ .name = "capabilities",
	  .type = QMP_OBJECTS,
	  .members = capability_members },
	{ .name = NULL },
};

static const struct qmp_arg provider_members[] = {
	{ .name = "provider", .type = QMP_STRING },
	{ .name = "names", .type = QMP_STRINGS, .is_optional = true },
	{ .name = NULL },
};

static const struct qmp_arg stats_args[] = {
	{ .name = "target", .type = QMP_STRING },
	{ .name = "vcpus", .type = QMP_STRINGS, .is_optional = true },
	{ .name = "providers",
	  .type = QMP_OBJECTS,
	  .members = provider_members,
	  .is_optional = true },
	{ .name = NULL },
};

static const struct qmp_arg calc_rate_args[] = {
	{ .name = "calc-time", .type = QMP_UINT },
	{ .name = "calc-time-unit", .type = QMP_STRING, .is_optional = true },
	{ .name = "sample-pages", .type = QMP_UINT, .is_optional = true },
	{ .name = "mode", .type = QMP_STRING, .is_optional = true },
	{ .name = NULL },
};

static const struct qmp_arg query_rate_args[] = {
	{ .name = "calc-time-unit", .type = QMP_STRING, .is_optional = true },
	{ .name = NULL },
};

static const struct qmp_arg set_limit_args[] = {
	{ .name = "cpu-index", .type = QMP_UINT, .is_optional = true },
	{ .name = "dirty-rate", .type = QMP_UINT },
	{ .name = NULL },
};

static const struct qmp_arg cancel_limit_args[] = {
	{ .name = "cpu-index", .type = QMP_UINT, .is_optional = true },
	{ .name = NULL },
};

static const struct qmp_arg fd_args[] = {
	{ .name = "fdname", .type = QMP_STRING },
	{ .name = NULL },
};

static const struct qmp_command commands[] = {
	{ "qmp_capabilities", run_capabilities, negotiation_args },
	{ "query-commands", run_query_commands, no_args },

	{ "query-version", qmp_run_query_version, no_args },
	{ "query-name", qmp_run_query_name, no_args },
	{ "query-status", qmp_run_query_status, no_args },
	{ "query-cpus-fast", qmp_run_query_cpus_fast, no_args },
	{ "query-stats", qmp_run_query_stats, stats_args },
	{ "query-memory-map", qmp_run_query_memory_map, no_args },
	{ "stop", qmp_run_stop, no_args },
	{ "cont", qmp_run_cont, cont_args },
	{ "quit", qmp_run_quit, no_args },
	{ "system_powerdown", qmp_run_system_powerdown, no_args },

	{ "migrate", qmp_run_migrate, migrate_args },
	{ "migrate-incoming", qmp_run_migrate_incoming, incoming_args },
	{ "migrate_cancel", qmp_run_migrate_cancel, no_args },
	{ "query-migrate", qmp_run_query_migrate, no_args },
	{ "migrate-set-parameters", qmp_run_set_parameters, parameter_args },
	{ "query-migrate-parameters", qmp_run_query_parameters, no_args },
	{ "migrate-set-capabilities", qmp_run_set_capabilities,
	  capability_args },
	{ "query-migrate-capabilities", qmp_run_query_capabilities, no_args },
	{ "calc-dirty-rate", qmp_run_calc_dirty_rate, calc_rate_args },
	{ "query-dirty-rate", qmp_run_query_dirty_rate, query_rate_args },
	{ "set-vcpu-dirty-limit", qmp_run_set_dirty_limit, set_limit_args },
	{ "cancel-vcpu-dirty-limit", qmp_run_cancel_dirty_limit,
	  cancel_limit_args },
	{ "query-vcpu-dirty-limit", qmp_run_query_dirty_limit, no_args },
	{ "getfd", qmp_run_getfd, fd_args },
	{ "closefd", qmp_run_closefd, fd_args },
	{ .name = NULL },
};

const struct qmp_command *qmp_commands(void)
{
	return commands;
}

static json_t *run_capabilities(struct qmp_call *call, const json_t *args,
				struct err *err)
{
	const json_t *enable = json_object_get(args, "enable");

	if (json_array_size(enable)) {
		err_set(err, -EINVAL, "Capability '%.100s' is not available",
			json_string_value(json_array_get(enable, 0)));
		return NULL;
	}
	qmp_peer_set_negotiated(call->peer);
	return json_object();
}

static json_t *run_query_commands(struct qmp_call *call, const json_t *args,
				  struct err *err)
{
	const struct qmp_command *command;
	json_t *names = json_array();

	(void)call;
	(void)args;
	(void)err;
	for (command = commands; command->name; command++)
		json_array_append_new(
			names, json_pack("{s:s}", "name", command->name));
	return names;
}

static const struct qmp_command *find(const char *name)
{
	const struct qmp_command *command;

	for (command = commands; command->name; command++) {
		if (strcmp(command->name, name) == 0)
			return command;
	}
	return NULL;
}

/* The envelope: {"execute": NAME, "arguments": {...}, "id": ANY}. */
static int check_shape(const json_t *request, struct err *err)
{
	const json_t *name, *args, *value;
	const char *key;

	if (!json_is_object(request))
		return err_set(err, -EINVAL, "QMP input must be a JSON object");
	/* The cast: jansson's iterators take no const object. */
	json_object_foreach((json_t *)request, key, value)
	{
		if (strcmp(key, "execute") && strcmp(key, "arguments") &&
		    strcmp(key, "id"))
			return err_set(
				err, -EINVAL,
				"QMP input member '%.100s' is unexpected", key);
	}
	name = json_object_get(request, "execute");
	if (!name)
		return err_set(err, -EINVAL,
			       "QMP input lacks member 'execute'");
	if (!json_is_string(name))
		return err_set(err, -EINVAL,
			       "QMP input member 'execute' must be a string");
	args = json_object_get(request, "arguments");
	if (args && !json_is_object(args))
		return err_set(
			err, -EINVAL,
			"QMP input member 'arguments' must be an object");
	return 0;
}

static int check_allowed(const struct qmp_command *command, const char *name,
			 bool is_negotiated, struct err *err)
{
	bool negotiates = command && command->run == run_capabilities;

	if (!is_negotiated && !negotiates)
		return err_set(
			err, -EPERM,
			"Expecting capabilities negotiation with 'qmp_capabilities'");
	if (is_negotiated && negotiates)
		return err_set(
			err, -EPERM,
			"Capabilities negotiation is already complete, command ignored");
	if (!command)
		return err_set(err, -ENOENT,
			       "The command %.100s has not been found", name);
	return 0;
}

int qmp_request_check(const json_t *request, bool is_negotiated,
		      const struct qmp_command **ret_command,
		      const json_t **ret_args, struct qmp_fault *fault)
{
	const struct qmp_command *command;
	const json_t *args;
	const char *name;
	json_t *none;
	int ret;

	fault->class = "GenericError";
	ret = check_shape(request, &fault->err);
	if (ret)
		return ret;
	name = json_string_value(json_object_get(request, "execute"));
	command = find(name);
	ret = check_allowed(command, name, is_negotiated, &fault->err);
	if (ret) {
		fault->class = "CommandNotFound";
		return ret;
	}
	args = json_object_get(request, "arguments");
	none = args ? NULL : json_object();
	ret = qmp_args_check(command->args, args ? args : none, "",
			     &fault->err);
	json_decref(none);
	if (ret)
		return ret;
	*ret_command = command;
	*ret_args = args;
	return 0;
}

static json_t *run(struct qmp_call *call, const struct qmp_command *command,
		   const json_t *args, struct qmp_fault *fault)
{
	json_t *none = args ? NULL : json_object();
	json_t *result;

	trace(qmp_command, "%s", command->name);
	result = command->run(call, args ? args : none, &fault->err);
	json_decref(none);
	if (result)
		return json_pack("{s:o}", "return", result);
	if (!fault->err.code)
		err_set(&fault->err, -ENOMEM, "out of memory");
	return NULL;
}

json_t *qmp_request_execute(struct qmp_call *call, const json_t *request)
{
	const struct qmp_command *command;
	struct qmp_fault fault = { .err = ERR_INIT };
	json_t *response = NULL, *id;
	const json_t *args;

	if (!qmp_request_check(request, qmp_peer_is_negotiated(call->peer),
			       &command, &args, &fault))
		response = run(call, command, args, &fault);
	if (!response)
		response = qmp_error_new(fault.class, err_msg(&fault.err));
	id = json_object_get(request, "id");
	if (id)
		json_object_set(response, "id", id);
	return response;
}
