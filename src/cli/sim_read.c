// SPDX-License-Identifier: Apache-2.0
/* Samples for calibrate.c out of JSON; members that are missing count 0. */
#include "cli/sim_read.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "cli/answer.h"
#include "migrate/calibrate.h"

#define SAMPLES_MAX 10000

static double positive(double value)
{
	return value > 0 ? value : 0;
}

static void take_phases(const json_t *pause, struct calibrate_sample *sample)
{
	const json_t *phase;
	size_t i;

	json_array_foreach(json_object_get(pause, "phases"), i, phase)
	{
		for (int p = 0; p < MIG_PHASE_COUNT; p++) {
			if (strcmp(answer_text(phase, "name"),
				   mig_phase_name((enum mig_phase)p)) == 0)
				sample->phase_ns[p] =
					positive(answer_number(phase, "us")) *
					NS_PER_US;
		}
	}
}

/* What the guest did; where the memory is that it did not touch is all the same
 * to the plan. */
static int take_workload(const json_t *object, struct calibrate_sample *sample,
			 struct err *err)
{
	const char *text =
		json_string_value(json_object_get(object, "workload"));
	struct sim_params params;
	int ret;

	if (!text || !sample->cpus)
		return 0;
	sim_params_init(&params);
	params.input.guest.memory = (uint64_t)sample->touched_bytes;
	params.input.guest.cpus = sample->cpus;
	ret = sim_params_set_workload(&params, text, err);
	if (!ret)
		ret = sim_params_finish(&params, err);
	if (ret) {
		err_prefix(err, "workload");
		return ret;
	}
	sample->guest = params.input.guest;
	sample->has_guest = true;
	return 0;
}

/* False: no migration that its source completed. */
static bool take_sample(const json_t *object, struct calibrate_sample *sample)
{
	const json_t *info = object, *ram, *pause;

	*sample = (struct calibrate_sample){ .cpus = 0 };
	if (json_object_get(object, "migration")) {
		info = json_object_get(object, "migration");
		sample->cpus = (unsigned int)json_array_size(
			json_object_get(object, "cpus"));
	}
	if (strcmp(answer_text(info, "status"), "completed") != 0 ||
	    json_is_true(json_object_get(info, "incoming")))
		return false;
	ram = json_object_get(info, "ram");
	pause = json_object_get(info, "pause");
	sample->total_ns =
		positive(answer_number(info, "total-time")) * NS_PER_MS;
	sample->setup_ns =
		positive(answer_number(info, "setup-time")) * NS_PER_MS;
	sample->downtime_ns =
		positive(answer_number(pause, "downtime-us")) * NS_PER_US;
	sample->touched_bytes = positive(
		answer_number(ram, "total") -
		answer_number(ram, "holes") * answer_number(ram, "page-size"));
	sample->precopy_bytes = positive(answer_number(ram, "precopy-bytes"));
	sample->bandwidth = positive(answer_number(ram, "mbps")) * 1e6 / 8;
	sample->rounds = positive(answer_number(ram, "dirty-sync-count"));
	take_phases(pause, sample);
	return true;
}

static int read_samples(FILE *file, struct calibrate_sample *samples,
			size_t *ret_count, struct err *err)
{
	json_error_t error;
	size_t count = 0;
	int c, ret;

	for (;;) {
		json_t *object;

		/* Not the JSON reader's: at the end there is no object. */
		while ((c = getc(file)) == ' ' || c == '\n' || c == '\t' ||
		       c == '\r')
			;
		if (c == EOF)
			break;
		ungetc(c, file);
		if (count == SAMPLES_MAX)
			return err_set(err, -E2BIG, "more than %d migrations",
				       SAMPLES_MAX);
		object = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error);
		if (!object)
			return err_set(err, -EBADMSG,
				       "no JSON object (migration %zu): %.100s",
				       count + 1, error.text);
		ret = 0;
		if (take_sample(object, &samples[count]))
			ret = take_workload(object, &samples[count++], err);
		json_decref(object);
		if (ret) {
			err_prefix(err, "migration %zu", count);
			return ret;
		}
	}
	if (ferror(file))
		return err_set_errno(err, -EIO, "read");
	*ret_count = count;
	return 0;
}

int sim_read_costs(const char *path, struct sim_params *params, struct err *err)
{
	struct calibrate_sample *samples =
		calloc(SAMPLES_MAX, sizeof(*samples));
	FILE *file = fopen(path, "re");
	size_t count = 0;
	int ret;

	if (!file)
		ret = err_set_errno(err, -errno, "open");
	else if (!samples)
		ret = err_set(err, -ENOMEM, "no memory");
	else
		ret = read_samples(file, samples, &count, err);
	if (!ret) {
		ret = calibrate(samples, count, &params->input.costs, err);
		ret = ret < 0 ? ret : 0;
	}
	if (ret)
		err_prefix(err, "%s", path);
	if (file)
		fclose(file);
	free(samples);
	return ret;
}
