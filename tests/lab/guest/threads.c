// SPDX-License-Identifier: Apache-2.0
#include "threads.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "say.h"

int threads_cpus(void)
{
	return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

void threads_start(int cpu, void *(*body)(void *), void *arg)
{
	pthread_attr_t attributes;
	pthread_t thread;
	cpu_set_t set;
	int ret;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	pthread_attr_init(&attributes);
	pthread_attr_setaffinity_np(&attributes, sizeof(set), &set);
	ret = pthread_create(&thread, &attributes, body, arg);
	if (ret) {
		errno = ret;
		tried(-1, "pthread_create");
	} else {
		pthread_detach(thread);
	}
	pthread_attr_destroy(&attributes);
}
