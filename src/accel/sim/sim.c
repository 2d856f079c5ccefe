// SPDX-License-Identifier: Apache-2.0
/*
 * The VM: creation, clock, interrupt lines, and what else moves with it.
 *
 * Tables of the interrupt controller (tables=SIZE) are what arm64's ITS has: kept in
 * guest memory, written there when it is saved, by no vCPU, and more pages at a
 * time than a dirty ring holds.
 */
#include "accel/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "mem/ram.h"
#include "sim_priv.h"

#define RING_DEFAULT 4096u

uint64_t sim_tsc(const struct sim *sim)
{
	return clock_mono_ns() +
	       __atomic_load_n(&sim->tsc_offset, __ATOMIC_RELAXED);
}

static const struct state_field setup_fields[] = {
	STATE_FIELD(struct sim_setup, tables_size, STATE_U64),
	STATE_FIELD_MAX(struct sim_setup, has_pv, STATE_U32, 1),
};

static const struct state_desc setup_desc = {
	.version = 1,
	.min_version = 1,
	.fields = setup_fields,
	.field_count = array_size(setup_fields),
};

static const struct state_field vm_fields[] = {
	STATE_FIELD(struct sim_vm_state, tsc, STATE_U64),
	STATE_FIELD(struct sim_vm_state, realtime_ns, STATE_U64),
	STATE_FIELD(struct sim_vm_state, dumps, STATE_U64),
	STATE_FIELD_FULL(struct sim_vm_state, lines, STATE_U8, SIM_LINES,
			 STATE_FIXED, 1, 1),
};

static const struct state_desc vm_desc = {
	.version = 1,
	.min_version = 1,
	.fields = vm_fields,
	.field_count = array_size(vm_fields),
};

/* The guest was made for what the source had: it must be so here. */
static int sim_setup_load(struct accel *accel, struct err *err)
{
	const struct sim *sim = sim_of(accel);

	if (sim->setup.tables_size != sim->options.tables_size)
		return err_set(
			err, -EINVAL, "tables of %lu bytes there, of %lu here",
			sim->setup.tables_size, sim->options.tables_size);
	if (sim->setup.has_pv != sim->options.has_pv)
		return err_set(err, -EINVAL, "pv=%s there, pv=%s here",
			       sim->setup.has_pv ? "on" : "off",
			       sim->options.has_pv ? "on" : "off");
	return 0;
}

static void sim_irq_set(struct accel *accel, unsigned int gsi, int level)
{
	__atomic_store_n(&sim_of(accel)->lines[gsi], level != 0,
			 __ATOMIC_RELAXED);
}

static void dump_tables(struct sim *sim)
{
	uint64_t gpa = __atomic_load_n(&sim->tables_gpa, __ATOMIC_ACQUIRE);
	uint64_t page[RAM_PAGE_SIZE / sizeof(uint64_t)];

	if (!gpa)
		return;
	sim->vm.dumps++;
	for (uint64_t n = 0; n < sim->options.tables_size / RAM_PAGE_SIZE;
	     n++) {
		for (size_t i = 0; i < array_size(page); i++)
			page[i] = sim_table_word(sim->vm.dumps, n);
		sim_write_aside(sim, gpa + n * RAM_PAGE_SIZE, page,
				sizeof(page));
	}
}

static int sim_vm_save(struct accel *accel, struct err *err)
{
	struct sim *sim = sim_of(accel);

	(void)err;
	dump_tables(sim);
	for (size_t i = 0; i < SIM_LINES; i++)
		sim->vm.lines[i] =
			__atomic_load_n(&sim->lines[i], __ATOMIC_RELAXED);
	sim->vm.realtime_ns = clock_real_ns();
	sim->vm.tsc = sim_tsc(sim);
	return 0;
}

/* The guest's clock includes the pause; it never goes back, whatever the host's
 * does. */
static int sim_vm_load(struct accel *accel, struct err *err)
{
	struct sim *sim = sim_of(accel);
	uint64_t now_ns = clock_real_ns(), passed_ns = 0;

	(void)err;
	if (now_ns > sim->vm.realtime_ns)
		passed_ns = now_ns - sim->vm.realtime_ns;
	__atomic_store_n(&sim->tsc_offset,
			 sim->vm.tsc + passed_ns - clock_mono_ns(),
			 __ATOMIC_RELAXED);
	for (size_t i = 0; i < SIM_LINES; i++)
		__atomic_store_n(&sim->lines[i], sim->vm.lines[i],
				 __ATOMIC_RELAXED);
	return 0;
}

static uint32_t sim_tsc_khz(struct accel *accel)
{
	(void)accel;
	return SIM_TSC_KHZ;
}

static void sim_free(struct accel *accel)
{
	struct sim *sim = sim_of(accel);
	struct sim_vcpu *vcpu, *next;

	sim_slots_fini(sim);
	sim_collapse_fini(sim);
	state_unregister(&sim->setup_entry);
	state_unregister(&sim->vm_entry);
	list_for_each_safe (vcpu, next, &sim->retired, link) {
		sim_ring_fini(&vcpu->ring);
		free(vcpu->program);
		free(vcpu);
	}
	s2_fini(&sim->s2);
	accel_routes_fini(&sim->routes);
	lock_fini(&sim->slots_lock);
	lock_fini(&sim->eoi_lock);
	free(sim->harvest);
	free(sim->vcpus);
	free(sim);
}

const struct accel_ops sim_accel_ops = {
	.name = "sim",
	.free = sim_free,
	.irq_set = sim_irq_set,
	.msi_send = sim_msi_send,
	.route_new = accel_route_new,
	.route_free = accel_route_free,
	.routes_begin = accel_routes_begin,
	.route_set = accel_route_set,
	.routes_commit = accel_routes_commit,
	.irqfd_set = accel_irqfd_set,
	.irq_counts = accel_irq_counts,
	.vcpu_new = sim_vcpu_new,
	.vcpu_free = sim_vcpu_free,
	.vcpu_boot = sim_vcpu_boot,
	.vcpu_run = sim_vcpu_run,
	.vcpu_kick = sim_vcpu_kick,
	.vcpu_unkick = sim_vcpu_unkick,
	.vcpu_save = sim_vcpu_save,
	.vcpu_load = sim_vcpu_load,
	.vcpu_rehearse = sim_vcpu_rehearse,
	.vm_save = sim_vm_save,
	.vm_load = sim_vm_load,
	.setup_load = sim_setup_load,
	.tsc_khz = sim_tsc_khz,
	.stats_read = sim_stats_read,
	.ring_stats = sim_ring_stats,
	.vcpu_writes = sim_vcpu_writes,
};

int sim_new(const struct accel_config *config, struct accel **ret_accel,
	    struct err *err)
{
	const struct sim_options *options = &config->options.sim;
	struct sim *sim = calloc(1, sizeof(*sim));
	int ret;

	if (!sim)
		return err_set(err, -ENOMEM, "no memory for the VM");
	sim->accel.ops = &sim_accel_ops;
	sim->options = *options;
	sim->max_leaf = options->leaf == SIM_LEAF_1G   ? 2
			: options->leaf == SIM_LEAF_2M ? 1
						       : 0;
	sim->cpus = config->cpus;
	sim->memory = config->memory;
	sim->ports = config->ports;
	sim->state = config->state;
	sim->epoch = 1;
	sim->setup.tables_size = options->tables_size;
	sim->setup.has_pv = options->has_pv;
	list_init(&sim->retired);
	list_init(&sim->collapse.works);
	lock_init(&sim->slots_lock, LOCK_SLOTS);
	sim_routes_init(sim);
	sim->vcpus = calloc(config->cpus, sizeof(struct sim_vcpu *));
	if (config->options.dirty != ACCEL_DIRTY_BITMAP)
		sim->ring_entries = config->options.ring_entries
					    ? config->options.ring_entries
					    : RING_DEFAULT;
	sim->harvest = calloc(sim->ring_entries ? sim->ring_entries : 1,
			      sizeof(*sim->harvest));
	ret = s2_init(&sim->s2);
	if (ret || !sim->vcpus || !sim->harvest)
		ret = err_set(err, -ENOMEM, "no memory for the VM");
	if (!ret)
		ret = sim_slots_init(sim, err);
	if (!ret)
		ret = sim_collapse_init(sim, err);
	if (ret) {
		sim_free(&sim->accel);
		return ret;
	}
	state_register(config->setup_state, &sim->setup_entry, "sim-setup",
		       &setup_desc, &sim->setup);
	state_register(config->state, &sim->vm_entry, "sim", &vm_desc,
		       &sim->vm);
	*ret_accel = &sim->accel;
	return 0;
}
