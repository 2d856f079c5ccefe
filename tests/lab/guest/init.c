// SPDX-License-Identifier: Apache-2.0
/*
 * The only program of the lab's Linux guests, as their init: loads the modules
 * that /modules names, says "@up", then does what comes over the serial port, one
 * command a line: report, load MIB, go 0|1, hold 0|1, clock, watch 0|1, steps,
 * timers MS, tickers, stalls MIB, phase N, stalled N, off, reboot.
 */
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clocks.h"
#include "load.h"
#include "say.h"
#include "stalls.h"
#include "threads.h"
#include "timers.h"

static void mount_all(void)
{
	mkdir("/dev", 0755);
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
}

static void load_modules(void)
{
	FILE *list = fopen("/modules", "re");
	char path[128];

	while (list && fgets(path, sizeof(path), list)) {
		int file;

		path[strcspn(path, "\n")] = '\0';
		file = open(path, O_RDONLY | O_CLOEXEC);
		if (tried(file, path) < 0)
			continue;
		tried(syscall(SYS_finit_module, file, "", 0), path);
		close(file);
	}
	if (list)
		fclose(list);
}

static void report(int number)
{
	(void)number;
	load_report();
}

static void clock_now(int number)
{
	(void)number;
	clocks_say();
}

static void steps(int number)
{
	(void)number;
	clocks_steps();
}

static void tickers(int number)
{
	(void)number;
	timers_say_devices();
}

static void off(int number)
{
	(void)number;
	reboot(LINUX_REBOOT_CMD_POWER_OFF);
}

static void reboot_now(int number)
{
	(void)number;
	reboot(LINUX_REBOOT_CMD_RESTART);
}

static const struct {
	const char *name;
	void (*perform)(int number);
} commands[] = {
	{ "report", report },
	{ "load", load_start },
	{ "go", load_go },
	{ "hold", load_hold },
	{ "clock", clock_now },
	{ "watch", clocks_watch },
	{ "steps", steps },
	{ "timers", timers_set },
	{ "tickers", tickers },
	{ "stalls", stalls_start },
	{ "phase", stalls_phase },
	{ "stalled", stalls_say },
	{ "off", off },
	{ "reboot", reboot_now },
};

static void perform(const char *line)
{
	char name[32];
	int number = 0;

	if (sscanf(line, "%31s %d", name, &number) < 1)
		return;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(name, commands[i].name) == 0) {
			commands[i].perform(number);
			return;
		}
	}
	say("failed what=%s why=no-such-command", name);
}

int main(void)
{
	FILE *port;
	char line[128];
	int fd;

	mount_all();
	fd = say_open("/dev/ttyS0");
	load_modules();
	say("up cpus=%d", threads_cpus());
	port = fdopen(fd, "re");
	while (port && fgets(line, sizeof(line), port))
		perform(line);
	tried(-1, "the serial port");
	pause();
	return 1;
}
