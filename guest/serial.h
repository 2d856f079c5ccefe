/* SPDX-License-Identifier: Apache-2.0 */
/*
 * COM1, without interrupts and without asking whether it is ready: each port
 * access is an exit, and the UARTs of VMMs take a byte at any time.
 *
 * A line is written between line_begin() and line_end(), which hold a lock, so
 * that lines of several vCPUs and ticks do not mix.  Since printing is slow,
 * the writer's gauge is kept looking at every byte: a pause in the middle of
 * a line counts, the printing itself does not.
 */
#ifndef GODWIT_GUEST_SERIAL_H
#define GODWIT_GUEST_SERIAL_H

#include <stdbool.h>
#include <stdint.h>

struct gauge;

struct line {
	struct gauge *gauge; /* of the writer, borrowed, or NULL */
	bool has_lock;
};

void serial_init(void);

/* One byte unless somebody is writing a line. */
void serial_tick(char c);

/* The next byte from the host, or -1. */
int serial_poll(void);

/* Starts a new line with @text. */
void line_begin(struct line *line, struct gauge *gauge, const char *text);
/* As line_begin() when the lock may be held by someone who is gone. */
void line_begin_forced(struct line *line, const char *text);
void line_text(struct line *line, const char *text);
void line_char(struct line *line, char c);
void line_decimal(struct line *line, const char *prefix, uint64_t value);
void line_hex(struct line *line, const char *prefix, uint64_t value);
void line_end(struct line *line);

#endif
