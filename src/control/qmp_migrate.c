// SPDX-License-Identifier: Apache-2.0
/*
 * Commands about migrations and the descriptors handed in for them.  They start
 * and ask; the work is in the migration's own threads.
 */
#include "control/qmp_migrate.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "control/control.h"
#include "control/qmp_info.h"
#include "control/qmp_server.h"
#include "migrate/migrate.h"

static json_t *nothing_unless(int ret)
{
	return ret ? NULL : json_object();
}

json_t *qmp_run_migrate(struct qmp_call *call, const json_t *args,
			struct err *err)
{
	return nothing_unless(
		mig_start(call->mig, qmp_arg_string(args, "uri"), err));
}

json_t *qmp_run_migrate_incoming(struct qmp_call *call, const json_t *args,
				 struct err *err)
{
	return nothing_unless(control_incoming(
		call->control, qmp_arg_string(args, "uri"),
		qmp_arg_bool(args, "exit-on-error", true), err));
}

json_t *qmp_run_migrate_cancel(struct qmp_call *call, const json_t *args,
			       struct err *err)
{
	(void)args;
	(void)err;
	mig_cancel(call->mig);
	return json_object();
}

json_t *qmp_run_query_migrate(struct qmp_call *call, const json_t *args,
			      struct err *err)
{
	struct mig_info info;

	(void)args;
	(void)err;
	mig_query(call->mig, &info);
	return qmp_info_new(&info, call->mig);
}

/* Parameters */

static int take_switch(const char *name, enum mig_switch *how, struct err *err)
{
	for (int i = 0; name && i < MIG_SWITCH_COUNT; i++) {
		if (strcmp(name, mig_switch_name((enum mig_switch)i)) == 0) {
			*how = (enum mig_switch)i;
			return 0;
		}
	}
	return name ? err_set(err, -EINVAL,
			      "x-switch is early, batched or naive, not "
			      "'%.64s'",
			      name)
		    : 0;
}

static const char *const estimates[] = { "costs", "size" };

static int take_estimate(const char *name, bool *divides_only, struct err *err)
{
	if (name && strcmp(name, estimates[0]) && strcmp(name, estimates[1]))
		return err_set(err, -EINVAL,
			       "x-estimate is costs or size, not '%.64s'",
			       name);
	if (name)
		*divides_only = strcmp(name, estimates[1]) == 0;
	return 0;
}

json_t *qmp_run_set_parameters(struct qmp_call *call, const json_t *args,
			       struct err *err)
{
	const char *fail = qmp_arg_string(args, "x-fail");
	int ret = fail ? mig_check_fail(fail, err) : 0;
	struct mig_params params;

	if (ret)
		return NULL;
	mig_params(call->mig, &params);
	params.max_bandwidth =
		qmp_arg_uint(args, "max-bandwidth", params.max_bandwidth);
	params.downtime_limit_ms =
		qmp_arg_uint(args, "downtime-limit", params.downtime_limit_ms);
	params.max_cpu_throttle =
		qmp_arg_uint(args, "max-cpu-throttle", params.max_cpu_throttle);
	params.log_stop_delay_ms = qmp_arg_uint(args, "x-log-stop-delay",
						params.log_stop_delay_ms);
	ret = take_switch(qmp_arg_string(args, "x-switch"),
			  &params.how_to_switch, err);
	if (!ret)
		ret = take_estimate(qmp_arg_string(args, "x-estimate"),
				    &params.divides_only, err);
	if (ret)
		return NULL;
	ret = mig_set_params(call->mig, &params, err);
	if (!ret && fail)
		ret = mig_set_fail(call->mig, fail, err);
	return nothing_unless(ret);
}

json_t *qmp_run_query_parameters(struct qmp_call *call, const json_t *args,
				 struct err *err)
{
	struct mig_params params;
	char fail[MIG_FAIL_MAX];

	(void)args;
	(void)err;
	mig_params(call->mig, &params);
	mig_fail(call->mig, fail);
	return json_pack(
		"{s:I, s:I, s:I, s:I, s:s, s:s, s:s}", "max-bandwidth",
		(json_int_t)params.max_bandwidth, "downtime-limit",
		(json_int_t)params.downtime_limit_ms, "max-cpu-throttle",
		(json_int_t)params.max_cpu_throttle, "x-log-stop-delay",
		(json_int_t)params.log_stop_delay_ms, "x-switch",
		mig_switch_name(params.how_to_switch), "x-estimate",
		estimates[params.divides_only], "x-fail", fail);
}

/* Capabilities */

static const struct {
	const char *name;
	size_t offset; /* of its bool in struct mig_caps */
} capabilities[] = {
	{ "events", offsetof(struct mig_caps, events) },
	{ "ram-checksum", offsetof(struct mig_caps, ram_checksum) },
	{ "verify", offsetof(struct mig_caps, verify) },
};

static bool *capability(struct mig_caps *caps, size_t i)
{
	return (bool *)((char *)caps + capabilities[i].offset);
}

static int set_capability(struct mig_caps *caps, size_t index,
			  const json_t *item, struct err *err)
{
	const char *name = qmp_arg_string(item, "capability");
	size_t i;

	for (i = 0; i < array_size(capabilities); i++) {
		if (strcmp(name, capabilities[i].name) == 0) {
			*capability(caps, i) =
				qmp_arg_bool(item, "state", false);
			return 0;
		}
	}
	return err_set(
		err, -EINVAL,
		"Parameter 'capabilities[%zu].capability' does not accept value '%.64s'",
		index, name);
}

json_t *qmp_run_set_capabilities(struct qmp_call *call, const json_t *args,
				 struct err *err)
{
	const json_t *list = json_object_get(args, "capabilities");
	const json_t *item;
	struct mig_caps caps;
	size_t i;

	mig_caps(call->mig, &caps);
	json_array_foreach(list, i, item)
	{
		if (set_capability(&caps, i, item, err))
			return NULL;
	}
	return nothing_unless(mig_set_caps(call->mig, &caps, err));
}

json_t *qmp_run_query_capabilities(struct qmp_call *call, const json_t *args,
				   struct err *err)
{
	json_t *list = json_array();
	struct mig_caps caps;
	size_t i;

	(void)args;
	(void)err;
	mig_caps(call->mig, &caps);
	for (i = 0; i < array_size(capabilities); i++)
		json_array_append_new(list,
				      json_pack("{s:s, s:b}", "capability",
						capabilities[i].name, "state",
						(int)*capability(&caps, i)));
	return list;
}

/* Descriptors for fd: addresses */

json_t *qmp_run_getfd(struct qmp_call *call, const json_t *args,
		      struct err *err)
{
	const char *name = qmp_arg_string(args, "fdname");
	int fd = qmp_peer_take_fd(call->peer);
	int ret;

	if (fd < 0) {
		err_set(err, -EINVAL,
			"No file descriptor supplied via SCM_RIGHTS");
		return NULL;
	}
	/* fd:7 is a number. */
	if (!*name || isdigit((unsigned char)*name))
		ret = err_set(
			err, -EINVAL,
			"Parameter 'fdname' expects a name not starting with a digit");
	else
		ret = mig_add_fd(call->mig, name, fd, err);
	if (ret)
		close(fd);
	return nothing_unless(ret);
}

json_t *qmp_run_closefd(struct qmp_call *call, const json_t *args,
			struct err *err)
{
	return nothing_unless(
		mig_del_fd(call->mig, qmp_arg_string(args, "fdname"), err));
}
