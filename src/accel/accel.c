// SPDX-License-Identifier: Apache-2.0
/* Choice of the accelerator. */
#include "accel/accel.h"

#include <errno.h>
#include <string.h>

#include "accel/kvm/kvm.h"
#include "accel/sim/sim.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/parse.h"

static const struct accel_type types[] = {
	{ .name = "kvm",
	  .option = kv_option,
	  .check = kv_options_check,
	  .create = kv_new },
	{ .name = "sim",
	  .option = sim_option,
	  .check = sim_options_check,
	  .create = sim_new,
	  .runs_no_code = true },
};

static const struct accel_type *find_type(const char *name)
{
	for (size_t i = 0; i < array_size(types); i++) {
		if (strcmp(types[i].name, name) == 0)
			return &types[i];
	}
	return NULL;
}

/* In @text, before @end. */
static bool is_given(const char *text, const char *end, const char *key)
{
	struct parse_kv kv;

	while (text < end && parse_kv_next(&text, &kv) > 0) {
		if (strcmp(kv.key, key) == 0)
			return true;
	}
	return false;
}

int accel_options_parse(const char *text, struct accel_options *ret_options,
			struct err *err)
{
	struct accel_options options = { .type = NULL };
	const char *first, *this;
	struct parse_kv kv;
	int ret;

	ret = parse_kv_next(&text, &kv);
	if (ret < 0)
		return err_set(err, ret, "accelerator options: '%s'", text);
	if (ret > 0 && !kv.value)
		options.type = find_type(kv.key);
	if (!options.type)
		return err_set(err, -EINVAL,
			       "accelerator '%s' is unknown; use kvm or sim",
			       ret > 0 ? kv.key : text);

	for (first = this = text; (ret = parse_kv_next(&text, &kv)) > 0;
	     this = text) {
		if (is_given(first, this, kv.key))
			return err_set(err, -EINVAL,
				       "accelerator option '%s' is given twice",
				       kv.key);
		ret = options.type->option(&options, &kv, err);
		if (ret < 0)
			return ret;
		if (ret == 0)
			return err_set(err, -EINVAL,
				       "accelerator option '%s' is unknown",
				       kv.key);
	}
	if (ret < 0)
		return err_set(err, ret, "accelerator options: '%s'", text);
	if (options.type->check)
		ret = options.type->check(&options, err);
	if (ret)
		return ret;
	*ret_options = options;
	return 0;
}

int accel_new(const struct accel_config *config, struct accel **ret_accel,
	      struct err *err)
{
	return config->options.type->create(config, ret_accel, err);
}
