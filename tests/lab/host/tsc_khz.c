// SPDX-License-Identifier: Apache-2.0
/*
 * Prints this machine's TSC frequency in kHz, measured against the raw monotonic
 * clock for half a second: what QEMU's emulator gives its guests as their TSC.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define TRIES       1000
#define DISTANCE_US 500000

struct point {
	int64_t ns;
	uint64_t tsc;
};

static int64_t raw_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* The closest of many, so that an interruption does not count. */
static struct point read_both(void)
{
	struct point best = { 0 };
	int64_t width = INT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		int64_t before = raw_ns();
		uint64_t tsc = __rdtsc();
		int64_t after = raw_ns();

		if (after - before < width) {
			width = after - before;
			best = (struct point){ before + width / 2, tsc };
		}
	}
	return best;
}

int main(void)
{
	struct point first = read_both(), last;

	usleep(DISTANCE_US);
	last = read_both();
	printf("%.0f\n", (double)(last.tsc - first.tsc) * 1e6 /
				 (double)(last.ns - first.ns));
	return 0;
}
