// SPDX-License-Identifier: Apache-2.0
/*
 * godwit sim: what a migration would be like (migrate/plan.h), for one set of
 * parameters or for a table of them.
 */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/sim_params.h"
#include "cli/sim_read.h"
#include "cli/sim_show.h"
#include "control/qmp_server.h"

#define SWEEPS_MAX 8
#define PLANS_MAX  1000
#define COSTS_MAX  32 /* options */

struct sweep {
	char *text;         /* owned: the key and its values, ended by NULs */
	const char *key;    /* borrowed from text, as are the values */
	const char **value; /* owned */
	size_t count;
};

struct sim {
	struct sim_params params;
	struct sweep sweep[SWEEPS_MAX];
	size_t sweeps;
	size_t plans;               /* the product of their counts */
	const char *calibrate_from; /* borrowed from argv, as are the costs */
	const char *cost[COSTS_MAX];
	size_t costs;
	bool has_memory, json;
};

enum key {
	KEY_MEMORY = 256,
	KEY_TOUCHED,
	KEY_CPUS,
	KEY_WORKLOAD,
	KEY_LINK,
	KEY_DOWNTIME,
	KEY_BANDWIDTH,
	KEY_THROTTLE,
	KEY_COST,
	KEY_CALIBRATE,
	KEY_SWEEP,
	KEY_JSON,
};

static const struct argp_option option_list[] = {
	{ "memory", KEY_MEMORY, "SIZE", 0, "memory of the guest", 0 },
	{ "touched", KEY_TOUCHED, "SIZE", 0,
	  "of it, what was ever written; the rest is not sent (default: all)",
	  0 },
	{ "cpus", KEY_CPUS, "N", 0, "vCPUs (default: 1)", 0 },
	{ "workload", KEY_WORKLOAD, "KEY=VALUE,...", 0,
	  "hot=SIZE that is rewritten (default: none), "
	  "pattern=seq|random|zipf|hotcold, "
	  "rate=max|N/s accesses|RATE of whole pages, "
	  "reads=PERCENT that only read, burst=DURATION|off",
	  0 },
	{ "link", KEY_LINK, "rate=RATE,latency=TIME", 0,
	  "for example rate=25Gb/s,latency=30us, one way (default: as fast as the hosts)",
	  0 },
	{ "downtime-limit", KEY_DOWNTIME, "MS", 0,
	  "longest pause that is acceptable, in milliseconds (default: 300)",
	  0 },
	{ "max-bandwidth", KEY_BANDWIDTH, "RATE", 0,
	  "bytes a second, with suffixes K, M, G; 0 for no limit", 0 },
	{ "throttle", KEY_THROTTLE, "on|off", 0,
	  "hold writers back when rounds stop shrinking (default: on, as a migration does)",
	  0 },
	{ "calibrate-from", KEY_CALIBRATE, "FILE", 0,
	  "costs out of migrations that happened: what `godwit status --json' of their sources printed",
	  1 },
	{ "cost", KEY_COST, "KEY=VALUE,...", 0,
	  "costs by hand, for example fresh=5GB/s,warm=11GB/s,save-vcpu=25us; `--cost help' lists them",
	  1 },
	{ "sweep", KEY_SWEEP, "KEY=A,B,C", 0,
	  "a table, one row for each value; several make all combinations", 2 },
	{ "json", KEY_JSON, NULL, 0, "one JSON object on stdout", 2 },
	{ .name = NULL },
};

static const char doc[] =
	"Predict a migration: rounds, total time, pause and its parts, bytes. Decisions are "
	"those of the real source, time is virtual."
	"\vA sweep takes any of memory, touched, cpus, pattern, hot, rate, reads, burst, link, latency, "
	"downtime-limit, max-bandwidth, throttle.\n\n"
	"EXIT STATUS\n"
	"  0    predicted, whatever it is\n"
	"  1    the file to calibrate from cannot be used\n"
	"  2    parameters contradict each other or are absurd\n"
	"  64   wrong command line";

/* One line and exit code 2 for what makes no sense, argp's way for what cannot
 * be read. */
static void refuse(const struct argp_state *state, const char *option,
		   struct err *err)
{
	if (err->code != -ERANGE)
		argp_error(state, "%s: %s", option, err_msg(err));
	log_info("%s: %s", option, err_msg(err));
	exit(CLI_EXIT_NONSENSE);
}

/* Splits its text at commas. */
static int sweep_split(struct sweep *sweep, struct err *err)
{
	char *at = strchr(sweep->text, '=');
	size_t room = 1;

	sweep->key = sweep->text;
	if (!at || at == sweep->text || !at[1])
		return err_set(err, -EINVAL, "not KEY=A,B,C");
	*at++ = '\0';
	for (const char *c = at; *c; c++)
		room += *c == ',';
	if (room > PLANS_MAX)
		return err_set(err, -ERANGE, "%zu values, at most %d", room,
			       PLANS_MAX);
	sweep->value = calloc(room, sizeof(*sweep->value));
	if (!sweep->value)
		return err_set(err, -ENOMEM, "no memory");
	while (at) {
		char *end = strchr(at, ',');

		if (end)
			*end++ = '\0';
		if (!*at)
			return err_set(err, -EINVAL, "an empty value");
		sweep->value[sweep->count++] = at;
		at = end;
	}
	return 0;
}

static int sweep_add(struct sim *sim, const char *text, struct err *err)
{
	struct sweep *sweep = &sim->sweep[sim->sweeps];
	struct sim_params scratch = sim->params;
	int ret;

	if (sim->sweeps == SWEEPS_MAX)
		return err_set(err, -ERANGE, "more than %d sweeps", SWEEPS_MAX);
	sweep->text = strdup(text);
	if (!sweep->text)
		return err_set(err, -ENOMEM, "no memory");
	sim->sweeps++;
	ret = sweep_split(sweep, err);
	for (size_t i = 0; !ret && i + 1 < sim->sweeps; i++) {
		if (strcmp(sim->sweep[i].key, sweep->key) == 0)
			ret = err_set(err, -EINVAL, "'%s' is swept twice",
				      sweep->key);
	}
	for (size_t i = 0; !ret && i < sweep->count; i++)
		ret = sim_params_set(&scratch, sweep->key, sweep->value[i],
				     err);
	if (ret && sweep->count)
		err_prefix(err, "%s", sweep->key);
	if (!ret)
		sim->plans *= sweep->count;
	if (!ret && sim->plans > PLANS_MAX)
		ret = err_set(err, -ERANGE, "%zu combinations, at most %d",
			      sim->plans, PLANS_MAX);
	return ret;
}

static bool is_swept(const struct sim *sim, const char *key)
{
	for (size_t i = 0; i < sim->sweeps; i++) {
		if (strcmp(sim->sweep[i].key, key) == 0)
			return true;
	}
	return false;
}

/* What was measured, then what is known better, in whatever order they stand. */
static void set_costs(struct sim *sim, const struct argp_state *state)
{
	struct sim_params *params = &sim->params;
	struct err err = ERR_INIT;

	if (sim->calibrate_from &&
	    sim_read_costs(sim->calibrate_from, params, &err)) {
		log_info("--calibrate-from: %s", err_msg(&err));
		exit(CLI_EXIT_FAILED);
	}
	for (size_t i = 0; i < sim->costs; i++) {
		if (sim_params_set_costs(params, sim->cost[i], &err))
			refuse(state, "--cost", &err);
	}
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct sim *sim = state->input;
	struct sim_params *params = &sim->params;
	struct err err = ERR_INIT;
	const char *option = "";

	switch (key) {
	case KEY_MEMORY:
		option = "--memory";
		sim->has_memory = true;
		sim_params_set(params, "memory", arg, &err);
		break;
	case KEY_TOUCHED:
		option = "--touched";
		sim_params_set(params, "touched", arg, &err);
		break;
	case KEY_CPUS:
		option = "--cpus";
		sim_params_set(params, "cpus", arg, &err);
		break;
	case KEY_WORKLOAD:
		option = "--workload";
		sim_params_set_workload(params, arg, &err);
		break;
	case KEY_LINK:
		option = "--link";
		sim_params_set_link(params, arg, &err);
		break;
	case KEY_DOWNTIME:
		option = "--downtime-limit";
		sim_params_set(params, "downtime-limit", arg, &err);
		break;
	case KEY_BANDWIDTH:
		option = "--max-bandwidth";
		sim_params_set(params, "max-bandwidth", arg, &err);
		break;
	case KEY_THROTTLE:
		option = "--throttle";
		sim_params_set(params, "throttle", arg, &err);
		break;
	case KEY_CALIBRATE:
		if (sim->calibrate_from)
			argp_error(
				state,
				"--calibrate-from: one FILE; it may hold many migrations");
		sim->calibrate_from = arg;
		break;
	case KEY_COST:
		if (strcmp(arg, "help") == 0) {
			sim_params_print_costs();
			exit(CLI_EXIT_OK);
		}
		if (sim->costs == COSTS_MAX)
			argp_error(state, "--cost: at most %d times",
				   COSTS_MAX);
		sim->cost[sim->costs++] = arg;
		break;
	case KEY_SWEEP:
		option = "--sweep";
		sweep_add(sim, arg, &err);
		break;
	case KEY_JSON:
		sim->json = true;
		break;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s' is no option; options start with --",
			   arg);
		break;
	case ARGP_KEY_END:
		if (!sim->has_memory && !is_swept(sim, "memory"))
			argp_error(state,
				   "say how large the guest is: --memory SIZE");
		set_costs(sim, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	if (err.code)
		refuse(state, option, &err);
	return 0;
}

/* Combination @number: the last sweep's values change fastest. */
static int combine(const struct sim *sim, size_t number,
		   const char *values[SWEEPS_MAX],
		   struct sim_params *ret_params, struct err *err)
{
	int ret = 0;

	*ret_params = sim->params;
	for (size_t i = sim->sweeps; i-- > 0;) {
		const struct sweep *sweep = &sim->sweep[i];

		values[i] = sweep->value[number % sweep->count];
		number /= sweep->count;
	}
	for (size_t i = 0; !ret && i < sim->sweeps; i++)
		ret = sim_params_set(ret_params, sim->sweep[i].key, values[i],
				     err);
	if (!ret)
		ret = sim_params_finish(ret_params, err);
	for (size_t i = sim->sweeps; ret && i-- > 0;)
		err_prefix(err, "%s=%s", sim->sweep[i].key, values[i]);
	return ret;
}

/* All combinations make sense, or none is predicted. */
static int check(const struct sim *sim, struct err *err)
{
	const char *values[SWEEPS_MAX];
	struct sim_params params;
	int ret = 0;

	for (size_t i = 0; !ret && i < sim->plans; i++)
		ret = combine(sim, i, values, &params, err);
	return ret;
}

static json_t *sweep_json(const struct sim *sim)
{
	json_t *keys = json_array();

	for (size_t i = 0; i < sim->sweeps; i++)
		json_array_append_new(keys, json_string(sim->sweep[i].key));
	return keys;
}

static void predict(const struct sim *sim, struct plan *plan)
{
	const char *values[SWEEPS_MAX], *keys[SWEEPS_MAX];
	struct sim_params params;
	json_t *plans = json_array(), *root;

	for (size_t i = 0; i < sim->sweeps; i++)
		keys[i] = sim->sweep[i].key;
	if (sim->sweeps && !sim->json)
		sim_show_head(keys, sim->sweeps);
	for (size_t i = 0; i < sim->plans; i++) {
		if (combine(sim, i, values, &params, NULL))
			continue; /* check() has seen them all */
		plan_run(&params.input, plan);
		if (sim->json)
			json_array_append_new(
				plans,
				sim_show_json(&params, plan, !sim->sweeps));
		else if (sim->sweeps)
			sim_show_row(values, keys, sim->sweeps, plan);
		else
			sim_show(&params, plan);
	}
	root = json_pack("{s:o, s:o, s:o}", "sweep", sweep_json(sim), "costs",
			 sim_params_costs_json(&sim->params.input.costs),
			 "plans", plans);
	if (sim->json) {
		json_dumpf(root, stdout, QMP_DUMP_FLAGS);
		putchar('\n');
	}
	json_decref(root);
}

int cli_sim(int argc, char **argv)
{
	static const struct argp argp = {
		.options = option_list,
		.parser = parse,
		.doc = doc,
	};
	struct sim sim = { .plans = 1 };
	struct plan *plan = malloc(sizeof(*plan));
	struct err err = ERR_INIT;
	int code = CLI_EXIT_OK;

	sim_params_init(&sim.params);
	if (argp_parse(&argp, argc, argv, 0, NULL, &sim)) {
		code = CLI_EXIT_USAGE;
	} else if (!plan) {
		log_info("no memory");
		code = CLI_EXIT_FAILED;
	} else if (check(&sim, &err)) {
		log_info("%s", err_msg(&err));
		code = CLI_EXIT_NONSENSE;
	} else {
		predict(&sim, plan);
	}
	for (size_t i = 0; i < sim.sweeps; i++) {
		free(sim.sweep[i].text);
		free(sim.sweep[i].value);
	}
	free(plan);
	return code;
}
