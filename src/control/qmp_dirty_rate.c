// SPDX-License-Identifier: Apache-2.0
/* Times are in seconds unless calc-time-unit says "millisecond", rates in MiB a
 * second, as in QEMU. */
#include "control/qmp_dirty_rate.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "control/qmp_server.h"
#include "machine/machine.h"
#include "migrate/dirty_rate.h"
#include "migrate/migrate.h"

#define MIB (1u << 20)

/* How many milliseconds the unit is; -EINVAL. */
static int parse_unit(const json_t *args, uint64_t *ret_ms, struct err *err)
{
	const char *unit = qmp_arg_string(args, "calc-time-unit");

	*ret_ms = 1000;
	if (!unit || strcmp(unit, "second") == 0)
		return 0;
	*ret_ms = 1;
	if (strcmp(unit, "millisecond") == 0)
		return 0;
	return err_set(err, -EINVAL,
		       "Parameter 'calc-time-unit' does not accept value "
		       "'%.100s' (second, millisecond)",
		       unit);
}

static int parse_mode(const json_t *args, enum dirty_rate_mode *ret_mode,
		      struct err *err)
{
	const char *name = qmp_arg_string(args, "mode");
	int mode;

	*ret_mode = DIRTY_RATE_PAGE_SAMPLING;
	if (!name)
		return 0;
	for (mode = 0; mode < DIRTY_RATE_MODE_COUNT; mode++) {
		*ret_mode = (enum dirty_rate_mode)mode;
		if (strcmp(name, dirty_rate_mode_name(*ret_mode)) == 0)
			return 0;
	}
	return err_set(err, -EINVAL,
		       "Parameter 'mode' does not accept value '%.100s' "
		       "(page-sampling, dirty-bitmap, dirty-ring)",
		       name);
}

json_t *qmp_run_calc_dirty_rate(struct qmp_call *call, const json_t *args,
				struct err *err)
{
	uint64_t calc_time = qmp_arg_uint(args, "calc-time", 0), unit_ms;
	struct dirty_rate_params params = {
		.sample_pages = qmp_arg_uint(args, "sample-pages",
					     DIRTY_RATE_SAMPLES_USUAL),
	};

	if (parse_unit(args, &unit_ms, err) ||
	    parse_mode(args, &params.mode, err))
		return NULL;
	params.calc_ms =
		calc_time < UINT32_MAX ? calc_time * unit_ms : UINT32_MAX;
	if (params.mode != DIRTY_RATE_PAGE_SAMPLING &&
	    json_object_get(args, "sample-pages")) {
		err_set(err, -EINVAL,
			"sample-pages goes with page-sampling only");
		return NULL;
	}
	return mig_calc_dirty_rate(call->mig, &params, err) ? NULL
							    : json_object();
}

static json_t *vcpus_new(struct dirty_rate *rate, unsigned int cpus)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < cpus; i++)
		json_array_append_new(
			list,
			json_pack("{s:i, s:I}", "id", (int)i, "dirty-rate",
				  (json_int_t)(dirty_rate_of_vcpu(rate, i) /
					       MIB)));
	return list;
}

json_t *qmp_run_query_dirty_rate(struct qmp_call *call, const json_t *args,
				 struct err *err)
{
	static const char *const statuses[] = {
		[DIRTY_RATE_UNSTARTED] = "unstarted",
		[DIRTY_RATE_MEASURING] = "measuring",
		[DIRTY_RATE_MEASURED] = "measured",
	};
	struct dirty_rate *rate = mig_dirty_rate(call->mig);
	struct dirty_rate_info info;
	uint64_t unit_ms;
	json_t *result;

	if (parse_unit(args, &unit_ms, err))
		return NULL;
	dirty_rate_query(rate, &info);
	result = json_pack(
		"{s:s, s:s, s:I, s:I, s:s, s:I}", "status",
		statuses[info.status], "mode",
		dirty_rate_mode_name(info.params.mode), "start-time",
		(json_int_t)(info.start_ns / NS_PER_SEC), "calc-time",
		(json_int_t)(info.params.calc_ms / unit_ms), "calc-time-unit",
		unit_ms == 1 ? "millisecond" : "second", "sample-pages",
		(json_int_t)info.params.sample_pages);
	if (info.error.code)
		json_object_set_new(result, "error-desc",
				    qmp_string_new(err_msg(&info.error)));
	if (info.status != DIRTY_RATE_MEASURED)
		return result;
	json_object_set_new(
		result, "dirty-rate",
		json_integer((json_int_t)(info.bytes_per_sec / MIB)));
	if (info.has_vcpus)
		json_object_set_new(
			result, "vcpu-dirty-rate",
			vcpus_new(rate, machine_options(call->machine)->cpus));
	return result;
}
