// SPDX-License-Identifier: Apache-2.0
/*
 * One walk over a table of fields per direction.  What comes in is hostile:
 * each length is checked against the table before a byte is used, and no
 * number from the stream sizes an allocation, since nothing is allocated.
 */
#include "state/state.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"

static bool name_is_valid(const char *name, size_t length, size_t limit)
{
	if (length == 0 || length >= limit)
		return false;
	for (size_t i = 0; i < length; i++) {
		if (name[i] <= ' ' || name[i] > '~')
			return false;
	}
	return true;
}

#ifndef NDEBUG
static void check_table(const struct state_desc *desc)
{
	assert(desc->min_version >= 1 && desc->min_version <= desc->version);
	assert(desc->field_count <= STATE_FIELDS_MAX);
	for (uint32_t i = 0; i < desc->field_count; i++) {
		const struct state_field *field = &desc->fields[i];

		assert(name_is_valid(field->name, strlen(field->name),
				     STATE_FIELD_NAME_MAX));
		assert(field->kind >= STATE_U8 && field->kind <= STATE_U64);
		assert(field->count >= 1 && field->count <= STATE_COUNT_MAX);
		assert(field->since >= 1 && field->since <= desc->version);
	}
}
#endif

void state_registry_init(struct state_registry *registry)
{
	list_init(&registry->entries);
}

void state_register(struct state_registry *registry, struct state_entry *entry,
		    const char *name, const struct state_desc *desc, void *obj)
{
	size_t length = strlen(name);

#ifndef NDEBUG
	assert(name_is_valid(name, length, STATE_NAME_MAX));
	assert(!state_find(registry, name));
	check_table(desc);
#endif
	if (length >= STATE_NAME_MAX)
		length = STATE_NAME_MAX - 1;
	memcpy(entry->name, name, length);
	entry->name[length] = '\0';
	entry->desc = desc;
	entry->obj = obj;
	list_add_tail(&registry->entries, &entry->link);
}

void state_unregister(struct state_entry *entry)
{
	if (entry->link.next)
		list_del(&entry->link);
}

struct state_entry *state_find(struct state_registry *registry,
			       const char *name)
{
	struct state_entry *entry;

	list_for_each (entry, &registry->entries, link) {
		if (strcmp(entry->name, name) == 0)
			return entry;
	}
	return NULL;
}

uint64_t state_value(const void *values, enum state_kind kind, uint32_t index)
{
	struct bytes_reader r = bytes_read(
		(const uint8_t *)values + index * state_kind_size(kind),
		state_kind_size(kind));

	switch (kind) {
	case STATE_U8:
		return bytes_take_u8(&r);
	case STATE_U16:
		return bytes_take_u16(&r);
	case STATE_U32:
		return bytes_take_u32(&r);
	case STATE_U64:
		return bytes_take_u64(&r);
	}
	return 0;
}

/* Element @index as it lies in the structure, in the host's byte order. */
static uint64_t host_get(const uint8_t *at, enum state_kind kind,
			 uint32_t index)
{
	switch (kind) {
	case STATE_U8:
		return at[index];
	case STATE_U16:
		return ((const uint16_t *)at)[index];
	case STATE_U32:
		return ((const uint32_t *)at)[index];
	case STATE_U64:
		return ((const uint64_t *)at)[index];
	}
	return 0;
}

static void host_set(uint8_t *at, enum state_kind kind, uint32_t index,
		     uint64_t value)
{
	switch (kind) {
	case STATE_U8:
		at[index] = (uint8_t)value;
		break;
	case STATE_U16:
		((uint16_t *)at)[index] = (uint16_t)value;
		break;
	case STATE_U32:
		((uint32_t *)at)[index] = (uint32_t)value;
		break;
	case STATE_U64:
		((uint64_t *)at)[index] = value;
		break;
	}
}

/* The number of elements that a varying array holds. */
static uint32_t *used_of(const struct state_entry *entry,
			 const struct state_field *field)
{
	return (uint32_t *)((uint8_t *)entry->obj + field->count_at);
}

static int refuse_value(const struct state_entry *entry,
			const struct state_field *field, uint32_t index,
			uint64_t value, int code, struct err *err)
{
	return err_set(err, code,
		       "%s: %s[%" PRIu32 "]: %" PRIu64 ", at most %" PRIu64,
		       entry->name, field->name, index, value, field->max);
}

static int save_field(const struct state_entry *entry,
		      const struct state_field *field, struct bytes_writer *to,
		      struct err *err)
{
	const uint8_t *from = (const uint8_t *)entry->obj + field->offset;
	uint32_t used = field->count;

	if (field->count_at != STATE_FIXED) {
		used = *used_of(entry, field);
		if (used > field->count)
			return err_set(err, -ERANGE,
				       "%s: %s: %" PRIu32
				       " elements, at most %" PRIu32,
				       entry->name, field->name, used,
				       field->count);
		bytes_put_u32(to, used);
	}
	for (uint32_t i = 0; field->max && i < used; i++) {
		uint64_t value = host_get(from, field->kind, i);

		if (value > field->max)
			return refuse_value(entry, field, i, value, -ERANGE,
					    err);
	}
	switch (field->kind) {
	case STATE_U8:
		bytes_put(to, from, used);
		break;
	case STATE_U16:
		for (uint32_t i = 0; i < used; i++)
			bytes_put_u16(to, ((const uint16_t *)from)[i]);
		break;
	case STATE_U32:
		for (uint32_t i = 0; i < used; i++)
			bytes_put_u32(to, ((const uint32_t *)from)[i]);
		break;
	case STATE_U64:
		for (uint32_t i = 0; i < used; i++)
			bytes_put_u64(to, ((const uint64_t *)from)[i]);
		break;
	}
	return 0;
}

int state_save(const struct state_entry *entry, struct bytes_writer *to,
	       struct err *err)
{
	const struct state_desc *desc = entry->desc;
	int ret;

	if (desc->save) {
		ret = desc->save(entry->obj, err);
		if (ret) {
			err_prefix(err, "%s", entry->name);
			return ret;
		}
	}
	for (uint32_t i = 0; i < desc->field_count; i++) {
		ret = save_field(entry, &desc->fields[i], to, err);
		if (ret)
			return ret;
	}
	if (to->is_failed)
		return err_set(err, -ENOMEM, "%s: no memory to save its state",
			       entry->name);
	return 0;
}

static int load_field(const struct state_entry *entry,
		      const struct state_field *field,
		      struct bytes_reader *from, struct err *err)
{
	uint8_t *to = (uint8_t *)entry->obj + field->offset;
	uint32_t used = field->count;
	const void *values;

	if (field->count_at != STATE_FIXED) {
		used = bytes_take_u32(from);
		if (used > field->count)
			return err_set(err, -EBADMSG,
				       "%s: %s: %" PRIu32
				       " elements, at most %" PRIu32,
				       entry->name, field->name, used,
				       field->count);
	}
	values = bytes_take(from, used * state_kind_size(field->kind));
	if (!values || from->is_short)
		return err_set(err, -EBADMSG, "%s: the state ends inside %s",
			       entry->name, field->name);
	for (uint32_t i = 0; field->max && i < used; i++) {
		uint64_t value = state_value(values, field->kind, i);

		if (value > field->max)
			return refuse_value(entry, field, i, value, -EBADMSG,
					    err);
	}
	if (field->kind == STATE_U8) {
		memcpy(to, values, used);
	} else {
		for (uint32_t i = 0; i < used; i++)
			host_set(to, field->kind, i,
				 state_value(values, field->kind, i));
	}
	if (field->count_at != STATE_FIXED)
		*used_of(entry, field) = used;
	return 0;
}

int state_load(const struct state_entry *entry, uint16_t version,
	       const void *data, size_t size, struct err *err)
{
	const struct state_desc *desc = entry->desc;
	struct bytes_reader from = bytes_read(data, size);
	int ret;

	if (version < desc->min_version || version > desc->version)
		return err_set(err, -ENOTSUP,
			       "%s: state version %u, this godwit loads %u "
			       "to %u",
			       entry->name, version, desc->min_version,
			       desc->version);
	for (uint32_t i = 0; i < desc->field_count; i++) {
		if (desc->fields[i].since > version)
			continue;
		ret = load_field(entry, &desc->fields[i], &from, err);
		if (ret)
			return ret;
	}
	if (bytes_left(&from) > 0)
		return err_set(err, -EBADMSG,
			       "%s: %zu bytes of state left over", entry->name,
			       bytes_left(&from));
	ret = desc->load ? desc->load(entry->obj, version, err) : 0;
	if (ret)
		err_prefix(err, "%s", entry->name);
	return ret;
}

int state_activate(const struct state_entry *entry, struct err *err)
{
	const struct state_desc *desc = entry->desc;
	int ret = desc->activate ? desc->activate(entry->obj, err) : 0;

	if (ret)
		err_prefix(err, "%s", entry->name);
	return ret;
}

static void put_name(struct bytes_writer *to, const char *name)
{
	size_t length = strlen(name);

	bytes_put_u16(to, (uint16_t)length);
	bytes_put(to, name, length);
}

void state_describe(const struct state_entry *entry, struct bytes_writer *to)
{
	const struct state_desc *desc = entry->desc;

	put_name(to, entry->name);
	bytes_put_u16(to, desc->version);
	bytes_put_u16(to, (uint16_t)desc->field_count);
	for (uint32_t i = 0; i < desc->field_count; i++) {
		const struct state_field *field = &desc->fields[i];

		put_name(to, field->name);
		bytes_put_u8(to, (uint8_t)field->kind);
		bytes_put_u8(to, field->count_at != STATE_FIXED);
		bytes_put_u16(to, field->since);
		bytes_put_u32(to, field->count);
	}
}

/* @ret_name has room for @limit bytes. */
static int take_name(struct bytes_reader *from, char *ret_name, size_t limit,
		     struct err *err)
{
	uint16_t length = bytes_take_u16(from);
	const char *name = bytes_take(from, length);

	if (!name || from->is_short)
		return err_set(err, -EBADMSG,
			       "state description: ends inside a name");
	if (!name_is_valid(name, length, limit))
		return err_set(err, -EBADMSG,
			       "state description: a name of %u bytes is not "
			       "1 to %zu printable characters",
			       length, limit - 1);
	memcpy(ret_name, name, length);
	ret_name[length] = '\0';
	return 0;
}

static int take_field(struct bytes_reader *from, uint16_t version,
		      struct state_field_text *ret_field, struct err *err)
{
	struct state_field_text field;
	uint8_t kind, is_varying;
	int ret = take_name(from, field.name, sizeof(field.name), err);

	if (ret)
		return ret;
	kind = bytes_take_u8(from);
	is_varying = bytes_take_u8(from);
	field.since = bytes_take_u16(from);
	field.count = bytes_take_u32(from);
	if (from->is_short)
		return err_set(err, -EBADMSG,
			       "state description: ends inside field %s",
			       field.name);
	if (kind < STATE_U8 || kind > STATE_U64 || is_varying > 1)
		return err_set(err, -EBADMSG,
			       "state description: %s: unknown kind %u/%u",
			       field.name, kind, is_varying);
	if (field.since < 1 || field.since > version)
		return err_set(err, -EBADMSG,
			       "state description: %s: since version %u of %u",
			       field.name, field.since, version);
	if (field.count < 1 || field.count > STATE_COUNT_MAX)
		return err_set(err, -EBADMSG,
			       "state description: %s: %" PRIu32
			       " elements, at most %u",
			       field.name, field.count, STATE_COUNT_MAX);
	field.kind = (enum state_kind)kind;
	field.is_varying = is_varying;
	*ret_field = field;
	return 0;
}

/* The values of @field, a step past them. */
static int take_values(struct bytes_reader *data,
		       const struct state_field_text *field,
		       const void **ret_values, uint32_t *ret_used,
		       struct err *err)
{
	uint32_t used = field->count;
	const void *values;

	if (field->is_varying) {
		used = bytes_take_u32(data);
		if (used > field->count)
			return err_set(err, -EBADMSG,
				       "%s: %" PRIu32
				       " elements, at most %" PRIu32,
				       field->name, used, field->count);
	}
	values = bytes_take(data, used * state_kind_size(field->kind));
	if (!values || data->is_short)
		return err_set(err, -EBADMSG, "the state ends inside %s",
			       field->name);
	*ret_values = values;
	*ret_used = used;
	return 0;
}

/* Both readers: @data is NULL when there is only the description. */
static int walk(struct bytes_reader *from, uint16_t saved_version,
		struct bytes_reader *data, const struct state_visitor *visitor,
		void *opaque, struct err *err)
{
	char name[STATE_NAME_MAX];
	uint16_t version, field_count;
	int ret = take_name(from, name, sizeof(name), err);

	if (ret)
		return ret;
	version = bytes_take_u16(from);
	field_count = bytes_take_u16(from);
	if (from->is_short || version == 0 || field_count > STATE_FIELDS_MAX)
		return err_set(err, -EBADMSG,
			       "state description: %s: version %u with %u "
			       "fields, at most %u",
			       name, version, field_count, STATE_FIELDS_MAX);
	if (data && (saved_version < 1 || saved_version > version))
		return err_set(err, -EBADMSG,
			       "%s: state version %u, described is %u", name,
			       saved_version, version);
	ret = visitor->entry
		      ? visitor->entry(opaque, name, version, field_count)
		      : 0;
	for (uint32_t i = 0; ret == 0 && i < field_count; i++) {
		struct state_field_text field;
		const void *values = NULL;
		uint32_t used = 0;

		ret = take_field(from, version, &field, err);
		if (ret == 0 && data) {
			if (field.since > saved_version)
				continue;
			ret = take_values(data, &field, &values, &used, err);
		}
		if (ret)
			err_prefix(err, "%s", name);
		else if (visitor->field)
			ret = visitor->field(opaque, &field, values, used);
	}
	if (ret == 0 && data && bytes_left(data) > 0)
		return err_set(err, -EBADMSG,
			       "%s: %zu bytes of state left over", name,
			       bytes_left(data));
	return ret;
}

int state_describe_read(struct bytes_reader *from,
			const struct state_visitor *visitor, void *opaque,
			struct err *err)
{
	return walk(from, 0, NULL, visitor, opaque, err);
}

/* ---- a description and a table ---- */

/* Room for a field in words. */
#define WORDS_MAX (STATE_FIELD_NAME_MAX + 64)

struct comparison {
	const struct state_desc *desc;
	uint32_t at; /* the next field of the table */
	struct err *err;
};

static void say_field(char words[WORDS_MAX], const char *name,
		      enum state_kind kind, bool is_varying, uint32_t count,
		      uint16_t since)
{
	snprintf(words, WORDS_MAX, "%s, %s%" PRIu32 " x u%zu since version %u",
		 name, is_varying ? "up to " : "", count,
		 8 * state_kind_size(kind), since);
}

/* Field @at of the table; there is none behind its end. */
static void say_own_field(char words[WORDS_MAX], const struct state_desc *desc,
			  uint32_t at)
{
	const struct state_field *field = &desc->fields[at];

	if (at < desc->field_count)
		say_field(words, field->name, field->kind,
			  field->count_at != STATE_FIXED, field->count,
			  field->since);
	else
		snprintf(words, WORDS_MAX, "none");
}

static int refuse_field(const struct comparison *comparison, const char *theirs,
			const char *own)
{
	return err_set(comparison->err, -EINVAL,
		       "field %" PRIu32 " of version %u is '%s' at the source, "
		       "'%s' here",
		       comparison->at, comparison->desc->version, theirs, own);
}

/* Two fields that are told alike are alike. */
static int compare_field(void *opaque, const struct state_field_text *field,
			 const void *values, uint32_t used)
{
	struct comparison *comparison = opaque;
	char theirs[WORDS_MAX], own[WORDS_MAX];

	(void)values;
	(void)used;
	say_field(theirs, field->name, field->kind, field->is_varying,
		  field->count, field->since);
	say_own_field(own, comparison->desc, comparison->at);
	if (strcmp(theirs, own) != 0)
		return refuse_field(comparison, theirs, own);
	comparison->at++;
	return 0;
}

int state_describe_check(const struct state_entry *entry,
			 struct bytes_reader *from, struct err *err)
{
	static const struct state_visitor visitor = { .field = compare_field };
	struct comparison comparison = { .desc = entry->desc, .err = err };
	char own[WORDS_MAX];
	int ret = walk(from, 0, NULL, &visitor, &comparison, err);

	if (!ret && comparison.at < entry->desc->field_count) {
		say_own_field(own, entry->desc, comparison.at);
		ret = refuse_field(&comparison, "none", own);
	}
	if (ret == -EINVAL)
		err_prefix(err, "%s", entry->name);
	return ret;
}

int state_explain(struct bytes_reader *description, uint16_t version,
		  const void *data, size_t size,
		  const struct state_visitor *visitor, void *opaque,
		  struct err *err)
{
	struct bytes_reader values = bytes_read(data, size);

	return walk(description, version, &values, visitor, opaque, err);
}
