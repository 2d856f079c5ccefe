// SPDX-License-Identifier: Apache-2.0
/*
 * The ops of struct vh_dev as vhost-user messages.  Called by dev.c with the device's
 * lock.  All are sent ahead; settle() collects what the back end says.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost_types.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/trace.h"
#include "mem/ram.h"
#include "user_priv.h"

/* For 128 queues of 1024 requests it is 3 MiB. */
#define INFLIGHT_SIZE_MAX (64ull << 20)

static struct vh_user *user_of(struct vh_dev *dev)
{
	return container_of(dev, struct vh_user, dev);
}

static int say_for(struct vh_dev *dev, enum um_request request,
		   const void *payload, size_t size, int fd,
		   enum conn_reply reply, struct err *err)
{
	struct vh_user *user = user_of(dev);
	const struct conn_message message = {
		.request = request,
		.payload = payload,
		.size = size,
		.fds = &fd,
		.fd_count = fd >= 0,
		/* A fence or a kick is behind it at once. */
		.may_wait = reply == CONN_NO_REPLY && fd < 0,
		.reply = reply,
	};

	return conn_send(&user->conn, &message, dev->deadline_ns, err);
}

static int say(struct vh_dev *dev, enum um_request request, const void *payload,
	       size_t size, int fd, struct err *err)
{
	return say_for(dev, request, payload, size, fd, CONN_ACK, err);
}

/*
 * What has to be said of each ring in the pause of a move, with one answer for all: an
 * acknowledgement costs qemu-storage-daemon as much as the message.  One that cannot do
 * it ends the connection, as where nobody asks for acknowledgements.
 */
static int say_fast(struct vh_dev *dev, enum um_request request,
		    const void *payload, size_t size, int fd, struct err *err)
{
	return say_for(dev, request, payload, size, fd, CONN_NO_REPLY, err);
}

/* They are answered in the order in which they are asked. */
static int user_fence(struct vh_dev *dev, struct err *err)
{
	return say_for(dev, UM_GET_FEATURES, NULL, 0, -1, CONN_ANY, err);
}

static int user_set_features(struct vh_dev *dev, uint64_t features,
			     struct err *err)
{
	/* Else some take all rings for enabled. */
	features |= dev->backend_features & 1ull << UM_F_PROTOCOL_FEATURES;
	return say(dev, UM_SET_FEATURES, &features, sizeof(features), -1, err);
}

static struct um_region region_at(const struct vh_region *region)
{
	return (struct um_region){
		.gpa = region->gpa,
		.size = region->size,
		.hva = region->hva,
		.offset = region->offset,
	};
}

static int user_set_mem_table(struct vh_dev *dev,
			      const struct vh_mem_table *table, struct err *err)
{
	struct um_memory memory = { .count = table->count };
	int fds[UM_REGIONS_MAX];
	struct conn_message message = {
		.request = UM_SET_MEM_TABLE,
		.payload = &memory,
		.size = offsetof(struct um_memory, regions) +
			table->count * sizeof(struct um_region),
		.fds = fds,
		.fd_count = table->count,
		.reply = CONN_ACK,
	};

	assert(table->count <= UM_REGIONS_MAX);
	for (unsigned int i = 0; i < table->count; i++) {
		memory.regions[i] = region_at(&table->regions[i]);
		fds[i] = table->regions[i].block->fd;
	}
	return conn_send(&user_of(dev)->conn, &message, dev->deadline_ns, err);
}

static int user_add_region(struct vh_dev *dev, const struct vh_region *region,
			   struct err *err)
{
	const struct um_single_region single = { .region = region_at(region) };

	return say(dev, UM_ADD_MEM_REG, &single, sizeof(single),
		   region->block->fd, err);
}

/* Known by addresses and size: there is no fd with it. */
static int user_remove_region(struct vh_dev *dev,
			      const struct vh_region *region, struct err *err)
{
	const struct um_single_region single = { .region = region_at(region) };

	return say(dev, UM_REM_MEM_REG, &single, sizeof(single), -1, err);
}

static int user_set_log(struct vh_dev *dev, const struct vh_log *log,
			struct err *err)
{
	const struct um_log where = { .size = log->size };
	const struct conn_message message = {
		.request = UM_SET_LOG_BASE,
		.payload = &where,
		.size = sizeof(where),
		.fds = &log->fd,
		.fd_count = 1,
		.reply = CONN_LOG,
	};

	return conn_send(&user_of(dev)->conn, &message, dev->deadline_ns, err);
}

/* Only files in memory have seals to be asked for, and no file system of anybody's is
 * entered for that; nor is it later, for such a file. */
static int check_record(const struct vh_user *user,
			const struct um_inflight *record, int fd,
			struct err *err)
{
	struct stat stat;
	uint64_t end;

	if (fcntl(fd, F_GET_SEALS) < 0)
		return err_set(err, -EBADMSG,
			       "%s: its back end has requests in flight in a "
			       "file that is not in memory",
			       user->name);
	if (record->size > INFLIGHT_SIZE_MAX ||
	    __builtin_add_overflow(record->size, record->offset, &end) ||
	    fstat(fd, &stat) < 0 || end > (uint64_t)stat.st_size)
		return err_set(err, -EBADMSG,
			       "%s: its back end has %lu bytes for requests in "
			       "flight, at most %llu, and not in its file",
			       user->name, record->size, INFLIGHT_SIZE_MAX);
	return 0;
}

static int ask_record(struct vh_user *user, const struct um_inflight *wanted,
		      struct um_inflight *got, int *ret_fd, struct err *err)
{
	const struct conn_message message = {
		.request = UM_GET_INFLIGHT_FD,
		.payload = wanted,
		.size = sizeof(*wanted),
	};
	int ret, fd;

	if (closer_is_busy(user->closer))
		return err_set(err, -EBUSY,
			       "%s: a file of its back end is not closed yet",
			       user->name);
	ret = conn_ask(&user->conn, &message, got, sizeof(*got), &fd,
		       user->dev.deadline_ns, err);
	if (!ret)
		ret = check_record(user, got, fd, err);
	if (!ret)
		*ret_fd = fd;
	else if (fd >= 0)
		closer_close(user->closer, fd);
	return ret;
}

/* The back end's record of requests: it makes the memory, and gets it back when it
 * has been restarted.  Nothing in it is read here. */
static int get_inflight(struct vh_user *user, uint16_t size, struct err *err)
{
	const struct um_inflight wanted = {
		.queues = (uint16_t)user->dev.ring_count,
		.queue_size = size,
	};
	struct um_inflight got;
	int ret = ask_record(user, &wanted, &got, &user->inflight_fd, err);

	if (ret)
		return ret;
	user->inflight = wanted;
	user->inflight.size = got.size;
	user->inflight.offset = got.offset;
	return 0;
}

static void user_drop_record(struct vh_dev *dev)
{
	struct vh_user *user = user_of(dev);

	if (user->inflight_fd >= 0)
		close(user->inflight_fd);
	user->inflight_fd = -1;
}

/* Rings of another size have stopped in between, with nothing in flight. */
static int user_prepare(struct vh_dev *dev, uint16_t size, struct err *err)
{
	struct vh_user *user = user_of(dev);
	int ret = 0;

	if (!dev->has_inflight)
		return 0;
	if (user->inflight.queue_size != size)
		user_drop_record(dev);
	if (user->inflight_fd < 0)
		ret = get_inflight(user, size, err);
	return ret ? ret
		   : say(dev, UM_SET_INFLIGHT_FD, &user->inflight,
			 sizeof(user->inflight), user->inflight_fd, err);
}

static int user_set_vring_num(struct vh_dev *dev, unsigned int index,
			      unsigned int size, struct err *err)
{
	const struct um_state state = { index, size };

	return say(dev, UM_SET_VRING_NUM, &state, sizeof(state), -1, err);
}

static int user_set_vring_base(struct vh_dev *dev, unsigned int index,
			       uint32_t base, struct err *err)
{
	const struct um_state state = { index, base };

	return say_fast(dev, UM_SET_VRING_BASE, &state, sizeof(state), -1, err);
}

static int user_set_vring_addr(struct vh_dev *dev, unsigned int index,
			       const struct vh_vring_addr *addr,
			       struct err *err)
{
	const struct um_addr where = {
		.index = index,
		.flags = addr->is_logged ? UM_ADDR_LOG : 0,
		.desc = addr->desc,
		.used = addr->used,
		.avail = addr->avail,
		.log = addr->used_gpa,
	};

	return say_fast(dev, UM_SET_VRING_ADDR, &where, sizeof(where), -1, err);
}

static int user_set_vring_kick(struct vh_dev *dev, unsigned int index, int fd,
			       struct err *err)
{
	uint64_t payload = index & UM_VRING_INDEX_MASK;

	return say_fast(dev, UM_SET_VRING_KICK, &payload, sizeof(payload), fd,
			err);
}

static int user_set_vring_call(struct vh_dev *dev, unsigned int index, int fd,
			       struct err *err)
{
	uint64_t payload = index & UM_VRING_INDEX_MASK;

	/* Some take the lack of one badly when they come to write it. */
	return say(dev, UM_SET_VRING_CALL, &payload, sizeof(payload),
		   fd >= 0 ? fd : user_of(dev)->null_fd, err);
}

static int user_set_vring_enable(struct vh_dev *dev, unsigned int index,
				 bool is_enabled, struct err *err)
{
	const struct um_state state = { index, is_enabled };

	/* Without protocol features rings are enabled from the start. */
	if (!(dev->backend_features & 1ull << UM_F_PROTOCOL_FEATURES))
		return 0;
	return say(dev, UM_SET_VRING_ENABLE, &state, sizeof(state), -1, err);
}

static int user_get_vring_base(struct vh_dev *dev, unsigned int index,
			       uint32_t *ret_base, struct err *err)
{
	const struct um_state state = { .index = index };
	const struct conn_message message = {
		.request = UM_GET_VRING_BASE,
		.payload = &state,
		.size = sizeof(state),
		.may_wait = true,
		.reply = CONN_BASE,
		.index = index,
		.ret_base = ret_base,
	};

	return conn_send(&user_of(dev)->conn, &message, dev->deadline_ns, err);
}

static int user_flush(struct vh_dev *dev, struct err *err)
{
	return conn_flush(&user_of(dev)->conn, dev->deadline_ns, err);
}

static int user_settle(struct vh_dev *dev, struct err *err)
{
	return conn_settle(&user_of(dev)->conn, dev->deadline_ns, err);
}

static void wake(struct vh_user *user)
{
	eventfd_write(user->wake_fd, 1);
}

static void user_fail(struct vh_dev *dev, int why, const struct err *reason)
{
	struct vh_user *user = user_of(dev);

	(void)why;
	trace(vh_user_closed, "%s: %s", user->name, err_msg(reason));
	/* It may be at work until it sees that the connection has ended. */
	user->leaving_fd = conn_leave(&user->conn, clock_mono_ns());
	dev->is_leaving = user->leaving_fd >= 0;
	user->has_parted = dev->is_parted;
	if (user->request_fd >= 0)
		close(user->request_fd);
	user->request_fd = -1;
	wake(user);
}

static void user_wait_left(struct vh_dev *dev, uint64_t deadline_ns)
{
	struct vh_user *user = user_of(dev);

	if (!conn_wait_end(user->leaving_fd, deadline_ns))
		return;
	trace(vh_user_left, "%s", user->name);
	close(user->leaving_fd);
	user->leaving_fd = -1;
	vh_dev_left(dev);
	wake(user); /* there may be another one */
}

static void user_resume(struct vh_dev *dev)
{
	struct vh_user *user = user_of(dev);

	__atomic_store_n(&user->wants_resume, true, __ATOMIC_RELEASE);
	wake(user);
}

const struct vh_ops user_ops = {
	.set_features = user_set_features,
	.set_mem_table = user_set_mem_table,
	.add_region = user_add_region,
	.remove_region = user_remove_region,
	.set_log = user_set_log,
	.prepare = user_prepare,
	.set_vring_num = user_set_vring_num,
	.set_vring_base = user_set_vring_base,
	.set_vring_addr = user_set_vring_addr,
	.set_vring_kick = user_set_vring_kick,
	.set_vring_call = user_set_vring_call,
	.set_vring_enable = user_set_vring_enable,
	.fence = user_fence,
	.get_vring_base = user_get_vring_base,
	.flush = user_flush,
	.settle = user_settle,
	.fail = user_fail,
	.wait_left = user_wait_left,
	.resume = user_resume,
	.drop_record = user_drop_record,
};
