// SPDX-License-Identifier: Apache-2.0
/*
 * `godwit stream FILE`: a saved stream in words.
 *
 * Reads like a destination does, with the same bounds and checksums, but knows
 * no machine: device state is explained by the SCHEMA records of the stream
 * itself.  RAM is counted and hashed, not kept.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/list.h"
#include "mem/ram.h"
#include "migrate/migrate.h"
#include "migrate/ram_recv.h"
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
	char name[STATE_NAME_MAX + 1];
};

struct explainer {
	FILE *out;
	struct channel channel;
	struct channel_listener listener;
	struct record record;
	struct list schemas;
	unsigned int schema_count;
	struct ram_blocks blocks;
	uint8_t *pages; /* room for one RAM record's */
	uint64_t count, ram_pages, zero_pages, ram_records;
	bool has_verify; /* STOPPED announced it */
	bool is_ended;
};

static int note_schema(void *opaque, const char *name, uint16_t version,
		       uint32_t field_count)
{
	struct schema *schema = opaque;

	(void)version;
	(void)field_count;
	snprintf(schema->name, sizeof(schema->name), "%s", name);
	return 0;
}

static int on_schema(struct explainer *x, struct err *err)
{
	static const struct state_visitor visitor = { .entry = note_schema };
	struct bytes_reader r = bytes_read(x->record.body, x->record.length);
	struct schema *schema = NULL;
	int ret;

	if (x->schema_count++ < SCHEMAS_MAX)
		schema = calloc(1, sizeof(*schema));
	else
		return err_set(err, -EBADMSG, "more than %u schemas",
			       SCHEMAS_MAX);
	if (!schema)
		return err_set(err, -ENOMEM, "no memory for a schema");
	list_add_tail(&x->schemas, &schema->link);
	schema->body = malloc(x->record.length + 1);
	if (!schema->body)
		return err_set(err, -ENOMEM, "no memory for a schema");
	memcpy(schema->body, x->record.body, x->record.length);
	schema->size = x->record.length;
	ret = state_describe_read(&r, &visitor, schema, err);
	if (ret)
		return ret;
	fprintf(x->out, ": %s\n", schema->name);
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
	char name[sizeof(((struct fmt_state *)0)->name) + 1] = "";
	struct fmt_state head;
	struct schema *schema;

	if (x->record.length < sizeof(head))
		return err_set(err, -EBADMSG, "too short");
	memcpy(&head, x->record.body, sizeof(head));
	memcpy(name, head.name, sizeof(head.name));
	if (le32_get(head.size) != x->record.length - sizeof(head))
		return err_set(err, -EBADMSG, "its size does not fit");
	list_for_each (schema, &x->schemas, link) {
		struct bytes_reader r = bytes_read(schema->body, schema->size);

		if (strcmp(schema->name, name) != 0)
			continue;
		fprintf(x->out, ": %s, version %u, %u bytes\n", schema->name,
			le16_get(head.version), le32_get(head.size));
		return state_explain(&r, le16_get(head.version),
				     x->record.body + sizeof(head),
				     le32_get(head.size), &visitor, x, err);
	}
	return err_set(err, -EBADMSG, "state that no SCHEMA describes");
}

static int on_machine(struct explainer *x, struct err *err)
{
	struct fmt_machine machine;
	uint32_t blocks;

	if (x->record.length < sizeof(machine))
		return err_set(err, -EBADMSG, "too short");
	memcpy(&machine, x->record.body, sizeof(machine));
	blocks = le32_get(machine.blocks);
	if (blocks > FMT_BLOCKS_MAX)
		return err_set(err, -EBADMSG, "%u RAM blocks, at most %u",
			       blocks, FMT_BLOCKS_MAX);
	if (record_check_size(
		    &x->record,
		    sizeof(machine) + blocks * sizeof(struct fmt_block), err))
		return -EBADMSG;
	x->blocks.count = blocks;
	fprintf(x->out, ": %u vCPUs\n", le32_get(machine.cpus));
	for (uint32_t i = 0; i < blocks; i++) {
		struct fmt_block block;

		memcpy(&block,
		       x->record.body + sizeof(machine) + i * sizeof(block),
		       sizeof(block));
		x->blocks.pages[i] = le64_get(block.size) >> RAM_PAGE_SHIFT;
		fprintf(x->out,
			"      RAM block %u: %" PRIu64 " bytes in pages of "
			"%" PRIu64 "\n",
			i, le64_get(block.size), le64_get(block.page_size));
	}
	return 0;
}

/* Pages are read and hashed, not kept. */
static int on_ram(struct explainer *x, struct err *err)
{
	struct ram_runs runs;
	size_t size;
	int ret = ram_runs_parse(&x->record, &x->blocks, true, &runs, err);

	if (ret)
		return ret;
	size = runs.pages << RAM_PAGE_SHIFT;
	ret = channel_recv_bytes(&x->channel, x->pages, size, NULL);
	if (ret)
		return err_set(err, -EBADMSG, "record RAM: cut off");
	XXH3_64bits_update(x->record.hasher, x->pages, size);
	x->ram_pages += runs.pages;
	x->ram_records++;
	return record_end_ram(&x->channel, &x->record, err);
}

static int on_ram_zero(struct explainer *x, struct err *err)
{
	struct ram_runs runs;
	int ret = ram_runs_parse(&x->record, &x->blocks, true, &runs, err);

	if (ret)
		return ret;
	x->zero_pages += runs.pages;
	x->ram_records++;
	return 0;
}

static int on_end(struct explainer *x, struct err *err)
{
	struct fmt_end end;

	if (record_check_size(&x->record, sizeof(end), err))
		return -EBADMSG;
	memcpy(&end, x->record.body, sizeof(end));
	fprintf(x->out, ": %" PRIu64 " pages, %" PRIu64 " zero pages\n",
		le64_get(end.pages), le64_get(end.zero_pages));
	if (le64_get(end.pages) != x->ram_pages ||
	    le64_get(end.zero_pages) != x->zero_pages)
		return err_set(err, -EBADMSG,
			       "%" PRIu64 " and %" PRIu64 " are in the stream",
			       x->ram_pages, x->zero_pages);
	x->is_ended = !x->has_verify;
	return 0;
}

static int on_stopped(struct explainer *x, struct err *err)
{
	struct fmt_stopped stopped;

	if (record_check_size(&x->record, sizeof(stopped), err))
		return -EBADMSG;
	memcpy(&stopped, x->record.body, sizeof(stopped));
	x->has_verify = le32_get(stopped.flags) & FMT_STOPPED_VERIFY;
	fprintf(x->out, ": the guest is to be %s\n",
		le32_get(stopped.want) == FMT_WANT_RUN ? "running" : "paused");
	return 0;
}

static int on_verify(struct explainer *x, struct err *err)
{
	struct fmt_verify verify;

	if (record_check_size(&x->record, sizeof(verify), err))
		return -EBADMSG;
	memcpy(&verify, x->record.body, sizeof(verify));
	fprintf(x->out, ": %" PRIu64 " pages, hash %016" PRIx64 "\n",
		le64_get(verify.pages), le64_get(verify.hash));
	x->is_ended = true;
	return 0;
}

/* RAM records are shown as one line a run of them. */
static void flush_ram(struct explainer *x)
{
	if (x->ram_records)
		fprintf(x->out,
			"%6s RAM: %" PRIu64 " records; %" PRIu64
			" pages and %" PRIu64 " zero pages so far\n",
			"...", x->ram_records, x->ram_pages, x->zero_pages);
	x->ram_records = 0;
}

static int explain_record(struct explainer *x, struct err *err)
{
	x->count++;
	if (x->record.type == FMT_RAM)
		return on_ram(x, err);
	if (x->record.type == FMT_RAM_ZERO)
		return on_ram_zero(x, err);
	flush_ram(x);
	fprintf(x->out, "%6" PRIu64 " %s", x->count,
		record_name(x->record.type));
	switch (x->record.type) {
	case FMT_MACHINE:
		return on_machine(x, err);
	case FMT_SCHEMA:
		return on_schema(x, err);
	case FMT_SETUP_STATE:
	case FMT_STATE:
		return on_state(x, err);
	case FMT_STOPPED:
		return on_stopped(x, err);
	case FMT_END:
		return on_end(x, err);
	case FMT_VERIFY:
		return on_verify(x, err);
	case FMT_SETUP_END:
	case FMT_ROUND:
	case FMT_SWITCH:
		fprintf(x->out, "\n");
		return 0;
	default:
		fprintf(x->out, ": %u bytes\n", x->record.length);
		return x->record.type & FMT_OPTIONAL
			       ? 0
			       : err_set(err, -EBADMSG,
					 "record 0x%x is none of a saved stream's",
					 x->record.type);
	}
}

static int explain_all(struct explainer *x, struct err *err)
{
	struct fmt_header header;
	uint8_t beyond;
	int ret = stream_read_header(&x->channel, &header, err);

	if (ret)
		return ret;
	fprintf(x->out, "header: version %u.%u, flags 0x%x\n",
		le16_get(header.major), le16_get(header.minor),
		le32_get(header.flags));
	while (!x->is_ended) {
		ret = record_recv(&x->channel, &x->record, err);
		if (!ret)
			ret = explain_record(x, err);
		if (ret) {
			fprintf(x->out, "\n");
			err_prefix(err, "record %" PRIu64, x->count);
			return ret;
		}
	}
	flush_ram(x);
	ret = channel_recv_bytes(&x->channel, &beyond, 1, NULL);
	return ret == -ENODATA
		       ? 0
		       : err_set(err, -EBADMSG, "data after the last record");
}

int mig_explain(const char *path, FILE *out, struct err *err)
{
	struct explainer x = { .out = out, .channel = CHANNEL_INIT };
	struct schema *schema, *next;
	char uri[4200];
	int ret;

	list_init(&x.schemas);
	x.listener.fd = -1;
	snprintf(uri, sizeof(uri), "file:%s", path);
	ret = record_init(&x.record, err);
	x.pages = malloc((size_t)FMT_RAM_PAGES << 12);
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
