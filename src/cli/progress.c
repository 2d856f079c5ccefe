// SPDX-License-Identifier: Apache-2.0
/*
 * Prints what query-migrate said, on stderr while it lasts and on stdout at the
 * end; knows nothing of the connection.
 */
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "cli/amount.h"
#include "cli/answer.h"

#define BAR_WIDTH  40
#define LINE_WIDTH 60

void progress_init(struct progress *progress)
{
	*progress = (struct progress){
		.is_terminal = isatty(STDERR_FILENO) == 1,
		.round = -1,
	};
}

/* Progress */

static void print_state(const json_t *info)
{
	const json_t *ram = json_object_get(info, "ram");
	const json_t *pause = json_object_get(info, "pause");
	const json_t *throttle = json_object_get(info, "throttle");
	char left[AMOUNT_MAX], rate[AMOUNT_MAX], us[AMOUNT_MAX];

	fprintf(stderr, "%s  round %lld  %s left  %s/s",
		answer_text(info, "status"),
		(long long)answer_int(ram, "dirty-sync-count"),
		amount_size((double)answer_int(ram, "remaining"), left),
		amount_size(answer_number(ram, "mbps") * 1e6 / 8, rate));
	if (answer_int(ram, "dirty-pages-rate"))
		fprintf(stderr, "  %lld pages/s dirtied",
			(long long)answer_int(ram, "dirty-pages-rate"));
	if (answer_int(info, "cpu-throttle-percentage"))
		fprintf(stderr, "  writers held back by %lld %%, %s in all",
			(long long)answer_int(info, "cpu-throttle-percentage"),
			amount_us((double)answer_int(throttle, "total-us"),
				  us));
	if (json_object_get(pause, "expected-us"))
		fprintf(stderr, "  pause about %s",
			amount_us((double)answer_int(pause, "expected-us"),
				  us));
}

void progress_show(struct progress *progress, const json_t *info)
{
	json_int_t round =
		answer_int(json_object_get(info, "ram"), "dirty-sync-count");
	const char *status = answer_text(info, "status");

	if (progress->is_terminal) {
		fputs("\r", stderr);
		print_state(info);
		fputs("\033[K", stderr);
		progress->has_line = true;
		return;
	}
	if (round == progress->round && strcmp(status, progress->status) == 0)
		return;
	progress->round = round;
	snprintf(progress->status, sizeof(progress->status), "%s", status);
	print_state(info);
	fputc('\n', stderr);
}

void progress_end(struct progress *progress)
{
	if (progress->has_line)
		fputs("\r\033[K", stderr);
	progress->has_line = false;
}

/* Summary */

static void print_phase(const json_t *phase, double longest_us)
{
	double us = answer_number(phase, "us");
	int width =
		longest_us > 0 ? (int)(us / longest_us * BAR_WIDTH + 0.5) : 0;

	if (us <= 0)
		return;
	if (width > BAR_WIDTH)
		width = BAR_WIDTH;
	printf("  %-11s  %-14s %10.1f us%s%.*s\n", answer_text(phase, "side"),
	       answer_text(phase, "name"), us, width ? "  " : "", width,
	       "########################################");
}

/* Where on the line it is; '-' where the guest waited for something else. */
static void print_part(const json_t *part, double gap_us)
{
	double begin_us = answer_number(part, "begin-us");
	double us = answer_number(part, "end-us") - begin_us;
	char bar[LINE_WIDTH + 1];
	int from, to;

	if (!(us > 0) || !(begin_us >= 0) || !(begin_us + us <= gap_us))
		return;
	from = (int)(begin_us / gap_us * LINE_WIDTH);
	to = (int)((begin_us + us) / gap_us * LINE_WIDTH + 0.5);
	for (int i = 0; i < LINE_WIDTH; i++)
		bar[i] = i != from && (i < from || i >= to)              ? ' '
			 : json_is_true(json_object_get(part, "beside")) ? '-'
									 : '#';
	bar[LINE_WIDTH] = '\0';
	printf("  %-11s  %-14s %10.1f us  |%s|\n", answer_text(part, "side"),
	       answer_text(part, "name"), us, bar);
}

static void print_line(const json_t *line)
{
	double gap_us = answer_number(line, "gap-us");
	const json_t *part;
	char us[AMOUNT_MAX];
	size_t i;

	printf("%s without the guest, from here to there (clocks compared within "
	       "%.1f us):\n",
	       amount_us(gap_us, us), answer_number(line, "clock-error-us"));
	json_array_foreach(json_object_get(line, "parts"), i, part)
		print_part(part, gap_us);
}

static void print_phases(const json_t *phases)
{
	const json_t *phase;
	double longest = 0;
	size_t i;

	json_array_foreach(phases, i, phase)
	{
		if (answer_number(phase, "us") > longest)
			longest = answer_number(phase, "us");
	}
	json_array_foreach(phases, i, phase) print_phase(phase, longest);
}

/* Of a machine without devices there are none. */
static void print_calls(const json_t *pause, const char *side)
{
	static const struct {
		const char *key, *text;
	} kinds[] = {
		{ "commits", "topology commits" },
		{ "route-commits", "route commits" },
		{ "eventfd-calls", "eventfd calls" },
		{ "vhost-calls", "vhost calls" },
		{ "vhost-tables", "vhost memory tables" },
	};
	const json_t *calls =
		json_object_get(json_object_get(pause, "calls"), side);
	const char *between = "";
	bool has_any = false;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		has_any |= answer_int(calls, kinds[i].key) != 0;
	if (!has_any)
		return;
	printf("  %-11s  ", side);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (!answer_int(calls, kinds[i].key))
			continue;
		printf("%s%lld %s", between,
		       (long long)answer_int(calls, kinds[i].key),
		       kinds[i].text);
		between = ", ";
	}
	putchar('\n');
}

static void print_pause(const json_t *info)
{
	const json_t *pause = json_object_get(info, "pause");
	const json_t *line = json_object_get(pause, "timeline");
	json_int_t commits = answer_int(pause, "switch-commits");
	char us[AMOUNT_MAX], expected[AMOUNT_MAX];

	printf("pause %s (%s expected), %lld topology commit%s in it\n",
	       amount_us((double)answer_int(pause, "downtime-us"), us),
	       amount_us((double)answer_int(pause, "expected-us"), expected),
	       (long long)commits, commits == 1 ? "" : "s");
	/* A destination that is older tells no times, a paused guest has none. */
	if (line)
		print_line(line);
	else
		print_phases(json_object_get(pause, "phases"));
	print_calls(pause, "source");
	print_calls(pause, "destination");
}

/* Those that were held. */
static void print_throttle(const json_t *throttle)
{
	const json_t *vcpus = json_object_get(throttle, "vcpus"), *vcpu;
	char total[AMOUNT_MAX], longest[AMOUNT_MAX];
	size_t i;

	printf("writers held back by up to %lld %%: %s in all, %s at most at a time\n",
	       (long long)answer_int(throttle, "most-percentage"),
	       amount_us((double)answer_int(throttle, "total-us"), total),
	       amount_us((double)answer_int(throttle, "longest-us"), longest));
	json_array_foreach(vcpus, i, vcpu)
	{
		if (answer_int(vcpu, "throttle-us"))
			printf("  vCPU %-4lld  %s in %lld holds\n",
			       (long long)answer_int(vcpu, "id"),
			       amount_us(
				       (double)answer_int(vcpu, "throttle-us"),
				       total),
			       (long long)answer_int(vcpu, "holds"));
	}
}

void progress_summary(const json_t *info)
{
	const json_t *ram = json_object_get(info, "ram");
	const json_t *verify = json_object_get(info, "verify");
	const json_t *rings = json_object_get(info, "dirty-ring");
	const json_t *throttle = json_object_get(info, "throttle");
	json_int_t rounds = answer_int(ram, "dirty-sync-count");
	char sent[AMOUNT_MAX], rate[AMOUNT_MAX], stopped[AMOUNT_MAX];

	printf("moved to %s in %.3f s (setup %lld ms, %lld round%s)\n",
	       answer_text(info, "uri"),
	       (double)answer_int(info, "total-time") / 1e3,
	       (long long)answer_int(info, "setup-time"), (long long)rounds,
	       rounds == 1 ? "" : "s");
	printf("sent %s at %s/s, %s of it in the pause\n",
	       amount_size((double)answer_int(ram, "transferred"), sent),
	       amount_size(answer_number(ram, "mbps") * 1e6 / 8, rate),
	       amount_size((double)answer_int(ram, "downtime-bytes"), stopped));
	printf("pages: %lld with data, %lld zero, %lld never touched\n",
	       (long long)answer_int(ram, "normal"),
	       (long long)answer_int(ram, "duplicate"),
	       (long long)answer_int(ram, "holes"));
	if (rings)
		printf("dirty rings: %lld entries, full %lld times, reset in %.3f ms\n",
		       (long long)answer_int(rings, "entries"),
		       (long long)answer_int(rings, "full-exits"),
		       (double)answer_int(rings, "reset-us") / 1e3);
	if (throttle)
		print_throttle(throttle);
	if (verify)
		printf("verified: %lld pages are the same on both sides (%s)\n",
		       (long long)answer_int(verify, "pages"),
		       answer_text(verify, "hash"));
	print_pause(info);
}
