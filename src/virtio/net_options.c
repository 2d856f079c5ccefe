// SPDX-License-Identifier: Apache-2.0
/* What --net says; read by net.c and by vhost's net.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/parse.h"
#include "virtio/net.h"

#define MTU_MIN 68u /* virtio 1.2, 5.1.4.1 */

static int read_mac(const char *text, uint8_t mac[6], struct err *err)
{
	static const uint8_t none[6];
	uint8_t bytes[6];
	int end = 0;

	/* %2hhx takes one digit too, and signs and spaces: by length then. */
	if (strlen(text) != 17 ||
	    strspn(text, "0123456789abcdefABCDEF:") != 17 ||
	    sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &bytes[0],
		   &bytes[1], &bytes[2], &bytes[3], &bytes[4], &bytes[5],
		   &end) != 6 ||
	    end != 17)
		return err_set(err, -EINVAL,
			       "mac '%s' is not like 52:54:00:12:34:56", text);
	if (bytes[0] & 1 || memcmp(bytes, none, 6) == 0)
		return err_set(err, -EINVAL, "mac '%s' is no station's address",
			       text);
	memcpy(mac, bytes, 6);
	return 0;
}

static int read_name(const struct parse_kv *kv, char *name, struct err *err)
{
	size_t size = strlen(kv->value);

	if (size == 0 || size >= NET_TEXT_MAX)
		return err_set(err, -EINVAL,
			       "%s: %zu bytes, 1 to %d are possible", kv->key,
			       size, NET_TEXT_MAX - 1);
	memcpy(name, kv->value, size + 1);
	return 0;
}

static int read_number(const struct parse_kv *kv, uint64_t min, uint64_t max,
		       uint64_t *ret_value, struct err *err)
{
	int ret = parse_u64(kv->value, min, max, ret_value, err);

	err_prefix(err, "%s", kv->key);
	return ret;
}

static int read_pair(const struct parse_kv *kv, struct net_options *options,
		     struct err *err)
{
	uint64_t number = 0;
	int ret;

	if (!kv->value)
		return err_set(err, -EINVAL, "%s needs a value", kv->key);
	if (strcmp(kv->key, "tap") == 0)
		return read_name(kv, options->tap, err);
	if (strcmp(kv->key, "vhost-user") == 0)
		return read_name(kv, options->vhost_user, err);
	if (strcmp(kv->key, "vhost") == 0)
		return parse_bool(kv->value, &options->has_vhost, err);
	if (strcmp(kv->key, "mac") == 0)
		return read_mac(kv->value, options->mac, err);
	if (strcmp(kv->key, "queues") == 0) {
		ret = read_number(kv, 1, NET_PAIRS_MAX, &number, err);
		options->queues = (unsigned int)number;
		return ret;
	}
	if (strcmp(kv->key, "mtu") == 0) {
		ret = read_number(kv, MTU_MIN, UINT16_MAX, &number, err);
		options->mtu = (uint16_t)number;
		return ret;
	}
	return err_set(err, -EINVAL,
		       "'%s' is none of tap, vhost-user, vhost, queues, mac, "
		       "mtu",
		       kv->key);
}

int net_options_read(const char *text, struct net_options *ret_options,
		     struct err *err)
{
	struct net_options options = { .queues = 1 };
	const char *at = text;
	struct parse_kv kv;
	int ret;

	while ((ret = parse_kv_next(&at, &kv)) > 0) {
		ret = read_pair(&kv, &options, err);
		if (ret)
			return ret;
	}
	if (ret)
		return err_set(err, ret, "'%s' is no list of key=value", text);
	if (!options.tap[0] == !options.vhost_user[0])
		return err_set(err, -EINVAL,
			       "one of tap=IF and vhost-user=SOCK is needed");
	if (options.has_vhost && options.vhost_user[0])
		return err_set(err, -EINVAL,
			       "vhost=on is for tap=IF, not for vhost-user");
	*ret_options = options;
	return 0;
}
