/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vhost-user-blk back end for tests: split rings, several queues, a dirty log, and
 * a record of requests in flight.  It does what the specification says, and on
 * demand what it forbids.  vhost_user_blk.c makes a program of it; unit tests run it
 * in a thread of theirs.
 *
 * One thread serves one connection at a time, requests one after the other.
 */
#ifndef GODWIT_TESTS_BACK_END_H
#define GODWIT_TESTS_BACK_END_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vhost/user_msg.h"

#define BE_QUEUES_MAX 64u
#define BE_SECTOR     512u
#define BE_SLOTS_MAX  32u

/* It is long enough for any record, and on no file system that is in memory. */
#define BE_PLAIN_FILE "/sys/devices/system/cpu/online"

/* What is done instead of the right reply to a request; where none is due, only BE_GONE,
 * BE_EXIT and BE_LATE are: what comes behind it waits. */
enum be_fault_kind {
	BE_RIGHT,
	BE_SILENT,   /* none */
	BE_LATE,     /* after fault.delay_ms */
	BE_SHORT,    /* 4 bytes less */
	BE_LONG,     /* 8 bytes more */
	BE_HUGE,     /* a size of 4 GiB - 1 */
	BE_TORN,     /* half of the header, then the end of the connection */
	BE_TWICE,    /* twice */
	BE_WITH_FDS, /* with two fds more */
	BE_NO_FD,    /* without the fd that belongs to it */
	BE_OTHER,    /* to another request */
	BE_NO_FLAG,  /* without the flag of a reply */
	BE_REFUSED,  /* with a number other than 0, where that means failure */
	BE_GONE,     /* the connection ends */
	BE_EXIT,     /* its process ends; or as BE_GONE, where it is a thread */
	BE_PLAIN_FD, /* with one of a file that is not in memory instead */
	BE_KIND_COUNT,
};

struct be_fault {
	enum um_request request;
	enum be_fault_kind kind;
	unsigned int skip; /* so many right ones come first */
	unsigned int delay_ms;
	unsigned int again; /* so often more after the first */
};

/* Where it dies at write request number die_at. */
enum be_death {
	BE_LIVES,
	BE_DIES_TAKEN,   /* nothing is written yet */
	BE_DIES_WRITTEN, /* the disk is, the driver does not know */
	BE_DIES_USED,    /* the driver knows, the record of requests does not */
};

struct be_options {
	const char *socket;
	const char *image;
	unsigned int queues;
	bool has_inflight, has_log, has_config, has_reply_ack, has_requests;
	bool has_rarp;
	/* It takes regions of RAM one by one, up to so many; else a table. */
	bool has_slots;
	unsigned int slots;
	struct be_fault fault;
	enum be_death death;
	unsigned int die_at; /* from 1 */
	bool is_process;     /* dying ends it; else only the connection */
	bool is_single;      /* it serves one connection and ends */
	/* It cuts the log that it is given, and forbids the others to map it. */
	bool cuts_log;
	/* It has the eventfds that it gets block, fills their counters for good, and
	 * looks at its rings without being kicked. */
	bool spoils_eventfds;
};

/* All that it can. */
#define BE_OPTIONS                                                  \
	{                                                           \
		.queues = 1, .has_inflight = true, .has_log = true, \
		.has_config = true, .has_reply_ack = true,          \
		.has_requests = true                                \
	}

/* What it was asked; atomic. */
struct be_counts {
	unsigned int connections, tables, logs, features, starts, stops;
	unsigned int regions_added, regions_removed;
	unsigned int reads, writes, flushes, resubmitted;
	unsigned int messages, faults;
	unsigned int refused_cuts;
	unsigned int announcements;
	uint64_t announced; /* the last one's payload */
};

struct be_region {
	struct um_region at;
	uint8_t *host; /* owned mapping */
};

struct be_ring {
	bool is_started, is_enabled, is_logged;
	unsigned int size;
	uint16_t last_avail;
	struct um_addr addr;
	int kick_fd, call_fd; /* owned */
	uint64_t counter;
};

struct back_end {
	struct be_options options;
	struct be_counts counts;
	uint64_t sectors;
	int image_fd, listen_fd, conn_fd, stop_fd, request_fd; /* owned */
	int plain_fd; /* owned; of BE_PLAIN_FILE; -1 */
	pthread_t thread;

	uint64_t features, protocol;
	struct be_region regions[BE_SLOTS_MAX];
	unsigned int region_count;
	uint8_t *log;
	uint64_t log_size;
	uint8_t *inflight;
	struct um_inflight inflight_at;
	struct be_ring rings[BE_QUEUES_MAX];
	bool is_failed;     /* the connection is to end */
	bool is_held;       /* atomic: requests wait */
	uint64_t resize_to; /* atomic: sectors; 0: as it is */
	uint64_t delay_read_ns;
};

/* 0 or -errno.  The socket is there when it returns. */
int be_open(struct back_end *be, const struct be_options *options);
void be_close(struct back_end *be);
/* Serve until be_stop(). */
void be_serve(struct back_end *be);
void be_stop(struct back_end *be);

/* In a thread. */
int be_start(struct back_end *be, const struct be_options *options);
void be_end(struct back_end *be);

/* Leave requests where they are from now on, or go on. */
void be_hold(struct back_end *be, bool is_held);
/* The disk has another size: tell the front end. */
void be_resize(struct back_end *be, uint64_t sectors);

/* ---- between its files ---- */

struct be_message {
	struct um_header head;
	union {
		uint64_t u64;
		struct um_state state;
		struct um_addr addr;
		struct um_memory memory;
		struct um_single_region single;
		struct um_log log;
		struct um_config config;
		struct um_inflight inflight;
		uint8_t bytes[sizeof(struct um_config)];
	} u;
	int fds[UM_REGIONS_MAX];
	unsigned int fd_count;
	bool has_reply;
	int reply_fd; /* -1 */
};

/* False: the connection ends. */
bool be_answer(struct back_end *be, struct be_message *message);
bool be_reply_u64(struct be_message *message, uint64_t value);
void be_unmap(struct back_end *be);
void be_close_fd(int *fd);
/* To write the eventfd does not block. */
bool be_has_room(int fd);
/* An eventfd, by what any of those may do that have it. */
void be_spoil(int fd);

void *be_gpa(struct back_end *be, uint64_t gpa, uint64_t size);
void *be_hva(struct back_end *be, uint64_t hva, uint64_t size);
void be_log_write(struct back_end *be, uint64_t gpa, uint64_t size);
/* All that is available in @ring. */
void be_ring_work(struct back_end *be, unsigned int index);
/* The requests that its record says are in flight, and where to go on. */
void be_ring_recover(struct back_end *be, unsigned int index);
uint64_t be_inflight_size(unsigned int queues, unsigned int size);
void be_die(struct back_end *be, enum be_death where);

#endif
