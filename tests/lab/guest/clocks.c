// SPDX-License-Identifier: Apache-2.0
#include "clocks.h"

#include <fcntl.h>
#include <linux/ptp_clock.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "say.h"
#include "threads.h"

#define SAMPLES 2000

enum {
	MONO,
	REAL,
	TSC,
	CLOCKS
};

static int64_t read_mono(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static int64_t read_real(void)
{
	return clock_ns(CLOCK_REALTIME);
}

static int64_t read_tsc(void)
{
	return (int64_t)tsc_read();
}

static int64_t (*const readers[CLOCKS])(void) = {
	[MONO] = read_mono,
	[REAL] = read_real,
	[TSC] = read_tsc,
};

/* A clock and the realtime in the middle of whose reading it was read: the
 * closest of many, so that an interruption does not count. */
struct pair {
	int64_t other, real;
};

static struct pair closest(int which)
{
	int64_t best = INT64_MAX;
	struct pair result = { 0 };

	for (int i = 0; i < SAMPLES; i++) {
		int64_t before = read_real();
		int64_t other = readers[which]();
		int64_t width = read_real() - before;

		if (width >= 0 && width < best) {
			best = width;
			result.other = other;
			result.real = before + width / 2;
		}
	}
	return result;
}

static uint64_t cost(void)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < SAMPLES; i++) {
		uint64_t before = tsc_read(), after;

		read_mono();
		after = tsc_read();
		if (after - before < best)
			best = after - before;
	}
	return best;
}

static int64_t ptp_ns(const struct ptp_clock_time *time)
{
	return time->sec * 1000000000ll + time->nsec;
}

void clocks_say(void)
{
	struct ptp_sys_offset_precise precise = { 0 };
	int device = open("/dev/ptp0", O_RDWR | O_CLOEXEC);
	struct pair mono, tsc;

	if (tried(device, "/dev/ptp0") < 0)
		return;
	if (tried(ioctl(device, PTP_SYS_OFFSET_PRECISE, &precise),
		  "PTP_SYS_OFFSET_PRECISE") == 0) {
		mono = closest(MONO);
		tsc = closest(TSC);
		say("clock host=%lld real=%lld mono=%lld tsc=%lld tsc_real=%lld cost=%llu",
		    (long long)ptp_ns(&precise.device),
		    (long long)ptp_ns(&precise.sys_realtime),
		    (long long)(ptp_ns(&precise.sys_realtime) + mono.other -
				mono.real),
		    (long long)tsc.other, (long long)tsc.real,
		    (unsigned long long)cost());
	}
	close(device);
}

/* Shared by the watchers; all atomic. */
static int64_t latest[CLOCKS], largest[CLOCKS], back;
static int is_watching;

static void raise_to(int64_t *shared, int64_t value)
{
	int64_t known = __atomic_load_n(shared, __ATOMIC_RELAXED);

	while (value > known &&
	       !__atomic_compare_exchange_n(shared, &known, value, 0,
					    __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
		;
}

static void *watch(void *arg)
{
	int64_t last[CLOCKS] = { 0 };

	while (__atomic_load_n(&is_watching, __ATOMIC_RELAXED)) {
		for (int i = 0; i < CLOCKS; i++) {
			int64_t seen =
				__atomic_load_n(&latest[i], __ATOMIC_SEQ_CST);
			int64_t now = readers[i]();

			if (now < seen)
				__atomic_fetch_add(&back, 1, __ATOMIC_RELAXED);
			raise_to(&latest[i], now);
			if (last[i])
				raise_to(&largest[i], now - last[i]);
			last[i] = now;
		}
	}
	return arg;
}

void clocks_watch(int is_on)
{
	__atomic_store_n(&is_watching, is_on, __ATOMIC_RELAXED);
	for (int cpu = 0; is_on && cpu < threads_cpus(); cpu++)
		threads_start(cpu, watch, NULL);
}

void clocks_steps(void)
{
	int64_t steps[CLOCKS];

	for (int i = 0; i < CLOCKS; i++)
		steps[i] =
			__atomic_exchange_n(&largest[i], 0, __ATOMIC_RELAXED);
	say("steps mono=%lld real=%lld tsc=%lld back=%lld",
	    (long long)steps[MONO], (long long)steps[REAL],
	    (long long)steps[TSC],
	    (long long)__atomic_exchange_n(&back, 0, __ATOMIC_RELAXED));
}
