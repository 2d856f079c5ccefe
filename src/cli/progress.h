/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `godwit migrate` shows: a line that is redrawn on a terminal (or one
 * line a round elsewhere) on stderr, and the summary on stdout.  The input is
 * query-migrate's object.
 */
#ifndef GODWIT_CLI_PROGRESS_H
#define GODWIT_CLI_PROGRESS_H

#include <jansson.h>
#include <stdbool.h>

struct progress {
	bool is_terminal; /* stderr is one */
	bool has_line;    /* an unfinished line is on it */
	json_int_t round; /* last one shown on a line of its own */
	char status[24];  /* likewise */
};

void progress_init(struct progress *progress);
void progress_show(struct progress *progress, const json_t *info);
/* Ends an unfinished line, before anything else is printed. */
void progress_end(struct progress *progress);

/* What a completed migration took, and its pause phase by phase. */
void progress_summary(const json_t *info);

#endif
