// SPDX-License-Identifier: Apache-2.0
/*
 * Lets a machine run and stops it: the run state (drawn in run_state.c) and the
 * steps of a migration's switch.  Called by control/ and by the migration's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/trace.h"
#include "dev/acpi_pm.h"
#include "dev/ns16550.h"
#include "machine/vcpu.h"
#include "machine_priv.h"
#include "vhost/vhost.h"

/* How long `stop` waits for vCPUs that are in a device, and for requests that are under
 * way. */
#define STOP_WAIT_NS (3 * NS_PER_SEC)

/* ---- run state ---- */

static void set_run_state(struct machine *machine, enum run_state to)
{
	lock_assert_held(&machine->lock);
	if (!run_state_may_go(machine->run_state, to)) {
		log_warn("no arc from run state %s to %s",
			 run_state_name(machine->run_state),
			 run_state_name(to));
		abort(); /* our own bug: go no further with this guest */
	}
	trace(run_state, "%s to %s", run_state_name(machine->run_state),
	      run_state_name(to));
	__atomic_store_n(&machine->run_state, to, __ATOMIC_RELEASE);
	machine_reclaim_end(machine);
}

enum run_state machine_run_state(struct machine *machine)
{
	if (machine_shutdown_cause(machine, NULL) != SHUTDOWN_NONE)
		return machine_shutdown_cause(machine, NULL) == SHUTDOWN_ERROR
			       ? RUN_STATE_INTERNAL_ERROR
			       : RUN_STATE_SHUTDOWN;
	return __atomic_load_n(&machine->run_state, __ATOMIC_ACQUIRE);
}

int machine_go(struct machine *machine, struct err *err)
{
	int ret = devices_claim(machine->devices, err);

	if (ret)
		return ret;
	set_run_state(machine, RUN_STATE_RUNNING);
	if (__atomic_load_n(&machine->cause, __ATOMIC_SEQ_CST) != SHUTDOWN_NONE)
		vcpu_set_halt(machine->vcpus);
	vcpu_set_resume(machine->vcpus);
	ns16550_start(machine->serial);
	devices_run(machine->devices);
	machine->on_event(machine->opaque, MACHINE_EVENT_RESUME);
	return 0;
}

static int refuse(const struct machine *machine, const char *what,
		  struct err *err)
{
	return err_set(err, -EINVAL, "cannot %s a machine that is %s", what,
		       run_state_name(machine->run_state));
}

int machine_start(struct machine *machine, struct err *err)
{
	int ret;

	lock_acquire(&machine->lock);
	ret = machine->run_state == RUN_STATE_PRELAUNCH
		      ? machine_go(machine, err)
		      : refuse(machine, "start", err);
	lock_release(&machine->lock);
	return ret;
}

/* With the lock: vCPUs rest, or all run on since one did not come in time. */
static int stop_vcpus(struct machine *machine, uint64_t deadline_ns,
		      struct err *err)
{
	int ret = vcpu_set_pause_until(machine->vcpus, deadline_ns, err);

	if (ret) {
		set_run_state(machine, RUN_STATE_RUNNING);
		vcpu_set_resume(machine->vcpus);
	} else {
		machine->on_event(machine->opaque, MACHINE_EVENT_STOP);
	}
	return ret;
}

int machine_stop(struct machine *machine, struct err *err)
{
	uint64_t deadline_ns = clock_mono_ns() + STOP_WAIT_NS;
	int ret = 0;

	lock_acquire(&machine->lock);
	if (machine->run_state == RUN_STATE_RUNNING) {
		set_run_state(machine, RUN_STATE_PAUSED);
		ret = stop_vcpus(machine, deadline_ns, err);
		if (!ret) {
			ret = machine_stop_backends(machine, deadline_ns, err);
			if (ret)
				machine_go(machine,
					   NULL); /* it has what it had */
		}
	} else if (machine->run_state == RUN_STATE_PAUSED) {
		machine_reclaim_end(machine);
	} else {
		ret = refuse(machine, "stop", err);
	}
	lock_release(&machine->lock);
	return ret;
}

int machine_cont(struct machine *machine, bool force, struct err *err)
{
	int ret = 0;

	lock_acquire(&machine->lock);
	switch (machine->run_state) {
	case RUN_STATE_RUNNING:
		break;
	case RUN_STATE_PAUSED:
		ret = machine_go(machine, err);
		break;
	case RUN_STATE_HANDED_OVER:
		if (force)
			ret = machine_go(machine, err);
		else
			ret = err_set(err, -EPERM,
				      "this guest was handed over, and no "
				      "answer says that it runs: make sure "
				      "that it does not run there, then cont "
				      "with force");
		break;
	case RUN_STATE_POSTMIGRATE:
		ret = err_set(err, -EPERM,
			      "this guest runs at the destination now");
		break;
	default:
		ret = refuse(machine, "continue", err);
		break;
	}
	lock_release(&machine->lock);
	return ret;
}

int machine_power_down(struct machine *machine, struct err *err)
{
	int ret = 0;

	lock_acquire(&machine->lock);
	if (machine->run_state == RUN_STATE_RUNNING) {
		machine->on_event(machine->opaque, MACHINE_EVENT_POWERDOWN);
		acpi_pm_press_power_button(machine->acpi_pm);
	} else {
		ret = refuse(machine, "power down", err);
	}
	lock_release(&machine->lock);
	return ret;
}

/* ---- the switch ---- */

void machine_hurry(struct machine *machine, bool is_urgent)
{
	thread_set_urgent(pthread_self(), is_urgent);
	vcpu_set_urgent(machine->vcpus, is_urgent);
}

void machine_expect(struct machine *machine, uint64_t ns)
{
	vcpu_set_expect(machine->vcpus, clock_mono_ns() + ns);
}

int machine_switch_begin(struct machine *machine, uint64_t deadline_ns,
			 bool *ret_was_running, struct err *err)
{
	bool was_running;
	int ret = 0;

	lock_acquire(&machine->lock);
	was_running = machine->run_state == RUN_STATE_RUNNING;
	if (was_running || machine->run_state == RUN_STATE_PAUSED) {
		set_run_state(machine, RUN_STATE_FINISH_MIGRATE);
		if (was_running)
			ret = stop_vcpus(machine, deadline_ns, err);
		*ret_was_running = was_running;
	} else {
		ret = refuse(machine, "move", err);
	}
	lock_release(&machine->lock);
	if (!ret && machine_shutdown_cause(machine, NULL) != SHUTDOWN_NONE) {
		machine_switch_end(machine, RUN_STATE_PAUSED, NULL);
		ret = err_set(err, -EINVAL, "the guest has ended");
	}
	return ret;
}

int machine_stop_backends(struct machine *machine, uint64_t deadline_ns,
			  struct err *err)
{
	ns16550_stop(machine->serial);
	return devices_pause(machine->devices, deadline_ns, err);
}

int machine_claim(struct machine *machine, struct err *err)
{
	return devices_claim(machine->devices, err);
}

void machine_disclaim(struct machine *machine)
{
	devices_disclaim(machine->devices);
}

int machine_save_accel(struct machine *machine, struct err *err)
{
	int ret = vcpu_set_work(machine->vcpus, machine->accel->ops->vcpu_save,
				err);

	return ret ? ret : machine->accel->ops->vm_save(machine->accel, err);
}

int machine_switch_end(struct machine *machine, enum run_state to,
		       struct err *err)
{
	int ret = 0;

	lock_acquire(&machine->lock);
	if (to == RUN_STATE_RUNNING)
		ret = machine_go(machine, err);
	else if (to == RUN_STATE_PAUSED)
		ret = devices_claim(machine->devices, err);
	if (ret)
		set_run_state(machine, RUN_STATE_PAUSED);
	else if (to != RUN_STATE_RUNNING)
		set_run_state(machine, to);
	if (ret && to == RUN_STATE_RUNNING)
		machine_reclaim_begin(machine);
	lock_release(&machine->lock);
	return ret;
}

static int activate(struct state_registry *registry, struct err *err)
{
	struct state_entry *entry;

	list_for_each (entry, &registry->entries, link) {
		int ret = state_activate(entry, err);

		if (ret) {
			err_prefix(err, "activating %s", entry->name);
			return ret;
		}
	}
	return 0;
}

int machine_save_setup(struct machine *machine, uint64_t deadline_ns,
		       int stop_fd, struct err *err)
{
	const struct accel_ops *ops = machine->accel->ops;

	return ops->vcpu_setup_load
		       ? vcpu_set_interrupt(machine->vcpus, ops->vcpu_save,
					    deadline_ns, stop_fd, err)
		       : 0;
}

int machine_load_setup(struct machine *machine, struct err *err)
{
	const struct accel_ops *ops = machine->accel->ops;
	int ret = ops->setup_load(machine->accel, err);

	if (!ret && ops->vcpu_setup_load)
		ret = vcpu_set_work(machine->vcpus, ops->vcpu_setup_load, err);
	return ret ? ret : activate(&machine->setup_state, err);
}

static int do_nothing(struct accel_vcpu *vcpu, struct err *err)
{
	(void)vcpu;
	(void)err;
	return 0;
}

/* Of each ring a back end is asked where it stopped, and told where to begin, its
 * addresses and its kick. */
#define RING_QUESTIONS 4

/* Two, and another if they took no longer than that. */
#define REHEARSALS_MAX 3
#define REHEARSALS_NS  (30 * NS_PER_MS)
#define REST_FIRST_NS  (200 * NS_PER_US)
#define REST_MAX_NS    (1 * NS_PER_MS)

/* A stop, a save and a load wake all vCPU threads and wait for them, once each.
 * vm_save twice: vm_load, which is as many calls, would set the clock. */
static int rehearse_accel(struct machine *machine, uint64_t *ret_ns,
			  struct err *err)
{
	const struct accel_ops *ops = machine->accel->ops;
	uint64_t start = clock_mono_ns();
	int ret = 0;

	for (int i = 0; !ret && i < 2; i++)
		ret = vcpu_set_work(machine->vcpus, do_nothing, err);
	if (!ret)
		ret = vcpu_set_work(machine->vcpus, ops->vcpu_rehearse, err);
	for (int i = 0; !ret && i < 2; i++)
		ret = ops->vm_save(machine->accel, err);
	*ret_ns = clock_mono_ns() - start;
	return ret;
}

static int rehearse_devices(struct machine *machine, uint64_t *ret_ns,
			    struct err *err)
{
	int ret = devices_rehearse(machine->devices, ret_ns, err);

	*ret_ns *= RING_QUESTIONS;
	return ret;
}

/* A guest of this host has its CPU back for as long as it may have missed it.  There is
 * no event to wait for. */
static void rest(uint64_t ns)
{
	const struct timespec time = {
		.tv_nsec = (long)(ns < REST_MAX_NS ? ns : REST_MAX_NS),
	};

	nanosleep(&time, NULL);
}

/* The least of some: threads, and a back end's process, have to wake up for it, and
 * once in a while one does so late. */
static int rehearse(struct machine *machine, uint64_t *ret_least_ns,
		    int (*once)(struct machine *machine, uint64_t *ret_ns,
				struct err *err),
		    struct err *err)
{
	uint64_t start = clock_mono_ns(), ns = REST_FIRST_NS;
	int ret = 0;

	*ret_least_ns = UINT64_MAX;
	for (int i = 0; !ret && i < REHEARSALS_MAX; i++) {
		if (i > 1 && clock_mono_ns() - start > REHEARSALS_NS)
			break;
		rest(ns);
		ret = once(machine, &ns, err);
		*ret_least_ns = ns < *ret_least_ns ? ns : *ret_least_ns;
	}
	return ret;
}

int machine_rehearse(struct machine *machine, uint64_t *ret_switch_ns,
		     struct err *err)
{
	uint64_t accel_ns, devices_ns;
	int ret = rehearse(machine, &accel_ns, rehearse_accel, err);

	if (!ret)
		ret = rehearse(machine, &devices_ns, rehearse_devices, err);
	if (!ret)
		*ret_switch_ns = accel_ns + devices_ns;
	return ret;
}

/* One that does not answer within this is silent, which is no matter of an estimate: a
 * switch fails for it. */
#define BACKENDS_WAIT_NS (500 * NS_PER_MS)

static int time_backends(struct machine *machine, uint64_t *ret_ns,
			 struct err *err)
{
	struct vh_board *board = devices_vhost(machine->devices);
	int ret;

	(void)err;
	ret = vh_board_time(board, clock_mono_ns() + BACKENDS_WAIT_NS, ret_ns);
	*ret_ns *= RING_QUESTIONS;
	return ret;
}

uint64_t machine_time_backends(struct machine *machine)
{
	uint64_t ns;

	if (!devices_vhost(machine->devices))
		return 0;
	return rehearse(machine, &ns, time_backends, NULL) ? 0 : ns;
}

void machine_probe(struct machine *machine)
{
	devices_probe(machine->devices);
}

int machine_prepare_backends(struct machine *machine, struct err *err)
{
	return devices_prepare(machine->devices, err);
}

int machine_load_accel(struct machine *machine, struct err *err)
{
	/* The clock first: the vCPUs' TSC offsets follow from it. */
	int ret = machine->accel->ops->vm_load(machine->accel, err);

	return ret ? ret
		   : vcpu_set_work(machine->vcpus,
				   machine->accel->ops->vcpu_load, err);
}

/* Vectors that changed since the pre-state are told in one commit of routes,
 * whatever the number of functions. */
int machine_activate(struct machine *machine, bool one_commit, struct err *err)
{
	const struct accel_ops *ops = machine->accel->ops;
	struct err routes = ERR_INIT;
	int ret = ops->activate ? ops->activate(machine->accel, err) : 0;

	if (ret)
		return ret;
	if (!ops->routes_begin || !one_commit)
		return activate(&machine->state, err);
	ops->routes_begin(machine->accel);
	ret = activate(&machine->state, err);
	if (ops->routes_commit(machine->accel, &routes) && !ret)
		ret = err_set(err, routes.code, "%s", err_msg(&routes));
	return ret;
}

int machine_take_over(struct machine *machine, bool is_running, struct err *err)
{
	int ret = 0;

	lock_acquire(&machine->lock);
	if (machine_shutdown_cause(machine, NULL) != SHUTDOWN_NONE)
		ret = err_set(err, -EINVAL, "this machine has ended");
	else if (machine->run_state != RUN_STATE_INMIGRATE)
		ret = refuse(machine, "take over", err);
	else if (is_running)
		ret = machine_go(machine, err);
	else
		set_run_state(machine, RUN_STATE_PAUSED);
	if (!ret)
		devices_arrived(machine->devices);
	lock_release(&machine->lock);
	return ret;
}

uint64_t machine_await_entry(struct machine *machine, uint64_t deadline_ns)
{
	return vcpu_set_await_entry(machine->vcpus, deadline_ns);
}
