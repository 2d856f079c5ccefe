// SPDX-License-Identifier: Apache-2.0
/*
 * One table says which record may come when, and who checks its body.  All of it
 * is hostile: each number is checked before anybody sees it.
 *
 *	MACHINE > SETUP > RAM > SWITCH > STOPPED > WHOLE > OVER
 *	                                       \ VERIFY /
 */
#include "migrate/records.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "mem/ram.h"
#include "migrate/stream.h"

#define HUGE_PAGE_SIZE (2ull << 20)

/* What may come next; a bit each, for the table. */
enum step {
	STEP_MACHINE = 1,      /* nothing but MACHINE */
	STEP_SETUP = 1 << 1,   /* until SETUP_END */
	STEP_RAM = 1 << 2,     /* until SWITCH */
	STEP_SWITCH = 1 << 3,  /* nothing but STOPPED */
	STEP_STOPPED = 1 << 4, /* until END */
	STEP_VERIFY = 1 << 5,  /* nothing but VERIFY */
	STEP_WHOLE = 1 << 6,   /* a file ends here, else GO */
	STEP_OVER = 1 << 7,
};

/* A NUL-padded name of printable characters. */
static int take_name(const char *field, size_t field_size, char *to,
		     struct err *err)
{
	size_t size = strnlen(field, field_size);

	for (size_t i = 0; i < field_size; i++) {
		bool is_good = i < size ? field[i] > ' ' && field[i] < 127
					: field[i] == '\0';

		if (!is_good)
			return err_set(err, -EBADMSG, "malformed name");
	}
	memcpy(to, field, size);
	to[size] = '\0';
	return 0;
}

static int refuse_reserved(struct err *err)
{
	return err_set(err, -EBADMSG, "reserved bits are set");
}

/* ---- bodies ---- */

static int take_nothing(struct records *records, const struct record *record,
			union said *said, struct err *err)
{
	(void)records;
	(void)said;
	return record_check_size(record, 0, err);
}

static int take_block(const struct fmt_block *block, struct said_block *said,
		      struct err *err)
{
	int ret = take_name(block->name, sizeof(block->name), said->name, err);

	if (ret)
		return ret;
	said->size = le64_get(block->size);
	said->page_size = le64_get(block->page_size);
	if (said->page_size != RAM_PAGE_SIZE &&
	    said->page_size != HUGE_PAGE_SIZE)
		return err_set(err, -EBADMSG,
			       "backing page size is neither 4K nor 2M");
	if (!said->size || said->size % RAM_PAGE_SIZE)
		return err_set(err, -EBADMSG,
			       "%" PRIu64 " bytes of RAM '%s', must be pages",
			       said->size, said->name);
	return 0;
}

static int take_machine(struct records *records, const struct record *record,
			union said *said, struct err *err)
{
	struct said_machine *machine = &said->machine;
	struct ram_blocks *blocks = &records->blocks;
	struct fmt_machine head;
	int ret;

	if (record->length < sizeof(head))
		return err_set(err, -EBADMSG, "too short");
	memcpy(&head, record->body, sizeof(head));
	machine->cpus = le32_get(head.cpus);
	machine->block_count = le32_get(head.blocks);
	if (!machine->cpus)
		return err_set(err, -EBADMSG, "0 vCPUs, at least 1");
	if (!machine->block_count || machine->block_count > FMT_BLOCKS_MAX)
		return err_set(err, -EBADMSG, "%u RAM blocks, must be 1 to %u",
			       machine->block_count, FMT_BLOCKS_MAX);
	if (le64_get(head.reserved))
		return refuse_reserved(err);
	ret = take_name(head.name, sizeof(head.name), machine->name, err);
	if (!ret)
		ret = record_check_size(
			record,
			sizeof(head) +
				machine->block_count * sizeof(struct fmt_block),
			err);
	for (uint32_t i = 0; !ret && i < machine->block_count; i++) {
		struct fmt_block block;

		memcpy(&block, record->body + sizeof(head) + i * sizeof(block),
		       sizeof(block));
		ret = take_block(&block, &machine->blocks[i], err);
		blocks->pages[i] = machine->blocks[i].size >> RAM_PAGE_SHIFT;
	}
	blocks->count = machine->block_count;
	return ret;
}

static int note_schema(void *opaque, const char *name, uint16_t version,
		       uint32_t field_count)
{
	struct said_schema *schema = opaque;

	(void)field_count;
	snprintf(schema->name, sizeof(schema->name), "%s", name);
	schema->version = version;
	return 0;
}

static int take_schema(struct records *records, const struct record *record,
		       union said *said, struct err *err)
{
	static const struct state_visitor visitor = { .entry = note_schema };
	struct bytes_reader r = bytes_read(record->body, record->length);
	int ret = state_describe_read(&r, &visitor, &said->schema, err);

	(void)records;
	if (!ret && bytes_left(&r))
		ret = err_set(err, -EBADMSG, "%s: %zu bytes left over",
			      said->schema.name, bytes_left(&r));
	return ret;
}

static int take_state(struct records *records, const struct record *record,
		      union said *said, struct err *err)
{
	struct said_state *state = &said->state;
	struct fmt_state head;
	int ret;

	(void)records;
	if (record->length < sizeof(head))
		return err_set(err, -EBADMSG, "too short");
	memcpy(&head, record->body, sizeof(head));
	ret = take_name(head.name, sizeof(head.name), state->name, err);
	if (ret)
		return ret;
	state->version = le16_get(head.version);
	state->size = le32_get(head.size);
	state->data = record->body + sizeof(head);
	if (le16_get(head.reserved))
		return refuse_reserved(err);
	if (state->size != record->length - sizeof(head))
		return err_set(err, -EBADMSG,
			       "%u bytes of state in a body with %zu",
			       state->size, record->length - sizeof(head));
	return 0;
}

static int take_runs(struct records *records, const struct record *record,
		     union said *said, struct err *err)
{
	int ret = ram_runs_parse(record, &records->blocks, records->is_file,
				 &said->runs, err);

	if (ret)
		return ret;
	*(record->type == FMT_RAM ? &records->pages : &records->zero_pages) +=
		said->runs.pages;
	return 0;
}

static int take_round(struct records *records, const struct record *record,
		      union said *said, struct err *err)
{
	struct fmt_round round;
	int ret = record_take(record, &round, sizeof(round), err);

	(void)records;
	if (ret)
		return ret;
	if (le32_get(round.flags) & ~FMT_ROUND_NEAR)
		return refuse_reserved(err);
	said->round = (struct said_round){
		.number = le32_get(round.number),
		.is_near = le32_get(round.flags) & FMT_ROUND_NEAR,
	};
	return 0;
}

static int take_stopped(struct records *records, const struct record *record,
			union said *said, struct err *err)
{
	struct fmt_stopped stopped;
	uint32_t want;
	int ret = record_take(record, &stopped, sizeof(stopped), err);

	if (ret)
		return ret;
	want = le32_get(stopped.want);
	if (want != FMT_WANT_RUN && want != FMT_WANT_PAUSE)
		return err_set(err, -EBADMSG, "run state %u, must be %u or %u",
			       want, FMT_WANT_RUN, FMT_WANT_PAUSE);
	if (le32_get(stopped.flags) & ~FMT_STOPPED_VERIFY)
		return refuse_reserved(err);
	said->stopped.is_running_wanted = want == FMT_WANT_RUN;
	records->has_verify = le32_get(stopped.flags) & FMT_STOPPED_VERIFY;
	return 0;
}

static int take_end(struct records *records, const struct record *record,
		    union said *said, struct err *err)
{
	struct fmt_end end;
	int ret = record_take(record, &end, sizeof(end), err);

	if (ret)
		return ret;
	said->end = (struct said_end){ le64_get(end.pages),
				       le64_get(end.zero_pages) };
	if (said->end.pages != records->pages ||
	    said->end.zero_pages != records->zero_pages)
		return err_set(err, -EBADMSG,
			       "%" PRIu64 " pages and %" PRIu64
			       " zero pages were sent, %" PRIu64 " and %" PRIu64
			       " arrived",
			       said->end.pages, said->end.zero_pages,
			       records->pages, records->zero_pages);
	if (records->has_verify)
		records->step = STEP_VERIFY;
	return 0;
}

static int take_verify(struct records *records, const struct record *record,
		       union said *said, struct err *err)
{
	struct fmt_verify verify;
	int ret = record_take(record, &verify, sizeof(verify), err);

	(void)records;
	if (ret)
		return ret;
	said->verify = (struct said_verify){ le64_get(verify.hash),
					     le64_get(verify.pages) };
	return 0;
}

static int take_cancel(struct records *records, const struct record *record,
		       union said *said, struct err *err)
{
	if (records->is_file)
		return err_set(err, -EBADMSG, "not in a saved stream");
	record_reason(record, said->cancel, sizeof(said->cancel));
	return 0;
}

/* ---- order ---- */

static const struct {
	uint32_t type;
	unsigned int steps; /* in which it may come */
	enum step next;     /* after it; 0: the same */
	int (*take)(struct records *records, const struct record *record,
		    union said *said, struct err *err);
} rules[] = {
	{ FMT_MACHINE, STEP_MACHINE, STEP_SETUP, take_machine },
	{ FMT_SCHEMA, STEP_SETUP, 0, take_schema },
	{ FMT_SETUP_STATE, STEP_SETUP, 0, take_state },
	{ FMT_EARLY_STATE, STEP_SETUP, 0, take_state },
	{ FMT_SETUP_END, STEP_SETUP, STEP_RAM, take_nothing },
	{ FMT_SETUP_AGAIN, STEP_RAM, 0, take_state },
	{ FMT_RAM, STEP_RAM | STEP_STOPPED, 0, take_runs },
	{ FMT_RAM_ZERO, STEP_RAM | STEP_STOPPED, 0, take_runs },
	{ FMT_ROUND, STEP_RAM, 0, take_round },
	{ FMT_SWITCH, STEP_RAM, STEP_SWITCH, take_nothing },
	{ FMT_STOPPED, STEP_SWITCH, STEP_STOPPED, take_stopped },
	{ FMT_STATE, STEP_STOPPED, 0, take_state },
	{ FMT_END, STEP_STOPPED, STEP_WHOLE, take_end }, /* or STEP_VERIFY */
	{ FMT_VERIFY, STEP_VERIFY, STEP_WHOLE, take_verify },
	{ FMT_GO, STEP_WHOLE, STEP_OVER, take_nothing },
	{ FMT_CANCEL, STEP_OVER - 1, STEP_OVER, take_cancel },
};

void records_start(struct records *records, bool is_file)
{
	*records = (struct records){ .is_file = is_file, .step = STEP_MACHINE };
}

int records_take(struct records *records, const struct record *record,
		 union said *said, struct err *err)
{
	for (size_t i = 0; i < array_size(rules); i++) {
		if (rules[i].type != record->type)
			continue;
		if (!(rules[i].steps & records->step))
			return err_set(err, -EBADMSG, "out of turn");
		if (rules[i].next)
			records->step = rules[i].next;
		return rules[i].take(records, record, said, err);
	}
	if (record->type & FMT_OPTIONAL)
		return 0;
	return err_set(err, -EBADMSG, "0x%x, which is none of a source's",
		       record->type);
}

bool records_is_over(const struct records *records)
{
	return records->step == (records->is_file ? STEP_WHOLE : STEP_OVER);
}
