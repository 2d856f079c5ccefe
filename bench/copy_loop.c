// SPDX-License-Identifier: Apache-2.0
/*
 * What the machine itself can do, to measure a migration beside.
 *
 * usage: copy_loop copy BYTES [SOCKET_BUFFER [SPINNERS]]
 *	One process sends BYTES of random data out of a warm memfd, 1 MiB a
 *	send, over a UNIX stream socket; another receives straight into a fresh
 *	memfd.  No format, no checks: the least a move of that memory costs.
 * usage: copy_loop fill BYTES
 *	Writes BYTES of a fresh memfd once: what first touching costs.
 * usage: copy_loop warm BYTES
 *	Writes BYTES of memory and lets go of them.  Where this machine is a
 *	virtual one, its host takes back what is free for a while, and the next
 *	to touch that pays for it: several times what the copy costs.  So
 *	whatever is measured comes right behind this, here as in bench/move.
 *
 * Prints the nanoseconds it took.  SOCKET_BUFFER sets the sender's
 * SO_SNDBUF, in bytes (past the system's limit where we may); 0 or none leaves
 * the system's.  SPINNERS processes compute meanwhile, as a running guest does.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK        (1u << 20)
#define SPINNERS_MAX 64

static void fail(const char *what)
{
	fprintf(stderr, "copy_loop: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint8_t *memory_new(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC);
	uint8_t *memory;

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		fail("memfd");
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	close(fd);
	return memory;
}

static void fill_random(uint8_t *memory, size_t size)
{
	uint64_t x;

	if (getrandom(&x, sizeof(x), 0) != sizeof(x))
		fail("getrandom");
	for (size_t i = 0; i + sizeof(x) <= size; i += sizeof(x)) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(memory + i, &x, sizeof(x));
	}
}

static void send_all(int fd, const uint8_t *memory, size_t size)
{
	for (size_t sent = 0; sent < size;) {
		size_t left = size - sent;
		ssize_t n = send(fd, memory + sent, left < CHUNK ? left : CHUNK,
				 MSG_NOSIGNAL);

		if (n <= 0)
			fail("send");
		sent += (size_t)n;
	}
}

static void receive_all(int fd, uint8_t *memory, size_t size)
{
	for (size_t got = 0; got < size;) {
		size_t left = size - got;
		ssize_t n = recv(fd, memory + got, left < CHUNK ? left : CHUNK,
				 MSG_WAITALL);

		if (n <= 0)
			fail("recv");
		got += (size_t)n;
	}
}

static void warm(size_t size)
{
	uint8_t *memory = memory_new("warm", size);

	memset(memory, 1, size);
	munmap(memory, size);
}

static void receiver(int fd, size_t size)
{
	uint8_t *memory = memory_new("destination", size);
	char byte = 'r';

	if (write(fd, &byte, 1) != 1)
		fail("write");
	receive_all(fd, memory, size);
	if (write(fd, &byte, 1) != 1)
		fail("write");
	_exit(0);
}

static uint64_t copy(size_t size, int buffer)
{
	uint8_t *memory = memory_new("source", size);
	int fds[2], status;
	uint64_t start, end;
	char byte;
	pid_t child;

	fill_random(memory, size);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		fail("socketpair");
	/* A UNIX socket's room is the sender's alone. */
	if (buffer &&
	    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUFFORCE, &buffer,
		       sizeof(buffer)) < 0 &&
	    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)) <
		    0)
		fail("setsockopt");
	child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		warm(2 * size);
		close(fds[0]);
		receiver(fds[1], size);
	}
	close(fds[1]);
	if (read(fds[0], &byte, 1) != 1)
		fail("receiver");
	start = now_ns();
	send_all(fds[0], memory, size);
	if (read(fds[0], &byte, 1) != 1)
		fail("receiver");
	end = now_ns();
	waitpid(child, &status, 0);
	return end - start;
}

static pid_t spinner_start(void)
{
	volatile uint64_t count = 0;
	pid_t child = fork();

	if (child < 0)
		fail("fork");
	while (child == 0)
		count++;
	return child;
}

static uint64_t copy_beside(size_t size, int buffer, int spinners)
{
	pid_t children[SPINNERS_MAX];
	uint64_t taken;

	for (int i = 0; i < spinners; i++)
		children[i] = spinner_start();
	taken = copy(size, buffer);
	for (int i = 0; i < spinners; i++) {
		kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
	}
	return taken;
}

static uint64_t fill(size_t size)
{
	uint8_t *memory = memory_new("fill", size);
	uint64_t start;

	warm(2 * size);
	start = now_ns();

	for (size_t i = 0; i < size; i += sizeof(uint64_t))
		*(volatile uint64_t *)(memory + i) = i;
	return now_ns() - start;
}

int main(int argc, char **argv)
{
	size_t size = argc >= 3 ? strtoull(argv[2], NULL, 0) : 0;

	if (size && argc <= 5 && strcmp(argv[1], "copy") == 0) {
		int buffer = argc >= 4 ? atoi(argv[3]) : 0;
		int spinners = argc == 5 ? atoi(argv[4]) : 0;

		if (spinners < 0 || spinners > SPINNERS_MAX)
			return 2;
		printf("%llu\n",
		       (unsigned long long)copy_beside(size, buffer, spinners));
	} else if (size && argc == 3 && strcmp(argv[1], "fill") == 0) {
		printf("%llu\n", (unsigned long long)fill(size));
	} else if (size && argc == 3 && strcmp(argv[1], "warm") == 0) {
		warm(size);
	} else {
		fprintf(stderr,
			"usage: copy_loop copy BYTES [SOCKET_BUFFER [SPINNERS]]\n"
			"       copy_loop fill|warm BYTES\n");
		return 2;
	}
	return 0;
}
