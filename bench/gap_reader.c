// SPDX-License-Identifier: Apache-2.0
/*
 * Reads the serial ports of a migration's two sides and stamps every arrival,
 * so that the pause can be seen from outside: from the last byte of one side
 * to the first of the other.
 *
 * usage: gap_reader SOCKET SOCKET
 *
 * Commands on stdin, one a line, each answered on stdout in order:
 *	send SIDE TEXT	writes TEXT to side 0 or 1; no answer
 *	mark		forgets the longest gaps; no answer
 *	stats		"stats FIRST LAST BYTES GAP FIRST LAST BYTES GAP": times
 *			in ns of CLOCK_MONOTONIC, the longest gap between two
 *			arrivals since `mark`, side 0 and then side 1
 * Lines of the guest, from '@' to the end of line, come as
 * "line SIDE TIME TEXT".  Ends at the end of stdin.
 *
 * It asks for a real-time priority, since a reader that waits for a CPU
 * measures the scheduler; without the right to, it goes on without.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SIDES       2
#define LINE_MAX_   65536
#define COMMAND_MAX 4096

struct side {
	int fd; /* -1: closed */
	uint64_t first, last, bytes, longest;
	char line[LINE_MAX_];
	size_t line_length;
	bool is_in_line;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
		goto fail;
	memcpy(address.sun_path, path, strlen(path) + 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
fail:
	fprintf(stderr, "gap_reader: %s: %s\n", path, strerror(errno));
	exit(1);
}

static void take_byte(struct side *side, int index, uint64_t now, char c)
{
	if (!side->is_in_line) {
		if (c != '@')
			return;
		side->is_in_line = true;
		side->line_length = 0;
	} else if (c == '\n' || side->line_length == LINE_MAX_ - 1) {
		side->line[side->line_length] = '\0';
		side->is_in_line = false;
		printf("line %d %llu %s\n", index, (unsigned long long)now,
		       side->line);
		fflush(stdout);
	} else if (c != '\r') {
		side->line[side->line_length++] = c;
	}
}

static void take(struct side *side, int index)
{
	char data[4096];
	ssize_t n = recv(side->fd, data, sizeof(data), MSG_DONTWAIT);
	uint64_t now = now_ns();

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		close(side->fd);
		side->fd = -1;
		return;
	}
	if (!side->first)
		side->first = now;
	else if (now - side->last > side->longest)
		side->longest = now - side->last;
	side->last = now;
	side->bytes += (uint64_t)n;
	for (ssize_t i = 0; i < n; i++)
		take_byte(side, index, now, data[i]);
}

static void say_stats(const struct side *sides)
{
	printf("stats");
	for (int i = 0; i < SIDES; i++)
		printf(" %llu %llu %llu %llu",
		       (unsigned long long)sides[i].first,
		       (unsigned long long)sides[i].last,
		       (unsigned long long)sides[i].bytes,
		       (unsigned long long)sides[i].longest);
	printf("\n");
	fflush(stdout);
}

static void obey(struct side *sides, const char *command)
{
	if (strncmp(command, "send ", 5) == 0 &&
	    (command[5] == '0' || command[5] == '1') && command[6] == ' ') {
		const struct side *side = &sides[command[5] - '0'];
		size_t length = strlen(command + 7);

		if (send(side->fd, command + 7, length, MSG_NOSIGNAL) !=
		    (ssize_t)length)
			fprintf(stderr, "gap_reader: send: %s\n",
				strerror(errno));
	} else if (strcmp(command, "mark") == 0) {
		for (int i = 0; i < SIDES; i++)
			sides[i].longest = 0;
	} else if (strcmp(command, "stats") == 0) {
		say_stats(sides);
	} else {
		fprintf(stderr, "gap_reader: no command '%s'\n", command);
	}
}

/* False at the end of stdin. */
static bool take_commands(struct side *sides)
{
	static char text[COMMAND_MAX];
	static size_t length;
	ssize_t n = read(STDIN_FILENO, text + length, sizeof(text) - length);
	char *start = text, *end;

	if (n <= 0)
		return false;
	length += (size_t)n;
	while ((end = memchr(start, '\n', length - (size_t)(start - text)))) {
		*end = '\0';
		obey(sides, start);
		start = end + 1;
	}
	length -= (size_t)(start - text);
	memmove(text, start, length);
	return length < sizeof(text);
}

int main(int argc, char **argv)
{
	static struct side sides[SIDES];
	struct sched_param priority = { .sched_priority = 10 };
	struct pollfd polls[SIDES + 1];

	if (argc != 1 + SIDES) {
		fprintf(stderr, "usage: gap_reader SOCKET SOCKET\n");
		return 2;
	}
	for (int i = 0; i < SIDES; i++)
		sides[i].fd = connect_to(argv[1 + i]);
	mlockall(MCL_CURRENT | MCL_FUTURE);
	sched_setscheduler(0, SCHED_FIFO, &priority);
	printf("ready\n");
	fflush(stdout);

	for (;;) {
		for (int i = 0; i < SIDES; i++)
			polls[i] = (struct pollfd){ .fd = sides[i].fd,
						    .events = POLLIN };
		polls[SIDES] =
			(struct pollfd){ .fd = STDIN_FILENO, .events = POLLIN };
		if (poll(polls, SIDES + 1, -1) < 0)
			continue;
		for (int i = 0; i < SIDES; i++) {
			if (polls[i].revents && sides[i].fd >= 0)
				take(&sides[i], i);
		}
		if (polls[SIDES].revents && !take_commands(sides))
			return 0;
	}
}
