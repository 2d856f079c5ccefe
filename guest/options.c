/* SPDX-License-Identifier: Apache-2.0 */
/* Parses command lines: see options.h. */
#include "guest/options.h"

static bool is_separator(char c)
{
	return c == ',' || c == ' ' || c == '\t' || c == '\n';
}

static bool is_end(char c)
{
	return !c || is_separator(c);
}

/* Moves @at past @word when that is there, whole if @is_whole. */
static bool take(const char **at, const char *word, bool is_whole)
{
	const char *p = *at;

	for (; *word; word++, p++) {
		if (*p != *word)
			return false;
	}
	if (is_whole && !is_end(*p))
		return false;
	*at = p;
	return true;
}

static bool take_number(const char **at, uint64_t *ret_value)
{
	const char *p = *at;
	uint64_t value = 0;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
			return false;
	}
	if (p == *at)
		return false;
	*at = p;
	*ret_value = value;
	return true;
}

/* Takes one letter of @letters (either case) and scales by its power. */
static bool take_scale(const char **at, const char *letters, uint64_t step,
		       uint64_t *value)
{
	uint64_t scale = 1;

	for (; *letters; letters++) {
		scale *= step;
		if ((**at | 0x20) == *letters) {
			(*at)++;
			return !__builtin_mul_overflow(*value, scale, value);
		}
	}
	return true;
}

static bool take_bool(const char **at, uint64_t *ret_value)
{
	if (take(at, "on", true) || take(at, "1", true))
		*ret_value = 1;
	else if (take(at, "off", true) || take(at, "0", true))
		*ret_value = 0;
	else
		return false;
	return true;
}

static bool take_duration(const char **at, uint64_t *ret_value)
{
	uint64_t scale = 0;

	if (take(at, "off", true)) {
		*ret_value = 0;
		return true;
	}
	if (!take_number(at, ret_value))
		return false;
	if (take(at, "us", true))
		scale = 1;
	else if (take(at, "ms", true))
		scale = 1000;
	else if (take(at, "s", true))
		scale = 1000000;
	else
		return *ret_value == 0;
	return !__builtin_mul_overflow(*ret_value, scale, ret_value);
}

static bool take_sizes(const char **at, const struct option *option,
		       struct size_mix *ret_mix)
{
	struct size_mix mix = { 0 };

	do {
		uint64_t *size = &mix.sizes[mix.count++];

		if (!take_number(at, size) ||
		    !take_scale(at, "kmgt", 1024, size) ||
		    *size < option->min || *size > option->max)
			return false;
	} while (mix.count < SIZES_MAX && take(at, "+", false));
	*ret_mix = mix;
	return true;
}

static bool take_name(const char **at, const char *const *names, bool is_whole,
		      uint64_t *ret_index)
{
	for (uint64_t i = 0; names[i]; i++) {
		const char *p = *at;

		if (!names[i][0] || !take(&p, names[i], is_whole) ||
		    (!is_end(*p) && *p != '+'))
			continue;
		*at = p;
		*ret_index = i;
		return true;
	}
	return false;
}

static bool take_set(const char **at, const char *const *names,
		     uint64_t *ret_set)
{
	uint64_t set = 0, index;

	do {
		if (!take_name(at, names, false, &index))
			return false;
		set |= 1ULL << index;
	} while (take(at, "+", false));
	*ret_set = set;
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool take_mac(const char **at, uint64_t *ret_mac)
{
	uint64_t mac = 0;

	for (int i = 0; i < 6; i++) {
		int high, low;

		if (i && !take(at, ":", false))
			return false;
		high = hex_digit(**at);
		low = high < 0 ? -1 : hex_digit((*at)[1]);
		if (low < 0)
			return false;
		*at += 2;
		mac = mac << 8 | (uint64_t)(high << 4 | low);
	}
	*ret_mac = mac;
	return true;
}

static bool take_ipv4(const char **at, uint64_t *ret_ip)
{
	uint64_t ip = 0, byte;

	for (int i = 0; i < 4; i++) {
		if ((i && !take(at, ".", false)) || !take_number(at, &byte) ||
		    byte > 255)
			return false;
		ip = ip << 8 | byte;
	}
	*ret_ip = ip;
	return true;
}

static bool take_rate(const char **at, uint64_t *ret_value)
{
	if (take(at, "max", true)) {
		*ret_value = 0;
		return true;
	}
	if (!take_number(at, ret_value) || *ret_value == 0 ||
	    !take_scale(at, "kmg", 1000, ret_value))
		return false;
	take(at, "/s", true);
	return true;
}

static bool take_seconds(const char **at, uint64_t *ret_value)
{
	if (take(at, "on", true) || take(at, "off", true)) {
		*ret_value = (*at)[-1] == 'n';
		return true;
	}
	if (!take_number(at, ret_value))
		return false;
	take(at, "s", true);
	return true;
}

static bool take_count(const char **at, uint64_t *ret_value)
{
	return take_number(at, ret_value) &&
	       take_scale(at, "kmg", 1000, ret_value);
}

static bool take_value(const char **at, const struct option *option,
		       uint64_t *ret_value)
{
	switch (option->kind) {
	case VALUE_LIMIT:
		*ret_value = UINT32_MAX;
		return take(at, "all", true) || take_count(at, ret_value);
	case VALUE_COUNT:
		return take_count(at, ret_value);
	case VALUE_SIZE:
		return take_number(at, ret_value) &&
		       take_scale(at, "kmgt", 1024, ret_value);
	case VALUE_DURATION:
		return take_duration(at, ret_value);
	case VALUE_SECONDS:
		return take_seconds(at, ret_value);
	case VALUE_RATE:
		return take_rate(at, ret_value);
	case VALUE_BOOL:
		return take_bool(at, ret_value);
	case VALUE_NAME:
		return take_name(at, option->names, true, ret_value);
	case VALUE_SET:
		return take_set(at, option->names, ret_value);
	case VALUE_IPV4:
		return take_ipv4(at, ret_value);
	case VALUE_MAC:
		return take_mac(at, ret_value);
	case VALUE_SIZES:
		break;
	}
	return false;
}

static bool take_option(const struct option *option, void *config,
			const char **at)
{
	void *field = (char *)config + option->offset;
	const char *p = *at;
	uint64_t value;

	if (!take(&p, option->key, false) || *p++ != '=')
		return false;
	if (option->kind == VALUE_SIZES) {
		struct size_mix mix;

		if (!take_sizes(&p, option, &mix) || !is_end(*p))
			return false;
		*(struct size_mix *)field = mix;
	} else {
		if (!take_value(&p, option, &value) || !is_end(*p) ||
		    value < option->min || value > option->max)
			return false;
		*(uint64_t *)field = value;
	}
	*at = p;
	return true;
}

static bool take_any(const struct option_table *tables, size_t count,
		     void *config, const char **at)
{
	for (size_t t = 0; t < count; t++) {
		for (size_t i = 0; i < tables[t].count; i++) {
			if (take_option(&tables[t].options[i], config, at))
				return true;
		}
	}
	return false;
}

const char *options_parse(const struct option_table *tables, size_t count,
			  void *config, const char *program, char *text,
			  size_t text_size, const char *cmdline)
{
	const char *at = text;
	size_t n = 0;

	for (; cmdline && cmdline[n] && n < text_size - 1; n++)
		text[n] = cmdline[n];
	text[n] = '\0';
	if (cmdline && cmdline[n])
		return text; /* too long */
	while (*at) {
		if (is_separator(*at))
			at++;
		else if (!take(&at, program, true) &&
			 !take_any(tables, count, config, &at))
			return at;
	}
	return NULL;
}
