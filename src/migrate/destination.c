// SPDX-License-Identifier: Apache-2.0
/*
 * The incoming migration, on a thread of its own.
 *
 * The stream is hostile input: which record may come when is one table, each
 * handler checks before it uses, and whatever is wrong ends this machine with
 * the reason sent back.  The guest is not ours before GO arrived (or, from a
 * file, before its last record): until then no vCPU runs.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"
#include "machine/machine.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "mig_priv.h"
#include "migrate/ram_recv.h"
#include "migrate/stream.h"
#include "migrate/verify.h"
#include "state/state.h"

#define HUGE_PAGE_SIZE (2ull << 20)

/* A source says who it is within this. */
#define HEADER_WAIT_NS (10 * NS_PER_SEC)

/* State records held until END: enough for a thousand vCPUs. */
#define STATES_MAX (64u << 20)

/* What may arrive next; a bit each, for the table of handlers. */
enum step {
	STEP_MACHINE = 1,      /* nothing but MACHINE */
	STEP_SETUP = 1 << 1,   /* until SETUP_END */
	STEP_RAM = 1 << 2,     /* until SWITCH */
	STEP_SWITCH = 1 << 3,  /* nothing but STOPPED */
	STEP_STOPPED = 1 << 4, /* until END */
	STEP_VERIFY = 1 << 5,  /* nothing but VERIFY */
	STEP_LOADED = 1 << 6,  /* GO */
	STEP_DONE = 1 << 7,
};

struct destination {
	struct mig *mig;
	struct machine *machine;
	struct mem *mem;
	struct channel *channel;
	struct record record;
	struct bytes_writer out;
	struct ram_recv ram;
	enum step step;
	bool is_running_wanted;

	/* STATE bodies, each behind its size (u32), until the one load of all */
	struct bytes_writer states;
	bool is_verified; /* STOPPED announced VERIFY */

	struct phase_clock phases;
	uint64_t start_ns, commits;
	uint64_t hash, hash_pages;
};

static int bad(const struct destination *dst, struct err *err, const char *what)
{
	return err_set(err, -EBADMSG, "record %s: %s",
		       record_name(dst->record.type), what);
}

/* A NUL-padded name of printable characters. */
static int take_name(const struct destination *dst, const char *field,
		     size_t field_size, char *to, struct err *err)
{
	size_t size = strnlen(field, field_size);

	for (size_t i = 0; i < field_size; i++) {
		bool is_good = i < size ? field[i] > ' ' && field[i] < 127
					: field[i] == '\0';

		if (!is_good)
			return bad(dst, err, "malformed name");
	}
	memcpy(to, field, size);
	to[size] = '\0';
	return 0;
}

/* ---- setup ---- */

static int check_block(struct destination *dst, struct ram_block *block,
		       const struct fmt_block *theirs, struct err *err)
{
	char name[sizeof(theirs->name) + 1];
	int ret = take_name(dst, theirs->name, sizeof(theirs->name), name, err);

	if (ret)
		return ret;
	if (!block || strcmp(block->name, name) != 0)
		return err_set(err, -EINVAL,
			       "machine differs: the source has RAM '%s' where "
			       "this one has '%s'",
			       name, block ? block->name : "none");
	if (le64_get(theirs->page_size) != RAM_PAGE_SIZE &&
	    le64_get(theirs->page_size) != HUGE_PAGE_SIZE)
		return bad(dst, err, "backing page size is neither 4K nor 2M");
	if (block->size != le64_get(theirs->size))
		return err_set(err, -EINVAL,
			       "machine differs: %lu bytes of RAM '%s' at the "
			       "source, %lu here (--memory)",
			       le64_get(theirs->size), name, block->size);
	return 0;
}

static int on_machine(struct destination *dst, struct err *err)
{
	const struct machine_options *options = machine_options(dst->machine);
	const struct fmt_block *theirs;
	struct fmt_machine machine;
	char name[sizeof(machine.name) + 1];
	struct ram_block *block = NULL;
	uint32_t blocks;
	int ret;

	if (dst->record.length < sizeof(machine))
		return bad(dst, err, "too short");
	memcpy(&machine, dst->record.body, sizeof(machine));
	blocks = le32_get(machine.blocks);
	if (blocks == 0 || blocks > FMT_BLOCKS_MAX)
		return bad(dst, err, "number of RAM blocks out of range");
	if (le64_get(machine.reserved))
		return bad(dst, err, "reserved bits are set");
	ret = take_name(dst, machine.name, sizeof(machine.name), name, err);
	if (ret)
		return ret;
	ret = record_check_size(
		&dst->record,
		sizeof(machine) + blocks * sizeof(struct fmt_block), err);
	if (ret)
		return ret;
	if (le32_get(machine.cpus) != options->cpus)
		return err_set(err, -EINVAL,
			       "machine differs: %u vCPUs at the source, %u "
			       "here (--cpus)",
			       le32_get(machine.cpus), options->cpus);
	theirs = (const struct fmt_block *)(dst->record.body + sizeof(machine));
	for (uint32_t i = 0; i < blocks; i++) {
		block = ram_block_next(dst->mem, block);
		ret = check_block(dst, block, &theirs[i], err);
		if (ret)
			return ret;
	}
	if (ram_block_next(dst->mem, block))
		return err_set(err, -EINVAL,
			       "machine differs: this one has more RAM blocks");
	lock_acquire(&dst->mig->lock);
	dst->mig->info.ram_total = options->memory;
	lock_release(&dst->mig->lock);
	dst->step = STEP_SETUP;
	return 0;
}

/* For readers of files; this one has its own tables. */
static int on_schema(struct destination *dst, struct err *err)
{
	(void)dst;
	(void)err;
	return 0;
}

/* Check a STATE or SETUP_STATE body and load it into its entry's fields. */
static int load_state(struct destination *dst, struct state_registry *registry,
		      const uint8_t *body, size_t size, struct err *err)
{
	char name[sizeof(((struct fmt_state *)0)->name) + 1];
	struct state_entry *entry;
	struct fmt_state head;
	int ret;

	if (size < sizeof(head))
		return bad(dst, err, "too short");
	memcpy(&head, body, sizeof(head));
	ret = take_name(dst, head.name, sizeof(head.name), name, err);
	if (ret)
		return ret;
	if (le16_get(head.reserved) ||
	    le32_get(head.size) != size - sizeof(head))
		return bad(dst, err, "its size does not fit the record");
	entry = state_find(registry, name);
	if (!entry)
		return err_set(err, -EINVAL, "machine differs: no '%s' here",
			       name);
	if (entry->is_loaded)
		return err_set(err, -EBADMSG, "the state of '%s' came twice",
			       name);
	entry->is_loaded = true;
	return state_load(entry, le16_get(head.version), body + sizeof(head),
			  size - sizeof(head), err);
}

static int on_setup_state(struct destination *dst, struct err *err)
{
	return load_state(dst, machine_setup_state(dst->machine),
			  dst->record.body, dst->record.length, err);
}

/* Send what is in dst->out, if there is a way back. */
static int reply(struct destination *dst, struct err *err)
{
	if (dst->channel->is_file) {
		dst->out.size = 0;
		return 0;
	}
	return stream_flush(dst->channel, &dst->out, err);
}

/* Every entry came: what is not sent would keep what this host made up. */
static int check_all_loaded(struct state_registry *registry, struct err *err)
{
	struct state_entry *entry;

	list_for_each (entry, &registry->entries, link) {
		if (!entry->is_loaded)
			return err_set(err, -EBADMSG,
				       "the state of '%s' is missing",
				       entry->name);
	}
	return 0;
}

static int on_setup_end(struct destination *dst, struct err *err)
{
	struct fmt_built built;
	int ret = record_check_size(&dst->record, 0, err);

	if (!ret)
		ret = check_all_loaded(machine_setup_state(dst->machine), err);
	if (!ret)
		ret = machine_load_setup(dst->machine, err);
	if (ret)
		return ret;
	ram_recv_start(&dst->ram, dst->mem);
	bytes_reserve(&dst->states,
		      STATE_ROOM(machine_options(dst->machine)->cpus));
	built.build_ns = le64_of(clock_mono_ns() - dst->start_ns);
	record_put(&dst->out, FMT_BUILT, &built, sizeof(built));
	ret = reply(dst, err);
	if (ret)
		return ret;
	dst->step = STEP_RAM;
	return mig_set_state(dst->mig, MIG_RECEIVING, err);
}

/* ---- RAM ---- */

static void count_received(struct destination *dst)
{
	lock_acquire(&dst->mig->lock);
	dst->mig->info.pages_normal = dst->ram.pages;
	dst->mig->info.pages_zero = dst->ram.zero_pages;
	lock_release(&dst->mig->lock);
}

static int on_ram(struct destination *dst, struct err *err)
{
	int ret = ram_recv_data(&dst->ram, dst->channel, &dst->record, err);

	count_received(dst);
	return ret;
}

static int on_ram_zero(struct destination *dst, struct err *err)
{
	int ret = ram_recv_zero(&dst->ram, &dst->record, err);

	count_received(dst);
	return ret;
}

static int on_round(struct destination *dst, struct err *err)
{
	struct fmt_round round;
	int ret = record_check_size(&dst->record, sizeof(round), err);

	if (ret)
		return ret;
	memcpy(&round, dst->record.body, sizeof(round));
	if (le32_get(round.flags) & ~FMT_ROUND_NEAR)
		return bad(dst, err, "reserved bits are set");
	/* When the pause comes next, be on a CPU as its first bytes arrive. */
	machine_hurry(dst->machine, le32_get(round.flags) & FMT_ROUND_NEAR);
	round.flags = le32_of(0);
	lock_acquire(&dst->mig->lock);
	dst->mig->info.rounds = le32_get(round.number);
	lock_release(&dst->mig->lock);
	record_put(&dst->out, FMT_ROUND_DONE, &round, sizeof(round));
	return reply(dst, err);
}

/* ---- the switch ---- */

static int on_switch(struct destination *dst, struct err *err)
{
	dst->step = STEP_SWITCH;
	return record_check_size(&dst->record, 0, err);
}

static int on_stopped(struct destination *dst, struct err *err)
{
	struct fmt_stopped stopped;
	uint32_t want;
	int ret = record_check_size(&dst->record, sizeof(stopped), err);

	if (ret)
		return ret;
	memcpy(&stopped, dst->record.body, sizeof(stopped));
	want = le32_get(stopped.want);
	if ((want != FMT_WANT_RUN && want != FMT_WANT_PAUSE) ||
	    le32_get(stopped.flags) & ~FMT_STOPPED_VERIFY)
		return bad(dst, err, "unknown run state or flag");
	dst->is_verified = le32_get(stopped.flags) & FMT_STOPPED_VERIFY;
	dst->is_running_wanted = want == FMT_WANT_RUN;
	dst->step = STEP_STOPPED;
	phase_start(&dst->phases);
	return 0;
}

static int on_state(struct destination *dst, struct err *err)
{
	struct le32 size = le32_of(dst->record.length);

	if (dst->states.size + dst->record.length > STATES_MAX)
		return bad(dst, err, "more than 64 MiB of state");
	bytes_put(&dst->states, &size, sizeof(size));
	bytes_put(&dst->states, dst->record.body, dst->record.length);
	return dst->states.is_failed
		       ? err_set(err, -ENOMEM, "no memory for device state")
		       : 0;
}

/* Fields only (DESIGN 2): nothing here may translate. */
static int load_fields(struct destination *dst, struct err *err)
{
	struct state_registry *registry = machine_state(dst->machine);
	struct bytes_reader r = bytes_read(dst->states.data, dst->states.size);
	int ret;

	dst->record.type = FMT_STATE; /* for messages */
	while (bytes_left(&r)) {
		uint32_t size = bytes_take_u32(&r);

		ret = load_state(dst, registry, bytes_take(&r, size), size,
				 err);
		if (ret)
			return ret;
	}
	return check_all_loaded(registry, err);
}

static int load_all(struct destination *dst, struct err *err)
{
	uint64_t commits = mem_commit_count(dst->mem);
	int ret;

	mem_load_begin(dst->mem);
	mem_begin(dst->mem);
	ret = load_fields(dst, err);
	mem_commit(dst->mem);
	mem_load_end(dst->mem);
	phase_end(&dst->phases, MIG_PHASE_DST_LOAD);
	if (!ret)
		ret = machine_activate(dst->machine, err);
	phase_end(&dst->phases, MIG_PHASE_DST_ACTIVATE);
	dst->commits = mem_commit_count(dst->mem) - commits;
	return ret;
}

static void put_report(struct destination *dst, uint32_t type)
{
	const uint64_t *ns = dst->phases.ns;
	const struct fmt_report report = {
		.receive_ns = le64_of(ns[MIG_PHASE_DST_RECEIVE]),
		.verify_ns = le64_of(ns[MIG_PHASE_DST_VERIFY]),
		.load_ns = le64_of(ns[MIG_PHASE_DST_LOAD]),
		.activate_ns = le64_of(ns[MIG_PHASE_DST_ACTIVATE]),
		.start_ns = le64_of(ns[MIG_PHASE_DST_START]),
		.commits = le64_of(dst->commits),
		.verified_pages = le64_of(dst->hash_pages),
		.verify_hash = le64_of(dst->hash),
	};

	record_put(&dst->out, type, &report, sizeof(report));
}

static int take_over(struct destination *dst, struct err *err);

/* A file has nothing behind its last record. */
static int check_file_end(struct destination *dst, struct err *err)
{
	uint8_t byte;

	if (!dst->channel->is_file ||
	    channel_recv_bytes(dst->channel, &byte, 1, NULL) == -ENODATA)
		return 0;
	return err_set(err, -EBADMSG, "data after the last record, %s",
		       record_name(dst->record.type));
}

/* All bytes are here, and are the right ones. */
static int load_and_answer(struct destination *dst, struct err *err)
{
	int ret = check_file_end(dst, err);

	if (!ret)
		ret = load_all(dst, err);
	if (ret)
		return ret;
	dst->step = STEP_LOADED;
	put_report(dst, FMT_READY);
	ret = reply(dst, err);
	if (!ret) /* while the source reads it */
		ret = mig_set_state(dst->mig, MIG_LOADED, err);
	dst->channel->spin_ns = MIG_SPIN_NS;
	if (!ret && dst->channel->is_file)
		ret = take_over(dst, err);
	return ret;
}

static int on_end(struct destination *dst, struct err *err)
{
	struct fmt_end end;
	int ret = record_check_size(&dst->record, sizeof(end), err);

	if (ret)
		return ret;
	phase_end(&dst->phases, MIG_PHASE_DST_RECEIVE);
	memcpy(&end, dst->record.body, sizeof(end));
	if (le64_get(end.pages) != dst->ram.pages ||
	    le64_get(end.zero_pages) != dst->ram.zero_pages)
		return err_set(err, -EBADMSG,
			       "record END: %lu pages and %lu zero pages were "
			       "sent, %lu and %lu arrived",
			       le64_get(end.pages), le64_get(end.zero_pages),
			       dst->ram.pages, dst->ram.zero_pages);
	if (!dst->is_verified)
		return load_and_answer(dst, err);
	/* While the source does the same. */
	dst->step = STEP_VERIFY;
	ret = verify_ram(dst->mem, &dst->hash, &dst->hash_pages);
	return ret ? err_set(err, ret, "no memory to hash RAM") : 0;
}

static int on_verify(struct destination *dst, struct err *err)
{
	struct fmt_verify verify;
	int ret = record_check_size(&dst->record, sizeof(verify), err);

	if (ret)
		return ret;
	memcpy(&verify, dst->record.body, sizeof(verify));
	if (dst->hash != le64_get(verify.hash) ||
	    dst->hash_pages != le64_get(verify.pages))
		return err_set(err, -EIO,
			       "RAM differs: hash 0x%lx of %lu pages at the "
			       "source, 0x%lx of %lu here",
			       le64_get(verify.hash), le64_get(verify.pages),
			       dst->hash, dst->hash_pages);
	lock_acquire(&dst->mig->lock);
	dst->mig->info.is_verified = true;
	dst->mig->info.verified_pages = dst->hash_pages;
	dst->mig->info.verify_hash = dst->hash;
	lock_release(&dst->mig->lock);
	phase_end(&dst->phases, MIG_PHASE_DST_VERIFY);
	return load_and_answer(dst, err);
}

/* The guest is ours. */
static int take_over(struct destination *dst, struct err *err)
{
	int ret;

	lock_acquire(&dst->mig->lock);
	dst->mig->is_past_go = true;
	lock_release(&dst->mig->lock);
	phase_start(&dst->phases);
	ret = machine_take_over(dst->machine, dst->is_running_wanted, err);
	if (ret)
		return ret;
	phase_end(&dst->phases, MIG_PHASE_DST_START);
	dst->step = STEP_DONE;
	/* Whether the source hears of it does not matter to the guest. */
	put_report(dst, FMT_RUNNING);
	reply(dst, NULL);
	return 0;
}

static int on_go(struct destination *dst, struct err *err)
{
	int ret = record_check_size(&dst->record, 0, err);

	return ret ? ret : take_over(dst, err);
}

static int on_cancel(struct destination *dst, struct err *err)
{
	char reason[FMT_REASON_MAX + 1];

	record_reason(&dst->record, reason, sizeof(reason));
	return err_set(err, -ECANCELED, "the source keeps the guest: %s",
		       reason);
}

/* ---- the loop ---- */

static const struct {
	uint32_t type;
	unsigned int steps; /* in which it may come */
	int (*handle)(struct destination *dst, struct err *err);
} handlers[] = {
	{ FMT_MACHINE, STEP_MACHINE, on_machine },
	{ FMT_SCHEMA, STEP_SETUP, on_schema },
	{ FMT_SETUP_STATE, STEP_SETUP, on_setup_state },
	{ FMT_SETUP_END, STEP_SETUP, on_setup_end },
	{ FMT_RAM, STEP_RAM | STEP_STOPPED, on_ram },
	{ FMT_RAM_ZERO, STEP_RAM | STEP_STOPPED, on_ram_zero },
	{ FMT_ROUND, STEP_RAM, on_round },
	{ FMT_SWITCH, STEP_RAM, on_switch },
	{ FMT_STOPPED, STEP_SWITCH, on_stopped },
	{ FMT_STATE, STEP_STOPPED, on_state },
	{ FMT_END, STEP_STOPPED, on_end },
	{ FMT_VERIFY, STEP_VERIFY, on_verify },
	{ FMT_GO, STEP_LOADED, on_go },
	{ FMT_CANCEL,
	  STEP_MACHINE | STEP_SETUP | STEP_RAM | STEP_SWITCH | STEP_STOPPED |
		  STEP_VERIFY | STEP_LOADED,
	  on_cancel },
};

static int handle_record(struct destination *dst, struct err *err)
{
	for (size_t i = 0; i < array_size(handlers); i++) {
		if (handlers[i].type != dst->record.type)
			continue;
		if (!(handlers[i].steps & (unsigned int)dst->step))
			return bad(dst, err, "out of turn");
		return handlers[i].handle(dst, err);
	}
	if (dst->record.type & FMT_OPTIONAL)
		return 0;
	return err_set(err, -EBADMSG, "record of unknown type 0x%x",
		       dst->record.type);
}

/* A peer that leaves without a word, or says none, was a probe or gave up: the
 * next one is waited for. */
static int accept_source(struct destination *dst, struct err *err)
{
	struct channel_listener *listener = &dst->mig->listener;
	struct channel *channel = dst->channel;
	struct fmt_header header;
	int ret;

	for (;;) {
		ret = channel_accept(channel, listener, dst->mig->stop_fd, err);
		if (ret)
			break;
		if (listener->fd >= 0)
			channel->deadline_ns = clock_mono_ns() + HEADER_WAIT_NS;
		ret = stream_read_header(channel, &header, err);
		channel->deadline_ns = 0;
		if ((ret != -ENODATA && ret != -ECONNRESET &&
		     ret != -ETIMEDOUT) ||
		    listener->fd < 0)
			break;
		channel_close(channel);
		err_clear(err);
	}
	channel_listener_close(listener);
	return ret;
}

static int receive(struct destination *dst, struct err *err)
{
	int ret = accept_source(dst, err);

	if (!ret)
		ret = mig_set_state(dst->mig, MIG_BUILDING, err);
	dst->start_ns = clock_mono_ns();
	dst->step = STEP_MACHINE;
	while (!ret && dst->step != STEP_DONE) {
		/* A file never makes the channel wait, where a stop is noticed. */
		if (channel_sleep(dst->channel, 1))
			return err_set(err, -ECANCELED, "stopped");
		ret = record_recv(dst->channel, &dst->record, err);
		if (!ret)
			ret = handle_record(dst, err);
	}
	return ret;
}

static void send_reason(struct destination *dst, const struct err *err)
{
	const char *reason = err_msg(err);

	if (dst->channel->fd < 0 || dst->channel->is_file)
		return;
	dst->channel->stop_fd = -1;
	dst->channel->deadline_ns = clock_mono_ns() + NS_PER_SEC;
	dst->out.size = 0;
	record_put(&dst->out, FMT_FAILED, reason,
		   strnlen(reason, FMT_REASON_MAX));
	stream_flush(dst->channel, &dst->out, NULL);
}

void destination_run(struct mig *mig, struct err *err)
{
	struct destination dst = {
		.mig = mig,
		.machine = mig->machine,
		.mem = machine_mem(mig->machine),
		.channel = &mig->channel,
	};
	int ret;

	ret = record_init(&dst.record, err);
	if (!ret)
		ret = receive(&dst, err);
	machine_hurry(dst.machine, false);
	if (ret)
		send_reason(&dst, err);
	channel_close(dst.channel);
	lock_acquire(&mig->lock);
	for (int i = MIG_PHASE_DST_RECEIVE; i < MIG_PHASE_COUNT; i++)
		mig->info.phase_ns[i] = dst.phases.ns[i];
	mig->info.switch_commits = dst.commits;
	lock_release(&mig->lock);
	mig_finish(mig, ret ? MIG_FAILED : MIG_RUNNING, ret ? err : NULL);
	bytes_writer_fini(&dst.out);
	bytes_writer_fini(&dst.states);
	record_fini(&dst.record);
}
