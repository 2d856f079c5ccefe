// SPDX-License-Identifier: Apache-2.0
/*
 * The time bytes are made out of the host's clock when they are read, and are memory
 * only while SET or the divider holds the clock; then it goes on from them.
 */
#include "dev/mc146818.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "dev/mc146818_priv.h"

enum {
	SECONDS = 0,
	MINUTES = 2,
	HOURS = 4,
	WEEKDAY = 6, /* 1 is Sunday */
	DAY = 7,
	MONTH = 8,
	YEAR = 9,
	REG_A = 10,
	REG_B = 11,
	REG_C = 12,
	REG_D = 13,
};

#define A_UIP      0x80 /* an update is less than 244 us away */
#define A_RESET    0x60 /* both: the divider is held, nothing updates */
#define A_POWER_UP 0x26 /* 32768 Hz, 1024 Hz: what a BIOS leaves */
#define B_SET      0x80
#define B_BINARY   0x04
#define B_24H      0x02
#define D_VALID    0x80
#define HOURS_PM   0x80

#define UIP_NS       244000ull
#define OFFSET_MAX_S 1000000000000ll /* some 30,000 years */

static uint64_t host_now_ns(void *now)
{
	(void)now;
	return clock_real_ns();
}

static bool is_time_byte(uint8_t index)
{
	return index == SECONDS || index == MINUTES || index == HOURS ||
	       (index >= WEEKDAY && index <= YEAR) || index == MC146818_CENTURY;
}

static uint8_t encode(const struct mc146818 *rtc, int value)
{
	if (rtc->bytes[REG_B] & B_BINARY)
		return (uint8_t)value;
	return (uint8_t)((value / 10 % 10) << 4 | value % 10);
}

static int decode(const struct mc146818 *rtc, uint8_t byte)
{
	if (rtc->bytes[REG_B] & B_BINARY)
		return byte;
	return (byte >> 4) * 10 + (byte & 15);
}

static uint8_t encode_hours(const struct mc146818 *rtc, int hours)
{
	if (rtc->bytes[REG_B] & B_24H)
		return encode(rtc, hours);
	return encode(rtc, hours % 12 ? hours % 12 : 12) |
	       (hours >= 12 ? HOURS_PM : 0);
}

static int decode_hours(const struct mc146818 *rtc, uint8_t byte)
{
	if (rtc->bytes[REG_B] & B_24H)
		return decode(rtc, byte);
	return decode(rtc, byte & (uint8_t)~HOURS_PM) % 12 +
	       (byte & HOURS_PM ? 12 : 0);
}

static int64_t host_seconds(const struct mc146818 *rtc)
{
	return (int64_t)(rtc->now_ns(rtc->now) / NS_PER_SEC);
}

/* The year as two bytes can tell it: a century below 0 or past the end, which
 * a loaded offset or month 0 of year 0 comes to, wraps. */
static int year_in_bytes(const struct mc146818 *rtc, const struct tm *tm)
{
	int years = 100 * (rtc->bytes[REG_B] & B_BINARY ? 256 : 100);
	int year = (tm->tm_year + 1900) % years;

	return year < 0 ? year + years : year;
}

/* Put the time that it is into the bytes. */
static void bytes_from_clock(struct mc146818 *rtc)
{
	time_t seconds = host_seconds(rtc) + (int64_t)rtc->offset_s;
	struct tm tm;
	int year;

	if (!gmtime_r(&seconds, &tm))
		return;
	year = year_in_bytes(rtc, &tm);
	rtc->bytes[SECONDS] = encode(rtc, tm.tm_sec);
	rtc->bytes[MINUTES] = encode(rtc, tm.tm_min);
	rtc->bytes[HOURS] = encode_hours(rtc, tm.tm_hour);
	rtc->bytes[WEEKDAY] = encode(rtc, tm.tm_wday + 1);
	rtc->bytes[DAY] = encode(rtc, tm.tm_mday);
	rtc->bytes[MONTH] = encode(rtc, tm.tm_mon + 1);
	rtc->bytes[YEAR] = encode(rtc, year % 100);
	rtc->bytes[MC146818_CENTURY] = encode(rtc, year / 100);
}

/* The bytes are the time that it is from now on; any value is some time. */
static void clock_from_bytes(struct mc146818 *rtc)
{
	struct tm tm = {
		.tm_sec = decode(rtc, rtc->bytes[SECONDS]),
		.tm_min = decode(rtc, rtc->bytes[MINUTES]),
		.tm_hour = decode_hours(rtc, rtc->bytes[HOURS]),
		.tm_mday = decode(rtc, rtc->bytes[DAY]),
		.tm_mon = decode(rtc, rtc->bytes[MONTH]) - 1,
		.tm_year = decode(rtc, rtc->bytes[YEAR]) +
			   decode(rtc, rtc->bytes[MC146818_CENTURY]) * 100 -
			   1900,
	};

	rtc->offset_s = (uint64_t)((int64_t)timegm(&tm) - host_seconds(rtc));
}

static bool is_held(const struct mc146818 *rtc)
{
	return (rtc->bytes[REG_B] & B_SET) ||
	       (rtc->bytes[REG_A] & A_RESET) == A_RESET;
}

static uint8_t read_reg_a(const struct mc146818 *rtc)
{
	uint64_t in_second = rtc->now_ns(rtc->now) % NS_PER_SEC;
	bool is_updating = !is_held(rtc) && in_second >= NS_PER_SEC - UIP_NS;

	return rtc->bytes[REG_A] | (is_updating ? A_UIP : 0);
}

static uint8_t read_byte(struct mc146818 *rtc)
{
	switch (rtc->index) {
	case REG_A:
		return read_reg_a(rtc);
	case REG_C:
		return 0;
	case REG_D:
		return D_VALID;
	}
	if (is_time_byte(rtc->index) && !is_held(rtc))
		bytes_from_clock(rtc);
	return rtc->bytes[rtc->index];
}

/* Registers A and B: the time stands still while they hold it, and goes on
 * from the bytes afterwards. */
static void write_control(struct mc146818 *rtc, uint8_t value)
{
	bool was_held = is_held(rtc);

	if (!was_held)
		bytes_from_clock(rtc);
	rtc->bytes[rtc->index] =
		rtc->index == REG_A ? value & (uint8_t)~A_UIP : value;
	if (was_held && !is_held(rtc))
		clock_from_bytes(rtc);
}

static void write_byte(struct mc146818 *rtc, uint8_t value)
{
	switch (rtc->index) {
	case REG_A:
	case REG_B:
		write_control(rtc, value);
		return;
	case REG_C:
	case REG_D:
		return;
	}
	if (!is_time_byte(rtc->index) || is_held(rtc)) {
		rtc->bytes[rtc->index] = value;
		return;
	}
	bytes_from_clock(rtc);
	rtc->bytes[rtc->index] = value;
	clock_from_bytes(rtc);
}

static uint64_t io_read(void *dev, uint64_t offset, unsigned int size)
{
	struct mc146818 *rtc = dev;
	uint8_t value = 0xff; /* the index cannot be read */

	(void)size;
	if (offset == 0)
		return value;
	lock_acquire(&rtc->lock);
	value = read_byte(rtc);
	lock_release(&rtc->lock);
	return value;
}

static void io_write(void *dev, uint64_t offset, uint64_t value,
		     unsigned int size)
{
	struct mc146818 *rtc = dev;

	(void)size;
	lock_acquire(&rtc->lock);
	if (offset == 0) /* bit 7 masks NMIs, of which there are none */
		rtc->index = value % MC146818_BYTES;
	else
		write_byte(rtc, (uint8_t)value);
	lock_release(&rtc->lock);
}

const struct mem_io_ops mc146818_io_ops = {
	.read = io_read,
	.write = io_write,
	.max_access = 1,
};

static const struct state_field fields[] = {
	STATE_FIELD_MAX(struct mc146818, index, STATE_U8, MC146818_BYTES - 1),
	STATE_ARRAY(struct mc146818, bytes, STATE_U8),
	STATE_FIELD(struct mc146818, offset_s, STATE_U64),
};

static int check_loaded(void *obj, uint16_t version, struct err *err)
{
	const struct mc146818 *rtc = obj;
	int64_t offset_s = (int64_t)rtc->offset_s;

	(void)version;
	if (offset_s > OFFSET_MAX_S || offset_s < -OFFSET_MAX_S)
		return err_set(err, -EBADMSG,
			       "offset_s: %" PRId64 ", at most %lld", offset_s,
			       OFFSET_MAX_S);
	if (rtc->bytes[REG_A] & A_UIP)
		return err_set(err, -EBADMSG, "register A: 0x%x has UIP set",
			       rtc->bytes[REG_A]);
	return 0;
}

const struct state_desc mc146818_state = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.load = check_loaded,
};

void mc146818_init(struct mc146818 *rtc)
{
	memset(rtc, 0, sizeof(*rtc));
	rtc->now_ns = host_now_ns;
	rtc->bytes[REG_A] = A_POWER_UP;
	rtc->bytes[REG_B] = B_24H;
	lock_init(&rtc->lock, LOCK_DEVICE);
}

void mc146818_fini(struct mc146818 *rtc)
{
	lock_fini(&rtc->lock);
}

struct mc146818 *mc146818_new(struct mem *mem, struct mem_region *io_root,
			      uint16_t port, struct state_registry *registry,
			      const char *name)
{
	struct mc146818 *rtc = malloc(sizeof(*rtc));

	if (!rtc)
		return NULL;
	mc146818_init(rtc);
	rtc->region = mem_region_new_io(mem, name, MC146818_PORTS,
					&mc146818_io_ops, rtc);
	if (!rtc->region) {
		mc146818_free(rtc);
		return NULL;
	}
	mem_region_add(io_root, port, rtc->region, 0);
	state_register(registry, &rtc->state, name, &mc146818_state, rtc);
	return rtc;
}

void mc146818_free(struct mc146818 *rtc)
{
	if (!rtc)
		return;
	if (rtc->region) {
		mem_region_del(rtc->region);
		mem_region_put(rtc->region);
	}
	state_unregister(&rtc->state);
	mc146818_fini(rtc);
	free(rtc);
}
