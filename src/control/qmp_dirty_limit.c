// SPDX-License-Identifier: Apache-2.0
/* Without cpu-index all vCPUs are meant; a rate of 0 is no limit; rates are in MiB a
 * second: all of it as in QEMU. */
#include "control/qmp_dirty_limit.h"

#include <errno.h>

#include "base/err.h"
#include "control/qmp_server.h"
#include "machine/machine.h"
#include "migrate/dirty_limit.h"
#include "migrate/migrate.h"

/* The vCPUs meant: [*ret_first, *ret_end). */
static int parse_vcpus(const struct qmp_call *call, const json_t *args,
		       unsigned int *ret_first, unsigned int *ret_end,
		       struct err *err)
{
	unsigned int cpus = machine_options(call->machine)->cpus;
	uint64_t index;

	*ret_first = 0;
	*ret_end = cpus;
	if (!json_object_get(args, "cpu-index"))
		return 0;
	index = qmp_arg_uint(args, "cpu-index", 0);
	if (index >= cpus)
		return err_set(err, -EINVAL,
			       "incorrect cpu index specified: %lu, and the "
			       "machine has %u vCPUs",
			       index, cpus);
	*ret_first = (unsigned int)index;
	*ret_end = *ret_first + 1;
	return 0;
}

static json_t *set(struct qmp_call *call, const json_t *args, uint64_t rate,
		   struct err *err)
{
	unsigned int first, end;
	int ret = parse_vcpus(call, args, &first, &end, err);

	for (; !ret && first < end; first++)
		ret = mig_set_dirty_limit(call->mig, first, rate, err);
	return ret ? NULL : json_object();
}

json_t *qmp_run_set_dirty_limit(struct qmp_call *call, const json_t *args,
				struct err *err)
{
	return set(call, args, qmp_arg_uint(args, "dirty-rate", 0), err);
}

json_t *qmp_run_cancel_dirty_limit(struct qmp_call *call, const json_t *args,
				   struct err *err)
{
	return set(call, args, 0, err);
}

/* As in QEMU: all vCPUs, or none while no limit is set. */
json_t *qmp_run_query_dirty_limit(struct qmp_call *call, const json_t *args,
				  struct err *err)
{
	unsigned int cpus = machine_options(call->machine)->cpus;
	json_t *list = json_array();
	struct dirty_limit_info info;

	(void)args;
	(void)err;
	for (unsigned int i = 0; i < cpus; i++) {
		if (!dirty_limit_query(mig_dirty_limit(call->mig), i, &info))
			break;
		json_array_append_new(
			list,
			json_pack("{s:i, s:I, s:I}", "cpu-index", (int)i,
				  "limit-rate", (json_int_t)info.limit,
				  "current-rate", (json_int_t)info.current));
	}
	return list;
}
