// SPDX-License-Identifier: Apache-2.0
#include "timers.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "clocks.h"
#include "say.h"
#include "threads.h"

struct timer {
	const char *kind;
	clockid_t clock;
	int64_t due_ns;
};

static struct timespec as_timespec(int64_t ns)
{
	return (struct timespec){ .tv_sec = ns / 1000000000,
				  .tv_nsec = ns % 1000000000 };
}

static void wait_timerfd(const struct timer *timer)
{
	struct itimerspec at = { .it_value = as_timespec(timer->due_ns) };
	int fd = timerfd_create(timer->clock, TFD_CLOEXEC);
	uint64_t times;

	if (tried(fd, "timerfd_create") < 0)
		return;
	if (tried(timerfd_settime(fd, TFD_TIMER_ABSTIME, &at, NULL),
		  "timerfd_settime") == 0)
		tried(read(fd, &times, sizeof(times)), "timerfd");
	close(fd);
}

static void wait_sleeping(const struct timer *timer)
{
	struct timespec rest =
		as_timespec(timer->due_ns - clock_ns(timer->clock));

	clock_nanosleep(timer->clock, 0, &rest, NULL);
}

static void *run(void *arg)
{
	struct timer *timer = arg;

	if (timer->kind[0] == 's')
		wait_sleeping(timer);
	else
		wait_timerfd(timer);
	say("timer kind=%s cpu=%d late_us=%lld", timer->kind, sched_getcpu(),
	    (long long)((clock_ns(timer->clock) - timer->due_ns) / 1000));
	free(timer);
	return NULL;
}

static void set(int cpu, const char *kind, clockid_t clock, int after_ms)
{
	struct timer *timer = malloc(sizeof(*timer));

	if (!timer)
		return;
	*timer = (struct timer){
		.kind = kind,
		.clock = clock,
		.due_ns = clock_ns(clock) + after_ms * 1000000ll,
	};
	threads_start(cpu, run, timer);
}

void timers_set(int after_ms)
{
	for (int cpu = 0; cpu < threads_cpus(); cpu++) {
		set(cpu, "monotonic", CLOCK_MONOTONIC, after_ms);
		set(cpu, "realtime", CLOCK_REALTIME, after_ms);
		set(cpu, "sleep", CLOCK_MONOTONIC, after_ms);
	}
}

void timers_say_devices(void)
{
	for (int cpu = 0; cpu < threads_cpus(); cpu++) {
		char path[96], name[64] = "none";
		FILE *file;

		snprintf(
			path, sizeof(path),
			"/sys/devices/system/clockevents/clockevent%d/current_device",
			cpu);
		file = fopen(path, "re");
		if (file) {
			if (fgets(name, sizeof(name), file))
				name[strcspn(name, "\n")] = '\0';
			fclose(file);
		}
		say("ticker cpu=%d name=%s", cpu, name);
	}
}
