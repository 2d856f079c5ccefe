// SPDX-License-Identifier: Apache-2.0
/* --accel kvm[,OPTION=VALUE...]. */
#include <errno.h>
#include <string.h>

#include "accel/accel.h"
#include "accel/kvm/kvm.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/parse.h"

static int take_dirty(const char *value, struct accel_options *options,
		      struct err *err)
{
	static const char *const names[] = {
		[ACCEL_DIRTY_BITMAP] = "bitmap",
		[ACCEL_DIRTY_RING] = "ring",
		[ACCEL_DIRTY_RING_OR_BITMAP] = "ring-or-bitmap",
	};

	for (size_t i = 0; i < array_size(names); i++) {
		if (strcmp(value, names[i]) == 0) {
			options->dirty = (enum accel_dirty)i;
			return 1;
		}
	}
	return err_set(err, -EINVAL,
		       "dirty=%s is unknown; use dirty=bitmap, dirty=ring or "
		       "dirty=ring-or-bitmap",
		       value);
}

/* Its limits are the kernel's (ring.c). */
static int take_ring_entries(const char *value, struct accel_options *options,
			     struct err *err)
{
	uint64_t entries;

	if (parse_u64(value, 1, UINT32_MAX, &entries, NULL) ||
	    entries & (entries - 1))
		return err_set(err, -EINVAL,
			       "ring-entries=%s is no power of two, as 4096 is",
			       value);
	options->ring_entries = (uint32_t)entries;
	return 1;
}

static int take_log_stop(const char *value, struct accel_options *options,
			 struct err *err)
{
	if (strcmp(value, "worker") != 0 && strcmp(value, "inline") != 0)
		return err_set(
			err, -EINVAL,
			"x-log-stop=%s is unknown; use x-log-stop=worker "
			"or x-log-stop=inline",
			value);
	options->is_log_stop_inline = value[0] == 'i';
	return 1;
}

int kv_option(struct accel_options *options, const struct parse_kv *kv,
	      struct err *err)
{
	const char *value = kv->value ? kv->value : "on";
	int ret;

	if (strcmp(kv->key, "dirty") == 0)
		return take_dirty(value, options, err);
	if (strcmp(kv->key, "ring-entries") == 0)
		return take_ring_entries(value, options, err);
	if (strcmp(kv->key, "x-log-stop") == 0)
		return take_log_stop(value, options, err);
	if (strcmp(kv->key, "x-plain-log") == 0) {
		ret = parse_bool(value, &options->use_plain_log, err);
		return ret ? ret : 1;
	}
	return 0;
}

int kv_options_check(struct accel_options *options, struct err *err)
{
	if (options->dirty == ACCEL_DIRTY_BITMAP && options->ring_entries)
		return err_set(err, -EINVAL, "ring-entries=%u needs dirty=ring",
			       options->ring_entries);
	if (options->dirty != ACCEL_DIRTY_BITMAP && options->use_plain_log)
		return err_set(err, -EINVAL,
			       "x-plain-log=on is of dirty=bitmap, not of "
			       "dirty=ring");
	return 0;
}
