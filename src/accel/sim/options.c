// SPDX-License-Identifier: Apache-2.0
/*
 * --accel sim[,OPTION=VALUE...].  What the workload does is said in the words of
 * the built-in guest (guest/README.md), and becomes its command line.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "accel/sim/sim.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/parse.h"
#include "sim_priv.h"

#define RING_MAX      65536u
#define TABLES_MAX    (64ull << 20)
#define WORKLOAD_HEAD "stress,hot=64M"

/* Handed on as they are. */
static const char *const workload_keys[] = {
	"hot",  "fill", "skip", "rate",   "seed", "reads",   "verify",
	"scan", "tick", "poll", "report", "run",  "writers",
};

static int add_word(struct accel_options *options, const char *key,
		    const char *value, struct err *err)
{
	char *text = options->sim.workload;
	size_t used = strlen(text);
	int n = snprintf(text + used, sizeof(options->sim.workload) - used,
			 ",%s=%s", key, value);

	if (n < 0 || (size_t)n >= sizeof(options->sim.workload) - used)
		return err_set(err, -E2BIG, "workload: at most %zu bytes",
			       sizeof(options->sim.workload) - 1);
	return 1;
}

static int take_workload(struct accel_options *options, const char *value,
			 struct err *err)
{
	static const char *const patterns[] = { "seq", "random", "zipf",
						"hotcold" };
	struct sim_options *sim = &options->sim;

	strcpy(sim->workload, WORKLOAD_HEAD);
	for (size_t i = 0; i < array_size(patterns); i++) {
		if (strcmp(value, patterns[i]) == 0) {
			sim->has_pattern = true;
			return add_word(options, "pattern", value, err);
		}
	}
	if (strcmp(value, "burst") == 0)
		return add_word(options, "burst", "10ms", err);
	return err_set(err, -EINVAL,
		       "workload=%s is unknown; use seq, random, zipf, hotcold "
		       "or burst",
		       value);
}

static int take_pattern(struct accel_options *options, const char *value,
			struct err *err)
{
	if (options->sim.has_pattern)
		return err_set(err, -EINVAL,
			       "pattern=%s contradicts workload=, which is a "
			       "pattern already; only workload=burst takes one",
			       value);
	options->sim.has_pattern = true;
	return add_word(options, "pattern", value, err);
}

static int take_level(const char *value, struct sim_options *sim,
		      struct err *err)
{
	static const char *const names[] = { "1G", "2M", "4K" };

	for (unsigned int i = 0; i < array_size(names); i++) {
		if (strcmp(value, names[i]) == 0) {
			sim->leaf = (enum sim_leaf)i;
			return 1;
		}
	}
	return err_set(err, -EINVAL, "leaf=%s is unknown; use 4K, 2M or 1G",
		       value);
}

/* One of two words. */
static int take_choice(const struct parse_kv *kv, const char *value,
		       const char *no, const char *yes, bool *ret_choice,
		       struct err *err)
{
	if (strcmp(value, no) != 0 && strcmp(value, yes) != 0)
		return err_set(err, -EINVAL, "%s=%s is unknown; use %s or %s",
			       kv->key, value, no, yes);
	*ret_choice = strcmp(value, yes) == 0;
	return 1;
}

static int take_tables(struct sim_options *sim, const char *value,
		       struct err *err)
{
	int ret = parse_size(value, &sim->tables_size, err);

	if (ret)
		return ret;
	if (sim->tables_size > TABLES_MAX || sim->tables_size % 4096)
		return err_set(err, -ERANGE,
			       "tables=%s must be a multiple of 4K and at most "
			       "64M",
			       value);
	return 1;
}

static int take_ring_entries(struct accel_options *options, const char *value,
			     struct err *err)
{
	uint64_t entries;
	int ret = parse_u64(value, 1, RING_MAX, &entries, err);

	if (ret)
		return ret;
	if (entries & (entries - 1) || entries <= SIM_RING_RESERVE)
		return err_set(err, -EINVAL,
			       "ring-entries=%s must be a power of two from "
			       "1024 to %u",
			       value, RING_MAX);
	options->ring_entries = (uint32_t)entries;
	return 1;
}

int sim_option(struct accel_options *options, const struct parse_kv *kv,
	       struct err *err)
{
	struct sim_options *sim = &options->sim;
	const char *value = kv->value ? kv->value : "on";
	bool has_rings = false;
	int ret;

	if (strcmp(kv->key, "dirty") == 0) {
		ret = take_choice(kv, value, "bitmap", "ring", &has_rings, err);
		options->dirty =
			has_rings ? ACCEL_DIRTY_RING : ACCEL_DIRTY_BITMAP;
		return ret;
	}
	if (strcmp(kv->key, "ring-entries") == 0)
		return take_ring_entries(options, value, err);
	if (strcmp(kv->key, "leaf") == 0)
		return take_level(value, sim, err);
	if (strcmp(kv->key, "split") == 0)
		return take_choice(kv, value, "lazy", "eager",
				   &sim->is_split_eager, err);
	if (strcmp(kv->key, "collapse") == 0)
		return take_choice(kv, value, "worker", "inline",
				   &sim->is_collapse_inline, err);
	if (strcmp(kv->key, "pv") == 0) {
		ret = parse_bool(value, &sim->has_pv, err);
		return ret ? ret : 1;
	}
	if (strcmp(kv->key, "tables") == 0)
		return take_tables(sim, value, err);
	if (strcmp(kv->key, "workload") == 0)
		return take_workload(options, value, err);
	for (size_t i = 0; i < array_size(workload_keys) + 2; i++) {
		const char *key = i < array_size(workload_keys)
					  ? workload_keys[i]
				  : i == array_size(workload_keys) ? "pattern"
								   : "burst";

		if (strcmp(kv->key, key) != 0)
			continue;
		if (!sim->workload[0])
			return err_set(err, -EINVAL,
				       "%s= says how a workload is: give "
				       "workload= before it",
				       key);
		if (strcmp(key, "pattern") == 0)
			return take_pattern(options, value, err);
		if (strcmp(key, "burst") == 0 &&
		    !strstr(sim->workload, ",burst="))
			return err_set(err, -EINVAL,
				       "burst=%s needs workload=burst", value);
		return add_word(options, key, value, err);
	}
	return 0;
}

/* The guest would find it out too, and say so on its serial port; here it is one
 * line of the command. */
int sim_options_check(struct accel_options *options, struct err *err)
{
	struct sim_options *sim = &options->sim;
	struct config config;
	const char *wrong;

	if (options->ring_entries && options->dirty != ACCEL_DIRTY_RING)
		return err_set(err, -EINVAL, "ring-entries=%u needs dirty=ring",
			       options->ring_entries);
	if (sim->is_split_eager && sim->leaf == SIM_LEAF_4K)
		return err_set(err, -EINVAL,
			       "split=eager contradicts leaf=4K: nothing is "
			       "ever split");
	if (!sim->workload[0])
		return 0;
	wrong = config_parse(&config, sim->workload);
	if (wrong)
		return err_set(err, -EINVAL, "workload: '%.*s' makes no sense",
			       (int)strcspn(wrong, ", "), wrong);
	return 0;
}
