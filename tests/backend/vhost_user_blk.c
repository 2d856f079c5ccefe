// SPDX-License-Identifier: Apache-2.0
/*
 * A vhost-user-blk back end for system tests (back_end.h):
 *
 *	vhost_user_blk SOCKET IMAGE [queues=N] [slots=N] [inflight=off] [log=off]
 *		[cut=log] [eventfds=spoilt] [die=taken|written|used,N]
 *		[fault=REQUEST,KIND[,SKIP[,MS[,AGAIN]]]]
 *
 * die: end with exit status 9 at the Nth write request.  fault: see enum
 * be_fault_kind for KIND, which is a number, as REQUEST is.  "ready" is printed when
 * the socket is there; SIGTERM ends it, with what it counted on a line.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "back_end.h"

static void *wait_for_end(void *opaque)
{
	sigset_t set;
	int number;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigwait(&set, &number);
	be_stop(opaque);
	return NULL;
}

static bool take_death(struct be_options *options, const char *text)
{
	static const char *const names[] = { "", "taken", "written", "used" };
	size_t size = strcspn(text, ",");

	for (int i = BE_DIES_TAKEN; i <= BE_DIES_USED; i++) {
		if (strlen(names[i]) == size && !memcmp(names[i], text, size))
			options->death = (enum be_death)i;
	}
	if (!text[size] || options->death == BE_LIVES)
		return false;
	options->die_at = (unsigned int)strtoul(text + size + 1, NULL, 10);
	return options->die_at > 0;
}

static bool take_fault(struct be_options *options, const char *text)
{
	unsigned int request, kind, skip = 0, ms = 0, again = 0;

	if (sscanf(text, "%u,%u,%u,%u,%u", &request, &kind, &skip, &ms,
		   &again) < 2 ||
	    kind >= BE_KIND_COUNT)
		return false;
	options->fault = (struct be_fault){
		.request = (enum um_request)request,
		.kind = (enum be_fault_kind)kind,
		.skip = skip,
		.delay_ms = ms,
		.again = again,
	};
	return true;
}

static bool take(struct be_options *options, const char *text)
{
	if (!strncmp(text, "queues=", 7)) {
		options->queues = (unsigned int)strtoul(text + 7, NULL, 10);
		return options->queues && options->queues <= BE_QUEUES_MAX;
	}
	if (!strncmp(text, "slots=", 6)) {
		options->slots = (unsigned int)strtoul(text + 6, NULL, 10);
		options->has_slots = true;
		return options->slots <= BE_SLOTS_MAX;
	}
	if (!strncmp(text, "die=", 4))
		return take_death(options, text + 4);
	if (!strncmp(text, "fault=", 6))
		return take_fault(options, text + 6);
	if (!strcmp(text, "inflight=off"))
		options->has_inflight = false;
	else if (!strcmp(text, "log=off"))
		options->has_log = false;
	else if (!strcmp(text, "cut=log"))
		options->cuts_log = true;
	else if (!strcmp(text, "eventfds=spoilt"))
		options->spoils_eventfds = true;
	else
		return false;
	return true;
}

static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int main(int argc, char **argv)
{
	struct be_options options = BE_OPTIONS;
	static struct back_end be;
	pthread_t waiter;
	int ret;

	options.is_process = true;
	options.socket = argc > 1 ? argv[1] : "";
	options.image = argc > 2 ? argv[2] : "";
	for (int i = 3; i < argc; i++) {
		if (!take(&options, argv[i])) {
			fprintf(stderr, "vhost_user_blk: '%s'\n", argv[i]);
			return 64;
		}
	}
	block_signals();
	ret = be_open(&be, &options);
	if (ret || pthread_create(&waiter, NULL, wait_for_end, &be)) {
		fprintf(stderr, "vhost_user_blk: %s\n", strerror(-ret));
		return 1;
	}
	puts("ready");
	fflush(stdout);
	be_serve(&be);
	pthread_join(waiter, NULL);
	printf("connections=%u tables=%u added=%u removed=%u stops=%u logs=%u "
	       "reads=%u writes=%u flushes=%u resubmitted=%u\n",
	       be.counts.connections, be.counts.tables, be.counts.regions_added,
	       be.counts.regions_removed, be.counts.stops, be.counts.logs,
	       be.counts.reads, be.counts.writes, be.counts.flushes,
	       be.counts.resubmitted);
	be_close(&be);
	return 0;
}
