// SPDX-License-Identifier: Apache-2.0
/*
 * Inputs to begin with, for targets that need more than a few bytes of text:
 *
 *	fuzz_seeds FOLDER
 *
 * writes FOLDER/fuzz_destination, FOLDER/fuzz_stream and FOLDER/fuzz_replies,
 * with what real sources and destinations say to each other.
 */
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "migrate/stream_record.h"

#define REPAIRED 0x80

static void write_seed(const char *folder, const char *target, const char *name,
		       uint8_t how, const struct text *text)
{
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, target);
	mkdir(path, 0777);
	snprintf(path, sizeof(path), "%s/%s/%s-%02x", folder, target, name,
		 how);
	file = fopen(path, "we");
	must(file && fputc(how, file) == how);
	must(fwrite(text->bytes, 1, text->size, file) == text->size);
	must(fclose(file) == 0);
}

/* The replies, each as a piece behind its length; COSTS, CALLS and TIMES, which
 * nothing asks for, with the one behind them. */
static struct text in_pieces(const struct text *replies)
{
	struct text pieces = { .bytes = NULL };
	struct span span = { .end = 0 };
	size_t at = 0;

	while (span_at(replies, span.end, &span)) {
		struct le16 size = le16_of((uint16_t)(span.end - at));

		if (span.type == FMT_COSTS || span.type == FMT_CALLS ||
		    span.type == FMT_TIMES)
			continue;
		text_add(&pieces, &size, sizeof(size));
		text_add(&pieces, replies->bytes + at, span.end - at);
		at = span.end;
	}
	return pieces;
}

int main(int argc, char **argv)
{
	struct text saved, live = { .bytes = NULL }, replies = live, pieces;

	if (argc != 2) {
		fprintf(stderr, "usage: fuzz_seeds FOLDER\n");
		return 2;
	}
	record_saved(&saved);
	record_live(&live, &replies);
	pieces = in_pieces(&replies);
	for (uint8_t repaired = 0;; repaired = REPAIRED) {
		write_seed(argv[1], "fuzz_destination", "saved", repaired,
			   &saved);
		write_seed(argv[1], "fuzz_destination", "live", repaired | 1,
			   &live);
		write_seed(argv[1], "fuzz_stream", "read", repaired, &saved);
		write_seed(argv[1], "fuzz_stream", "explain", repaired | 1,
			   &saved);
		write_seed(argv[1], "fuzz_replies", "paused", repaired,
			   &pieces);
		write_seed(argv[1], "fuzz_replies", "running", repaired | 1,
			   &pieces);
		if (repaired)
			break;
	}
	text_fini(&saved);
	text_fini(&live);
	text_fini(&replies);
	text_fini(&pieces);
	return 0;
}
