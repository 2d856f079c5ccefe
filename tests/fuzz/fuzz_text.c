// SPDX-License-Identifier: Apache-2.0
/*
 * What people type: numbers, sizes, switches, sub-options, accelerators, URIs,
 * rates, durations, places where a migration is to break.  The first byte chooses.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "accel/accel.h"
#include "base/err.h"
#include "base/parse.h"
#include "migrate/channel.h"
#include "migrate/migrate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int pairs(const char *text)
{
	const char *at = text;
	struct parse_kv kv;
	int ret;

	while ((ret = parse_kv_next(&at, &kv)) > 0)
		must(*kv.key && (!kv.value || kv.value == kv.buf));
	return ret;
}

static int parse(uint8_t what, const char *text, struct err *err)
{
	struct accel_options accel;
	uint64_t number;
	bool is_on;

	switch (what % 9) {
	case 0:
		return parse_size(text, &number, err);
	case 1:
		return parse_u64(text, 3, UINT32_MAX, &number, err);
	case 2:
		return parse_bool(text, &is_on, err);
	case 3:
		return accel_options_parse(text, &accel, err);
	case 4:
		return channel_check_uri(text, err);
	case 5:
		return mig_check_fail(text, err);
	case 6:
		return parse_count(text, &number, err);
	case 7:
		return parse_rate(text, &number, err);
	default:
		return parse_duration(text, &number, err);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err err = ERR_INIT;
	char *text;
	int ret;

	if (!size)
		return 0;
	text = strndup((const char *)data + 1, size - 1);
	must(pairs(text) <= 0);
	ret = parse(data[0], text, &err);
	/* A refusal has its words, and nothing else has. */
	must(ret <= 0 && err.code == ret && !*err_msg(&err) == !ret);
	free(text);
	return 0;
}
