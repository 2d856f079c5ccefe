// SPDX-License-Identifier: Apache-2.0
/*
 * `godwit stream FILE`: a saved stream in words.
 *
 * Reads like a destination does, with the same order, bounds and checksums, but
 * knows no machine: device state is explained by the SCHEMA records of the stream
 * itself.  RAM is counted and hashed for its record, not kept, so that VERIFY's
 * hash is told and not checked.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/list.h"
#include "mem/ram.h"
#include "migrate/migrate.h"
#include "migrate/records.h"
#include "migrate/stream.h"
#include "state/state.h"

/* A machine of 1,024 vCPUs and its devices. */
#define SCHEMAS_MAX 1100u

/* Fields of more bytes than this are summed up. */
#define SHOWN_MAX 8u

struct schema {
	struct list link;
	size_t size;
	uint8_t *body; /* owned */
	char name[STATE_NAME_MAX];
	bool has_state; /* it came */
};

struct explainer {
	FILE *out;
	struct channel channel;
	struct channel_listener listener;
	struct record record;
	struct records records;
	union said said; /* by the record */
	struct list schemas;
	unsigned int schema_count;
	uint8_t *pages;       /* room for one RAM record's */
	uint64_t ram_records; /* not shown yet */
};

static struct schema *find_schema(struct explainer *x, const char *name)
{
	struct schema *schema;

	list_for_each (schema, &x->schemas, link) {
		if (strcmp(schema->name, name) == 0)
			return schema;
	}
	return NULL;
}

static int on_schema(struct explainer *x, struct err *err)
{
	const char *name = x->said.schema.name;
	struct schema *schema;

	fprintf(x->out, ": %s\n", name);
	if (find_schema(x, name))
		return err_set(err, -EBADMSG, "'%s' is described twice", name);
	if (x->schema_count++ >= SCHEMAS_MAX)
		return err_set(err, -EBADMSG, "more than %u schemas",
			       SCHEMAS_MAX);
	schema = calloc(1, sizeof(*schema));
	if (!schema)
		return err_set(err, -ENOMEM, "no memory for a schema");
	list_add_tail(&x->schemas, &schema->link);
	snprintf(schema->name, sizeof(schema->name), "%s", name);
	schema->size = x->record.length;
	schema->body = malloc(schema->size);
	if (!schema->body)
		return err_set(err, -ENOMEM, "no memory for a schema");
	memcpy(schema->body, x->record.body, schema->size);
	return 0;
}

static int print_field(void *opaque, const struct state_field_text *field,
		       const void *values, uint32_t used)
{
	struct explainer *x = opaque;

	fprintf(x->out, "      %s", field->name);
	if (field->is_varying || field->count > 1)
		fprintf(x->out, "[%u]", used);
	fprintf(x->out, " =");
	if (used > SHOWN_MAX) {
		fprintf(x->out, " %zu bytes, hash %016" PRIx64 "\n",
			used * state_kind_size(field->kind),
			(uint64_t)XXH3_64bits(
				values, used * state_kind_size(field->kind)));
		return 0;
	}
	for (uint32_t i = 0; i < used; i++)
		fprintf(x->out, " 0x%" PRIx64,
			state_value(values, field->kind, i));
	fprintf(x->out, "\n");
	return 0;
}

static int on_state(struct explainer *x, struct err *err)
{
	static const struct state_visitor visitor = { .field = print_field };
	const struct said_state *state = &x->said.state;
	struct schema *schema = find_schema(x, state->name);
	struct bytes_reader r;

	fprintf(x->out, ": %s, version %u, %u bytes\n", state->name,
		state->version, state->size);
	if (!schema)
		return err_set(err, -EBADMSG, "no SCHEMA describes '%s'",
			       state->name);
	if (x->record.type == FMT_SETUP_AGAIN && !schema->has_state)
		return err_set(err, -EBADMSG,
			       "'%s' has had no state that could change",
			       state->name);
	if (x->record.type != FMT_SETUP_AGAIN && schema->has_state)
		return err_set(err, -EBADMSG, "the state of '%s' came twice",
			       state->name);
	schema->has_state = true;
	r = bytes_read(schema->body, schema->size);
	return state_explain(&r, state->version, state->data, state->size,
			     &visitor, x, err);
}

static void print_machine(struct explainer *x)
{
	const struct said_machine *machine = &x->said.machine;

	fprintf(x->out, ": %u vCPUs\n", machine->cpus);
	for (uint32_t i = 0; i < machine->block_count; i++)
		fprintf(x->out,
			"      RAM block %u: %" PRIu64 " bytes in pages of "
			"%" PRIu64 "\n",
			i, machine->blocks[i].size,
			machine->blocks[i].page_size);
}

/* Pages are read and hashed, not kept. */
static int on_ram(struct explainer *x, struct err *err)
{
	size_t size = x->said.runs.pages << RAM_PAGE_SHIFT;

	if (channel_recv_bytes(&x->channel, x->pages, size, NULL))
		return err_set(err, -EBADMSG, "cut off");
	XXH3_64bits_update(x->record.hasher, x->pages, size);
	return record_end_ram(&x->channel, &x->record, err);
}

static int on_end(struct explainer *x, struct err *err)
{
	struct schema *schema;

	fprintf(x->out, ": %" PRIu64 " pages, %" PRIu64 " zero pages\n",
		x->said.end.pages, x->said.end.zero_pages);
	list_for_each (schema, &x->schemas, link) {
		if (!schema->has_state)
			return err_set(err, -EBADMSG,
				       "the state of '%s' is missing",
				       schema->name);
	}
	return 0;
}

/* RAM records are shown as one line a run of them. */
static void flush_ram(struct explainer *x)
{
	if (x->ram_records)
		fprintf(x->out,
			"%6s RAM: %" PRIu64 " records; %" PRIu64
			" pages and %" PRIu64 " zero pages so far\n",
			"...", x->ram_records, x->records.pages,
			x->records.zero_pages);
	x->ram_records = 0;
}

static int explain_record(struct explainer *x, struct err *err)
{
	const union said *said = &x->said;

	if (x->record.type == FMT_RAM || x->record.type == FMT_RAM_ZERO) {
		x->ram_records++;
		return x->record.type == FMT_RAM ? on_ram(x, err) : 0;
	}
	flush_ram(x);
	fprintf(x->out, "%6" PRIu64 " %s", x->record.number,
		record_name(x->record.type));
	switch (x->record.type) {
	case FMT_MACHINE:
		print_machine(x);
		return 0;
	case FMT_SCHEMA:
		return on_schema(x, err);
	case FMT_SETUP_STATE:
	case FMT_EARLY_STATE:
	case FMT_SETUP_AGAIN:
	case FMT_STATE:
		return on_state(x, err);
	case FMT_STOPPED:
		fprintf(x->out, ": the guest is to be %s\n",
			said->stopped.is_running_wanted ? "running" : "paused");
		return 0;
	case FMT_END:
		return on_end(x, err);
	case FMT_VERIFY:
		fprintf(x->out, ": %" PRIu64 " pages, hash %016" PRIx64 "\n",
			said->verify.pages, said->verify.hash);
		return 0;
	case FMT_SETUP_END:
	case FMT_ROUND:
	case FMT_SWITCH:
		fprintf(x->out, "\n");
		return 0;
	default: /* optional */
		fprintf(x->out, ": %u bytes\n", x->record.length);
		return 0;
	}
}

static int explain_next(struct explainer *x, struct err *err)
{
	int ret = record_recv(&x->channel, &x->record, err);

	if (ret)
		return ret;
	ret = records_take(&x->records, &x->record, &x->said, err);
	if (!ret)
		ret = explain_record(x, err);
	if (!ret && records_is_over(&x->records))
		ret = stream_check_end(&x->channel, err);
	if (ret)
		record_blame(&x->record, err);
	return ret;
}

static int explain_all(struct explainer *x, struct err *err)
{
	struct fmt_header header;
	int ret = stream_read_header(&x->channel, &header, err);

	if (ret)
		return ret;
	fprintf(x->out, "header: version %u.%u, flags 0x%x\n",
		le16_get(header.major), le16_get(header.minor),
		le32_get(header.flags));
	records_start(&x->records, true);
	while (!ret && !records_is_over(&x->records))
		ret = explain_next(x, err);
	flush_ram(x);
	return ret;
}

int mig_explain(const char *path, FILE *out, struct err *err)
{
	struct explainer x = { .out = out, .channel = CHANNEL_INIT };
	struct schema *schema, *next;
	char uri[4200];
	int ret;

	list_init(&x.schemas);
	x.listener = (struct channel_listener)CHANNEL_LISTENER_INIT;
	snprintf(uri, sizeof(uri), "file:%s", path);
	ret = record_init(&x.record, err);
	x.pages = malloc((size_t)FMT_RAM_PAGES << RAM_PAGE_SHIFT);
	if (!ret && !x.pages)
		ret = err_set(err, -ENOMEM, "no memory for RAM records");
	if (!ret)
		ret = channel_listen(&x.listener, uri, NULL, NULL, err);
	if (!ret)
		ret = channel_accept(&x.channel, &x.listener, -1, err);
	if (!ret)
		ret = explain_all(&x, err);
	channel_listener_close(&x.listener);
	channel_close(&x.channel);
	list_for_each_safe (schema, next, &x.schemas, link) {
		free(schema->body);
		free(schema);
	}
	record_fini(&x.record);
	free(x.pages);
	return ret;
}
