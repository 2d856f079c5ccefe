// SPDX-License-Identifier: Apache-2.0
/* Files that are closed aside: see closer.h.  The thread may outlive the device, so that
 * whoever of the two ends last frees what they share. */
#include "vhost/closer.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"

struct closer {
	/* atomic */
	unsigned int users; /* its owner, and the thread while there is one */
	bool is_busy;       /* pairs with the thread's release */

	int fd; /* owned by the thread while there is one */
};

int closer_new(struct closer **ret_closer, struct err *err)
{
	struct closer *closer = calloc(1, sizeof(*closer));

	if (!closer)
		return err_set(err, -ENOMEM, "closer");
	closer->users = 1;
	*ret_closer = closer;
	return 0;
}

void closer_free(struct closer *closer)
{
	if (closer && !__atomic_sub_fetch(&closer->users, 1, __ATOMIC_ACQ_REL))
		free(closer);
}

bool closer_is_busy(const struct closer *closer)
{
	return __atomic_load_n(&closer->is_busy, __ATOMIC_ACQUIRE);
}

static void *closer_main(void *opaque)
{
	struct closer *closer = opaque;

	pthread_setname_np(pthread_self(), "closer");
	close(closer->fd);
	__atomic_store_n(&closer->is_busy, false, __ATOMIC_RELEASE);
	closer_free(closer);
	return NULL;
}

/* Without a thread the file stays open: that is better than to wait for it. */
void closer_close(struct closer *closer, int fd)
{
	pthread_t thread;

	assert(!closer_is_busy(closer));
	closer->fd = fd;
	__atomic_store_n(&closer->is_busy, true, __ATOMIC_RELAXED);
	__atomic_add_fetch(&closer->users, 1, __ATOMIC_RELAXED);
	if (pthread_create(&thread, NULL, closer_main, closer))
		closer_free(closer);
	else
		pthread_detach(thread);
}
