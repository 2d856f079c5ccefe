/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saveable state, described once and used in both directions.
 *
 * A device says what it saves in one table of fields; state_save(),
 * state_load() and the stream's self-description (state_describe()) all walk
 * that table, so that they cannot disagree.  This folder does no I/O: it turns
 * a structure into bytes and hostile bytes into a checked structure.
 *
 *	static const struct state_field rtc_fields[] = {
 *		STATE_FIELD(struct rtc, index, STATE_U8),
 *		STATE_ARRAY(struct rtc, ram, STATE_U8),
 *		STATE_SINCE(struct rtc, century, STATE_U8, 2),
 *	};
 *
 * Encoding: fields in table order without padding, little endian; a varying
 * array is preceded by its count (u32).
 *
 * Loading has two steps (DESIGN 2).  `load` sees the fields only: it checks
 * them against each other, and may neither translate addresses nor touch guest
 * memory.  `activate` runs after the one topology commit of the whole load,
 * always, and does what needs the new topology.
 */
#ifndef GODWIT_STATE_STATE_H
#define GODWIT_STATE_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/list.h"

struct err;

enum state_kind {
	STATE_U8 = 1,
	STATE_U16,
	STATE_U32,
	STATE_U64,
};

struct state_field {
	const char *name;
	enum state_kind kind;
	size_t offset;   /* in the structure */
	uint32_t count;  /* elements; the capacity of a varying array */
	size_t count_at; /* offset of a uint32_t holding the number used, or
			    SIZE_MAX for a fixed count */
	uint16_t since;  /* first version of the device that has it */
	uint64_t max;    /* each element is at most this; 0: no limit */
};

#define STATE_FIXED SIZE_MAX

#define STATE_FIELD_FULL(type, member, kind_, count_, count_at_, since_, max_) \
	{                                                                      \
		.name = #member, .kind = (kind_),                              \
		.offset = offsetof(type, member), .count = (count_),           \
		.count_at = (count_at_), .since = (since_), .max = (max_)      \
	}
#define STATE_FIELD(type, member, kind) \
	STATE_FIELD_FULL(type, member, kind, 1, STATE_FIXED, 1, 0)
#define STATE_FIELD_MAX(type, member, kind, max) \
	STATE_FIELD_FULL(type, member, kind, 1, STATE_FIXED, 1, max)
#define STATE_SINCE(type, member, kind, since) \
	STATE_FIELD_FULL(type, member, kind, 1, STATE_FIXED, since, 0)
#define STATE_ARRAY(type, member, kind)                                       \
	STATE_FIELD_FULL(type, member, kind, array_size(((type *)0)->member), \
			 STATE_FIXED, 1, 0)
/* A structure of the kernel's ABI, as its bytes. */
#define STATE_BYTES(type, member)                                             \
	STATE_FIELD_FULL(type, member, STATE_U8, sizeof(((type *)0)->member), \
			 STATE_FIXED, 1, 0)
/* The first `used` elements of an array. */
#define STATE_VARRAY(type, member, kind, used)                                \
	STATE_FIELD_FULL(type, member, kind, array_size(((type *)0)->member), \
			 offsetof(type, used), 1, 0)

struct state_desc {
	uint16_t version;     /* what is saved */
	uint16_t min_version; /* the oldest that still loads */
	const struct state_field *fields;
	uint32_t field_count;
	/* Each may be NULL. */
	int (*save)(void *obj, struct err *err); /* fill the fields, stopped */
	int (*load)(void *obj, uint16_t version, struct err *err);
	int (*activate)(void *obj, struct err *err);
};

/* All saveable state of a machine, in load order. */
struct state_registry {
	struct list entries;
};

#define STATE_NAME_MAX 32

struct state_entry {
	char name[STATE_NAME_MAX]; /* unique: "serial0", "vcpu3" */
	const struct state_desc *desc;
	void *obj; /* borrowed until state_unregister() */
	struct list link;
};

void state_registry_init(struct state_registry *registry);
/* @entry is embedded in its owner. */
void state_register(struct state_registry *registry, struct state_entry *entry,
		    const char *name, const struct state_desc *desc, void *obj);
void state_unregister(struct state_entry *entry);
struct state_entry *state_find(struct state_registry *registry,
			       const char *name);

/* Append the object's fields at desc->version. */
int state_save(const struct state_entry *entry, struct bytes_writer *to,
	       struct err *err);
/*
 * Check and take the fields of @version from @size hostile bytes, then call
 * desc->load.  -ENOTSUP for a version outside [min_version, version], -EBADMSG
 * when bytes are missing, left over or over a limit (the message names the
 * field).  Fields newer than @version keep what they hold.
 */
int state_load(const struct state_entry *entry, uint16_t version,
	       const void *data, size_t size, struct err *err);
int state_activate(const struct state_entry *entry, struct err *err);

/*
 * The self-description of an entry, read back by state_print(): name
 * (bytes, u16 length before it), version u16, field count u16, then per field:
 * name, kind u8, is_varying u8, since u16, count u32.
 */
void state_describe(const struct state_entry *entry, struct bytes_writer *to);

#endif
