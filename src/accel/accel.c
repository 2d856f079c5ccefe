// SPDX-License-Identifier: Apache-2.0
/* Choice of the accelerator. */
#include "accel/accel.h"

#include <errno.h>
#include <string.h>

#include "accel/kvm/kvm.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/parse.h"

static const struct accel_type types[] = {
	{ "kvm", kv_new },
};

static const struct accel_type *find_type(const char *name)
{
	for (size_t i = 0; i < array_size(types); i++) {
		if (strcmp(types[i].name, name) == 0)
			return &types[i];
	}
	return NULL;
}

int accel_options_parse(const char *text, struct accel_options *ret_options,
			struct err *err)
{
	struct accel_options options = { .type = NULL };
	struct parse_kv kv;
	int ret;

	ret = parse_kv_next(&text, &kv);
	if (ret < 0)
		return err_set(err, ret, "accelerator options: '%s'", text);
	if (ret > 0 && !kv.value)
		options.type = find_type(kv.key);
	if (!options.type)
		return err_set(err, -EINVAL,
			       "accelerator '%s' is unknown; use kvm",
			       ret > 0 ? kv.key : text);

	while ((ret = parse_kv_next(&text, &kv)) > 0) {
		const char *value = kv.value ? kv.value : "on";

		if (strcmp(kv.key, "dirty") == 0) {
			if (strcmp(value, "bitmap") != 0)
				return err_set(err, -EINVAL,
					       "dirty=%s is unknown; use "
					       "dirty=bitmap",
					       value);
		} else if (strcmp(kv.key, "x-plain-log") == 0) {
			ret = parse_bool(value, &options.use_plain_log, err);
			if (ret)
				return ret;
		} else {
			return err_set(err, -EINVAL,
				       "accelerator option '%s' is unknown",
				       kv.key);
		}
	}
	if (ret < 0)
		return err_set(err, ret, "accelerator options: '%s'", text);
	*ret_options = options;
	return 0;
}

int accel_new(const struct accel_config *config, struct accel **ret_accel,
	      struct err *err)
{
	return config->options.type->create(config, ret_accel, err);
}
