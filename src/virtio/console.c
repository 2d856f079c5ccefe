// SPDX-License-Identifier: Apache-2.0
/*
 * Bytes between the two queues of port 0 and a character back end.
 *
 *	driver -- queue 1 --> thread --> chardev_write()
 *	driver <-- queue 0 -- thread <-- input <-- receive(), chardev's thread
 *
 * Nothing is lost on the way, in neither direction.  A reader that is slow keeps
 * the driver's buffer waiting: how much of it has gone out already is saved, since
 * the rest may go out elsewhere.  A driver without buffers fills @input, and then
 * the client waits.
 *
 * Called by vdev.c and by the back end.
 */
#include "virtio/console.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/bytes.h"
#include "dev/chardev.h"
#include "virtio/io_thread.h"
#include "virtio/vdev.h"
#include "virtio/vq.h"

#define PCI_CLASS_COMMUNICATION_OTHER 0x078000u

#define CONSOLE_QUEUE_SIZE 128u
#define CONSOLE_INPUT      4096u
#define PIECE              4096u

enum {
	QUEUE_IN, /* to the driver */
	QUEUE_OUT,
	QUEUES
};

struct console {
	struct vdev base; /* first */

	/* immutable after init */
	struct io_thread *thread; /* owned */
	struct chardev *chardev;  /* owned */
	struct state_entry state;

	struct lock lock; /* LOCK_DEVICE */
	/* protected by lock; saved */
	uint8_t input[CONSOLE_INPUT];
	uint32_t input_size;

	/* the thread's while it works */
	bool is_working;
	struct vq vqs[QUEUES];
	struct io_source kicks[QUEUES];
	struct vq_segment segments[CONSOLE_QUEUE_SIZE];
	uint64_t written; /* of the first request in QUEUE_OUT; saved */
};

static struct console *console_of(struct vdev *dev)
{
	return (struct console *)dev;
}

static bool has_queue(const struct console *console, unsigned int index)
{
	return console->base.queues[index].is_enabled;
}

/* ---- in the thread ---- */

static void rest(void *opaque)
{
	struct console *console = opaque;

	if (!console->is_working)
		return;
	console->is_working = false;
	for (unsigned int i = 0; i < QUEUES; i++)
		if (has_queue(console, i))
			io_thread_del(console->thread, &console->kicks[i]);
}

static void give_up(struct console *console, const struct err *reason)
{
	vdev_break(&console->base, reason);
	rest(console);
}

/* As much input as the buffer takes. */
static void take_input(struct console *console,
		       const struct vq_request *request)
{
	size_t size;

	lock_acquire(&console->lock);
	size = vq_write(request, 0, console->input, console->input_size);
	console->input_size -= (uint32_t)size;
	memmove(console->input, console->input + size, console->input_size);
	lock_release(&console->lock);
	vq_push(&console->vqs[QUEUE_IN], request, (uint32_t)size);
	chardev_wake(console->chardev);
}

static bool has_input(struct console *console)
{
	bool ret;

	lock_acquire(&console->lock);
	ret = console->input_size > 0;
	lock_release(&console->lock);
	return ret;
}

static int move_input(struct console *console, struct err *err)
{
	struct vq *vq = &console->vqs[QUEUE_IN];
	struct vq_request request = { .segments = console->segments,
				      .room = CONSOLE_QUEUE_SIZE };
	int ret = 1;

	while (has_input(console) && (ret = vq_pop(vq, &request, err)) > 0)
		take_input(console, &request);
	vq_flush(vq);
	return ret;
}

/* Whether all of it has gone out. */
static bool write_request(struct console *console,
			  const struct vq_request *request)
{
	uint8_t bytes[PIECE];

	while (console->written < request->readable_size) {
		size_t size = chardev_room(console->chardev);

		if (size == 0)
			return false;
		if (size > sizeof(bytes))
			size = sizeof(bytes);
		size = vq_read(request, console->written, bytes, size);
		chardev_write(console->chardev, bytes, size);
		console->written += size;
	}
	console->written = 0;
	return true;
}

static int move_output(struct console *console, struct err *err)
{
	struct vq *vq = &console->vqs[QUEUE_OUT];
	struct vq_request request = { .segments = console->segments,
				      .room = CONSOLE_QUEUE_SIZE };
	int ret;

	while ((ret = vq_pop(vq, &request, err)) > 0) {
		if (!write_request(console, &request)) {
			vq_unpop(vq, &request);
			break;
		}
		vq_push(vq, &request, 0);
	}
	vq_flush(vq);
	return ret;
}

static void move(void *opaque)
{
	struct console *console = opaque;
	struct err err = ERR_INIT;
	int ret = 0;

	if (console->is_working && has_queue(console, QUEUE_OUT))
		ret = move_output(console, &err);
	if (ret >= 0 && console->is_working && has_queue(console, QUEUE_IN))
		ret = move_input(console, &err);
	if (ret < 0)
		give_up(console, &err);
}

static void clear_kick(const struct io_source *kick)
{
	uint64_t count;

	/* Without one that is there, what it was for is done already. */
	if (read(kick->fd, &count, sizeof(count)) < 0)
		return;
}

static void kick_in_ready(void *opaque)
{
	struct console *console = opaque;

	clear_kick(&console->kicks[QUEUE_IN]);
	move(console);
}

static void kick_out_ready(void *opaque)
{
	struct console *console = opaque;

	clear_kick(&console->kicks[QUEUE_OUT]);
	move(console);
}

/* Of what came before there is no kick. */
static void begin(void *opaque)
{
	struct console *console = opaque;
	struct err err = ERR_INIT;
	int ret = 0;

	console->is_working = true;
	for (unsigned int i = 0; i < QUEUES && ret == 0; i++)
		if (has_queue(console, i))
			ret = io_thread_add(console->thread,
					    &console->kicks[i]);
	if (ret) {
		err_set_errno(&err, ret, "cannot wait");
		give_up(console, &err);
	}
	move(console);
}

/* ---- for the back end ---- */

static size_t front_room(void *opaque)
{
	struct console *console = opaque;
	size_t room;

	lock_acquire(&console->lock);
	room = CONSOLE_INPUT - console->input_size;
	lock_release(&console->lock);
	return room;
}

static void front_receive(void *opaque, const uint8_t *bytes, size_t size)
{
	struct console *console = opaque;

	lock_acquire(&console->lock);
	memcpy(console->input + console->input_size, bytes, size);
	console->input_size += (uint32_t)size;
	lock_release(&console->lock);
	io_thread_post(console->thread, move, console);
}

static void front_drained(void *opaque)
{
	struct console *console = opaque;

	io_thread_post(console->thread, move, console);
}

static const struct chardev_front_ops front_ops = {
	.room = front_room,
	.receive = front_receive,
	.drained = front_drained,
};

/* ---- with the device's lock ---- */

static int console_start(struct vdev *dev, struct err *err)
{
	struct console *console = console_of(dev);
	int ret = 0;

	for (unsigned int i = 0; i < QUEUES && ret == 0; i++)
		if (has_queue(console, i))
			ret = vq_start(&console->vqs[i], dev, i, err);
	if (ret)
		return ret;
	io_thread_post(console->thread, begin, console);
	chardev_start(console->chardev);
	return 0;
}

static void console_stop_begin(struct vdev *dev)
{
	struct console *console = console_of(dev);

	chardev_stop(console->chardev);
	io_thread_post(console->thread, rest, console);
}

static int console_stop(struct vdev *dev, uint64_t deadline_ns, struct err *err)
{
	struct console *console = console_of(dev);

	chardev_stop(console->chardev);
	if (io_thread_call(console->thread, rest, console, deadline_ns) == 0)
		return 0;
	io_thread_post(console->thread, begin, console); /* it works on */
	chardev_start(console->chardev);
	return err_set(err, -ETIMEDOUT, "a write is under way");
}

static void console_reset(struct vdev *dev)
{
	struct console *console = console_of(dev);

	lock_acquire(&console->lock);
	console->input_size = 0;
	lock_release(&console->lock);
	console->written = 0;
}

/* A kernel that has no driver yet, or no more (VIRTIO_CONSOLE_F_EMERG_WRITE). */
static void console_config_write(struct vdev *dev, uint32_t offset,
				 uint32_t size, const uint8_t *bytes)
{
	const uint32_t at = offsetof(struct virtio_console_config, emerg_wr);

	if (offset <= at && at < offset + size)
		chardev_write(console_of(dev)->chardev, bytes + (at - offset),
			      1);
}

static void console_free(struct vdev *dev)
{
	struct console *console = console_of(dev);

	chardev_free(console->chardev);
	io_thread_free(console->thread);
	state_unregister(&console->state);
	vdev_fini(dev);
	lock_fini(&console->lock);
	free(console);
}

static const struct vdev_type console_type = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.pci_class = PCI_CLASS_COMMUNICATION_OTHER,
	.config_write = console_config_write,
	.start = console_start,
	.stop_begin = console_stop_begin,
	.stop = console_stop,
	.reset = console_reset,
	.free = console_free,
};

static const struct state_field console_fields[] = {
	STATE_VARRAY(struct console, input, STATE_U8, input_size),
	STATE_FIELD(struct console, written, STATE_U64),
};

static const struct state_desc console_state = {
	.version = 1,
	.min_version = 1,
	.fields = console_fields,
	.field_count = array_size(console_fields),
};

static int console_init(struct console *console, const struct vdev_site *site,
			const char *text, struct err *err)
{
	const struct chardev_options options = { .name = site->name,
						 .in_fd = 0,
						 .out_fd = 1 };
	const uint16_t sizes[QUEUES] = { CONSOLE_QUEUE_SIZE,
					 CONSOLE_QUEUE_SIZE };
	char name[STATE_NAME_MAX];
	int ret;

	ret = vdev_init(&console->base, &console_type, site,
			1ull << VIRTIO_CONSOLE_F_EMERG_WRITE,
			sizeof(struct virtio_console_config), QUEUES, sizes,
			err);
	if (ret)
		return ret;
	snprintf(name, sizeof(name), "%s-port", site->name);
	state_register(site->state, &console->state, name, &console_state,
		       console);
	console->kicks[QUEUE_IN] =
		(struct io_source){ console->base.queues[QUEUE_IN].kick_fd,
				    EPOLLIN, kick_in_ready, console };
	console->kicks[QUEUE_OUT] =
		(struct io_source){ console->base.queues[QUEUE_OUT].kick_fd,
				    EPOLLIN, kick_out_ready, console };
	ret = io_thread_new(site->name, &console->thread, err);
	if (ret)
		return ret;
	ret = chardev_new(text, &options, &console->chardev, err);
	if (ret)
		return ret;
	chardev_attach(console->chardev, &front_ops, console);
	return 0;
}

int console_new(const struct vdev_site *site, const char *text,
		struct vdev **ret_dev, struct err *err)
{
	struct console *console = calloc(1, sizeof(*console));
	int ret;

	if (!console)
		return err_set(err, -ENOMEM, "%s: no memory", site->name);
	lock_init(&console->lock, LOCK_DEVICE);
	ret = console_init(console, site, text, err);
	if (ret) {
		console_free(&console->base);
		return ret;
	}
	*ret_dev = &console->base;
	return 0;
}
