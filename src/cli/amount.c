// SPDX-License-Identifier: Apache-2.0
/* Bytes by 1024, times from microseconds up. */
#include "cli/amount.h"

#include <stdio.h>

#include "base/bytes.h"

const char *amount_size(double size, char text[AMOUNT_MAX])
{
	static const char *const units[] = { "B",   "KiB", "MiB",
					     "GiB", "TiB", "PiB" };
	unsigned int i = 0;

	for (; size >= 1024 && i + 1 < array_size(units); i++)
		size /= 1024;
	snprintf(text, AMOUNT_MAX, i ? "%.2f %s" : "%.0f %s", size, units[i]);
	return text;
}

const char *amount_us(double us, char text[AMOUNT_MAX])
{
	if (us < 10000)
		snprintf(text, AMOUNT_MAX, "%.0f us", us);
	else if (us < 10e6)
		snprintf(text, AMOUNT_MAX, "%.1f ms", us / 1e3);
	else
		snprintf(text, AMOUNT_MAX, "%.1f s", us / 1e6);
	return text;
}
