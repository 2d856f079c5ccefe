/* SPDX-License-Identifier: Apache-2.0 */
/* Predictions, for people and as JSON. */
#ifndef GODWIT_CLI_SIM_SHOW_H
#define GODWIT_CLI_SIM_SHOW_H

#include <jansson.h>

#include "cli/sim_params.h"
#include "migrate/plan.h"

/* One migration, as `godwit migrate` shows one that happened. */
void sim_show(const struct sim_params *params, const struct plan *plan);

/* A table: the columns of @names, then the prediction. */
void sim_show_head(const char *const *names, size_t count);
void sim_show_row(const char *const *values, const char *const *names,
		  size_t count, const struct plan *plan);

/* A new reference; members that query-migrate has too have its names and units.
 * With @has_rounds, each round. */
json_t *sim_show_json(const struct sim_params *params, const struct plan *plan,
		      bool has_rounds);

#endif
