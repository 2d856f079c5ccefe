// SPDX-License-Identifier: Apache-2.0
/*
 * usage: clock_offset [set]
 * How far a nested host's realtime is ahead of that of the machine around it,
 * asked through memory that both share (QEMU's ivshmem device): prints "OFFSET
 * BOUND" in ns, where OFFSET is right within BOUND.  With "set" it then corrects
 * the clock by it.
 *
 * Three 64-bit words are shared: the number of the question, the number of the
 * question answered, the answer.  nested/clock.py answers.  Of many questions
 * the one answered fastest counts; its answer was given somewhere between its two
 * readings here.
 */
#include <fcntl.h>
#include <glob.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define DEVICES   "/sys/bus/pci/devices/*"
#define IVSHMEM   "0x1110"
#define QUESTIONS 5000
#define GIVE_UP   2000000000u /* rounds without an answer */

struct shared {
	volatile uint64_t asked, answered;
	volatile int64_t realtime_ns;
};

static int64_t real_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static int is_ivshmem(const char *device)
{
	char path[256], id[16] = "";
	FILE *file;

	snprintf(path, sizeof(path), "%s/device", device);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (!fgets(id, sizeof(id), file))
		id[0] = '\0';
	fclose(file);
	return strncmp(id, IVSHMEM, strlen(IVSHMEM)) == 0;
}

static struct shared *map_device(const char *device)
{
	char path[256];
	void *at;
	int fd;

	snprintf(path, sizeof(path), "%s/enable", device);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "1", 1) != 1)
		return NULL;
	close(fd);
	snprintf(path, sizeof(path), "%s/resource2", device);
	fd = open(path, O_RDWR | O_CLOEXEC);
	at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return at == MAP_FAILED ? NULL : at;
}

static struct shared *find(void)
{
	struct shared *shared = NULL;
	glob_t devices;

	if (glob(DEVICES, 0, NULL, &devices) != 0)
		return NULL;
	for (size_t i = 0; i < devices.gl_pathc && !shared; i++) {
		if (is_ivshmem(devices.gl_pathv[i]))
			shared = map_device(devices.gl_pathv[i]);
	}
	globfree(&devices);
	return shared;
}

static int measure(struct shared *shared, int64_t *ret_offset,
		   int64_t *ret_bound)
{
	int64_t width = INT64_MAX;

	for (int i = 0; i < QUESTIONS; i++) {
		uint64_t number = shared->answered + 1;
		int64_t before = real_ns(), after, there;
		unsigned int rounds = 0;

		shared->asked = number;
		while (shared->answered != number) {
			if (++rounds == GIVE_UP)
				return -1;
		}
		after = real_ns();
		there = shared->realtime_ns;
		if (after - before < width) {
			width = after - before;
			*ret_offset = before + width / 2 - there;
			*ret_bound = width / 2 + 1;
		}
	}
	return 0;
}

static int correct(int64_t offset)
{
	struct timex change = { .modes = ADJ_SETOFFSET | ADJ_NANO };

	offset = -offset;
	change.time.tv_sec = offset / 1000000000;
	change.time.tv_usec = offset % 1000000000; /* ns, by ADJ_NANO */
	if (change.time.tv_usec < 0) {
		change.time.tv_sec--;
		change.time.tv_usec += 1000000000;
	}
	return adjtimex(&change) < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
	struct shared *shared = find();
	int64_t offset = 0, bound = 0;

	if (!shared || measure(shared, &offset, &bound) < 0) {
		fprintf(stderr, "clock_offset: %s\n",
			shared ? "nobody answers" : "no ivshmem device");
		return 1;
	}
	printf("%lld %lld\n", (long long)offset, (long long)bound);
	if (argc > 1 && strcmp(argv[1], "set") == 0 && correct(offset) < 0) {
		perror("clock_offset: adjtimex");
		return 1;
	}
	return 0;
}
