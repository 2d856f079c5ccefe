// SPDX-License-Identifier: Apache-2.0
/*
 * Puts the destination's moments on the source's clock, and then all that took time
 * one behind the other.  What is between two pieces of work is the link's.
 */
#include "migrate/timeline.h"

#include <assert.h>

#include "migrate/phases.h"

/* No clock has run for 36 years; differences of sums of a few such do not
 * overflow. */
#define MOMENT_MAX (1ull << 60)

/* What the source knows of its own clock. */
struct own {
	uint64_t stop_ns, stopped_ns; /* STOPPED goes out */
	uint64_t sent_ns;             /* all has been sent */
	uint64_t ready_ns, go_ns, running_ns;
};

const char *timeline_side_name(enum timeline_side side)
{
	static const char *const names[] = {
		[TIMELINE_SOURCE] = "source",
		[TIMELINE_LINK] = "link",
		[TIMELINE_DESTINATION] = "destination",
	};

	return names[side];
}

/* False: not as far as RUNNING. */
static bool find_own(struct own *own, const struct phase_clock *phases,
		     const struct timeline_here *here)
{
	*own = (struct own){ .go_ns = here->go_ns };
	for (unsigned int i = 0; i < phases->span_count; i++) {
		const struct phase_span *span = &phases->spans[i];

		if (i == 0)
			own->stop_ns = span->begin_ns;
		if (span->phase == MIG_PHASE_STOP_VCPUS)
			own->stopped_ns = span->end_ns;
		if (span->phase == MIG_PHASE_WAIT_READY) {
			own->sent_ns = span->begin_ns;
			own->ready_ns = span->end_ns;
		}
		if (span->phase == MIG_PHASE_WAIT_RUNNING)
			own->running_ns = span->end_ns;
	}
	return own->stopped_ns && own->ready_ns && own->go_ns &&
	       own->running_ns;
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Not what they say: whether they can be at all. */
static bool is_in_order(const struct timeline_there *there)
{
	const uint64_t in_order[] = { there->stopped_ns, there->end_ns,
				      there->verified_ns, there->ready_ns,
				      there->go_ns };

	for (size_t i = 1; i < sizeof(in_order) / sizeof(in_order[0]); i++) {
		if (in_order[i] < in_order[i - 1])
			return false;
	}
	return there->go_ns <= there->entered_ns &&
	       there->go_ns <= there->started_ns &&
	       later(there->entered_ns, there->started_ns) < MOMENT_MAX &&
	       there->stopped_ns <= there->load_ns &&
	       there->load_ns <= there->loaded_ns &&
	       there->loaded_ns <= there->ready_ns;
}

static int64_t apart(uint64_t theirs, uint64_t ours)
{
	return (int64_t)theirs - (int64_t)ours;
}

static bool find_offset(struct timeline *line, const struct own *own,
			const struct timeline_there *there)
{
	int64_t most = apart(there->stopped_ns, own->stopped_ns);
	int64_t least = apart(there->ready_ns, own->ready_ns);
	int64_t go = apart(there->go_ns, own->go_ns);
	int64_t running = apart(later(there->entered_ns, there->started_ns),
				own->running_ns);

	most = go < most ? go : most;
	least = running > least ? running : least;
	if (least > most)
		return false;
	line->offset_ns = least + (most - least) / 2;
	line->error_ns = (uint64_t)(most - least + 1) / 2;
	return true;
}

/* On the line: find_offset() has it that none is before the line's beginning. */
static uint64_t place(uint64_t theirs, const struct timeline *line,
		      const struct own *own)
{
	return (uint64_t)((int64_t)theirs - line->offset_ns -
			  (int64_t)own->stop_ns);
}

static void put(struct timeline *line, const struct timeline_part *part)
{
	unsigned int at = line->count;

	assert(line->count < TIMELINE_PARTS_MAX);
	for (; at > 0 && line->parts[at - 1].begin_ns > part->begin_ns; at--)
		line->parts[at] = line->parts[at - 1];
	line->parts[at] = *part;
	line->count++;
}

/* The guest waits for this from where the last one ended (gap_ns), or later: then
 * for the link in between. */
static void add(struct timeline *line, enum timeline_side side,
		const char *name, const char *before, uint64_t begin_ns,
		uint64_t end_ns)
{
	const struct timeline_part link = { TIMELINE_LINK, before, false,
					    line->gap_ns, begin_ns };
	const struct timeline_part part = {
		side, name, false,
		begin_ns < line->gap_ns ? line->gap_ns : begin_ns, end_ns
	};

	if (end_ns <= line->gap_ns)
		return;
	if (begin_ns > line->gap_ns)
		put(line, &link);
	if (part.begin_ns < part.end_ns)
		put(line, &part);
	line->gap_ns = end_ns;
}

/* What the destination does while the source is not through. */
static void add_beside(struct timeline *line, const char *name,
		       uint64_t begin_ns, uint64_t end_ns, uint64_t sent_ns)
{
	const struct timeline_part part = { TIMELINE_DESTINATION, name, true,
					    begin_ns,
					    end_ns < sent_ns ? end_ns
							     : sent_ns };

	if (part.begin_ns < part.end_ns)
		put(line, &part);
}

/* Its phases up to the last byte. */
static void add_source(struct timeline *line, const struct own *own,
		       const struct phase_clock *phases)
{
	for (unsigned int i = 0; i < phases->span_count; i++) {
		const struct phase_span *span = &phases->spans[i];

		if (span->end_ns <= own->sent_ns)
			add(line, TIMELINE_SOURCE, mig_phase_name(span->phase),
			    "", span->begin_ns - own->stop_ns,
			    span->end_ns - own->stop_ns);
	}
}

/* From STOPPED to READY, in the order in which it did it. */
static void add_destination(struct timeline *line, const struct own *own,
			    const struct timeline_there *there)
{
	const bool is_early = there->load_ns < there->end_ns;
	const struct {
		enum mig_phase phase;
		uint64_t begin_ns, end_ns;
	} work[] = {
		{ MIG_PHASE_DST_RECEIVE, there->stopped_ns,
		  is_early ? there->load_ns : there->end_ns },
		{ MIG_PHASE_DST_LOAD, is_early ? there->load_ns : 0,
		  is_early ? there->loaded_ns : 0 },
		{ MIG_PHASE_DST_RECEIVE, is_early ? there->loaded_ns : 0,
		  is_early ? there->end_ns : 0 },
		{ MIG_PHASE_DST_VERIFY, there->end_ns, there->verified_ns },
		{ MIG_PHASE_DST_LOAD, is_early ? 0 : there->load_ns,
		  is_early ? 0 : there->loaded_ns },
		{ MIG_PHASE_DST_ACTIVATE,
		  is_early ? there->verified_ns : there->loaded_ns,
		  there->ready_ns },
	};
	const uint64_t sent_ns = line->gap_ns;

	for (size_t i = 0; i < sizeof(work) / sizeof(work[0]); i++) {
		const char *name = mig_phase_name(work[i].phase);
		uint64_t begin_ns, end_ns;

		if (work[i].begin_ns >= work[i].end_ns)
			continue;
		begin_ns = place(work[i].begin_ns, line, own);
		end_ns = place(work[i].end_ns, line, own);
		add_beside(line, name, begin_ns, end_ns, sent_ns);
		/* What it receives now is on its way. */
		if (work[i].phase != MIG_PHASE_DST_RECEIVE)
			add(line, TIMELINE_DESTINATION, name, "end-flight",
			    begin_ns, end_ns);
	}
}

static void add_all(struct timeline *line, const struct own *own,
		    const struct phase_clock *phases,
		    const struct timeline_there *there)
{
	add_source(line, own, phases);
	add_destination(line, own, there);
	add(line, TIMELINE_SOURCE, "hand-over", "ready-flight",
	    own->ready_ns - own->stop_ns, own->go_ns - own->stop_ns);
	add(line, TIMELINE_DESTINATION, mig_phase_name(MIG_PHASE_DST_START),
	    "go-flight", place(there->go_ns, line, own),
	    place(there->entered_ns, line, own));
}

bool timeline_build(struct timeline *ret_line, const struct phase_clock *phases,
		    const struct timeline_here *here,
		    const struct timeline_there *told)
{
	struct timeline_there there = *told;
	struct timeline line = { .count = 0 };
	struct own own;

	if (!there.entered_ns)
		there.entered_ns = there.go_ns;
	if (!find_own(&own, phases, here) || !is_in_order(&there) ||
	    !find_offset(&line, &own, &there))
		return false;
	line.begin_ns = own.stop_ns;
	line.end_ns =
		place(later(there.entered_ns, there.started_ns), &line, &own);
	if (told->entered_ns)
		add_all(&line, &own, phases, &there);
	*ret_line = line;
	return true;
}
