// SPDX-License-Identifier: Apache-2.0
/*
 * The incoming migration, on a thread of its own.
 *
 * The stream is hostile input: records.c checks its order and each record by
 * itself, the handlers here what concerns this machine, and whatever is wrong
 * ends this machine with the reason sent back.  The guest is not ours before GO
 * arrived (or, from a file, before its last record): until then no vCPU runs.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/thread.h"
#include "base/trace.h"
#include "machine/machine.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "mig_priv.h"
#include "migrate/pause.h"
#include "migrate/ram_recv.h"
#include "migrate/records.h"
#include "migrate/state_recv.h"
#include "migrate/stream.h"
#include "migrate/verify.h"
#include "state/state.h"

/* A source says who it is within this. */
#define HEADER_WAIT_NS (10 * NS_PER_SEC)

/* A switch is near this often at most, and over within this: a source that says
 * so all the time has no more of this host's CPUs than others. */
#define HURRIES_MAX  64
#define HURRY_MAX_NS (1 * NS_PER_SEC)

/* RUNNING tells when the first vCPU entered the guest, which it does within some
 * tens of us of being let go; later where all CPUs are busy, and then this thread
 * is to be in nobody's way. */
#define ENTRY_SOON_NS (100 * NS_PER_US)
#define ENTRY_WAIT_NS (2 * NS_PER_MS)

struct destination {
	struct mig *mig;
	struct machine *machine;
	struct mem *mem;
	struct channel *channel;
	struct record record;
	struct records records; /* how far they came */
	union said said;        /* by the last one */
	struct bytes_writer out;
	struct ram_recv ram;
	bool is_running_wanted;
	bool is_stopped; /* the guest, over there */

	unsigned int hurries;
	uint64_t hurry_end_ns; /* 0: not in a hurry */
	uint64_t hurry_pages;  /* that had come when it began */

	struct state_recv states;
	bool is_loaded;

	struct phase_clock phases;
	struct timeline_there times;
	uint64_t start_ns;
	struct machine_calls calls; /* before the pause, then in it */
	uint64_t hash, hash_pages;
};

/* ---- setup ---- */

static int check_block(const struct ram_block *block,
		       const struct said_block *theirs, struct err *err)
{
	if (!block || strcmp(block->name, theirs->name) != 0)
		return err_set(err, -EINVAL,
			       "machine differs: the source has RAM '%s' where "
			       "this one has '%s'",
			       theirs->name, block ? block->name : "none");
	if (block->size != theirs->size)
		return err_set(err, -EINVAL,
			       "machine differs: %lu bytes of RAM '%s' at the "
			       "source, %lu here (--memory)",
			       theirs->size, block->name, block->size);
	return 0;
}

static int on_machine(struct destination *dst, struct err *err)
{
	const struct machine_options *options = machine_options(dst->machine);
	const struct said_machine *theirs = &dst->said.machine;
	struct ram_block *block = NULL;

	if (theirs->cpus != options->cpus)
		return err_set(err, -EINVAL,
			       "machine differs: %u vCPUs at the source, %u "
			       "here (--cpus)",
			       theirs->cpus, options->cpus);
	for (uint32_t i = 0; i < theirs->block_count; i++) {
		int ret;

		block = ram_block_next(dst->mem, block);
		ret = check_block(block, &theirs->blocks[i], err);
		if (ret)
			return ret;
	}
	if (ram_block_next(dst->mem, block))
		return err_set(err, -EINVAL,
			       "machine differs: this one has more RAM blocks");
	lock_acquire(&dst->mig->lock);
	dst->mig->info.ram_total = options->memory;
	lock_release(&dst->mig->lock);
	return 0;
}

/* A layout that changed without its version would load as something else.  Of
 * an entry that is not known here, its state decides. */
static int on_schema(struct destination *dst, struct err *err)
{
	struct bytes_reader r =
		bytes_read(dst->record.body, dst->record.length);
	const struct said_schema *theirs = &dst->said.schema;
	struct state_entry *entry =
		state_find(machine_state(dst->machine), theirs->name);

	if (!entry)
		entry = state_find(machine_setup_state(dst->machine),
				   theirs->name);
	if (!entry || entry->desc->version != theirs->version)
		return 0;
	return state_describe_check(entry, &r, err);
}

static int on_setup_state(struct destination *dst, struct err *err)
{
	return state_recv_setup(&dst->states, &dst->said.state,
				dst->record.number, err);
}

static int on_early_state(struct destination *dst, struct err *err)
{
	return state_recv_early(&dst->states, &dst->said.state,
				dst->record.number, err);
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

/* Time what the switch will do, as urgently as it will.  An estimate is made of
 * it: where something fails here, that has less to go by, and the switch will tell
 * why. */
static void put_costs(struct destination *dst)
{
	struct bytes_writer *states = &dst->states.rest; /* empty as yet */
	struct state_entry *entry;
	struct fmt_costs costs;
	uint64_t switch_ns, start, bytes = 0;
	int ret;

	machine_hurry(dst->machine, true);
	ret = machine_rehearse(dst->machine, &switch_ns, NULL);
	start = clock_mono_ns();
	list_for_each (entry, &machine_state(dst->machine)->entries, link) {
		bytes += sizeof(struct fmt_state);
		ret = ret ? ret : state_save(entry, states, NULL);
	}
	/* Encoded there, decoded here. */
	switch_ns += 2 * (clock_mono_ns() - start);
	machine_hurry(dst->machine, false);
	costs.switch_ns = le64_of(switch_ns);
	costs.state_bytes = le64_of(bytes + states->size);
	states->size = 0;
	if (!ret)
		record_put(&dst->out, FMT_COSTS, &costs, sizeof(costs));
}

static int on_setup_end(struct destination *dst, struct err *err)
{
	struct fmt_built built;
	int ret = state_recv_setup_end(&dst->states, err);

	if (ret)
		return ret;
	ram_recv_start(&dst->ram, dst->mem);
	bytes_reserve(&dst->states.rest,
		      STATE_ROOM(machine_options(dst->machine)->cpus));
	if (!dst->channel->is_file)
		put_costs(dst);
	built.build_ns = le64_of(clock_mono_ns() - dst->start_ns);
	record_put(&dst->out, FMT_BUILT, &built, sizeof(built));
	ret = reply(dst, err);
	return ret ? ret : mig_set_state(dst->mig, MIG_RECEIVING, err);
}

/* ---- rounds ---- */

static int on_setup_again(struct destination *dst, struct err *err)
{
	return state_recv_again(&dst->states, &dst->said.state,
				dst->record.number, err);
}

static void count_received(struct destination *dst)
{
	lock_acquire(&dst->mig->lock);
	dst->mig->info.pages_normal = dst->records.pages;
	dst->mig->info.pages_zero = dst->records.zero_pages;
	lock_release(&dst->mig->lock);
}

static int on_ram(struct destination *dst, struct err *err)
{
	int ret = ram_recv_data(&dst->ram, &dst->said.runs, dst->channel,
				&dst->record, err);

	count_received(dst);
	return ret;
}

static int on_ram_zero(struct destination *dst, struct err *err)
{
	(void)err;
	ram_recv_zero(&dst->ram, &dst->said.runs);
	count_received(dst);
	return 0;
}

/* When the pause comes next, be on a CPU as its first bytes arrive. */
static void hurry(struct destination *dst, bool is_near)
{
	bool is_urgent = is_near && dst->hurries < HURRIES_MAX;

	if (is_urgent)
		dst->hurries++;
	if (is_urgent != (dst->hurry_end_ns != 0))
		machine_hurry(dst->machine, is_urgent);
	dst->hurry_end_ns = is_urgent ? clock_mono_ns() + HURRY_MAX_NS : 0;
	dst->hurry_pages = dst->records.pages;
}

/* A long pass came in place of the pause, or that takes too long. */
static void end_hurry(struct destination *dst)
{
	uint64_t pages = dst->records.pages - dst->hurry_pages;
	uint64_t bytes = (pages << RAM_PAGE_SHIFT) + dst->record.length;
	bool is_long = bytes > MIG_SMALL_PASS + MIG_SMALL_PASS / 8; /* runs */

	if (dst->hurry_end_ns && ((is_long && !dst->is_stopped) ||
				  clock_mono_ns() > dst->hurry_end_ns))
		hurry(dst, false);
}

static int on_round(struct destination *dst, struct err *err)
{
	const struct said_round *round = &dst->said.round;
	const struct fmt_round done = { .number = le32_of(round->number) };

	hurry(dst, round->is_near);
	lock_acquire(&dst->mig->lock);
	dst->mig->info.rounds = round->number;
	lock_release(&dst->mig->lock);
	record_put(&dst->out, FMT_ROUND_DONE, &done, sizeof(done));
	return reply(dst, err);
}

/* ---- the switch ---- */

/* It woke us, and back ends have until READY to answer. */
static int on_switch(struct destination *dst, struct err *err)
{
	(void)err;
	/* Not every switch was near by the round before. */
	dst->hurries = 0;
	hurry(dst, true);
	machine_probe(dst->machine);
	return 0;
}

static int on_stopped(struct destination *dst, struct err *err)
{
	dst->is_running_wanted = dst->said.stopped.is_running_wanted;
	dst->is_stopped = true;
	dst->channel->spin_ns = MIG_SPIN_NS;
	phase_start(&dst->phases);
	dst->times.stopped_ns = dst->phases.last_ns;
	machine_count_calls(dst->machine, &dst->calls);
	return mig_set_state(dst->mig, MIG_STOPPED, err);
}

/* Once: what needs no RAM of all that arrived. */
static int load_all(struct destination *dst, struct err *err)
{
	int ret;

	dst->is_loaded = true;
	dst->times.load_ns = dst->phases.last_ns;
	ret = state_recv_load(&dst->states, err);
	if (ret && dst->states.blamed_number) {
		dst->record.type = dst->states.blamed_type;
		dst->record.number = dst->states.blamed_number;
	}
	phase_end(&dst->phases, MIG_PHASE_DST_LOAD);
	dst->times.loaded_ns = dst->phases.last_ns;
	return ret;
}

static int on_state(struct destination *dst, struct err *err)
{
	int ret = state_recv_rest(&dst->states, &dst->said.state,
				  dst->record.number, err);

	/* The last one: it is loaded while RAM still arrives.  Not when RAM is
	 * to be hashed: KVM writes some into it (the wall clock of kvmclock). */
	if (ret || dst->states.left || dst->records.has_verify)
		return ret;
	phase_end(&dst->phases, MIG_PHASE_DST_RECEIVE);
	return load_all(dst, err);
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
		.commits = le64_of(dst->states.commits),
		.verified_pages = le64_of(dst->hash_pages),
		.verify_hash = le64_of(dst->hash),
	};

	record_put(&dst->out, type, &report, sizeof(report));
}

/* Of the pause, which is over. */
static void put_calls(struct destination *dst)
{
	struct machine_calls now;

	machine_count_calls(dst->machine, &now);
	machine_calls_since(&now, &dst->calls);
	dst->calls = now;
	pause_put_calls(&dst->out, &now);
}

static uint64_t await_entry(struct destination *dst)
{
	uint64_t start = clock_mono_ns();
	uint64_t ns = machine_await_entry(dst->machine, start + ENTRY_SOON_NS);

	if (ns)
		return ns;
	thread_set_urgent(pthread_self(), false);
	return machine_await_entry(dst->machine, start + ENTRY_WAIT_NS);
}

/* When its phases were. */
static void put_times(struct destination *dst)
{
	if (dst->channel->is_file)
		return;
	if (dst->is_running_wanted)
		dst->times.entered_ns = await_entry(dst);
	pause_put_times(&dst->out, &dst->times);
}

static int take_over(struct destination *dst, struct err *err);

/* All bytes are here, and are the right ones. */
static int load_and_answer(struct destination *dst, struct err *err)
{
	int ret = mig_set_state(dst->mig, MIG_LOADING, err);

	if (!ret && dst->channel->is_file)
		ret = stream_check_end(dst->channel, err);
	if (!ret && !dst->is_loaded)
		ret = load_all(dst, err);
	if (!ret)
		ret = state_recv_activate(&dst->states, err);
	if (!ret)
		ret = machine_claim(dst->machine, err);
	phase_end(&dst->phases, MIG_PHASE_DST_ACTIVATE);
	dst->times.ready_ns = dst->phases.last_ns;
	if (ret)
		return ret;
	put_report(dst, FMT_READY);
	ret = reply(dst, err);
	if (!ret && dst->is_running_wanted && !dst->channel->is_file)
		machine_expect(dst->machine, MIG_SPIN_NS);
	if (!ret) /* while the source reads it */
		ret = mig_set_state(dst->mig, MIG_LOADED, err);
	if (!ret && dst->channel->is_file)
		ret = take_over(dst, err);
	return ret;
}

static int on_end(struct destination *dst, struct err *err)
{
	int ret = state_recv_end(&dst->states, err);

	phase_end(&dst->phases, MIG_PHASE_DST_RECEIVE);
	dst->times.end_ns = dst->times.verified_ns = dst->phases.last_ns;
	if (ret)
		return ret;
	if (!dst->records.has_verify)
		return load_and_answer(dst, err);
	/* While the source does the same. */
	return verify_ram(dst->mem, dst->channel->stop_fd, &dst->hash,
			  &dst->hash_pages, err);
}

static int on_verify(struct destination *dst, struct err *err)
{
	const struct said_verify *verify = &dst->said.verify;

	if (dst->hash != verify->hash || dst->hash_pages != verify->pages)
		return err_set(err, -EIO,
			       "RAM differs: hash 0x%lx of %lu pages at the "
			       "source, 0x%lx of %lu here",
			       verify->hash, verify->pages, dst->hash,
			       dst->hash_pages);
	lock_acquire(&dst->mig->lock);
	dst->mig->info.is_verified = true;
	dst->mig->info.verified_pages = dst->hash_pages;
	dst->mig->info.verify_hash = dst->hash;
	lock_release(&dst->mig->lock);
	phase_end(&dst->phases, MIG_PHASE_DST_VERIFY);
	dst->times.verified_ns = dst->phases.last_ns;
	return load_and_answer(dst, err);
}

/* The guest is ours. */
static int take_over(struct destination *dst, struct err *err)
{
	int ret = mig_set_state(dst->mig, MIG_TAKING_OVER, err);

	if (ret)
		return ret;
	phase_start(&dst->phases);
	dst->times.go_ns = dst->phases.last_ns;
	ret = machine_take_over(dst->machine, dst->is_running_wanted, err);
	if (ret)
		return ret;
	phase_end(&dst->phases, MIG_PHASE_DST_START);
	dst->times.started_ns = dst->phases.last_ns;
	mig_set_state(dst->mig, MIG_STARTED, NULL);
	put_calls(dst);
	put_times(dst);
	/* Whether the source hears of it does not matter to the guest. */
	put_report(dst, FMT_RUNNING);
	reply(dst, NULL);
	return 0;
}

static int on_cancel(struct destination *dst, struct err *err)
{
	return err_set(err, -ECANCELED, "the source keeps the guest: %s",
		       dst->said.cancel);
}

/* ---- the loop ---- */

static const struct {
	uint32_t type;
	int (*handle)(struct destination *dst, struct err *err);
} handlers[] = {
	{ FMT_MACHINE, on_machine },
	{ FMT_SCHEMA, on_schema },
	{ FMT_SETUP_STATE, on_setup_state },
	{ FMT_EARLY_STATE, on_early_state },
	{ FMT_SETUP_END, on_setup_end },
	{ FMT_SETUP_AGAIN, on_setup_again },
	{ FMT_RAM, on_ram },
	{ FMT_RAM_ZERO, on_ram_zero },
	{ FMT_ROUND, on_round },
	{ FMT_SWITCH, on_switch },
	{ FMT_STOPPED, on_stopped },
	{ FMT_STATE, on_state },
	{ FMT_END, on_end },
	{ FMT_VERIFY, on_verify },
	{ FMT_GO, take_over },
	{ FMT_CANCEL, on_cancel },
};

/* Records that are not known are optional. */
static int handle_record(struct destination *dst, struct err *err)
{
	int ret = records_take(&dst->records, &dst->record, &dst->said, err);

	for (size_t i = 0; !ret && i < array_size(handlers); i++) {
		if (handlers[i].type == dst->record.type)
			return handlers[i].handle(dst, err);
	}
	return ret;
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

/* An answer could not be sent: what the source said before it left may tell
 * why. */
static void explain_failure(struct destination *dst, int code, struct err *err)
{
	struct err reason = ERR_INIT;
	uint64_t deadline_ns = clock_mono_ns() + NS_PER_SEC;

	if (code != -EPIPE && code != -ECONNRESET)
		return;
	dst->channel->deadline_ns = deadline_ns;
	while (!reason.code && clock_mono_ns() < deadline_ns &&
	       !record_recv(dst->channel, &dst->record, NULL) &&
	       !records_take(&dst->records, &dst->record, &dst->said, NULL)) {
		if (dst->record.type == FMT_RAM &&
		    ram_recv_data(&dst->ram, &dst->said.runs, dst->channel,
				  &dst->record, NULL))
			break;
		if (dst->record.type == FMT_CANCEL)
			on_cancel(dst, &reason);
	}
	if (!reason.code)
		return;
	*err = reason;
	record_blame(&dst->record, err);
}

static int receive(struct destination *dst, struct err *err)
{
	struct mig_params params;
	int ret = accept_source(dst, err);

	if (!ret)
		ret = mig_set_state(dst->mig, MIG_BUILDING, err);
	mig_params(dst->mig, &params);
	state_recv_init(&dst->states, dst->machine, params.how_to_switch);
	dst->start_ns = clock_mono_ns();
	records_start(&dst->records, dst->channel->is_file);
	while (!ret && !records_is_over(&dst->records)) {
		/* A file never makes the channel wait, where a stop is noticed; where
		 * a guest is stopped meanwhile each call counts. */
		if ((!dst->is_stopped || dst->channel->is_file) &&
		    channel_sleep(dst->channel, 1))
			return err_set(err, -ECANCELED, "stopped");
		ret = record_recv(dst->channel, &dst->record, err);
		if (ret)
			break;
		end_hurry(dst);
		ret = handle_record(dst, err);
		if (!ret)
			continue;
		record_blame(&dst->record, err);
		explain_failure(dst, ret, err);
	}
	return ret;
}

/* Then wait for the source to close: a link that is closed with bytes unread
 * may lose what was said last. */
static void send_reason(struct destination *dst, const struct err *err)
{
	const char *reason = err_msg(err);
	uint8_t rest[4096];

	if (dst->channel->fd < 0 || dst->channel->is_file)
		return;
	dst->channel->stop_fd = -1;
	dst->channel->deadline_ns = clock_mono_ns() + NS_PER_SEC;
	dst->out.size = 0;
	record_put(&dst->out, FMT_FAILED, reason,
		   strnlen(reason, FMT_REASON_MAX));
	if (stream_flush(dst->channel, &dst->out, NULL))
		return;
	while (clock_mono_ns() < dst->channel->deadline_ns &&
	       !channel_recv_bytes(dst->channel, rest, sizeof(rest), NULL))
		;
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
	if (ret) {
		/* First, for the source takes its disks back. */
		machine_disclaim(dst.machine);
		send_reason(&dst, err);
	}
	channel_close(dst.channel);
	channel_listener_close(
		&mig->listener); /* it may not have come to that */
	lock_acquire(&mig->lock);
	for (int i = MIG_PHASE_DST_RECEIVE; i < MIG_PHASE_COUNT; i++)
		mig->info.phase_ns[i] = dst.phases.ns[i];
	mig->info.switch_commits = dst.states.commits;
	mig->info.destination_calls = dst.calls;
	mig->info.has_calls = !ret;
	lock_release(&mig->lock);
	mig_finish(mig, ret ? MIG_FAILED : MIG_RUNNING, ret ? err : NULL);
	if (!ret)
		mig_linger(mig);
	bytes_writer_fini(&dst.out);
	state_recv_fini(&dst.states);
	record_fini(&dst.record);
}
