// SPDX-License-Identifier: Apache-2.0
/*
 * State records are hostile: records.c took them apart, and state/ checks the fields.
 */
#include "migrate/state_recv.h"

#include <errno.h>

#include "base/err.h"
#include "base/trace.h"
#include "machine/machine.h"
#include "mem/space.h"
#include "mig_priv.h"
#include "migrate/format.h"
#include "migrate/records.h"
#include "state/state.h"

/* Held until they are loaded: enough for a thousand vCPUs. */
#define HELD_MAX (64u << 20)

/* In front of each one's data. */
struct held_state {
	struct state_entry *entry; /* borrowed from the machine */
	uint64_t number;           /* of its record */
	uint32_t type, size;
	uint16_t version;
};

void state_recv_init(struct state_recv *recv, struct machine *machine,
		     enum mig_switch how)
{
	struct state_entry *entry;

	*recv = (struct state_recv){
		.machine = machine,
		.mem = machine_mem(machine),
		.how = how,
	};
	list_for_each (entry, &machine_state(machine)->entries, link)
		recv->left++;
}

void state_recv_fini(struct state_recv *recv)
{
	bytes_writer_fini(&recv->ahead);
	bytes_writer_fini(&recv->rest);
}

static int find(struct state_registry *registry, const struct said_state *state,
		struct state_entry **ret_entry, struct err *err)
{
	*ret_entry = state_find(registry, state->name);
	return *ret_entry ? 0
			  : err_set(err, -EINVAL,
				    "machine differs: no '%s' here; give both "
				    "sides the same devices",
				    state->name);
}

/* The one time that it comes. */
static int find_new(struct state_registry *registry,
		    const struct said_state *state,
		    struct state_entry **ret_entry, struct err *err)
{
	int ret = find(registry, state, ret_entry, err);

	if (!ret && (*ret_entry)->is_loaded)
		ret = err_set(err, -EBADMSG, "the state of '%s' came twice",
			      state->name);
	if (!ret)
		(*ret_entry)->is_loaded = true;
	return ret;
}

/* Every entry came: what is not sent would keep what this host made up. */
static int check_all_came(struct state_registry *registry, struct err *err)
{
	struct state_entry *entry;

	list_for_each (entry, &registry->entries, link) {
		if (!entry->is_loaded && !entry->desc->is_optional)
			return err_set(
				err, -EBADMSG,
				"the state of '%s' is missing; give both "
				"sides the same devices",
				entry->name);
	}
	return 0;
}

static int hold(struct bytes_writer *to, struct state_entry *entry,
		const struct said_state *state, uint32_t type, uint64_t number,
		struct err *err)
{
	const struct held_state held = { entry, number, type, state->size,
					 state->version };

	if (to->size + state->size > HELD_MAX)
		return err_set(err, -EBADMSG, "more than 64 MiB of state");
	bytes_put(to, &held, sizeof(held));
	bytes_put(to, state->data, state->size);
	return to->is_failed
		       ? err_set(err, -ENOMEM, "no memory for device state")
		       : 0;
}

/* ---- the pre-state ---- */

/* At once.  The rules of the switch hold here too: fields only (state/state.h). */
static int load_now(struct state_recv *recv, const struct state_entry *entry,
		    const struct said_state *state, struct err *err)
{
	int ret;

	mem_load_begin(recv->mem);
	ret = state_load(entry, state->version, state->data, state->size, err);
	mem_load_end(recv->mem);
	return ret;
}

int state_recv_setup(struct state_recv *recv, const struct said_state *state,
		     uint64_t number, struct err *err)
{
	struct state_entry *entry;
	int ret = find_new(machine_setup_state(recv->machine), state, &entry,
			   err);

	if (ret)
		return ret;
	if (recv->how != MIG_SWITCH_EARLY && state_is_built(entry))
		return hold(&recv->ahead, entry, state, FMT_SETUP_STATE, number,
			    err);
	return load_now(recv, entry, state, err);
}

/* Of what this one does not know it can do without. */
int state_recv_early(struct state_recv *recv, const struct said_state *state,
		     uint64_t number, struct err *err)
{
	if (state_find(machine_setup_state(recv->machine), state->name))
		return state_recv_setup(recv, state, number, err);
	if (state_find(machine_state(recv->machine), state->name))
		return err_set(err, -EBADMSG,
			       "'%s' is nothing that comes early", state->name);
	return 0;
}

static int check_again(struct state_recv *recv, const struct said_state *state,
		       const struct state_entry *entry, struct err *err)
{
	if (entry ? !entry->is_loaded
		  : state_find(machine_state(recv->machine), state->name) !=
			    NULL)
		return err_set(err, -EBADMSG,
			       "'%s' changes before it was set up",
			       state->name);
	if (entry && !state_is_built(entry))
		return err_set(err, -EBADMSG,
			       "'%s' is nothing that a guest changes",
			       state->name);
	return 0;
}

int state_recv_again(struct state_recv *recv, const struct said_state *state,
		     uint64_t number, struct err *err)
{
	struct state_entry *entry =
		state_find(machine_setup_state(recv->machine), state->name);
	int ret = check_again(recv, state, entry, err);

	if (ret || !entry)
		return ret;
	trace(mig_setup_again, "%s", entry->name);
	if (recv->how != MIG_SWITCH_EARLY)
		return hold(&recv->ahead, entry, state, FMT_SETUP_AGAIN, number,
			    err);
	ret = load_now(recv, entry, state, err);
	return ret ? ret : state_activate(entry, err);
}

int state_recv_setup_end(struct state_recv *recv, struct err *err)
{
	int ret = check_all_came(machine_setup_state(recv->machine), err);

	return ret ? ret : machine_load_setup(recv->machine, err);
}

/* ---- the rest ---- */

int state_recv_rest(struct state_recv *recv, const struct said_state *state,
		    uint64_t number, struct err *err)
{
	struct state_entry *entry;
	int ret = find_new(machine_state(recv->machine), state, &entry, err);

	if (!ret)
		ret = hold(&recv->rest, entry, state, FMT_STATE, number, err);
	if (!ret)
		recv->left--;
	return ret;
}

int state_recv_end(struct state_recv *recv, struct err *err)
{
	return check_all_came(machine_state(recv->machine), err);
}

/* Fields only: nothing here may translate (state/state.h). */
static int load_held(struct state_recv *recv, const struct bytes_writer *from,
		     struct err *err)
{
	struct bytes_reader r = bytes_read(from->data, from->size);

	while (bytes_left(&r)) {
		struct held_state held;
		int ret;

		bytes_take_copy(&r, &held, sizeof(held));
		ret = state_load(held.entry, held.version,
				 bytes_take(&r, held.size), held.size, err);
		if (ret) {
			recv->blamed_type = held.type;
			recv->blamed_number = held.number;
			return ret;
		}
	}
	return 0;
}

int state_recv_load(struct state_recv *recv, struct err *err)
{
	uint64_t commits = mem_commit_count(recv->mem);
	bool is_one = recv->how != MIG_SWITCH_NAIVE;
	int ret;

	mem_load_begin(recv->mem);
	if (is_one)
		mem_begin(recv->mem);
	ret = load_held(recv, &recv->ahead, err);
	if (!ret)
		ret = load_held(recv, &recv->rest, err);
	if (is_one)
		mem_commit(recv->mem);
	mem_load_end(recv->mem);
	recv->commits = mem_commit_count(recv->mem) - commits;
	/* First: back ends are at it while the vCPUs are loaded. */
	if (!ret)
		ret = machine_prepare_backends(recv->machine, err);
	return ret ? ret : machine_load_accel(recv->machine, err);
}

int state_recv_activate(struct state_recv *recv, struct err *err)
{
	return machine_activate(recv->machine, recv->how != MIG_SWITCH_NAIVE,
				err);
}
