// SPDX-License-Identifier: Apache-2.0
/*
 * Times a program from just before fork() to the first byte on its stdout,
 * then ends it.  Prints nanoseconds.
 *
 * usage: start_timer PROGRAM [ARGUMENT...]
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_MS 20000

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int fail(const char *what)
{
	fprintf(stderr, "start_timer: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	int in[2], out[2], result = 0;
	struct pollfd poll_out;
	uint64_t start, end;
	pid_t child;
	char byte;

	if (argc < 2) {
		fprintf(stderr, "usage: start_timer PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	/* Its stdin stays open and silent: an end of file is an event too. */
	if (pipe(in) < 0 || pipe(out) < 0)
		return fail("pipe");
	start = now_ns();
	child = fork();
	if (child < 0)
		return fail("fork");
	if (child == 0) {
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		close(in[0]);
		close(in[1]);
		close(out[0]);
		close(out[1]);
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	close(out[1]);
	poll_out = (struct pollfd){ .fd = out[0], .events = POLLIN };
	if (poll(&poll_out, 1, LIMIT_MS) != 1 || read(out[0], &byte, 1) != 1) {
		fprintf(stderr, "start_timer: %s said nothing\n", argv[1]);
		result = 1;
	}
	end = now_ns();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (!result)
		printf("%llu\n", (unsigned long long)(end - start));
	return result;
}
