/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parameters of `godwit sim` by name: what options, sub-options and sweeps
 * set, and what the output calls them.
 */
#ifndef GODWIT_CLI_SIM_PARAMS_H
#define GODWIT_CLI_SIM_PARAMS_H

#include <jansson.h>
#include <stdbool.h>

#include "migrate/plan.h"

struct err;

struct sim_params {
	struct plan_input input;
	bool has_touched; /* otherwise all of memory is */
	bool has_rate;    /* otherwise as fast as it can, if it writes */
};

void sim_params_init(struct sim_params *params);

/* -ENOENT: there is no such parameter; -EINVAL: @value is not of its kind;
 * -ERANGE: it is beyond what makes sense. */
int sim_params_set(struct sim_params *params, const char *name,
		   const char *value, struct err *err);
/* "key=value,..." as of --workload, --link and --cost; likewise. */
int sim_params_set_workload(struct sim_params *params, const char *text,
			    struct err *err);
int sim_params_set_link(struct sim_params *params, const char *text,
			struct err *err);
int sim_params_set_costs(struct sim_params *params, const char *text,
			 struct err *err);

/* All are set: fills in what follows from others and checks them together.
 * -EINVAL, -ERANGE. */
int sim_params_finish(struct sim_params *params, struct err *err);

/* Names, for messages: "memory, touched, ...". */
const char *sim_params_names(void);

/* All costs, their defaults and where those come from, on stdout. */
void sim_params_print_costs(void);

/* New references: {"memory": bytes, ...} and {"setup-ns": n, ...}. */
json_t *sim_params_json(const struct sim_params *params);
json_t *sim_params_costs_json(const struct plan_costs *costs);

#endif
