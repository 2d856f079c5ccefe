// SPDX-License-Identifier: Apache-2.0
/* Called by source.c, on its thread. */
#include "migrate/state_send.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/trace.h"
#include "migrate/format.h"
#include "migrate/stream.h"
#include "state/state.h"

void state_send_schemas(struct bytes_writer *out,
			struct state_registry *registry)
{
	struct state_entry *entry;

	list_for_each (entry, &registry->entries, link) {
		size_t begin = record_begin(out, FMT_SCHEMA);

		state_describe(entry, out);
		record_end(out, begin);
	}
}

static struct fmt_state head_of(const struct state_entry *entry)
{
	struct fmt_state head = {
		.version = le16_of(entry->desc->version),
	};

	memcpy(head.name, entry->name, strnlen(entry->name, sizeof(head.name)));
	return head;
}

/* Saved in its place. */
static int put_state(struct bytes_writer *out, const struct state_entry *entry,
		     struct err *err)
{
	struct fmt_state head = head_of(entry);
	size_t begin = record_begin(out, FMT_STATE);
	size_t start = out->size + sizeof(head);
	int ret;

	bytes_put(out, &head, sizeof(head));
	ret = state_save(entry, out, err);
	if (ret)
		return ret;
	if (out->is_failed)
		return err_set(err, -ENOMEM, "no memory for state");
	head.size = le32_of((uint32_t)(out->size - start));
	memcpy(out->data + start - sizeof(head), &head, sizeof(head));
	record_end(out, begin);
	return 0;
}

int state_send_all(struct bytes_writer *out, struct state_registry *registry,
		   struct err *err)
{
	struct state_entry *entry;

	list_for_each (entry, &registry->entries, link) {
		int ret = put_state(out, entry, err);

		if (ret)
			return ret;
	}
	return 0;
}

/* ---- ahead ---- */

/* Saved beside it, since it may be what was sent already. */
static int save_now(struct state_send *send, const struct state_entry *entry,
		    struct err *err)
{
	int ret;

	send->now.size = 0;
	ret = state_save(entry, &send->now, err);
	if (!ret && send->now.is_failed)
		ret = err_set(err, -ENOMEM, "no memory for state");
	return ret;
}

/* send->now becomes what was sent last as entry number @index. */
static void put_now(struct state_send *send, struct bytes_writer *out,
		    uint32_t type, const struct state_entry *entry,
		    size_t index)
{
	struct bytes_writer last = send->sent[index];
	struct fmt_state head = head_of(entry);
	size_t begin = record_begin(out, type);

	head.size = le32_of((uint32_t)send->now.size);
	bytes_put(out, &head, sizeof(head));
	bytes_put(out, send->now.data, send->now.size);
	record_end(out, begin);
	send->sent[index] = send->now;
	send->now = last;
}

/* Of vCPUs: they have to leave the guest for it. */
static bool is_early(const struct state_entry *entry)
{
	return entry->desc->is_optional && !state_is_built(entry);
}

int state_send_setup(struct state_send *send, struct bytes_writer *out,
		     struct state_registry *registry, bool has_early,
		     struct err *err)
{
	struct state_entry *entry;
	size_t i = 0;

	list_for_each (entry, &registry->entries, link)
		i++;
	send->sent = calloc(i, sizeof(*send->sent));
	if (!send->sent)
		return err_set(err, -ENOMEM, "no memory for state");
	send->count = i;
	i = 0;
	list_for_each (entry, &registry->entries, link) {
		size_t index = i++;
		int ret;

		if (!has_early && is_early(entry))
			continue;
		ret = save_now(send, entry, err);
		if (ret)
			return ret;
		put_now(send, out,
			entry->desc->is_optional ? FMT_EARLY_STATE
						 : FMT_SETUP_STATE,
			entry, index);
	}
	return 0;
}

static bool is_as_sent(const struct state_send *send, size_t index)
{
	const struct bytes_writer *sent = &send->sent[index];

	return sent->size == send->now.size &&
	       (!sent->size ||
		memcmp(sent->data, send->now.data, sent->size) == 0);
}

int state_send_changed(struct state_send *send, struct bytes_writer *out,
		       struct state_registry *registry, bool *ret_any,
		       struct err *err)
{
	struct state_entry *entry;
	bool any = false;
	size_t i = 0;

	list_for_each (entry, &registry->entries, link) {
		size_t index = i++;
		int ret;

		if (!state_is_built(entry))
			continue;
		ret = save_now(send, entry, err);
		if (ret)
			return ret;
		if (is_as_sent(send, index))
			continue;
		put_now(send, out, FMT_SETUP_AGAIN, entry, index);
		trace(mig_setup_again, "%s", entry->name);
		any = true;
	}
	*ret_any = any;
	return 0;
}

void state_send_fini(struct state_send *send)
{
	for (size_t i = 0; i < send->count; i++)
		bytes_writer_fini(&send->sent[i]);
	free(send->sent);
	bytes_writer_fini(&send->now);
	*send = (struct state_send){ .count = 0 };
}
