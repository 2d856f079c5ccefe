/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pause on one line of time: what the guest waited for, of both sides and of the
 * link between them, from when its vCPUs were told to stop until the first one runs.
 *
 * Each side has a clock of its own, and its times are on that.  How far they are
 * apart follows from the messages of the pause themselves.  One that was sent at
 * @sent by one clock came at @came by the other, and not before it was sent: so
 *
 *	source to destination	offset <= came - sent
 *	destination to source	offset >= sent - came
 *
 * with offset = destination's clock - source's.  The narrowest of these are some
 * tens of us apart, for READY and GO are waited for on a CPU; the offset is taken to
 * be in the middle, and half of it is the most that this can be wrong.  By any
 * offset between them no message arrives before it was sent, so what happened over
 * there lies between STOPPED's departure and RUNNING's arrival here.
 *
 * Pure arithmetic; tested without a machine.
 */
#ifndef GODWIT_MIGRATE_TIMELINE_H
#define GODWIT_MIGRATE_TIMELINE_H

#include <stdbool.h>
#include <stdint.h>

struct phase_clock;

enum timeline_side {
	TIMELINE_SOURCE,
	TIMELINE_LINK, /* neither side: a message is on its way, or waits */
	TIMELINE_DESTINATION,
};

struct timeline_part {
	enum timeline_side side;
	const char *name; /* static */
	/* The guest waited for another part meanwhile; those that are not so follow
	 * one another without a gap. */
	bool is_beside;
	uint64_t begin_ns, end_ns; /* after the line's beginning */
};

/* One a span of the source; six of the destination, each cut in two at most, with
 * the link before it; hand-over and start with theirs. */
#define TIMELINE_PARTS_MAX (16 + 6 * 3 + 2 * 2)

struct timeline {
	unsigned int count; /* 0: no guest was seen to run */
	struct timeline_part parts[TIMELINE_PARTS_MAX]; /* by beginning */
	uint64_t begin_ns; /* source's clock_mono_ns() */
	uint64_t gap_ns;   /* the line's length */
	uint64_t end_ns;   /* not before that: devices are at work, too */
	int64_t offset_ns; /* destination's clock - source's */
	uint64_t error_ns; /* of that, at most */
};

/* Moments of the source that are no phases' ends; its clock. */
struct timeline_here {
	uint64_t go_ns; /* GO is about to be sent; 0: it was not */
};

/* Of the destination, as TIMES has them (docs/spec/stream.md): its clock. */
struct timeline_there {
	uint64_t stopped_ns, load_ns, loaded_ns, end_ns, verified_ns;
	uint64_t ready_ns, go_ns, entered_ns, started_ns;
};

const char *timeline_side_name(enum timeline_side side);

/*
 * @phases are the source's, until RUNNING came.  @there is hostile.  False, and
 * nothing: the guest was not given away, or the destination's times cannot be (they
 * are not in order, or no offset fits them all).
 */
bool timeline_build(struct timeline *ret_line, const struct phase_clock *phases,
		    const struct timeline_here *here,
		    const struct timeline_there *there);

#endif
