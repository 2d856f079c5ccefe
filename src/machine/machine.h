/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine: memory map, accelerator, devices, vCPU threads and run state.
 *
 * machine_new() builds all of it, in the order listed there; nothing runs
 * until machine_start() or an incoming migration lets it.  Two machines fit in
 * one process.
 */
#ifndef GODWIT_MACHINE_MACHINE_H
#define GODWIT_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "accel/accel.h"
#include "machine/devices.h"
#include "machine/run_state.h"

struct addr_space;
struct err;
struct mem;
struct state_registry;
struct vh_board;
struct vcpu_held;
struct vcpu_set;

#define MACHINE_CPUS_MAX   1024u
#define MACHINE_MEMORY_MIN (16ull << 20)
#define MACHINE_MEMORY_MAX (16ull << 40)

struct machine_options {
	char name[64];
	uint64_t memory;        /* bytes, a multiple of 2 MiB */
	uint64_t hugepage_size; /* 0 or 2 MiB */
	bool use_thp;
	unsigned int cpus;
	const char *kernel; /* path of a PVH ELF or a bzImage, or NULL */
	const char *initrd; /* path, or NULL */
	const char *append; /* command line, or NULL */
	const char *guest;  /* "PROGRAM[,key=value...]" instead of a kernel */
	const char *serial; /* "stdio", "unix:PATH", "file:PATH", "null" */
	struct device_option devices[DEVICES_MAX];
	unsigned int device_count;
	bool is_vhost_scan_each; /* for comparison: vhost/vhost.h */
	bool is_incoming;        /* no boot: state comes by migration */
	struct accel_options accel;
};

/* What a machine tells its owner (control/).  Called from any thread, with
 * LOCK_RUN_STATE held or from a vCPU thread: it may only queue. */
enum machine_event {
	MACHINE_EVENT_STOP,
	MACHINE_EVENT_RESUME,
	MACHINE_EVENT_POWERDOWN, /* the power button was pressed */
	MACHINE_EVENT_SHUTDOWN,  /* see machine_shutdown_cause() */
};

typedef void machine_event_fn(void *opaque, enum machine_event event);

/* Why the guest ended; the values are godwit's exit codes (docs/exit-codes.md)
 * apart from EXIT_DEBUG, where the guest's own value decides. */
enum shutdown_cause {
	SHUTDOWN_NONE = -1,
	SHUTDOWN_GUEST_POWEROFF,
	SHUTDOWN_GUEST_RESET,
	SHUTDOWN_TRIPLE_FAULT,
	SHUTDOWN_DEBUG_EXIT,
	SHUTDOWN_ERROR, /* a vCPU cannot go on */
	SHUTDOWN_HOST,  /* quit, SIGTERM, SIGINT */
};

struct machine;

int machine_new(const struct machine_options *options,
		machine_event_fn *on_event, void *opaque,
		struct machine **ret_machine, struct err *err);
void machine_free(struct machine *machine);

const struct machine_options *machine_options(const struct machine *machine);
struct mem *machine_mem(struct machine *machine);
struct addr_space *machine_memory(struct machine *machine);
/* What its vhost devices share; NULL without any. */
struct vh_board *machine_vhost(struct machine *machine);
struct vcpu_set *machine_vcpus(struct machine *machine);
struct state_registry *machine_setup_state(struct machine *machine);
struct state_registry *machine_state(struct machine *machine);

/* Any thread; false without dirty rings. */
bool machine_ring_stats(struct machine *machine,
			struct accel_ring_stats *ret_stats);

enum run_state machine_run_state(struct machine *machine);
/* First start of a machine that is not incoming. */
int machine_start(struct machine *machine, struct err *err);
/* `stop`: returns when no vCPU runs and every device rests; when one of those does
 * not come to rest within some seconds, the guest runs on.  `cont`: -EPERM while
 * another copy may run (handed-over) unless @force; or what devices_claim() said,
 * of a disk that somebody else has. */
int machine_stop(struct machine *machine, struct err *err);
int machine_cont(struct machine *machine, bool force, struct err *err);
/* Press the power button: whether the guest ends is up to the guest.  -EINVAL
 * unless it runs. */
int machine_power_down(struct machine *machine, struct err *err);

/*
 * The steps of a migration's switch (migrate/source.c, destination.c).  The
 * source: machine_switch_begin() parks the vCPUs in state finish-migrate, and
 * the guest is then nobody else's until machine_switch_end() says how it went
 * on.
 */
/* The calling thread, and the vCPUs' while they do not run the guest, go before
 * others (base/thread.h): around a switch, until @is_urgent false. */
void machine_hurry(struct machine *machine, bool is_urgent);
/* The destination has all, and hears within @ns whether its guest runs. */
void machine_expect(struct machine *machine, uint64_t ns);
/* -EINVAL when the guest has ended or never ran; -ETIMEDOUT when a vCPU is inside a
 * device still at @deadline_ns (clock_mono_ns()): then the others run again. */
int machine_switch_begin(struct machine *machine, uint64_t deadline_ns,
			 bool *ret_was_running, struct err *err);
/* Device back ends: no input arrives, and no DMA is under way, once it returned 0.
 * -ETIMEDOUT when one still works at @deadline_ns. */
int machine_stop_backends(struct machine *machine, uint64_t deadline_ns,
			  struct err *err);
/* Kernel state of all vCPUs (in parallel, on their threads) and of the VM into
 * the structures that are registered for saving. */
int machine_save_accel(struct machine *machine, struct err *err);
/* What only the copy that runs may hold (disk locks): the source gives it up before
 * the destination claims it. */
void machine_disclaim(struct machine *machine);
int machine_claim(struct machine *machine, struct err *err);
/* @to: running (the switch failed; back ends start again); paused (likewise, of
 * a guest that was, or after a save); postmigrate; or handed-over.  The first two
 * claim again what was given up: where that fails the guest is paused, `cont` tries again,
 * and one that ran goes on by itself as soon as it can, unless somebody says `stop`. */
int machine_switch_end(struct machine *machine, enum run_state to,
		       struct err *err);

/* The source, running: the pre-state is put into the registered structures.  -ETIMEDOUT
 * and -ECANCELED as vcpu_set_interrupt(): that of vCPUs is not whole, which comes early
 * only, and all else is. */
int machine_save_setup(struct machine *machine, uint64_t deadline_ns,
		       int stop_fd, struct err *err);
/* The destination: the pre-state is in the registered structures. */
int machine_load_setup(struct machine *machine, struct err *err);
/* How long a machine like this one takes here to stop, to save its kernel state, to
 * load it and to start its back ends: what a switch costs before any page is sent.
 * After machine_load_setup() and before machine_load_accel(); afterwards all is as it
 * was. */
int machine_rehearse(struct machine *machine, uint64_t *ret_switch_ns,
		     struct err *err);
/* The source, running: what the back ends at work here take of that, in ns; 0 when one does
 * not answer. */
uint64_t machine_time_backends(struct machine *machine);
/* The guest is about to stop there: ask back ends that were built whether they are at
 * work still.  Activation sees what they say. */
void machine_probe(struct machine *machine);
/* All fields are loaded, and the topology is committed: back ends are told what they
 * can know without guest memory, and nobody waits for them. */
int machine_prepare_backends(struct machine *machine, struct err *err);
/* All fields are loaded: kernel state of the VM and of all vCPUs goes in, which
 * needs no guest memory. */
int machine_load_accel(struct machine *machine, struct err *err);
/* After that, with the topology committed and RAM complete: devices activate.  All
 * interrupt routes are told in @one_commit, or each function's in its own. */
int machine_activate(struct machine *machine, bool one_commit, struct err *err);
/* From inmigrate to running or paused, claimed already; -EINVAL when the machine
 * was ended meanwhile. */
int machine_take_over(struct machine *machine, bool is_running,
		      struct err *err);
/* vcpu_set_await_entry(), after that. */
uint64_t machine_await_entry(struct machine *machine, uint64_t deadline_ns);

/* accel_ops.vcpu_writes. */
int machine_vcpu_writes(struct machine *machine, unsigned int vcpu,
			uint64_t *ret_pages);
/* vcpu_set_hold(), _held(), _forget_held() and _cpu_ns(); any thread. */
void machine_hold_vcpu(struct machine *machine, unsigned int vcpu,
		       uint64_t until_ns);
void machine_vcpu_held(struct machine *machine, unsigned int vcpu,
		       struct vcpu_held *ret_held);
void machine_forget_held(struct machine *machine);
uint64_t machine_vcpu_cpu_ns(struct machine *machine, unsigned int vcpu);
/* The accelerator's counters: accel_ops.stats_read.  -EINVAL for a vCPU that
 * does not exist. */
int machine_read_stats(struct machine *machine, int vcpu, accel_stat_fn *fn,
		       void *opaque, struct err *err);

/* The guest or the host ends the machine; the first cause stays. */
void machine_shutdown(struct machine *machine, enum shutdown_cause cause,
		      uint32_t code);
enum shutdown_cause machine_shutdown_cause(struct machine *machine,
					   uint32_t *ret_code);
/* What a vCPU said that could not go on, if that was the cause.  For who was
 * told MACHINE_EVENT_SHUTDOWN. */
const struct err *machine_shutdown_err(const struct machine *machine);

#endif
