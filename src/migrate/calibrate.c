// SPDX-License-Identifier: Apache-2.0
/* The arithmetic of calibrate.h. */
#include "migrate/calibrate.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "mem/ram.h"
#include "migrate/format.h"

#define SECOND       ((double)NS_PER_SEC)
#define GIB          ((double)(1ull << 30))
#define SENT_MIN     ((double)(16ull << 20)) /* bytes */
#define TOOK_MIN     (20 * (double)NS_PER_MS)
#define WINDOW_BYTES ((double)FMT_RAM_PAGES * RAM_PAGE_SIZE)
/* Faster than that no figure of two clocks in milliseconds is believed. */
#define RATE_MAX 1e12
/* Of a fault, ns; and halvings of the range between. */
#define FAULT_MIN   100.0
#define FAULT_MAX   10e6
#define FAULT_STEPS 20
/* Beside the two sides of a move one more vCPU makes it half as slow again, at most. */
#define CROWD_MAX 0.5
/* A working set of which less was sent again says little. */
#define RESENT_MIN ((double)(1ull << 20))

struct points {
	double *x, *y; /* owned; @count of each */
	size_t count;
};

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts them; at least one. */
static double median(double *values, size_t count)
{
	qsort(values, count, sizeof(*values), compare);
	return count % 2 ? values[count / 2]
			 : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* ---- lines ---- */

/* A straight line, neither part of it below 0, through @points; through one x
 * only, the line that was, stretched. */
static void fit(const struct points *points, double *fixed, double *each)
{
	double n = (double)points->count, x = 0, y = 0, xx = 0, xy = 0, was;

	for (size_t i = 0; i < points->count; i++) {
		x += points->x[i] / n;
		y += points->y[i] / n;
	}
	for (size_t i = 0; i < points->count; i++) {
		double dx = points->x[i] - x;

		xx += dx * dx;
		xy += dx * (points->y[i] - y);
	}
	was = *fixed + *each * x;
	if (xx > 0) {
		*each = xy > 0 ? xy / xx : 0;
		*fixed = y > *each * x ? y - *each * x : 0;
		if (*fixed <= 0)
			*each = y / x;
	} else if (was > 0) {
		*fixed *= y / was;
		*each *= y / was;
	} else {
		*fixed = y;
	}
}

/* Of the samples with the same x the median counts: one late wake-up is longer
 * than all the rest. */
static void join(struct points *points)
{
	size_t kept = 0;

	for (size_t i = 0; i < points->count; i++) {
		double same[64];
		size_t n = 0;
		bool is_known = false;

		for (size_t k = 0; k < kept; k++)
			is_known |= points->x[k] == points->x[i];
		if (is_known)
			continue;
		for (size_t k = i; k < points->count; k++) {
			if (points->x[k] == points->x[i] &&
			    n < array_size(same))
				same[n++] = points->y[k];
		}
		points->x[kept] = points->x[i];
		points->y[kept++] = median(same, n);
	}
	points->count = kept;
}

/* ---- throughput ---- */

static double resent(const struct calibrate_sample *sample)
{
	return sample->precopy_bytes - sample->touched_bytes;
}

/* Time of the rounds that went into sending. */
static double sending_ns(const struct calibrate_sample *sample,
			 const struct plan_costs *costs)
{
	const double *value = costs->value;
	double sync = value[PLAN_COST_SYNC] +
		      value[PLAN_COST_SYNC_GIB] * sample->touched_bytes / GIB;

	return sample->total_ns - sample->setup_ns - sample->downtime_ns -
	       sample->rounds * sync -
	       sample->touched_bytes / RAM_PAGE_SIZE *
		       value[PLAN_COST_FIND_PAGE] -
	       sample->precopy_bytes *
		       (value[PLAN_COST_CLEAR_WINDOW] / WINDOW_BYTES +
			value[PLAN_COST_SCAN_PAGE] / RAM_PAGE_SIZE);
}

/* 0: it does not tell. */
static double fresh_rate(const struct calibrate_sample *sample,
			 const struct plan_costs *costs)
{
	double ns = sending_ns(sample, costs), rate;

	if (resent(sample) > SENT_MIN && sample->bandwidth > 0)
		ns -= resent(sample) / sample->bandwidth * SECOND;
	if (sample->touched_bytes < SENT_MIN || ns < TOOK_MIN)
		return 0;
	rate = sample->touched_bytes / ns * SECOND;
	return rate <= RATE_MAX ? rate : 0;
}

static double warm_rate(const struct calibrate_sample *sample)
{
	return resent(sample) >= SENT_MIN && sample->bandwidth <= RATE_MAX
		       ? sample->bandwidth
		       : 0;
}

static double vcpus(const struct calibrate_sample *sample)
{
	return sample->cpus ? sample->cpus : 1;
}

/* Seconds a byte, by vCPUs: a straight line, of which each vCPU's part is the
 * crowd.  False: no sample tells. */
static bool fit_rate(const struct calibrate_sample *samples, size_t count,
		     const struct plan_costs *costs, struct points *points,
		     double *crowd, double *ret_rate)
{
	double alone = 1, each = *crowd / 100;

	points->count = 0;
	for (size_t i = 0; i < count; i++) {
		double rate = fresh_rate(&samples[i], costs);

		if (rate < 1)
			continue;
		points->x[points->count] = vcpus(&samples[i]);
		points->y[points->count++] = 1 / rate;
	}
	if (!points->count)
		return false;
	join(points);
	fit(points, &alone, &each);
	/* A steeper line is of something else, such as a noisy machine. */
	if (each > CROWD_MAX * alone) {
		for (size_t i = 0; i < points->count; i++)
			points->y[i] /= 1 + CROWD_MAX * points->x[i];
		alone = median(points->y, points->count);
		each = CROWD_MAX * alone;
	}
	*crowd = 100 * each / alone;
	*ret_rate = 1 / alone;
	return true;
}

static int calibrate_rates(const struct calibrate_sample *samples, size_t count,
			   struct plan_costs *costs, struct points *points)
{
	double *fresh = &costs->value[PLAN_COST_FRESH];
	double *warm = &costs->value[PLAN_COST_WARM];
	double *crowd = &costs->value[PLAN_COST_CROWD];
	double ratio = *warm / *fresh;
	bool has_fresh = fit_rate(samples, count, costs, points, crowd, fresh);

	points->count = 0;
	for (size_t i = 0; i < count; i++) {
		double rate = warm_rate(&samples[i]);

		if (rate >= 1)
			points->y[points->count++] =
				rate * (1 + *crowd / 100 * vcpus(&samples[i]));
	}
	if (!points->count && !has_fresh)
		return 0;
	*warm = points->count ? median(points->y, points->count)
			      : *fresh * ratio;
	if (!has_fresh)
		*fresh = *warm / ratio;
	return 3;
}

/* ---- the pause ---- */

/* What the costs say of a pause in which no RAM was waited for, ns; 0: it was. */
static double explained(const struct calibrate_sample *sample,
			const double *value)
{
	const double *ns = sample->phase_ns;
	double n = vcpus(sample);
	double load = value[PLAN_COST_LOAD] + n * value[PLAN_COST_LOAD_VCPU];
	double sync = value[PLAN_COST_SYNC] +
		      value[PLAN_COST_SYNC_GIB] * sample->touched_bytes / GIB;

	if (ns[MIG_PHASE_LAST_SYNC] + ns[MIG_PHASE_SEND_RAM] > load)
		return 0;
	/* The load goes on beside the two. */
	return value[PLAN_COST_STOP] + n * value[PLAN_COST_STOP_VCPU] +
	       value[PLAN_COST_SAVE] + n * value[PLAN_COST_SAVE_VCPU] +
	       ns[MIG_PHASE_SEND_STATE] +
	       (sync + ns[MIG_PHASE_SEND_RAM] > load
			? sync + ns[MIG_PHASE_SEND_RAM]
			: load) +
	       value[PLAN_COST_START] + 4 * value[PLAN_COST_MESSAGE];
}

/* Medians of parts do not add up to the median of their sum. */
static double unexplained(const struct calibrate_sample *samples, size_t count,
			  const double *value, struct points *points)
{
	double rest;

	points->count = 0;
	for (size_t i = 0; i < count; i++) {
		double known = explained(&samples[i], value);

		if (samples[i].cpus && known > 0)
			points->y[points->count++] =
				samples[i].downtime_ns - known;
	}
	if (!points->count)
		return value[PLAN_COST_REST];
	rest = median(points->y, points->count);
	return rest > 0 ? rest : 0;
}

static int calibrate_pause(const struct calibrate_sample *samples, size_t count,
			   struct plan_costs *costs, struct points *points)
{
	static const struct {
		enum plan_cost fixed, each;
		enum mig_phase first, last; /* summed */
	} parts[] = {
		{ PLAN_COST_STOP, PLAN_COST_STOP_VCPU, MIG_PHASE_STOP_VCPUS,
		  MIG_PHASE_STOP_BACKENDS },
		{ PLAN_COST_SAVE, PLAN_COST_SAVE_VCPU, MIG_PHASE_SAVE_VCPUS,
		  MIG_PHASE_SAVE_VCPUS },
		{ PLAN_COST_LOAD, PLAN_COST_LOAD_VCPU, MIG_PHASE_DST_LOAD,
		  MIG_PHASE_DST_ACTIVATE },
	};
	double *value = costs->value;
	size_t told = 0;

	for (size_t p = 0; p < array_size(parts); p++) {
		points->count = 0;
		for (size_t i = 0; i < count; i++) {
			const double *ns = samples[i].phase_ns;
			double sum = ns[parts[p].first];

			if (!samples[i].cpus)
				continue;
			if (parts[p].last != parts[p].first)
				sum += ns[parts[p].last];
			points->x[points->count] = samples[i].cpus;
			points->y[points->count++] = sum;
		}
		told = points->count;
		join(points);
		if (told)
			fit(points, &value[parts[p].fixed],
			    &value[parts[p].each]);
	}
	if (!told)
		return 0;
	for (size_t i = 0; i < count; i++) {
		const double *ns = samples[i].phase_ns;
		double wait =
			ns[MIG_PHASE_WAIT_RUNNING] - ns[MIG_PHASE_DST_START];

		points->x[i] = ns[MIG_PHASE_DST_START];
		points->y[i] = wait > 0 ? wait / 2 : 0;
	}
	value[PLAN_COST_START] = median(points->x, count);
	value[PLAN_COST_MESSAGE] = median(points->y, count);
	value[PLAN_COST_REST] = unexplained(samples, count, value, points);
	return 9;
}

/* ---- the guest ---- */

static double planned_resent(const struct calibrate_sample *sample,
			     struct plan_costs *costs, double fault,
			     struct plan *plan)
{
	struct plan_input input = {
		.guest = sample->guest,
		.limits = { .downtime_ms = 300 },
		.costs = *costs,
	};

	input.costs.value[PLAN_COST_FAULT] = fault;
	plan_run(&input, plan);
	return plan->precopy_bytes - sample->touched_bytes;
}

/* The dearer a fault, the less is sent again: halve the range, by its
 * logarithm. */
static double find_fault(const struct calibrate_sample *sample,
			 struct plan_costs *costs, struct plan *plan)
{
	double low = FAULT_MIN, high = FAULT_MAX;

	for (int i = 0; i < FAULT_STEPS; i++) {
		double middle = sqrt(low * high);

		if (planned_resent(sample, costs, middle, plan) >
		    resent(sample))
			low = middle;
		else
			high = middle;
	}
	return sqrt(low * high);
}

static int calibrate_fault(const struct calibrate_sample *samples, size_t count,
			   struct plan_costs *costs, struct points *points)
{
	struct plan *plan = malloc(sizeof(*plan));

	if (!plan)
		return 0;
	points->count = 0;
	for (size_t i = 0; i < count; i++) {
		if (samples[i].has_guest && samples[i].guest.hot &&
		    resent(&samples[i]) >= RESENT_MIN)
			points->y[points->count++] =
				find_fault(&samples[i], costs, plan);
	}
	free(plan);
	if (!points->count)
		return 0;
	costs->value[PLAN_COST_FAULT] = median(points->y, points->count);
	return 1;
}

int calibrate(const struct calibrate_sample *samples, size_t count,
	      struct plan_costs *costs, struct err *err)
{
	struct points points = { .x = calloc(count + 1, sizeof(double)),
				 .y = calloc(count + 1, sizeof(double)) };
	int ret = -ENOMEM;

	if (points.x && points.y) {
		ret = calibrate_rates(samples, count, costs, &points);
		ret += calibrate_pause(samples, count, costs, &points);
		ret += calibrate_fault(samples, count, costs, &points);
		if (!ret)
			ret = err_set(
				err, -ENODATA,
				"no migration in it tells a cost: one that sends 16 MiB for 20 ms tells throughput, one with its number of vCPUs the pause");
	} else {
		err_set(err, ret, "no memory for %zu migrations", count);
	}
	free(points.x);
	free(points.y);
	return ret;
}
