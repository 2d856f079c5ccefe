// SPDX-License-Identifier: Apache-2.0
/* What follows --disk. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/parse.h"
#include "virtio/blk_priv.h"

static int take_text(char *to, size_t room, const struct parse_kv *kv,
		     struct err *err)
{
	if (!kv->value || kv->value[0] == '\0')
		return err_set(err, -EINVAL, "%s= has no value", kv->key);
	if (strlen(kv->value) >= room)
		return err_set(err, -EINVAL, "%s has %zu bytes, at most %zu",
			       kv->key, strlen(kv->value), room - 1);
	snprintf(to, room, "%s", kv->value);
	return 0;
}

static int take_switch(bool *to, const struct parse_kv *kv, struct err *err)
{
	if (!kv->value) {
		*to = true;
		return 0;
	}
	return parse_bool(kv->value, to, err);
}

static int take_queues(struct blk_options *options, const struct parse_kv *kv,
		       struct err *err)
{
	uint64_t queues;
	int ret;

	ret = parse_u64(kv->value ? kv->value : "", 1, DISK_QUEUES_MAX, &queues,
			err);
	if (ret)
		err_prefix(err, "queues");
	else
		options->queues = (unsigned int)queues;
	return ret;
}

static int take(struct blk_options *options, const struct parse_kv *kv,
		struct err *err)
{
	if (strcmp(kv->key, "path") == 0)
		return take_text(options->path, sizeof(options->path), kv, err);
	if (strcmp(kv->key, "nbd") == 0)
		return take_text(options->nbd, sizeof(options->nbd), kv, err);
	if (strcmp(kv->key, "serial") == 0)
		return take_text(options->serial, sizeof(options->serial), kv,
				 err);
	if (strcmp(kv->key, "queues") == 0)
		return take_queues(options, kv, err);
	if (strcmp(kv->key, "readonly") == 0)
		return take_switch(&options->is_readonly, kv, err);
	if (strcmp(kv->key, "direct") == 0)
		return take_switch(&options->is_direct, kv, err);
	if (strcmp(kv->key, "discard") == 0)
		return take_switch(&options->has_discard, kv, err);
	return err_set(err, -EINVAL,
		       "no sub-option '%s'; there are path, nbd, vhost-user, "
		       "queues, readonly, direct, discard and serial",
		       kv->key);
}

int blk_options_read(const char *text, struct blk_options *ret_options,
		     struct err *err)
{
	struct blk_options options = { .queues = 1, .has_discard = true };
	struct parse_kv kv;
	const char *at = text;
	int ret;

	while ((ret = parse_kv_next(&at, &kv)) > 0) {
		ret = take(&options, &kv, err);
		if (ret)
			return ret;
	}
	if (ret < 0)
		return err_set(err, ret, "'%s' is no list of KEY=VALUE", text);
	if (!options.path[0] == !options.nbd[0])
		return err_set(err, -EINVAL,
			       "one of path=FILE and nbd=URI is needed");
	if (options.nbd[0] && options.is_direct)
		return err_set(err, -EINVAL,
			       "direct=on goes with path=, not with nbd=");
	*ret_options = options;
	return 0;
}
