// SPDX-License-Identifier: Apache-2.0
/*
 * The real destination, with a machine of puppets, reads streams that are cut,
 * flipped, or wrong behind right checksums: as a file and over a socket.
 * Whatever comes, it ends with a reason that names the record, no guest runs,
 * and nothing is left behind; what it takes all the same is in its legal range.
 *
 * The cases are drawn from a seed: HOSTILE_SEED and HOSTILE_CASES choose
 * others, or more.  So many streams have bytes flipped; parts of that number are
 * damaged in each of the other ways.
 */
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/list.h"
#include "migrate/mig_priv.h"
#include "migrate/stream.h"
#include "side.h"
#include "state/state.h"
#include "stream_edit.h"
#include "stream_record.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CASES 2000u
#else
#define CASES 20000u
#endif
#define RECORDINGS_MAX 100
#define FLIP_TRIES     20
#define REPLY_SIZE     (sizeof(struct fmt_record) + sizeof(struct fmt_report))

/* A stream that loads, as a file and as it went over a socket. */
static struct text saved, live;
static uint32_t seed;
static unsigned int loaded, refused; /* streams */
static unsigned int kept, given;     /* guests whose answers were flipped */

static uint32_t draw(uint32_t below)
{
	seed = seed * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)(seed >> 4) * below >> 28);
}

static unsigned int number_of(const char *name, unsigned int fallback)
{
	const char *text = getenv(name);

	return text ? (unsigned int)strtoul(text, NULL, 0) : fallback;
}

/* ---- one case ---- */

struct outcome {
	bool is_loaded;
	char error[ERR_MSG_MAX];
	char told[FMT_REASON_MAX + 1]; /* to the source */
};

static void take_replies(int fd, struct outcome *outcome)
{
	struct channel channel = { .fd = fd, .stop_fd = -1 };
	struct record record;

	assert_int_equal(record_init(&record, NULL), 0);
	while (record_recv(&channel, &record, NULL) == 0) {
		if (record.type == FMT_FAILED)
			record_reason(&record, outcome->told,
				      sizeof(outcome->told));
	}
	record_fini(&record);
}

/* All that was taken can be saved again: it is in its legal range. */
static void assert_legal(struct side *side)
{
	struct state_registry *registry = machine_state(side->machine);
	struct bytes_writer w = { .data = NULL };
	struct state_entry *entry;
	struct err err = ERR_INIT;

	if (machine_run_state(side->machine) == RUN_STATE_RUNNING)
		assert_int_equal(machine_stop(side->machine, NULL), 0);
	assert_int_equal(machine_run_state(side->machine), RUN_STATE_PAUSED);
	list_for_each (entry, &registry->entries, link) {
		if (state_save(entry, &w, &err))
			fail_msg("%s", err_msg(&err));
	}
	bytes_writer_fini(&w);
}

static uint64_t runs(void)
{
	return __atomic_load_n(&puppet_tally.runs, __ATOMIC_RELAXED);
}

static void judge(struct side *side, uint64_t runs_before,
		  struct outcome *outcome)
{
	enum mig_state end = side_wait_end(side);
	struct mig_info info;

	outcome->is_loaded = end == MIG_RUNNING;
	if (outcome->is_loaded) {
		assert_legal(side);
		return;
	}
	assert_int_equal(end, MIG_FAILED);
	snprintf(outcome->error, sizeof(outcome->error), "%s",
		 side_error(side, &info));
	assert_int_equal(machine_run_state(side->machine), RUN_STATE_INMIGRATE);
	assert_int_equal(runs(), runs_before);
}

static void play_file(const struct text *text, struct outcome *outcome)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);
	uint64_t before = runs();
	struct side side;

	assert_int_equal(pwrite(fd, text->bytes, text->size, 0), text->size);
	side_start(&side, RECORD_CPUS, true);
	side_receive(&side, fd);
	judge(&side, before, outcome);
	side_fini(&side);
}

static void play_socket(const struct text *text, struct outcome *outcome)
{
	uint64_t before = runs();
	struct side side;
	size_t at = 0;
	int fds[2];

	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	side_start(&side, RECORD_CPUS, true);
	side_receive(&side, fds[0]);
	while (at < text->size) {
		ssize_t done = send(fds[1], text->bytes + at, text->size - at,
				    MSG_NOSIGNAL);

		if (done < 0)
			break; /* it has read enough */
		at += (size_t)done;
	}
	shutdown(fds[1], SHUT_WR);
	judge(&side, before, outcome);
	side_fini(&side);
	take_replies(fds[1], outcome);
	close(fds[1]);
}

/* It says where: in which record, or behind which, or in the header. */
static void assert_explained(const struct outcome *outcome, const char *what)
{
	static const char *const places[] = {
		"record ",
		"after record ",
		"before the first record",
		"stream header",
		"stream version",
		"this is not a godwit migration stream",
	};
	bool is_named = false;

	for (size_t i = 0; i < array_size(places); i++) {
		if (strncmp(outcome->error, places[i], strlen(places[i])) == 0)
			is_named = true;
	}
	if (!is_named)
		fail_msg("%s: '%s' names no record", what, outcome->error);
}

static struct outcome play(const struct text *text, bool is_file,
			   const char *what)
{
	struct outcome outcome = { .is_loaded = false };

	(is_file ? play_file : play_socket)(text, &outcome);
	if (outcome.is_loaded)
		return outcome;
	assert_explained(&outcome, what);
	/* The source is told the same, as far as it fits. */
	if (!is_file) {
		size_t length = strnlen(outcome.told, FMT_REASON_MAX);

		if (!length)
			fail_msg("%s: the source was told nothing", what);
		assert_memory_equal(outcome.told, outcome.error, length);
	}
	return outcome;
}

static void assert_good_streams_load(void)
{
	assert_true(play(&saved, true, "the saved stream").is_loaded);
	assert_true(play(&live, false, "the live stream").is_loaded);
}

/* @text is damaged as @what says; whether it loads when it may is nobody's
 * business here. */
static void assert_survived(const struct text *text, bool is_file,
			    bool may_load, const char *what)
{
	struct outcome outcome = play(text, is_file, what);

	if (outcome.is_loaded && !may_load)
		fail_msg("%s: it was loaded", what);
	*(outcome.is_loaded ? &loaded : &refused) += 1;
}

/* ---- damage ---- */

#define WHAT_MAX 160

static const struct text *choose(bool *ret_is_file)
{
	*ret_is_file = draw(2);
	return *ret_is_file ? &saved : &live;
}

static void say(char what[WHAT_MAX], bool is_file, const char *kind, size_t at,
		const struct span *span)
{
	snprintf(what, WHAT_MAX, "%s stream, %s at %zu (%s of %u bytes at %zu)",
		 is_file ? "saved" : "live", kind, at, record_name(span->type),
		 span->length, span->at);
}

/* The record that holds byte @at; the header counts as an empty one. */
static struct span span_around(const struct text *text, size_t at)
{
	struct span span = { .end = sizeof(struct fmt_header) };

	while (span.end <= at)
		assert_true(span_at(text, span.end, &span));
	return span;
}

static unsigned int span_count(const struct text *text)
{
	struct span span = { .end = sizeof(struct fmt_header) };
	unsigned int count = 0;

	while (span_at(text, span.end, &span))
		count++;
	return count;
}

static struct span span_number(const struct text *text, unsigned int number)
{
	struct span span = { .end = sizeof(struct fmt_header) };

	do
		assert_true(span_at(text, span.end, &span));
	while (number--);
	return span;
}

/* Of RAM sent live nobody knows the pages' hash. */
static bool is_covered(const struct span *span, size_t at)
{
	return at < span_body(span) + span->covered ||
	       at >= span_body(span) + span->length;
}

static void cut(const struct text *whole, bool is_file, size_t at)
{
	struct span span = span_around(whole, at);
	struct text part = text_copy(whole);
	char what[WHAT_MAX];

	say(what, is_file, "cut", at, &span);
	part.size = at;
	assert_survived(&part, is_file, false, what);
	text_fini(&part);
}

/* Each record as often as another: pages are most of a stream, and the dullest
 * part.  Its header, the start of its body, or its end. */
static size_t choose_byte(const struct text *text)
{
	struct span span = span_number(text, draw(span_count(text)));
	uint32_t size = (uint32_t)(span.end - span.at);
	uint32_t head = size < 256 ? size : 256;

	switch (draw(4)) {
	case 0:
		return draw((uint32_t)text->size);
	case 1:
		return draw(8) ? span.end - 1 - draw(8)
			       : draw(sizeof(struct fmt_header));
	default:
		return span.at + draw(head);
	}
}

static void flip(void)
{
	bool is_file, is_unseen = true;
	const struct text *whole = choose(&is_file);
	struct text text = text_copy(whole);
	unsigned int flips = 1 + draw(3);
	char what[WHAT_MAX];

	for (unsigned int i = 0; i < flips; i++) {
		size_t at = choose_byte(whole);
		struct span span = span_around(whole, at);

		is_unseen = is_unseen && !is_covered(&span, at);
		say(what, is_file, "flip", at, &span);
		text.bytes[at] ^= (uint8_t)(1 + draw(255));
	}
	assert_survived(
		&text, is_file,
		is_unseen || memcmp(text.bytes, whole->bytes, text.size) == 0,
		what);
	text_fini(&text);
}

/* What hostile numbers look like. */
static void spoil(uint8_t *bytes, size_t size)
{
	static const uint64_t values[] = {
		0,          1,          2,          0x7f,
		0x80,       0xff,       0x7fff,     0xffff,
		0x10000,    0x7fffffff, 1ull << 31, 0xffffffff,
		1ull << 32, 1ull << 52, 1ull << 63, UINT64_MAX,
	};
	size_t at = draw((uint32_t)size), room = size - at;
	uint64_t value = values[draw(array_size(values))];

	switch (draw(3)) {
	case 0:
		bytes[at] ^= (uint8_t)(1 + draw(255));
		break;
	case 1:
		memcpy(bytes + at, &value, room < 4 ? room : 4);
		break;
	default:
		at = align_down(at, 8);
		room = size - at;
		memcpy(bytes + at, &value, room < 8 ? room : 8);
		break;
	}
}

static void flip_and_repair(void)
{
	bool is_file;
	const struct text *whole = choose(&is_file);
	struct text text = text_copy(whole);
	struct span span = span_number(whole, draw(span_count(whole)));
	size_t head = span.length < 256 ? span.length : 256;
	char what[WHAT_MAX];

	say(what, is_file, "spoilt", span.at, &span);
	if (!head || draw(8) == 0)
		spoil(text.bytes + span.at, 8);
	else if (draw(4))
		spoil(text.bytes + span_body(&span), head);
	else
		spoil(text.bytes + span_body(&span), span.length);
	if (span_at(&text, span.at, &span))
		span_repair(&text, &span);
	assert_survived(&text, is_file, true, what);
	text_fini(&text);
}

static void add_span(struct text *to, const struct text *from,
		     const struct span *span)
{
	text_add(to, from->bytes + span->at, span->end - span->at);
}

/* A record of any type, which the other one, if any, did not send. */
static void add_forged(struct text *text)
{
	static const uint32_t types[] = { 0,     15,         0x101,
					  0x104, 0x80000005, 0x80001234 };
	uint32_t type = draw(2) ? 1 + draw(14) : types[draw(array_size(types))];
	struct bytes_writer w = { .data = NULL };
	uint8_t body[128] = { 0 };

	spoil(body, sizeof(body));
	record_put(&w, type, body, draw(sizeof(body)));
	text_add(text, w.data, w.size);
	bytes_writer_fini(&w);
}

static void rearrange(void)
{
	bool is_file;
	const struct text *whole = choose(&is_file), *other = NULL;
	unsigned int count = span_count(whole), victim = draw(count);
	unsigned int kind = draw(4), guest = draw(count);
	struct text text = { .bytes = NULL };
	char what[WHAT_MAX];

	other = draw(4) ? whole : whole == &saved ? &live : &saved;
	text_add(&text, whole->bytes, sizeof(struct fmt_header));
	for (unsigned int i = 0; i < count; i++) {
		struct span span = span_number(whole, i), wanted;

		if (i != victim) {
			add_span(&text, whole, &span);
			continue;
		}
		say(what, is_file, "rearranged", span.at, &span);
		wanted = span_number(other, guest % span_count(other));
		if (kind == 0) /* another in front of it */
			add_span(&text, other, &wanted);
		if (kind == 1) /* another in its place */
			add_span(&text, other, &wanted);
		else if (kind != 2) /* or nothing */
			add_span(&text, whole, &span);
		if (kind == 3)
			add_forged(&text);
	}
	assert_survived(&text, is_file, true, what);
	text_fini(&text);
}

/* What is left of a move of which a byte of the answers was flipped on its way;
 * @is_over: the sides ended it themselves. */
static void judge_flipped_reply(struct side *source, struct side *destination,
				size_t at, bool is_over)
{
	enum mig_state end = side_wait_end(source);
	struct mig_info info;
	const char *why = side_error(source, &info);
	bool is_given = strstr(why, "GO was sent") != NULL;

	if (end != MIG_FAILED)
		fail_msg("reply flipped at %zu: nobody noticed", at);
	/* Of a link that hangs up it may be a send that fails first. */
	if (is_over && !strstr(why, "destination: record "))
		fail_msg("reply flipped at %zu: '%s' names no record", at, why);
	/* Before GO the guest is as it was; after it, not this side's. */
	assert_int_equal(machine_run_state(source->machine),
			 is_given ? RUN_STATE_HANDED_OVER : RUN_STATE_PAUSED);
	side_wait_end(destination);
	if (is_over || !is_given) /* or GO was lost */
		assert_int_equal(machine_run_state(destination->machine),
				 is_given ? RUN_STATE_PAUSED
					  : RUN_STATE_INMIGRATE);
	*(is_given ? &given : &kept) += 1;
}

/* One byte of what the destination says is flipped on its way.  False: it did
 * not say that much, which depends on the rounds that this move took. */
static bool flip_reply(size_t at)
{
	struct text stream = { .bytes = NULL }, replies = stream;
	struct text *texts[2] = { &stream, &replies };
	const struct record_flip flip = { at, (uint8_t)(1 + draw(255)) };
	struct side source, destination;
	bool is_over, is_flipped;

	is_over = record_move(&source, &destination, texts, &flip);
	is_flipped = at < replies.size;
	if (is_flipped)
		judge_flipped_reply(&source, &destination, at, is_over);
	else
		assert_int_equal(side_wait_end(&source), MIG_COMPLETED);
	side_fini(&source);
	side_fini(&destination);
	text_fini(&stream);
	text_fini(&replies);
	return is_flipped;
}

/* False: no move says as much, as far as can be told. */
static bool flip_reply_of_some_move(size_t at)
{
	for (int tries = 0; tries < FLIP_TRIES; tries++) {
		if (flip_reply(at))
			return true;
	}
	return false;
}

/* ---- urgency ---- */

void __real_machine_hurry(struct machine *machine, bool is_urgent);
void __wrap_machine_hurry(struct machine *machine, bool is_urgent);

/* Of the one destination at work; atomic because the moves that record the
 * streams have a source beside it. */
static struct {
	bool is_urgent;
	unsigned int times, again;
} hurry;

void __wrap_machine_hurry(struct machine *machine, bool is_urgent)
{
	bool was_urgent = __atomic_exchange_n(&hurry.is_urgent, is_urgent,
					      __ATOMIC_RELAXED);

	__atomic_add_fetch(&hurry.times, is_urgent, __ATOMIC_RELAXED);
	__atomic_add_fetch(&hurry.again, is_urgent && was_urgent,
			   __ATOMIC_RELAXED);
	__real_machine_hurry(machine, is_urgent);
}

/* The last record of pages that were sent while the guest ran; false: the source
 * stopped it at once, as a late last sync can make it. */
static bool find_live_ram(struct span *ret_ram)
{
	struct span span = { .end = sizeof(struct fmt_header) };

	*ret_ram = span;
	while (span_at(&live, span.end, &span) && span.type != FMT_STOPPED) {
		if (span.type == FMT_RAM)
			*ret_ram = span;
	}
	return ret_ram->type == FMT_RAM;
}

/* The live stream up to its last page, then @rounds rounds that say that the
 * pause is near, each followed by those pages again, for @size bytes at least. */
static void make_near_rounds(struct text *text, uint32_t rounds, size_t size)
{
	struct span ram;

	assert_true(find_live_ram(&ram));
	text_add(text, live.bytes, ram.end);
	for (uint32_t i = 1; i <= rounds; i++) {
		const struct fmt_round near = {
			.number = le32_of(i),
			.flags = le32_of(FMT_ROUND_NEAR),
		};
		struct bytes_writer w = { .data = NULL };

		record_put(&w, FMT_ROUND, &near, sizeof(near));
		text_add(text, w.data, w.size);
		bytes_writer_fini(&w);
		for (size_t sent = 0; sent <= size; sent += ram.end - ram.at)
			add_span(text, &live, &ram);
	}
}

/* ---- tests ---- */

static void
test_source_that_always_says_near_is_hurried_for_a_round_at_a_time(void **state)
{
	struct text text = { .bytes = NULL };

	(void)state;
	make_near_rounds(&text, 200, 0);
	memset(&hurry, 0, sizeof(hurry));
	assert_survived(&text, false, false, "rounds that are near");
	assert_int_equal(hurry.again, 0);
	assert_in_range(hurry.times, 1, 64);
	assert_false(hurry.is_urgent);
	text_fini(&text);
}

/* How often it was, when that many rounds were near. */
static unsigned int hurries_in(uint32_t rounds, size_t size)
{
	struct text text = { .bytes = NULL };

	make_near_rounds(&text, rounds, size);
	memset(&hurry, 0, sizeof(hurry));
	assert_survived(&text, false, false, "rounds that are near");
	text_fini(&text);
	return hurry.times;
}

/* Once as it rehearses, too. */
static void test_small_round_is_hurried_and_a_long_one_is_not(void **state)
{
	(void)state;
	assert_int_equal(hurries_in(4, 0), 1 + 1);
	assert_int_equal(hurries_in(4, 5 * (MIG_SMALL_PASS / 4)), 1 + 4);
}

/* The live stream of a source to which no round looked like the last. */
static void make_sudden_switch(struct text *text)
{
	struct span span = { .end = sizeof(struct fmt_header) };

	text_add(text, live.bytes, span.end);
	while (span_at(&live, span.end, &span)) {
		struct bytes_writer w = { .data = NULL };
		struct fmt_round round;

		if (span.type != FMT_ROUND) {
			add_span(text, &live, &span);
			continue;
		}
		memcpy(&round, live.bytes + span.at + sizeof(struct fmt_record),
		       sizeof(round));
		round.flags = le32_of(0);
		record_put(&w, FMT_ROUND, &round, sizeof(round));
		text_add(text, w.data, w.size);
		bytes_writer_fini(&w);
	}
}

static void test_switch_is_urgent_whatever_the_rounds_said(void **state)
{
	struct text text = { .bytes = NULL };

	(void)state;
	make_sudden_switch(&text);
	memset(&hurry, 0, sizeof(hurry));
	assert_true(play(&text, false, "a sudden switch").is_loaded);
	/* As it rehearsed, and then. */
	assert_int_equal(hurry.times, 2);
	text_fini(&text);
}

static void repeat(void (*damage)(void), unsigned int part_of_20)
{
	unsigned int cases =
		number_of("HOSTILE_CASES", CASES) * part_of_20 / 20;

	loaded = refused = 0;
	while (cases--)
		damage();
	print_message("%u refused, %u loaded\n", refused, loaded);
	assert_good_streams_load();
}

static void test_cut_at_every_record_names_the_one_before(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		const struct text *whole = i ? &saved : &live;
		struct span span = { .end = sizeof(struct fmt_header) };

		for (size_t at = 0; at <= span.end; at += 4)
			cut(whole, i, at);
		while (span_at(whole, span.end, &span)) {
			if (span.end < whole->size)
				cut(whole, i, span.end);
			cut(whole, i, span.at + 1 + draw(15));
		}
	}
	assert_good_streams_load();
}

static void cut_anywhere(void)
{
	bool is_file;
	const struct text *whole = choose(&is_file);

	cut(whole, is_file, draw((uint32_t)whole->size));
}

static void test_cut_anywhere_is_explained(void **state)
{
	(void)state;
	repeat(cut_anywhere, 1);
}

static void test_flipped_bytes_are_explained(void **state)
{
	(void)state;
	repeat(flip, 20);
}

static void
test_flip_behind_a_right_checksum_is_explained_or_legal(void **state)
{
	(void)state;
	repeat(flip_and_repair, 7);
}

static void test_records_out_of_order_are_explained_or_harmless(void **state)
{
	(void)state;
	repeat(rearrange, 3);
}

static void test_flipped_reply_leaves_one_guest_and_says_why(void **state)
{
	(void)state;
	kept = given = 0;
	for (size_t at = 0; flip_reply_of_some_move(at); at++)
		;
	print_message("%u kept, %u given away\n", kept, given);
	/* All of READY and of RUNNING at least: what comes before and after GO. */
	assert_true(kept >= REPLY_SIZE && given >= REPLY_SIZE);
	assert_good_streams_load();
}

static unsigned int count_entries(const char *path)
{
	DIR *folder = opendir(path);
	unsigned int count = 0;

	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static unsigned int open_fds, threads;

static int setup(void **state)
{
	struct text replies = { .bytes = NULL };
	struct span ram;

	(void)state;
	seed = number_of("HOSTILE_SEED", 1);
	record_saved(&saved);
	for (int tries = 0; tries < RECORDINGS_MAX; tries++) {
		text_fini(&live);
		text_fini(&replies);
		record_live(&live, &replies);
		if (find_live_ram(&ram))
			break;
	}
	text_fini(&replies);
	print_message("%zu and %zu bytes\n", saved.size, live.size);
	assert_good_streams_load();
	open_fds = count_entries("/proc/self/fd");
	threads = count_entries("/proc/self/task");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(count_entries("/proc/self/fd"), open_fds);
	assert_int_equal(count_entries("/proc/self/task"), threads);
	text_fini(&saved);
	text_fini(&live);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cut_at_every_record_names_the_one_before),
		cmocka_unit_test(test_cut_anywhere_is_explained),
		cmocka_unit_test(test_flipped_bytes_are_explained),
		cmocka_unit_test(
			test_flip_behind_a_right_checksum_is_explained_or_legal),
		cmocka_unit_test(
			test_records_out_of_order_are_explained_or_harmless),
		cmocka_unit_test(
			test_flipped_reply_leaves_one_guest_and_says_why),
		cmocka_unit_test(
			test_source_that_always_says_near_is_hurried_for_a_round_at_a_time),
		cmocka_unit_test(
			test_small_round_is_hurried_and_a_long_one_is_not),
		cmocka_unit_test(
			test_switch_is_urgent_whatever_the_rounds_said),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
