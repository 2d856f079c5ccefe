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
 * Loading has two steps.  `load` sees the fields only: it checks
 * them against each other, and may neither translate addresses nor touch guest
 * memory.  `activate` runs after the one topology commit of the whole load,
 * always, and does what needs the new topology.
 *
 * state_load() writes into the object field by field, so an object whose load
 * failed is half loaded.  Nobody repairs it: a failed load fails the
 * destination, which is thrown away while the source keeps its guest.
 *
 * A registry has no lock: it is filled while the machine is built, and walked
 * while nothing is added.
 */
#ifndef GODWIT_STATE_STATE_H
#define GODWIT_STATE_STATE_H

#include <stdbool.h>
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

/* Names in the stream are printable ASCII without spaces and end in a NUL. */
#define STATE_NAME_MAX       32
#define STATE_FIELD_NAME_MAX 48
/* Bounds on one entry's table, for both directions. */
#define STATE_FIELDS_MAX 512u
#define STATE_COUNT_MAX  (1u << 20)

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
	bool is_optional; /* pre-state that a machine can do without */
};

/* All saveable state of a machine, in load order. */
struct state_registry {
	struct list entries;
};

struct state_entry {
	char name[STATE_NAME_MAX]; /* unique: "serial0", "vcpu3" */
	const struct state_desc *desc;
	void *obj;      /* borrowed until state_unregister() */
	bool is_loaded; /* for whoever loads a registry: seen already */
	struct list link;
};

/* Pre-state by which something is built while the guest runs, and built again when the
 * guest changed it.  Other pre-state is the accelerator's, which has to know it before
 * anything else, and no guest changes it. */
static inline bool state_is_built(const struct state_entry *entry)
{
	return entry->desc->activate != NULL;
}

void state_registry_init(struct state_registry *registry);
/* @entry is embedded in its owner; @name is copied.  A name already taken or
 * too long, and a table that breaks the bounds above, are our bugs. */
void state_register(struct state_registry *registry, struct state_entry *entry,
		    const char *name, const struct state_desc *desc, void *obj);
/* Accepts an entry that is zero, never registered or gone already. */
void state_unregister(struct state_entry *entry);
/* NULL when nobody has that name. */
struct state_entry *state_find(struct state_registry *registry,
			       const char *name);

/*
 * Append the object's fields at desc->version.  -ERANGE for a value that
 * state_load() would refuse (the source learns of it, not the destination),
 * -ENOMEM, or what desc->save said.
 */
int state_save(const struct state_entry *entry, struct bytes_writer *to,
	       struct err *err);
/*
 * Check and take the fields of @version from @size hostile bytes, then call
 * desc->load.  -ENOTSUP for a version outside [min_version, version], -EBADMSG
 * when bytes are missing, left over or over a limit (the message names the
 * field), or what desc->load said.  Fields newer than @version keep what they
 * hold.  After a failure the object is half loaded; see above.
 */
int state_load(const struct state_entry *entry, uint16_t version,
	       const void *data, size_t size, struct err *err);
int state_activate(const struct state_entry *entry, struct err *err);

/*
 * The self-description of an entry, read back by state_describe_read(): name
 * (bytes, u16 length before it), version u16, field count u16, then per field:
 * name, kind u8, is_varying u8, since u16, count u32.
 */
void state_describe(const struct state_entry *entry, struct bytes_writer *to);

/* One field as a stream describes it. */
struct state_field_text {
	char name[STATE_FIELD_NAME_MAX];
	enum state_kind kind;
	bool is_varying;
	uint16_t since;
	uint32_t count; /* elements, or the capacity of a varying array */
};

/*
 * Told what a description says, in its order.  Either may be NULL.  A return
 * other than 0 ends the walk and is what the walk returns.  The pointers are
 * valid during the call.
 */
struct state_visitor {
	int (*entry)(void *opaque, const char *name, uint16_t version,
		     uint32_t field_count);
	/* @values: the @used elements saved, little endian and not aligned
	 * (state_value() reads one); NULL in state_describe_read(). */
	int (*field)(void *opaque, const struct state_field_text *field,
		     const void *values, uint32_t used);
};

/*
 * Take one description from hostile bytes.  -EBADMSG when it is cut off, a
 * name is not printable or too long, or a number is out of bounds.
 */
int state_describe_read(struct bytes_reader *from,
			const struct state_visitor *visitor, void *opaque,
			struct err *err);

/*
 * As state_describe_read(), for a description that is known to be of @entry, at
 * desc->version: -EINVAL when it is not what state_load() takes, and the message
 * names the first difference.  Names count: fields of a kind that changed places
 * differ in nothing else.
 */
int state_describe_check(const struct state_entry *entry,
			 struct bytes_reader *from, struct err *err);

/*
 * As state_describe_read(), with the @size bytes that were saved at @version
 * beside it: explains saved state from the stream alone.  Also -EBADMSG when
 * the two do not fit together.
 */
int state_explain(struct bytes_reader *description, uint16_t version,
		  const void *data, size_t size,
		  const struct state_visitor *visitor, void *opaque,
		  struct err *err);

/* Bytes an element of @kind takes, both saved and in memory. */
static inline size_t state_kind_size(enum state_kind kind)
{
	return (size_t)1 << (kind - STATE_U8);
}

/* Element @index of what a visitor was handed. */
uint64_t state_value(const void *values, enum state_kind kind, uint32_t index);

#endif
