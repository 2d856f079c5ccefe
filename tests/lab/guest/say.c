// SPDX-License-Identifier: Apache-2.0
#include "say.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int port = STDOUT_FILENO;

int say_open(const char *path)
{
	struct termios raw;

	port = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (port < 0 || tcgetattr(port, &raw) < 0)
		return -1;
	cfmakeraw(&raw);
	tcsetattr(port, TCSANOW, &raw);
	return port;
}

void say(const char *format, ...)
{
	char line[512];
	size_t length, done;
	va_list args;
	ssize_t written;

	va_start(args, format);
	/* The newline in front ends what the kernel may have begun. */
	length = 2;
	memcpy(line, "\n@", 2);
	length += (size_t)vsnprintf(line + 2, sizeof(line) - 3, format, args);
	va_end(args);
	if (length > sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	pthread_mutex_lock(&lock);
	for (done = 0; done < length; done += (size_t)written) {
		written = write(port, line + done, length - done);
		if (written < 0)
			break;
	}
	pthread_mutex_unlock(&lock);
}

long tried(long result, const char *what)
{
	if (result < 0)
		say("failed what=%s why=%s", what, strerror(errno));
	return result;
}
