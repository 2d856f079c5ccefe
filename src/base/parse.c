// SPDX-License-Identifier: Apache-2.0
/*
 * What people type, digit by digit: strtoull() takes signs, blanks and whatever
 * follows the number.
 */
#include "base/parse.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"

static int digit_value(char c, unsigned int base)
{
	int v = -1;

	if (c >= '0' && c <= '9')
		v = c - '0';
	else if (c >= 'a' && c <= 'f')
		v = c - 'a' + 10;
	else if (c >= 'A' && c <= 'F')
		v = c - 'A' + 10;
	return v < (int)base ? v : -1;
}

/* Reads digits from *at on.  -EINVAL without any, -ERANGE past 64 bits. */
static int take_digits(const char **at, unsigned int base, uint64_t *ret_value)
{
	const char *start = *at;
	uint64_t value = 0;
	int digit;

	for (; (digit = digit_value(**at, base)) >= 0; (*at)++) {
		if (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
		    __builtin_add_overflow(value, (uint64_t)digit, &value))
			return -ERANGE;
	}
	if (*at == start)
		return -EINVAL;
	*ret_value = value;
	return 0;
}

int parse_size(const char *text, uint64_t *ret_size, struct err *err)
{
	static const char suffixes[] = "KMGTP";
	const char *at = text;
	const char *suffix;
	unsigned int shift = 0;
	uint64_t size;
	int ret;

	ret = take_digits(&at, 10, &size);
	if (!ret && *at) {
		char upper = *at >= 'a' && *at <= 'z' ? *at - 'a' + 'A' : *at;

		suffix = strchr(suffixes, upper);
		if (!suffix || at[1])
			ret = -EINVAL;
		else
			shift = 10 * (unsigned int)(suffix - suffixes + 1);
	}
	if (!ret && shift && size >> (64 - shift))
		ret = -ERANGE;
	if (ret == -ERANGE)
		return err_set(err, ret, "size '%.64s' is past 64 bits", text);
	if (ret)
		return err_set(err, ret,
			       "'%.64s' is not a size such as 4096, 64M or 1G",
			       text);
	*ret_size = size << shift;
	return 0;
}

/* Takes one of @letters and multiplies by as many powers of @step. */
static int take_scale(const char **at, const char *letters, uint64_t step,
		      uint64_t *value)
{
	const char *letter = **at ? strchr(letters, **at) : NULL;

	if (!letter)
		return 0;
	(*at)++;
	for (; letter >= letters; letter--) {
		if (__builtin_mul_overflow(*value, step, value))
			return -ERANGE;
	}
	return 0;
}

int parse_count(const char *text, uint64_t *ret_count, struct err *err)
{
	const char *at = text;
	uint64_t count;
	int ret;

	ret = take_digits(&at, 10, &count);
	if (!ret)
		ret = take_scale(&at, "kMG", 1000, &count);
	if (!ret && *at)
		ret = -EINVAL;
	if (ret == -ERANGE)
		return err_set(err, ret, "'%.64s' is past 64 bits", text);
	if (ret)
		return err_set(err, ret,
			       "'%.64s' is not a count such as 500, 20k or 3M",
			       text);
	*ret_count = count;
	return 0;
}

int parse_rate(const char *text, uint64_t *ret_bytes_per_s, struct err *err)
{
	const char *at = text;
	uint64_t rate;
	int ret;

	ret = take_digits(&at, 10, &rate);
	if (!ret && *at && at[1] == 'i')
		ret = take_scale(&at, "KMGT", 1024, &rate);
	else if (!ret)
		ret = take_scale(&at, "kMGT", 1000, &rate);
	if (!ret && *at == 'i' && at[-1] >= 'A' && at[-1] <= 'Z')
		at++;
	if (!ret && strcmp(at, "b/s") == 0)
		rate /= 8;
	else if (!ret && strcmp(at, "B/s") != 0)
		ret = -EINVAL;
	if (ret == -ERANGE)
		return err_set(err, ret, "rate '%.64s' is past 64 bits", text);
	if (ret)
		return err_set(
			err, ret,
			"'%.64s' is not a rate such as 10Gb/s, 500MB/s or 2GiB/s",
			text);
	*ret_bytes_per_s = rate;
	return 0;
}

int parse_duration(const char *text, uint64_t *ret_ns, struct err *err)
{
	static const struct {
		const char *name;
		uint64_t ns;
	} units[] = {
		{ "ns", 1 },
		{ "us", 1000 },
		{ "ms", 1000000 },
		{ "s", 1000000000 },
	};
	const char *at = text;
	uint64_t value;
	int ret;
	size_t i;

	ret = take_digits(&at, 10, &value);
	for (i = 0; !ret && i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(at, units[i].name) != 0)
			continue;
		if (__builtin_mul_overflow(value, units[i].ns, &value))
			ret = -ERANGE;
		break;
	}
	if (!ret && i == sizeof(units) / sizeof(units[0]) && (*at || value))
		ret = -EINVAL;
	if (ret == -ERANGE)
		return err_set(err, ret, "'%.64s' is past 64 bits", text);
	if (ret)
		return err_set(
			err, ret,
			"'%.64s' is not a duration such as 50us, 10ms or 2s",
			text);
	*ret_ns = value;
	return 0;
}

int parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value,
	      struct err *err)
{
	const char *at = text;
	unsigned int base = 10;
	uint64_t value = 0;
	int ret;

	if (at[0] == '0' && (at[1] == 'x' || at[1] == 'X')) {
		base = 16;
		at += 2;
	}
	ret = take_digits(&at, base, &value);
	if (ret == -EINVAL || (!ret && *at))
		return err_set(err, -EINVAL, "'%.64s' is not a number", text);
	if (ret || value < min || value > max)
		return err_set(err, -ERANGE,
			       "'%.64s' is not between %" PRIu64
			       " and %" PRIu64,
			       text, min, max);
	*ret_value = value;
	return 0;
}

int parse_bool(const char *text, bool *ret_value, struct err *err)
{
	static const struct {
		const char *word;
		bool value;
	} words[] = {
		{ "on", true },     { "off", false }, { "true", true },
		{ "false", false }, { "yes", true },  { "no", false },
	};
	size_t i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcasecmp(text, words[i].word) == 0) {
			*ret_value = words[i].value;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "'%.64s' is neither on nor off", text);
}

int parse_kv_next(const char **at, struct parse_kv *kv)
{
	const char *p = *at;
	size_t size = strcspn(p, "=,");
	size_t used = 0;

	if (!*p)
		return 0;
	if (size == 0)
		return -EINVAL;
	if (size >= sizeof(kv->key))
		return -ENAMETOOLONG;
	memcpy(kv->key, p, size);
	kv->key[size] = '\0';
	kv->value = NULL;
	p += size;

	if (*p == '=') {
		for (p++; *p && (*p != ',' || p[1] == ','); p++) {
			if (used == sizeof(kv->buf) - 1)
				return -ENAMETOOLONG;
			kv->buf[used++] = *p;
			if (*p == ',')
				p++;
		}
		kv->buf[used] = '\0';
		kv->value = kv->buf;
	}
	if (*p == ',' && !*++p)
		return -EINVAL; /* a comma at the very end */
	*at = p;
	return 1;
}
