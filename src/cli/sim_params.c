// SPDX-License-Identifier: Apache-2.0
/* One setter for each parameter, in a table. */
#include "cli/sim_params.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/parse.h"
#include "mem/ram.h"

#define DOWNTIME_DEFAULT_MS 300

typedef int set_fn(struct sim_params *params, const char *value,
		   struct err *err);

static int set_memory(struct sim_params *params, const char *value,
		      struct err *err)
{
	return parse_size(value, &params->input.guest.memory, err);
}

static int set_touched(struct sim_params *params, const char *value,
		       struct err *err)
{
	params->has_touched = true;
	return parse_size(value, &params->input.guest.touched, err);
}

static int set_cpus(struct sim_params *params, const char *value,
		    struct err *err)
{
	uint64_t cpus;
	int ret = parse_u64(value, 1, PLAN_CPUS_MAX, &cpus, err);

	if (!ret)
		params->input.guest.cpus = (unsigned int)cpus;
	return ret;
}

static int set_pattern(struct sim_params *params, const char *value,
		       struct err *err)
{
	for (int i = 0; i < WRITES_PATTERN_COUNT; i++) {
		enum writes_pattern pattern = (enum writes_pattern)i;

		if (strcmp(value, writes_pattern_name(pattern)) != 0)
			continue;
		params->input.guest.pattern = pattern;
		return 0;
	}
	return err_set(err, -EINVAL,
		       "'%.64s' is none of seq, random, zipf, hotcold", value);
}

static int set_hot(struct sim_params *params, const char *value,
		   struct err *err)
{
	return parse_size(value, &params->input.guest.hot, err);
}

/* "max", "20k/s" (accesses), "80MB/s" (of whole pages). */
static int set_rate(struct sim_params *params, const char *value,
		    struct err *err)
{
	struct plan_guest *guest = &params->input.guest;
	size_t size = strlen(value);
	char count[32];
	uint64_t rate;
	int ret;

	params->has_rate = true;
	guest->is_rate_max = strcmp(value, "max") == 0;
	guest->rate = 0;
	if (guest->is_rate_max)
		return 0;
	if (parse_rate(value, &rate, NULL) == 0) {
		guest->rate = (double)rate / RAM_PAGE_SIZE;
		return 0;
	}
	if (size > 2 && strcmp(value + size - 2, "/s") == 0)
		size -= 2;
	if (size >= sizeof(count))
		size = sizeof(count) - 1;
	memcpy(count, value, size);
	count[size] = '\0';
	ret = parse_count(count, &rate, NULL);
	if (ret)
		return err_set(
			err, ret,
			"'%.64s' is not a rate such as max, 20k/s (accesses) or 80MB/s (of whole pages)",
			value);
	guest->rate = (double)rate;
	return 0;
}

static int set_reads(struct sim_params *params, const char *value,
		     struct err *err)
{
	uint64_t reads;
	int ret = parse_u64(value, 0, 100, &reads, err);

	if (!ret)
		params->input.guest.reads = (unsigned int)reads;
	return ret;
}

static int set_burst(struct sim_params *params, const char *value,
		     struct err *err)
{
	if (strcmp(value, "off") == 0)
		value = "0";
	return parse_duration(value, &params->input.guest.burst_ns, err);
}

static int set_link(struct sim_params *params, const char *value,
		    struct err *err)
{
	uint64_t rate = 0;
	int ret = 0;

	if (strcmp(value, "none") != 0)
		ret = parse_rate(value, &rate, err);
	if (!ret && !rate && strcmp(value, "none") != 0)
		ret = err_set(
			err, -ERANGE,
			"a link of %.64s carries nothing; 'none' is one that never limits",
			value);
	if (!ret)
		params->input.link.rate = rate;
	return ret;
}

static int set_latency(struct sim_params *params, const char *value,
		       struct err *err)
{
	return parse_duration(value, &params->input.link.latency_ns, err);
}

static int set_downtime(struct sim_params *params, const char *value,
			struct err *err)
{
	return parse_u64(value, 0, MIG_DOWNTIME_LIMIT_MAX_MS,
			 &params->input.limits.downtime_ms, err);
}

static int set_max_bandwidth(struct sim_params *params, const char *value,
			     struct err *err)
{
	return parse_size(value, &params->input.limits.max_bandwidth, err);
}

static int set_throttle(struct sim_params *params, const char *value,
			struct err *err)
{
	return parse_bool(value, &params->input.limits.throttle, err);
}

static const struct {
	const char *name;
	set_fn *set;
} parameters[] = {
	{ "memory", set_memory },
	{ "touched", set_touched },
	{ "cpus", set_cpus },
	{ "pattern", set_pattern },
	{ "hot", set_hot },
	{ "rate", set_rate },
	{ "reads", set_reads },
	{ "burst", set_burst },
	{ "link", set_link },
	{ "latency", set_latency },
	{ "downtime-limit", set_downtime },
	{ "max-bandwidth", set_max_bandwidth },
	{ "throttle", set_throttle },
};

const char *sim_params_names(void)
{
	return "memory, touched, cpus, pattern, hot, rate, reads, burst, link, latency, downtime-limit, max-bandwidth, throttle";
}

void sim_params_init(struct sim_params *params)
{
	*params = (struct sim_params){
		.input = { .guest.cpus = 1,
			   .limits = { .downtime_ms = DOWNTIME_DEFAULT_MS,
				       .throttle = true } },
	};
	plan_costs_init(&params->input.costs);
}

int sim_params_set(struct sim_params *params, const char *name,
		   const char *value, struct err *err)
{
	for (size_t i = 0; i < array_size(parameters); i++) {
		if (strcmp(name, parameters[i].name) == 0)
			return parameters[i].set(params, value, err);
	}
	return err_set(err, -ENOENT, "it is none of %s", sim_params_names());
}

static int set_cost(struct sim_params *params, const char *name,
		    const char *value, struct err *err)
{
	for (int i = 0; i < PLAN_COST_COUNT; i++) {
		enum plan_cost cost = (enum plan_cost)i;
		uint64_t number = 0;
		int ret;

		if (strcmp(name, plan_cost_name(cost)) != 0)
			continue;
		if (plan_cost_unit(cost) == PLAN_NS)
			ret = parse_duration(value, &number, err);
		else if (plan_cost_unit(cost) == PLAN_BYTES)
			ret = parse_size(value, &number, err);
		else if (plan_cost_unit(cost) == PLAN_PERCENT)
			ret = parse_u64(value, 0, 1000, &number, err);
		else
			ret = parse_rate(value, &number, err);
		if (!ret)
			params->input.costs.value[i] = (double)number;
		return ret;
	}
	return err_set(err, -ENOENT, "no such cost (docs/planning.md)");
}

/* A sub-option and the parameter that it is. */
struct sub_option {
	const char *key, *parameter;
};

/* "key=value,...": of @options (which NULL ends), or costs without them. */
static int set_all(struct sim_params *params, const char *text,
		   const struct sub_option *options, struct err *err)
{
	struct parse_kv kv;
	int ret;

	while ((ret = parse_kv_next(&text, &kv)) > 0) {
		const struct sub_option *option = options;

		while (option && option->key &&
		       strcmp(kv.key, option->key) != 0)
			option++;
		if (option && !option->key)
			return err_set(err, -EINVAL, "unknown key '%s'",
				       kv.key);
		if (!kv.value)
			return err_set(err, -EINVAL, "'%s' needs a value",
				       kv.key);
		ret = option ? sim_params_set(params, option->parameter,
					      kv.value, err)
			     : set_cost(params, kv.key, kv.value, err);
		if (ret) {
			err_prefix(err, "%s", kv.key);
			return ret;
		}
	}
	return ret ? err_set(err, ret, "not KEY=VALUE,...") : 0;
}

int sim_params_set_workload(struct sim_params *params, const char *text,
			    struct err *err)
{
	static const struct sub_option options[] = {
		{ "hot", "hot" },     { "pattern", "pattern" },
		{ "rate", "rate" },   { "reads", "reads" },
		{ "burst", "burst" }, { NULL, NULL },
	};

	return set_all(params, text, options, err);
}

int sim_params_set_link(struct sim_params *params, const char *text,
			struct err *err)
{
	static const struct sub_option options[] = {
		{ "rate", "link" },
		{ "latency", "latency" },
		{ NULL, NULL },
	};

	return set_all(params, text, options, err);
}

int sim_params_set_costs(struct sim_params *params, const char *text,
			 struct err *err)
{
	return set_all(params, text, NULL, err);
}

int sim_params_finish(struct sim_params *params, struct err *err)
{
	struct plan_guest *guest = &params->input.guest;

	if (!params->has_touched)
		guest->touched = guest->memory;
	if (!params->has_rate)
		guest->is_rate_max = guest->hot > 0;
	return plan_check(&params->input, err);
}

void sim_params_print_costs(void)
{
	static const char *const units[] = {
		[PLAN_NS] = "ns",
		[PLAN_BYTES] = "",
		[PLAN_BYTES_PER_S] = "B/s",
		[PLAN_PERCENT] = "",
	};
	struct plan_costs costs;

	plan_costs_init(&costs);
	for (int i = 0; i < PLAN_COST_COUNT; i++) {
		enum plan_cost cost = (enum plan_cost)i;
		char value[32];

		snprintf(value, sizeof(value), "%.0f%s", costs.value[i],
			 units[plan_cost_unit(cost)]);
		printf("%-12s  %14s  %s\n", plan_cost_name(cost), value,
		       plan_cost_source(cost));
	}
}

json_t *sim_params_json(const struct sim_params *params)
{
	const struct plan_guest *guest = &params->input.guest;
	const struct plan_link *link = &params->input.link;
	const struct plan_limits *limits = &params->input.limits;
	json_t *root =
		json_pack("{s:I, s:I, s:i, s:s, s:I, s:i, s:I}", "memory",
			  (json_int_t)guest->memory, "touched",
			  (json_int_t)guest->touched, "cpus", (int)guest->cpus,
			  "pattern", writes_pattern_name(guest->pattern), "hot",
			  (json_int_t)guest->hot, "reads", (int)guest->reads,
			  "burst-ns", (json_int_t)guest->burst_ns);

	json_object_set_new(root, "rate",
			    guest->is_rate_max ? json_string("max")
					       : json_real(guest->rate));
	json_object_set_new(root, "link",
			    link->rate ? json_integer((json_int_t)link->rate)
				       : json_null());
	json_object_set_new(root, "latency-ns",
			    json_integer((json_int_t)link->latency_ns));
	json_object_set_new(root, "downtime-limit",
			    json_integer((json_int_t)limits->downtime_ms));
	json_object_set_new(root, "max-bandwidth",
			    json_integer((json_int_t)limits->max_bandwidth));
	json_object_set_new(root, "throttle", json_boolean(limits->throttle));
	return root;
}

json_t *sim_params_costs_json(const struct plan_costs *costs)
{
	static const char *const units[] = {
		[PLAN_NS] = "ns",
		[PLAN_BYTES] = "bytes",
		[PLAN_BYTES_PER_S] = "bytes-per-s",
		[PLAN_PERCENT] = "percent",
	};
	json_t *root = json_object();

	for (int i = 0; i < PLAN_COST_COUNT; i++) {
		enum plan_cost cost = (enum plan_cost)i;
		char name[64];

		snprintf(name, sizeof(name), "%s-%s", plan_cost_name(cost),
			 units[plan_cost_unit(cost)]);
		json_object_set_new(root, name, json_real(costs->value[i]));
	}
	return root;
}
