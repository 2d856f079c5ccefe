/* SPDX-License-Identifier: Apache-2.0 */
/* Writing and checking: see hot.h. */
#include "guest/hot.h"

#include "guest/cpu.h"
#include "guest/serial.h"
#include "guest/stamp.h"

#define ERROR_LINES_MAX 16
#define FILL_WORDS      (PAGE_SIZE / 8)

struct finding {
	enum fault fault;
	uint64_t gpa;
	uint64_t expected, found; /* sequences; words of a fill page */
	uint64_t from;            /* FAULT_SWAPPED: gpa that the page states */
};

static void report(struct vcpu *vcpu, const struct finding *finding)
{
	struct machine *m = vcpu->machine;
	struct line line;

	write_once(vcpu->errors, vcpu->errors + 1);
	if (__atomic_fetch_add(&m->error_lines, 1, __ATOMIC_RELAXED) >=
	    ERROR_LINES_MAX)
		return;
	line_begin(&line, &vcpu->gauge, "@error ");
	line_text(&line, fault_names[finding->fault]);
	line_hex(&line, " gpa=", finding->gpa);
	line_decimal(&line, " cpu=", vcpu->index);
	line_decimal(&line, " expected=", finding->expected);
	line_decimal(&line, " found=", finding->found);
	if (finding->fault == FAULT_SWAPPED)
		line_hex(&line, " from=", finding->from);
	line_decimal(&line, " tsc=", cpu_tsc());
	line_end(&line);
}

static struct stamp *hot_page(const struct vcpu *vcpu, uint64_t i)
{
	return (struct stamp *)ram_gpa(&vcpu->machine->ram,
				       vcpu->hot.slice.first + i);
}

/*
 * The count of stamps is the sequence.  It is in memory for the reports and
 * in a register: if the VMM brings back old memory with newer registers, as
 * when the last round of a migration is lost, the two differ, even if every
 * page agrees with expected[].
 */
static uint64_t next_sequence(struct vcpu *vcpu)
{
	uint64_t kept = cpu_kept();

	if (read_once(vcpu->stamped) != kept)
		report(vcpu, &(struct finding){
				     .fault = FAULT_STALE,
				     .gpa = (uint64_t)&vcpu->stamped,
				     .expected = kept,
				     .found = vcpu->stamped,
			     });
	write_once(vcpu->stamped, kept + 1);
	cpu_keep(kept + 1);
	return kept + 1;
}

static void hot_write(struct vcpu *vcpu, uint64_t i)
{
	struct hot *hot = &vcpu->hot;
	struct stamp *page = hot_page(vcpu, i);
	uint64_t sequence = next_sequence(vcpu);
	uint64_t change = sequence - hot->expected[i];

	stamp_write(page, (uint64_t)page, vcpu->index, sequence);
	hot->expected[i] = sequence;
	hot->sum += change;
	if (i < hot->scan_at)
		hot->sum_below += change;
}

static void hot_find(struct vcpu *vcpu, uint64_t i)
{
	const struct stamp *page = hot_page(vcpu, i);
	struct finding finding = { .gpa = (uint64_t)page,
				   .expected = vcpu->hot.expected[i] };

	finding.fault = stamp_judge(page, finding.gpa, vcpu->index,
				    &finding.found, &finding.from);
	report(vcpu, &finding);
}

static inline bool hot_is_good(struct vcpu *vcpu, uint64_t i)
{
	const struct stamp *page = hot_page(vcpu, i);

	vcpu->checked++;
	return stamp_is_good(page, (uint64_t)page, vcpu->index,
			     vcpu->hot.expected[i]);
}

void hot_stamp(struct vcpu *vcpu, uint64_t i)
{
	if (vcpu->machine->config.verify && !hot_is_good(vcpu, i))
		hot_find(vcpu, i);
	hot_write(vcpu, i);
}

void hot_check(struct vcpu *vcpu, uint64_t i)
{
	if (hot_is_good(vcpu, i))
		return;
	hot_find(vcpu, i);
	hot_write(vcpu, i); /* so that it is reported once */
}

/* Called when the scan has come round: the two sums are of the same words. */
static void hot_check_sum(struct vcpu *vcpu)
{
	struct hot *hot = &vcpu->hot;

	if (hot->sum_below != hot->sum)
		report(vcpu, &(struct finding){
				     .fault = FAULT_STALE,
				     .gpa = (uint64_t)hot->expected,
				     .expected = hot->sum,
				     .found = hot->sum_below,
			     });
	hot->sum = hot->sum_below;
	hot->sum_below = 0;
	hot->scan_at = 0;
}

void hot_scan(struct vcpu *vcpu)
{
	struct hot *hot = &vcpu->hot;

	if (!hot->slice.pages)
		return;
	hot_check(vcpu, hot->scan_at);
	hot->sum_below += hot->expected[hot->scan_at];
	if (++hot->scan_at == hot->slice.pages)
		hot_check_sum(vcpu);
}

static uint64_t *fill_page(const struct vcpu *vcpu, uint64_t i)
{
	return (uint64_t *)ram_gpa(&vcpu->machine->ram,
				   vcpu->fill.slice.first + i);
}

static void fill_write(struct vcpu *vcpu, uint64_t i)
{
	uint64_t *page = fill_page(vcpu, i);
	uint64_t first = (uint64_t)page + vcpu->machine->config.seed;

	for (uint64_t n = 0; n < FILL_WORDS; n++)
		page[n] = mix64(first + 8 * n);
}

static enum fault fill_judge(const uint64_t *page)
{
	for (uint64_t n = 0; n < FILL_WORDS; n++) {
		if (page[n])
			return FAULT_CORRUPT;
	}
	return FAULT_LOST;
}

static void fill_check(struct vcpu *vcpu, uint64_t i)
{
	uint64_t *page = fill_page(vcpu, i);
	uint64_t first = (uint64_t)page + vcpu->machine->config.seed;

	vcpu->checked++;
	for (uint64_t n = 0; n < FILL_WORDS; n++) {
		if (page[n] == mix64(first + 8 * n))
			continue;
		report(vcpu, &(struct finding){
				     .fault = fill_judge(page),
				     .gpa = (uint64_t)page,
				     .expected = mix64(first + 8 * n),
				     .found = page[n],
			     });
		fill_write(vcpu, i);
		return;
	}
}

void hot_warm(struct vcpu *vcpu)
{
	cpu_keep(0);
	for (uint64_t i = 0; i < vcpu->fill.slice.pages; i++)
		fill_write(vcpu, i);
	for (uint64_t i = 0; i < vcpu->hot.slice.pages; i++)
		vcpu->hot.expected[i] = 0;
	for (uint64_t i = 0; i < vcpu->hot.slice.pages; i++)
		hot_write(vcpu, i);
}

void fill_scan(struct vcpu *vcpu)
{
	struct fill *fill = &vcpu->fill;

	if (!fill->slice.pages)
		return;
	fill_check(vcpu, fill->scan_at);
	if (++fill->scan_at == fill->slice.pages)
		fill->scan_at = 0;
}

void hot_check_all(struct vcpu *vcpu)
{
	uint64_t hot_pages = vcpu->hot.slice.pages;
	uint64_t scans = hot_pages;

	/* The round that is under way to its end, then a whole one. */
	if (vcpu->hot.scan_at)
		scans += hot_pages - vcpu->hot.scan_at;
	for (uint64_t n = 0; n < scans; n++) {
		hot_scan(vcpu);
		gauge_look(&vcpu->gauge, cpu_tsc());
	}
	for (uint64_t n = 0; n < vcpu->fill.slice.pages; n++) {
		fill_check(vcpu, n);
		gauge_look(&vcpu->gauge, cpu_tsc());
	}
}

static void copy_words(void *to, const void *from, uint64_t words)
{
	for (uint64_t i = 0; i < words; i++)
		((uint64_t *)to)[i] = ((const uint64_t *)from)[i];
}

/* Does to hot page 0 what @fault is the name of. */
static void damage(struct vcpu *vcpu, enum fault fault)
{
	struct stamp *page = hot_page(vcpu, 0);
	struct stamp_edge old = page->tail;

	switch (fault) {
	case FAULT_LOST:
		for (uint64_t i = 0; i < FILL_WORDS; i++)
			((uint64_t *)page)[i] = 0;
		break;
	case FAULT_STALE:
		stamp_write(page, (uint64_t)page, vcpu->index,
			    vcpu->hot.expected[0] - 1);
		break;
	case FAULT_TORN:
		hot_write(vcpu, 0);
		page->tail = old;
		break;
	case FAULT_SWAPPED:
		copy_words(page, hot_page(vcpu, 1), FILL_WORDS);
		break;
	default:
		page->middle[1] ^= 1ULL << 40;
		break;
	}
}

/* Page and side table go back together: only the sum can tell. */
static void damage_table(struct vcpu *vcpu)
{
	uint64_t old = vcpu->hot.expected[0];

	hot_write(vcpu, 0);
	vcpu->hot.expected[0] = old;
	stamp_write(hot_page(vcpu, 0), (uint64_t)hot_page(vcpu, 0), vcpu->index,
		    old);
}

static bool selftest_found(struct vcpu *vcpu, const char *what,
			   uint64_t errors_before)
{
	bool is_found = vcpu->errors == errors_before + 1;
	struct line line;

	line_begin(&line, &vcpu->gauge, "@selftest ");
	line_text(&line, what);
	line_text(&line, is_found ? " found" : " NOT-FOUND");
	line_end(&line);
	return is_found;
}

int hot_selftest(struct vcpu *vcpu)
{
	int missed = 0;
	uint64_t before;

	for (int fault = FAULT_LOST; fault < FAULT_KINDS; fault++) {
		before = vcpu->errors;
		damage(vcpu, (enum fault)fault);
		hot_check(vcpu, 0);
		missed += !selftest_found(vcpu, fault_names[fault], before);
	}
	before = vcpu->errors;
	damage_table(vcpu);
	hot_check_all(vcpu);
	missed += !selftest_found(vcpu, "table", before);
	before = vcpu->errors;
	write_once(vcpu->stamped, vcpu->stamped - 1);
	hot_stamp(vcpu, 0);
	missed += !selftest_found(vcpu, "register", before);
	if (vcpu->fill.slice.pages) {
		before = vcpu->errors;
		fill_page(vcpu, 0)[FILL_WORDS - 1] ^= 1;
		fill_check(vcpu, 0);
		missed += !selftest_found(vcpu, "fill", before);
	}
	vcpu->errors = 0;
	vcpu->machine->error_lines = 0;
	return missed;
}
