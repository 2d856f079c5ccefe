// SPDX-License-Identifier: Apache-2.0
/* Two users, the thread and whoever asked; the last one out frees. */
#include "migrate/resolve.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"

struct resolve {
	/* immutable after init */
	char host[256], port[16];
	int flags;
	int done_fd; /* owned eventfd */

	unsigned int users; /* atomic: the thread, and who asked */

	/* written by the thread before it signals done_fd */
	int code; /* of getaddrinfo() */
	struct addrinfo *info;
};

void resolve_put(struct resolve *resolve)
{
	if (!resolve ||
	    __atomic_sub_fetch(&resolve->users, 1, __ATOMIC_ACQ_REL))
		return;
	if (resolve->info)
		freeaddrinfo(resolve->info);
	if (resolve->done_fd >= 0)
		close(resolve->done_fd);
	free(resolve);
}

static void *resolve_thread(void *opaque)
{
	struct resolve *resolve = opaque;
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = resolve->flags };

	resolve->code = getaddrinfo(*resolve->host ? resolve->host : NULL,
				    resolve->port, &hints, &resolve->info);
	eventfd_write(resolve->done_fd, 1);
	resolve_put(resolve);
	return NULL;
}

static int start_thread(struct resolve *resolve)
{
	pthread_attr_t attr;
	pthread_t thread;
	int ret;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	resolve->users++;
	ret = pthread_create(&thread, &attr, resolve_thread, resolve);
	if (ret)
		resolve->users--;
	pthread_attr_destroy(&attr);
	return -ret;
}

int resolve_start(const char *host, const char *port, int flags,
		  struct resolve **ret_resolve, struct err *err)
{
	struct resolve *resolve = calloc(1, sizeof(*resolve));
	int ret;

	if (!resolve)
		return err_set(err, -ENOMEM, "no memory to find %s", host);
	snprintf(resolve->host, sizeof(resolve->host), "%s", host);
	snprintf(resolve->port, sizeof(resolve->port), "%s", port);
	resolve->flags = flags;
	resolve->users = 1;
	resolve->done_fd = eventfd(0, EFD_CLOEXEC);
	ret = resolve->done_fd < 0 ? -errno : start_thread(resolve);
	if (ret) {
		resolve_put(resolve);
		return err_set_errno(err, ret, "finding %s", host);
	}
	*ret_resolve = resolve;
	return 0;
}

int resolve_fd(const struct resolve *resolve)
{
	return resolve->done_fd;
}

int resolve_take(struct resolve *resolve, struct addrinfo **ret_info,
		 struct err *err)
{
	uint64_t count;

	/* Pairs with the thread's write: its answer is seen. */
	eventfd_read(resolve->done_fd, &count);
	if (resolve->code)
		return err_set(err, -EHOSTUNREACH, "%s:%s: %s", resolve->host,
			       resolve->port, gai_strerror(resolve->code));
	*ret_info = resolve->info;
	resolve->info = NULL;
	return 0;
}
