// SPDX-License-Identifier: Apache-2.0
/*
 * Builds a machine, boots it and ends it.
 *
 * Memory map: RAM from 0 to at most 3 GiB, the rest from 4 GiB on; one RAM
 * block behind both.  Between them PCI and the interrupt controllers; PCI's large
 * BARs come behind RAM.  A machine without devices has no PCI bus: there is
 * nothing to find, to save or to build.
 * Ports: COM1 at 0x3f8, CMOS RTC at 0x70, keyboard controller (for its reset
 * line) at 0x60/0x64, reset control at 0xcf9, debug exit at 0xf4, ACPI's power
 * management at 0x600 (GSI 9).
 */
#include "machine/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/trace.h"
#include "dev/acpi_pm.h"
#include "dev/chardev.h"
#include "dev/debug_exit.h"
#include "dev/i8042.h"
#include "dev/mc146818.h"
#include "dev/ns16550.h"
#include "dev/pch_reset.h"
#include "dev/pci.h"
#include "guest/images.h"
#include "machine/acpi.h"
#include "machine/boot.h"
#include "machine/vcpu.h"
#include "machine_priv.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "state/state.h"
#include "virtio/vdev.h"

#define LOW_RAM_END    (3ull << 30)
#define HIGH_RAM_START (4ull << 30)
#define RAM_ALIGN      (1ull << 30) /* so that memslots can be 1 GiB */

#define SERIAL_PORT 0x3f8
#define SERIAL_GSI  4
#define PM_PORT     0x600
#define PM_GSI      9
#define HARD_RESET  0x06 /* to PCH_RESET_PORT */

/* How long requests that are under way have when the machine ends. */
#define END_WAIT_NS (2 * NS_PER_SEC)

static const char *const cause_names[] = {
	[SHUTDOWN_GUEST_POWEROFF] = "power-off",
	[SHUTDOWN_GUEST_RESET] = "reset",
	[SHUTDOWN_TRIPLE_FAULT] = "triple fault",
	[SHUTDOWN_DEBUG_EXIT] = "debug exit",
	[SHUTDOWN_ERROR] = "internal error",
	[SHUTDOWN_HOST] = "host request",
};

/* ---- ends ---- */

/* Called from vCPU threads too, hence no LOCK_RUN_STATE: whoever holds it may
 * be waiting for that vCPU to park. */
static void shut_down(struct machine *machine, enum shutdown_cause cause,
		      uint32_t code, const struct err *err)
{
	struct vcpu_set *vcpus;
	int none = SHUTDOWN_NONE;

	/* The first cause stays; the event's queue orders the rest after it. */
	if (!__atomic_compare_exchange_n(&machine->cause, &none, (int)cause,
					 false, __ATOMIC_SEQ_CST,
					 __ATOMIC_ACQUIRE))
		return;
	if (err)
		machine->cause_err = *err;
	__atomic_store_n(&machine->cause_code, code, __ATOMIC_RELEASE);
	trace(machine_shutdown, "%s, code %u", cause_names[cause], code);
	/* Ctrl-A x may come while the machine is built: either they are seen
	 * here or, in the one order of all these, the cause is in go(). */
	vcpus = __atomic_load_n(&machine->vcpus, __ATOMIC_SEQ_CST);
	if (vcpus)
		vcpu_set_halt(vcpus);
	machine->on_event(machine->opaque, MACHINE_EVENT_SHUTDOWN);
}

void machine_shutdown(struct machine *machine, enum shutdown_cause cause,
		      uint32_t code)
{
	shut_down(machine, cause, code, NULL);
}

const struct err *machine_shutdown_err(const struct machine *machine)
{
	return &machine->cause_err;
}

enum shutdown_cause machine_shutdown_cause(struct machine *machine,
					   uint32_t *ret_code)
{
	int cause = __atomic_load_n(&machine->cause, __ATOMIC_ACQUIRE);

	if (ret_code)
		*ret_code =
			__atomic_load_n(&machine->cause_code, __ATOMIC_ACQUIRE);
	return (enum shutdown_cause)cause;
}

static void on_vcpu_exit(void *opaque, unsigned int index, enum accel_exit exit,
			 const struct err *err)
{
	struct err fault = ERR_INIT;

	if (exit == ACCEL_EXIT_SHUTDOWN) {
		err_set(&fault, -EFAULT, "vCPU %u: triple fault", index);
		shut_down(opaque, SHUTDOWN_TRIPLE_FAULT, 0, &fault);
	} else {
		shut_down(opaque, SHUTDOWN_ERROR, 0, err);
	}
}

static void on_debug_exit(void *opaque, uint32_t value)
{
	machine_shutdown(opaque, SHUTDOWN_DEBUG_EXIT, value);
}

static void on_reset(void *opaque)
{
	machine_shutdown(opaque, SHUTDOWN_GUEST_RESET, 0);
}

static void on_power_off(void *opaque)
{
	machine_shutdown(opaque, SHUTDOWN_GUEST_POWEROFF, 0);
}

static void on_serial_quit(void *opaque)
{
	machine_shutdown(opaque, SHUTDOWN_HOST, 0);
}

/* ---- building ---- */

static int build_memory(struct machine *machine, struct err *err)
{
	const struct machine_options *options = &machine->options;
	const struct ram_options ram = {
		.hugepage_size = options->hugepage_size,
		.use_thp = options->use_thp,
		.align = RAM_ALIGN,
	};
	uint64_t low =
		options->memory < LOW_RAM_END ? options->memory : LOW_RAM_END;
	struct mem_region *all;
	int ret;

	machine->mem = mem_new();
	if (!machine->mem)
		return err_set(err, -ENOMEM, "no memory for the memory map");
	ret = ram_block_new(machine->mem, "ram", options->memory, &ram,
			    &machine->ram, err);
	if (ret)
		return ret;
	mem_begin(machine->mem);
	machine->root =
		mem_region_new_container(machine->mem, "memory", MEM_SIZE_2_64);
	machine->ports_root =
		mem_region_new_container(machine->mem, "ports", 0x10000);
	all = mem_region_new_ram(machine->mem, "ram", machine->ram);
	machine->ram_low =
		mem_region_new_alias(machine->mem, "ram-low", all, 0, low);
	mem_region_add(machine->root, 0, machine->ram_low, 0);
	if (options->memory > low) {
		machine->ram_high =
			mem_region_new_alias(machine->mem, "ram-high", all, low,
					     options->memory - low);
		mem_region_add(machine->root, HIGH_RAM_START, machine->ram_high,
			       0);
	}
	mem_region_put(all); /* the aliases hold it */
	mem_commit(machine->mem);
	machine->memory = addr_space_new(machine->mem, "memory", machine->root);
	machine->ports =
		addr_space_new(machine->mem, "ports", machine->ports_root);
	if (!machine->memory || !machine->ports)
		return err_set(err, -ENOMEM, "no memory for address spaces");
	return 0;
}

static void set_gsi(void *opaque, unsigned int gsi, int level)
{
	struct accel *accel = opaque;

	accel->ops->irq_set(accel, gsi, level);
}

static bool has_pci(const struct machine *machine)
{
	return machine->options.device_count > 0;
}

static uint64_t pci_mmio64_start(const struct machine *machine)
{
	uint64_t memory = machine->options.memory;
	uint64_t high = memory > LOW_RAM_END ? memory - LOW_RAM_END : 0;

	return align_up(HIGH_RAM_START + high, RAM_ALIGN);
}

static int build_pci(struct machine *machine, struct err *err)
{
	const struct pci_bus_config config = {
		.mem = machine->mem,
		.memory = machine->root,
		.ports = machine->ports_root,
		.mmio64_start = pci_mmio64_start(machine),
		.accel = machine->accel,
		.reset = machine->pch_reset,
		.state = &machine->state,
		.setup_state = &machine->setup_state,
	};
	struct vdev_site site = {
		.mem = machine->mem,
		.memory = machine->memory,
		.state = &machine->state,
		.setup_state = &machine->setup_state,
		.is_incoming = machine->options.is_incoming,
	};
	int ret;

	if (!has_pci(machine))
		return 0;
	ret = pci_bus_new(&config, &machine->pci, err);
	site.bus = machine->pci;
	if (!ret)
		ret = devices_new(&site, machine->options.devices,
				  machine->options.device_count,
				  machine->options.is_vhost_scan_each,
				  &machine->devices, err);
	if (!ret)
		ret = pci_bus_assign(machine->pci, err);
	return ret;
}

static int build_devices(struct machine *machine, struct err *err)
{
	const struct irq_line serial_irq = { .set = set_gsi,
					     .opaque = machine->accel,
					     .gsi = SERIAL_GSI };
	const struct irq_line sci = { .set = set_gsi,
				      .opaque = machine->accel,
				      .gsi = PM_GSI };
	const struct chardev_options chardev = { .quit = on_serial_quit,
						 .opaque = machine,
						 .in_fd = 0,
						 .out_fd = 1 };
	struct mem *mem = machine->mem;
	struct mem_region *ports = machine->ports_root;
	int ret;

	ret = chardev_new(machine->options.serial ? machine->options.serial
						  : "null",
			  &chardev, &machine->serial_chardev, err);
	if (ret)
		return ret;
	mem_begin(mem);
	machine->serial = ns16550_new(mem, ports, SERIAL_PORT, serial_irq,
				      machine->serial_chardev, &machine->state,
				      "serial0");
	machine->rtc = mc146818_new(mem, ports, 0x70, &machine->state, "rtc");
	machine->i8042 = i8042_new(mem, ports, on_reset, machine,
				   &machine->state, "i8042");
	machine->pch_reset =
		pch_reset_new(mem, has_pci(machine) ? NULL : ports, on_reset,
			      machine, &machine->state, "pch-reset");
	machine->debug_exit =
		debug_exit_new(mem, ports, 0xf4, on_debug_exit, machine);
	machine->acpi_pm = acpi_pm_new(mem, ports, PM_PORT, sci, on_power_off,
				       machine, &machine->state, "acpi-pm");
	mem_commit(mem);
	if (!machine->serial || !machine->rtc || !machine->i8042 ||
	    !machine->pch_reset || !machine->debug_exit || !machine->acpi_pm)
		return err_set(err, -ENOMEM, "no memory for devices");
	return 0;
}

/* ---- booting ---- */

/* The command line of a built-in guest: its options, and what it cannot find
 * out by itself. */
static int guest_cmdline(const struct machine *machine, char *text, size_t room,
			 struct err *err)
{
	const char *options = strchr(machine->options.guest, ',');
	int used = snprintf(
		text, room, "cpus=%u,tsc-khz=%u%s%s", machine->options.cpus,
		machine->accel->ops->tsc_khz(machine->accel),
		options ? options : "", machine->options.append ? "," : "");

	if (machine->options.append && used >= 0 && (size_t)used < room)
		used += snprintf(text + used, room - (size_t)used, "%s",
				 machine->options.append);
	if (used < 0 || (size_t)used >= room)
		return err_set(err, -E2BIG,
			       "options of the guest: %d bytes, "
			       "at most %zu",
			       used, room - 1);
	return 0;
}

static int select_guest(const struct machine *machine, struct boot_image *image,
			struct err *err)
{
	static const struct {
		const char *name;
		const unsigned char *start, *end;
	} programs[] = {
		{ "stress", guest_stress_elf, guest_stress_elf_end },
		{ "blk", guest_blk_elf, guest_blk_elf_end },
		{ "net", guest_net_elf, guest_net_elf_end },
	};
	const char *guest = machine->options.guest;
	size_t size = strcspn(guest, ",");

	for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
		if (size != strlen(programs[i].name) ||
		    strncmp(guest, programs[i].name, size) != 0)
			continue;
		/* A simulated vCPU does what stress does, whatever is loaded. */
		if (i && machine->options.accel.type->runs_no_code)
			return err_set(err, -EINVAL,
				       "guest '%s': accelerator %s runs only "
				       "stress",
				       programs[i].name,
				       machine->options.accel.type->name);
		image->kernel = programs[i].start;
		image->kernel_size =
			(size_t)(programs[i].end - programs[i].start);
		return 0;
	}
	return err_set(err, -EINVAL,
		       "guest '%.*s' is unknown; use stress, blk or net",
		       (int)size, guest);
}

static int boot_vcpus(struct machine *machine, const struct boot_entry *entry,
		      struct err *err)
{
	for (unsigned int i = 0; i < machine->options.cpus; i++) {
		/* Each protocol has the boot data in a register of its own. */
		struct accel_boot_regs regs = {
			.is_long = entry->is_64,
			.rip = i ? entry->ap_entry : entry->entry,
			.rbx = entry->info,
			.rsi = entry->info,
			.rdi = i,
			.page_table = entry->page_table,
			.gdt = entry->gdt,
			.gdt_limit = entry->gdt_limit,
		};
		int ret;

		if (regs.rip == 0)
			break; /* the kernel starts them by INIT and SIPI */
		ret = machine->accel->ops->vcpu_boot(
			vcpu_set_get(machine->vcpus, i), &regs, err);
		if (ret)
			return ret;
	}
	return 0;
}

static int write_acpi_tables(struct machine *machine, struct err *err)
{
	const struct acpi_board board = {
		.cpus = machine->options.cpus,
		.pm_port = PM_PORT,
		.pm_gsi = PM_GSI,
		.reset_port = PCH_RESET_PORT,
		.reset_value = HARD_RESET,
		.century = MC146818_CENTURY,
		.has_pci = has_pci(machine),
		.pci_mmio64_start = pci_mmio64_start(machine),
	};
	struct bytes_writer tables = { .data = NULL };
	int ret = 0;

	acpi_build(&board, &tables);
	if (tables.is_failed)
		ret = err_set(err, -ENOMEM, "no memory for ACPI tables");
	else
		memcpy(machine->ram->host + ACPI_GPA, tables.data, tables.size);
	bytes_writer_fini(&tables);
	return ret;
}

static int boot(struct machine *machine, struct err *err)
{
	const struct machine_options *options = &machine->options;
	uint64_t low =
		options->memory < LOW_RAM_END ? options->memory : LOW_RAM_END;
	const struct boot_ram ram[] = {
		{ 0, low, machine->ram->host },
		{ HIGH_RAM_START, options->memory - low,
		  machine->ram->host + low },
	};
	const struct boot_reserved reserved[] = {
		{ ACCEL_OWN_GPA, ACCEL_OWN_SIZE },
		{ PCI_ECAM_START, PCI_ECAM_SIZE },
	};
	char cmdline[BOOT_CMDLINE_MAX + 1] = "";
	struct boot_file kernel = { .data = NULL }, initrd = { .data = NULL };
	struct boot_image image = { .ram = ram,
				    .ram_count = options->memory > low ? 2 : 1,
				    .reserved = reserved,
				    .reserved_count = has_pci(machine) ? 2 : 1,
				    .rsdp_gpa = ACPI_GPA,
				    .is_ram_fresh = true };
	struct boot_entry entry;
	int ret;

	if (options->guest) {
		ret = select_guest(machine, &image, err);
		if (!ret)
			ret = guest_cmdline(machine, cmdline, sizeof(cmdline),
					    err);
		image.cmdline = cmdline;
	} else {
		ret = boot_file_open("kernel", options->kernel, &kernel, err);
		image.kernel = kernel.data;
		image.kernel_size = kernel.size;
		image.cmdline = options->append;
	}
	if (!ret && options->initrd) {
		ret = boot_file_open("initrd", options->initrd, &initrd, err);
		image.initrd = initrd.data;
		image.initrd_size = initrd.size;
	}
	if (!ret) {
		ret = boot_load(&image, &entry, err);
		if (ret && options->kernel)
			err_prefix(err, "%s", options->kernel);
	}
	if (!ret)
		ret = write_acpi_tables(machine, err);
	if (!ret)
		ret = boot_vcpus(machine, &entry, err);
	boot_file_close(&kernel);
	boot_file_close(&initrd);
	return ret;
}

static int check_options(const struct machine_options *options, struct err *err)
{
	if (options->memory < MACHINE_MEMORY_MIN ||
	    options->memory > MACHINE_MEMORY_MAX)
		return err_set(err, -ERANGE,
			       "--memory of %lu bytes, must be 16M to 16T",
			       options->memory);
	if (options->memory % (2u << 20))
		return err_set(err, -EINVAL,
			       "--memory of %lu bytes is not a multiple of 2M",
			       options->memory);
	if (options->cpus < 1 || options->cpus > MACHINE_CPUS_MAX)
		return err_set(err, -ERANGE, "--cpus %u, must be 1 to %u",
			       options->cpus, MACHINE_CPUS_MAX);
	if (options->kernel && options->accel.type->runs_no_code)
		return err_set(err, -EINVAL,
			       "--kernel: accelerator %s runs workloads, no "
			       "code; give --guest or workload=",
			       options->accel.type->name);
	if (options->guest && options->accel.sim.workload[0])
		return err_set(
			err, -EINVAL,
			"--guest and the accelerator's workload= exclude "
			"each other");
	if (!options->is_incoming && !options->kernel && !options->guest &&
	    !options->accel.sim.workload[0])
		return err_set(err, -EINVAL,
			       "nothing to run: give --kernel, --guest or "
			       "--incoming");
	if (options->kernel && options->guest)
		return err_set(err, -EINVAL,
			       "--kernel and --guest exclude each other");
	return 0;
}

int machine_new(const struct machine_options *options,
		machine_event_fn *on_event, void *opaque,
		struct machine **ret_machine, struct err *err)
{
	struct machine *machine = calloc(1, sizeof(*machine));
	struct vcpu_set *vcpus = NULL;
	struct accel_config accel;
	int ret;

	if (!machine)
		return err_set(err, -ENOMEM, "no memory for the machine");
	machine->options = *options;
	machine->on_event = on_event;
	machine->opaque = opaque;
	machine->cause = SHUTDOWN_NONE;
	machine->run_state = options->is_incoming ? RUN_STATE_INMIGRATE
						  : RUN_STATE_PRELAUNCH;
	lock_init(&machine->lock, LOCK_RUN_STATE);
	lock_cond_init(&machine->owed);
	state_registry_init(&machine->setup_state);
	state_registry_init(&machine->state);

	ret = check_options(options, err);
	if (!machine->options.guest && options->accel.sim.workload[0])
		machine->options.guest = machine->options.accel.sim.workload;
	if (!ret)
		ret = build_memory(machine, err);
	accel = (struct accel_config){
		.options = options->accel,
		.cpus = options->cpus,
		.memory = machine->memory,
		.ports = machine->ports,
		.setup_state = &machine->setup_state,
		.state = &machine->state,
	};
	if (!ret)
		ret = accel_new(&accel, &machine->accel, err);
	if (!ret)
		ret = build_devices(machine, err);
	if (!ret)
		ret = build_pci(machine, err);
	if (!ret)
		ret = vcpu_set_new(machine->accel, options->cpus, on_vcpu_exit,
				   machine, &vcpus, err);
	__atomic_store_n(&machine->vcpus, vcpus, __ATOMIC_SEQ_CST);
	if (!ret && !options->is_incoming)
		ret = boot(machine, err);
	if (ret) {
		machine_free(machine);
		return ret;
	}
	*ret_machine = machine;
	return 0;
}

void machine_free(struct machine *machine)
{
	int none = SHUTDOWN_NONE;

	if (!machine)
		return;
	/* Whoever ends it from now on (Ctrl-A x, say) finds it ended. */
	__atomic_compare_exchange_n(&machine->cause, &none, SHUTDOWN_HOST,
				    false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
	machine_reclaim_join(machine);
	if (machine->vcpus)
		vcpu_set_pause(machine->vcpus);
	if (machine->serial)
		ns16550_stop(machine->serial);
	/* Whatever does not come to rest ends as it is freed. */
	devices_pause(machine->devices, clock_mono_ns() + END_WAIT_NS, NULL);
	vcpu_set_free(machine->vcpus);
	if (machine->accel && machine->accel->ops->end)
		machine->accel->ops->end(machine->accel);
	devices_free(machine->devices);
	pci_bus_free(machine->pci);
	acpi_pm_free(machine->acpi_pm);
	debug_exit_free(machine->debug_exit);
	pch_reset_free(machine->pch_reset);
	i8042_free(machine->i8042);
	mc146818_free(machine->rtc);
	ns16550_free(machine->serial);
	chardev_free(machine->serial_chardev);
	accel_free(machine->accel);
	addr_space_free(machine->ports);
	addr_space_free(machine->memory);
	mem_region_put(machine->ram_high);
	mem_region_put(machine->ram_low);
	mem_region_put(machine->ports_root);
	mem_region_put(machine->root);
	if (machine->mem)
		mem_synchronize(machine->mem);
	ram_block_free(machine->ram);
	mem_free(machine->mem);
	pthread_cond_destroy(&machine->owed);
	lock_fini(&machine->lock);
	free(machine);
}

/* ---- parts ---- */

const struct machine_options *machine_options(const struct machine *machine)
{
	return &machine->options;
}

struct mem *machine_mem(struct machine *machine)
{
	return machine->mem;
}

struct addr_space *machine_memory(struct machine *machine)
{
	return machine->memory;
}

struct vh_board *machine_vhost(struct machine *machine)
{
	return devices_vhost(machine->devices);
}

struct vcpu_set *machine_vcpus(struct machine *machine)
{
	return machine->vcpus;
}

struct state_registry *machine_setup_state(struct machine *machine)
{
	return &machine->setup_state;
}

struct state_registry *machine_state(struct machine *machine)
{
	return &machine->state;
}

/* ---- what the accelerator counts ---- */

bool machine_ring_stats(struct machine *machine,
			struct accel_ring_stats *ret_stats)
{
	struct accel *accel = machine->accel;

	return accel->ops->ring_stats &&
	       accel->ops->ring_stats(accel, ret_stats);
}

int machine_vcpu_writes(struct machine *machine, unsigned int vcpu,
			uint64_t *ret_pages)
{
	const struct accel_ops *ops = machine->accel->ops;

	return ops->vcpu_writes
		       ? ops->vcpu_writes(machine->accel, vcpu, ret_pages)
		       : -ENOTSUP;
}

void machine_hold_vcpu(struct machine *machine, unsigned int vcpu,
		       uint64_t until_ns)
{
	vcpu_set_hold(machine->vcpus, vcpu, until_ns);
}

void machine_vcpu_held(struct machine *machine, unsigned int vcpu,
		       struct vcpu_held *ret_held)
{
	vcpu_set_held(machine->vcpus, vcpu, ret_held);
}

void machine_forget_held(struct machine *machine)
{
	vcpu_set_forget_held(machine->vcpus);
}

uint64_t machine_vcpu_cpu_ns(struct machine *machine, unsigned int vcpu)
{
	return vcpu_set_cpu_ns(machine->vcpus, vcpu);
}

int machine_read_stats(struct machine *machine, int vcpu, accel_stat_fn *fn,
		       void *opaque, struct err *err)
{
	const struct accel_ops *ops = machine->accel->ops;

	if (vcpu >= (int)machine->options.cpus)
		return err_set(err, -EINVAL, "there is no vCPU %d", vcpu);
	if (!ops->stats_read)
		return err_set(err, -ENOTSUP,
			       "accelerator %s has no statistics", ops->name);
	return ops->stats_read(machine->accel, vcpu, fn, opaque, err);
}
