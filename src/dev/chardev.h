/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Character back ends: where a serial port's bytes go and come from.
 *
 *	null		output vanishes, there is no input
 *	stdio		the terminal; raw while it is one, and Ctrl-A x quits
 *			(Ctrl-A Ctrl-A sends one Ctrl-A)
 *	file:PATH	output is appended, there is no input
 *	unix:PATH	listens, and serves one client at a time; the next one
 *			waits until it is gone
 *
 * Output.  chardev_write() is called by vCPU threads, with the device's lock
 * held, and writes to the client at once, without another thread in between.
 * It never waits for a reader: what a socket or pipe has no room for goes into
 * a backlog of CHARDEV_BACKLOG bytes, which the back end's own thread drains,
 * and what does not fit there is dropped and counted.  Output while no client
 * is connected is dropped (and not counted).  Only a file may block, for as
 * long as its file system does.
 *
 * Input.  The back end's own thread reads no more than the front end has room
 * for, so that a client is held back by its socket and nothing is lost.  It
 * reads only between chardev_start() and chardev_stop(): once chardev_stop()
 * has returned nothing more arrives, so that a byte is either in the saved
 * state or still with the client.
 *
 * The process ignores SIGPIPE (stdio).
 */
#ifndef GODWIT_DEV_CHARDEV_H
#define GODWIT_DEV_CHARDEV_H

#include <stddef.h>
#include <stdint.h>

#define CHARDEV_BACKLOG (256u << 10)

struct chardev;
struct err;

/* The device.  Called by the back end's thread, which holds no lock. */
struct chardev_front_ops {
	/* Bytes that receive() would take now. */
	size_t (*room)(void *opaque);
	void (*receive)(void *opaque, const uint8_t *bytes, size_t size);
	/* chardev_room() said 0, and there is room now.  Also while input is
	 * stopped.  Optional. */
	void (*drained)(void *opaque);
};

/* A back end; tests bring their own.  Any but write and free may be NULL. */
struct chardev_ops {
	void (*start)(struct chardev *chardev);
	void (*stop)(struct chardev *chardev);
	void (*write)(struct chardev *chardev, const uint8_t *bytes,
		      size_t size);
	size_t (*room)(struct chardev *chardev);
	/* The front end has room again after it had none. */
	void (*wake)(struct chardev *chardev);
	uint64_t (*dropped)(struct chardev *chardev);
	void (*free)(struct chardev *chardev);
};

/* The head of every back end. */
struct chardev {
	const struct chardev_ops *ops;
	/* Set by chardev_attach(), before the first start. */
	const struct chardev_front_ops *front;
	void *front_opaque; /* borrowed until the next attach */
};

struct chardev_options {
	const char *name; /* in errors; NULL: "serial" */
	/* Ctrl-A x was typed; called by the back end's thread.  NULL: it has
	 * no meaning. */
	void (*quit)(void *opaque);
	void *opaque;
	int in_fd, out_fd; /* of stdio: borrowed, 0 and 1 but for tests */
};

/*
 * @spec is one of the lines at the top.  -EINVAL for another; -EADDRINUSE when
 * a live process listens on PATH (a socket file that nobody listens on is
 * replaced); -EEXIST when PATH is there and is no socket; -ENAMETOOLONG past
 * the 107 bytes of a socket address; or what open and bind said.
 *
 * Output works from here on, input after chardev_start().
 */
int chardev_new(const char *spec, const struct chardev_options *options,
		struct chardev **ret_chardev, struct err *err);

/* Ends the thread, puts the terminal back and unlinks the socket that
 * chardev_new() made.  What is left in the backlog is offered once more and
 * then dropped.  The device is detached or gone.  NULL is accepted. */
void chardev_free(struct chardev *chardev);

/* While stopped.  @front NULL detaches. */
void chardev_attach(struct chardev *chardev,
		    const struct chardev_front_ops *front, void *opaque);

/* Input flows between the two.  chardev_stop() waits for a receive() that is
 * under way, so the caller holds no lock that the front end takes.  Either may
 * be called again without effect. */
void chardev_start(struct chardev *chardev);
void chardev_stop(struct chardev *chardev);

void chardev_write(struct chardev *chardev, const uint8_t *bytes, size_t size);
/* Bytes that a chardev_write() now drops none of, for a device that can wait:
 * drained() follows when it is 0. */
size_t chardev_room(struct chardev *chardev);

/* The front end has room again after room() said 0.  Cheap when nobody
 * waits. */
void chardev_wake(struct chardev *chardev);

/* Bytes dropped because a reader was too slow. */
uint64_t chardev_dropped(struct chardev *chardev);

#endif
