// SPDX-License-Identifier: Apache-2.0
/*
 * A guest's IN and OUT, and accesses to guest-physical addresses where nothing
 * or something is, at every device of a machine.  What state the devices are
 * in then, they save; it loads, and saves the same again.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/list.h"
#include "mem/access.h"
#include "migrate/side.h"
#include "state/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Where the devices are; any other port is a u16 away. */
static const uint16_t known_ports[] = {
	0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe,
	0x3ff, 0x70,  0x71,  0x60,  0x64,  0xcf9, 0xf4,
};

#define IS_WRITE   0x01
#define IS_MEMORY  0x02
#define SIZE_SHIFT 2 /* 1 << (0 to 3) bytes */
#define IS_ANY     0x10

static void access_one(struct side *side, struct bytes_reader *r)
{
	uint8_t what = bytes_take_u8(r);
	uint8_t size = (uint8_t)(1 << (what >> SIZE_SHIFT & 3));
	struct addr_space *as = puppet_ports(side->machine);
	uint8_t value[8] = { 0 };
	uint64_t at;

	if (what & IS_MEMORY) {
		as = machine_memory(side->machine);
		at = bytes_take_u64(r);
	} else if (what & IS_ANY) {
		at = bytes_take_u16(r);
	} else {
		at = known_ports[bytes_take_u8(r) % array_size(known_ports)];
	}
	if (!(what & IS_WRITE)) {
		mem_read(as, at, value, size);
		return;
	}
	bytes_take_copy(r, value, size);
	mem_write(as, at, value, size);
}

static void save(const struct state_entry *entry, struct bytes_writer *w)
{
	struct err err = ERR_INIT;

	if (state_save(entry, w, &err))
		fail_msg("saving %s: %s", entry->name, err_msg(&err));
}

static void check_state(const struct state_entry *entry)
{
	struct bytes_writer before = { .data = NULL }, after = before;
	struct err err = ERR_INIT;

	save(entry, &before);
	if (state_load(entry, entry->desc->version, before.data, before.size,
		       &err) ||
	    state_activate(entry, &err))
		fail_msg("loading %s: %s", entry->name, err_msg(&err));
	save(entry, &after);
	/* What it works out as it saves may be a time that went on. */
	must(before.size == after.size &&
	     (entry->desc->save ||
	      memcmp(before.data, after.data, before.size) == 0));
	bytes_writer_fini(&before);
	bytes_writer_fini(&after);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bytes_reader r = bytes_read(data, size);
	struct state_entry *entry;
	struct side side;

	side_start(&side, 1, false);
	while (bytes_left(&r) && !r.is_short)
		access_one(&side, &r);
	list_for_each (entry, &machine_state(side.machine)->entries, link)
		check_state(entry);
	side_fini(&side);
	return 0;
}
