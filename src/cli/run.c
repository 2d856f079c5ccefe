// SPDX-License-Identifier: Apache-2.0
/* godwit run: builds a machine, lets it run or arrive, serves QMP. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/err.h"
#include "base/log.h"
#include "base/parse.h"
#include "base/trace.h"
#include "cli/commands.h"
#include "control/control.h"
#include "machine/machine.h"
#include "migrate/migrate.h"

#define DEFAULT_MEMORY (256ull << 20)
#define HUGEPAGE_2M    (2ull << 20)

struct run_options {
	struct machine_options machine;
	const char *qmp;
	const char *incoming; /* URI, "defer", or NULL */
	const char *fail;     /* --x-fail, or NULL */
	bool verify;
};

enum key {
	KEY_MEMORY = 256, /* no short forms */
	KEY_CPUS,
	KEY_KERNEL,
	KEY_INITRD,
	KEY_APPEND,
	KEY_GUEST,
	KEY_SERIAL,
	KEY_QMP,
	KEY_NAME,
	KEY_INCOMING,
	KEY_ACCEL,
	KEY_DISK,
	KEY_NET,
	KEY_RNG,
	KEY_CONSOLE,
	KEY_SHMEM,
	KEY_X_VHOST_SCAN,
	KEY_TRACE,
	KEY_VERIFY,
	KEY_X_FAIL,
};

static const struct argp_option option_list[] = {
	{ .doc = "Machine:" },
	{ "memory", KEY_MEMORY, "SIZE[,hugepages=2M][,thp=on]", 0,
	  "RAM, 256M by default; suffixes K, M, G, T", 0 },
	{ "cpus", KEY_CPUS, "N", 0, "vCPUs, 1 by default", 0 },
	{ "name", KEY_NAME, "NAME", 0, "what query-name answers", 0 },
	{ "accel", KEY_ACCEL,
	  "kvm|sim[,dirty=bitmap|ring|ring-or-bitmap][,ring-entries=N]", 0,
	  "who runs the vCPUs and how writes are tracked; sim runs workloads without KVM (docs/sim.md)",
	  0 },
	{ .doc = "Devices, each as often as wanted, in the order of their PCI slots:" },
	{ "disk", KEY_DISK,
	  "path=FILE|nbd=URI|vhost-user=SOCKET[,KEY=VALUE...]", 0,
	  "virtio-blk on a raw image, an NBD server or a vhost-user back end; keys are queues=N, readonly=on, direct=on",
	  0 },
	{ "net", KEY_NET,
	  "tap=IF|vhost-user=SOCKET[,vhost=on][,queues=N][,mac=MAC]", 0,
	  "virtio-net on a tap, by the kernel's vhost-net if wanted, or on a vhost-user back end; queues are pairs",
	  0 },
	{ "rng", KEY_RNG, "on", 0, "virtio-rng, fed by the host's generator",
	  0 },
	{ "console", KEY_CONSOLE, "stdio|unix:PATH|file:PATH|null", 0,
	  "virtio-console", 0 },
	{ "shmem", KEY_SHMEM, "size=SIZE", 0,
	  "a PCI function whose BAR 2 is RAM (ivshmem-plain)", 0 },
	{ .doc = "Guest:" },
	{ "kernel", KEY_KERNEL, "FILE", 0,
	  "Linux kernel: vmlinux (or any ELF with a PVH entry) or bzImage", 0 },
	{ "initrd", KEY_INITRD, "FILE", 0, "initial RAM disk", 0 },
	{ "append", KEY_APPEND, "TEXT", 0,
	  "kernel command line, or more options of the guest", 0 },
	{ "guest", KEY_GUEST, "NAME[,KEY=VALUE...]", 0,
	  "a built-in guest program instead of a kernel: stress, blk or net",
	  0 },
	{ "incoming", KEY_INCOMING, "URI", 0,
	  "wait for a migration on tcp:HOST:PORT, unix:PATH, fd:NUMBER or file:PATH; defer waits for QMP migrate-incoming",
	  0 },
	{ .doc = "Connections:" },
	{ "serial", KEY_SERIAL, "stdio|unix:PATH|file:PATH|null", 0,
	  "the first serial port, stdio by default", 0 },
	{ "qmp", KEY_QMP, "unix:PATH", 0, "control socket (QMP)", 0 },
	{ .doc = "Diagnosis:" },
	{ "verify", KEY_VERIFY, NULL, 0,
	  "when this machine moves away, hash RAM there and here, and compare",
	  0 },
	{ "trace", KEY_TRACE, "PATTERN[,PATTERN...]", 0,
	  "print matching trace points on stderr, as in 'mig_*'", 0 },
	{ "x-vhost-scan", KEY_X_VHOST_SCAN, "each|once", 0,
	  "which vhost devices scan their common dirty log in each round: every one, or one for all (the default)",
	  0 },
	{ "x-fail", KEY_X_FAIL, "ARC[,action=exit|close|stall|garbage]", 0,
	  "break the first migration that takes this arc of its state machine; help lists the arcs",
	  0 },
	{ .name = NULL },
};

static const char doc[] =
	"Start a virtual machine, or receive one."
	"\vEXIT STATUS\n"
	"  0    the guest powered off, or godwit was told to quit\n"
	"  1    the machine could not be started\n"
	"  3    the guest asked for a reset\n"
	"  4    the guest triple-faulted\n"
	"  5    a vCPU cannot go on\n"
	"  6    the incoming migration failed\n"
	"  64   wrong command line\n"
	"  192+ the guest wrote N to the debug exit port: 192 + N % 64";

/* The rest of --memory after its size. */
static int memory_flag(struct machine_options *options,
		       const struct parse_kv *kv, struct err *err)
{
	bool is_on;
	int ret;

	if (strcmp(kv->key, "thp") == 0)
		return kv->value ? parse_bool(kv->value, &options->use_thp, err)
				 : (options->use_thp = true, 0);
	if (strcmp(kv->key, "hugepages") != 0)
		return err_set(
			err, -EINVAL,
			"no sub-option '%s'; there are hugepages and thp",
			kv->key);
	if (!kv->value || strcmp(kv->value, "2M") == 0) {
		options->hugepage_size = HUGEPAGE_2M;
		return 0;
	}
	ret = parse_bool(kv->value, &is_on, NULL);
	if (ret)
		return err_set(err, ret, "hugepages is 2M, on or off, not '%s'",
			       kv->value);
	options->hugepage_size = is_on ? HUGEPAGE_2M : 0;
	return 0;
}

static int parse_memory(const char *text, struct machine_options *options,
			struct err *err)
{
	const char *at = text;
	struct parse_kv kv;
	int ret;

	ret = parse_kv_next(&at, &kv);
	if (ret <= 0 || kv.value)
		return err_set(err, -EINVAL, "it starts with a size");
	ret = parse_size(kv.key, &options->memory, err);
	if (ret)
		return ret;
	while ((ret = parse_kv_next(&at, &kv)) > 0) {
		ret = memory_flag(options, &kv, err);
		if (ret)
			return ret;
	}
	return ret ? err_set(err, ret, "'%s' is not KEY=VALUE", at) : 0;
}

/* Names of the stream's form (docs/spec/stream.md). */
static int parse_name(const char *text, struct machine_options *options,
		      struct err *err)
{
	const char *at;

	for (at = text; *at; at++) {
		if (*at <= ' ' || *at > '~')
			return err_set(
				err, -EINVAL,
				"printable ASCII without blanks, not byte 0x%02x",
				(unsigned char)*at);
	}
	if (strlen(text) >= sizeof(options->name))
		return err_set(err, -ENAMETOOLONG, "%zu bytes, at most %zu",
			       strlen(text), sizeof(options->name) - 1);
	strcpy(options->name, text);
	return 0;
}

static int parse_cpus(const char *text, struct machine_options *options,
		      struct err *err)
{
	uint64_t cpus;
	int ret = parse_u64(text, 1, MACHINE_CPUS_MAX, &cpus, err);

	if (!ret)
		options->cpus = (unsigned int)cpus;
	return ret;
}

static void add_device(struct machine_options *options, enum device_kind kind,
		       const char *text, struct err *err)
{
	bool is_on;

	if (kind == DEVICE_RNG) {
		if (parse_bool(text, &is_on, err) || !is_on)
			return;
	}
	if (options->device_count >= DEVICES_MAX) {
		err_set(err, -ENOSPC, "there are slots for %u devices",
			DEVICES_MAX);
		return;
	}
	options->devices[options->device_count++] =
		(struct device_option){ kind, text };
}

static void parse_vhost_scan(const char *text, struct machine_options *options,
			     struct err *err)
{
	options->is_vhost_scan_each = strcmp(text, "each") == 0;
	if (!options->is_vhost_scan_each && strcmp(text, "once") != 0)
		err_set(err, -EINVAL, "each or once, not '%s'", text);
}

/* What machine_new() does not see; it checks the rest. */
static void check(struct argp_state *state, struct run_options *options)
{
	struct machine_options *machine = &options->machine;

	machine->is_incoming = options->incoming != NULL;
	if (machine->initrd && !machine->kernel)
		argp_error(state, "--initrd needs --kernel");
	if (machine->append && !machine->kernel && !machine->guest)
		argp_error(state, "--append needs --kernel or --guest");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct run_options *options = state->input;
	struct machine_options *machine = &options->machine;
	struct err err = ERR_INIT;
	const char *option = "";

	switch (key) {
	case KEY_MEMORY:
		option = "--memory";
		parse_memory(arg, machine, &err);
		break;
	case KEY_CPUS:
		option = "--cpus";
		parse_cpus(arg, machine, &err);
		break;
	case KEY_NAME:
		option = "--name";
		parse_name(arg, machine, &err);
		break;
	case KEY_ACCEL:
		option = "--accel";
		accel_options_parse(arg, &machine->accel, &err);
		break;
	case KEY_DISK:
		option = "--disk";
		add_device(machine, DEVICE_DISK, arg, &err);
		break;
	case KEY_NET:
		option = "--net";
		add_device(machine, DEVICE_NET, arg, &err);
		break;
	case KEY_RNG:
		option = "--rng";
		add_device(machine, DEVICE_RNG, arg, &err);
		break;
	case KEY_CONSOLE:
		option = "--console";
		add_device(machine, DEVICE_CONSOLE, arg, &err);
		break;
	case KEY_SHMEM:
		option = "--shmem";
		add_device(machine, DEVICE_SHMEM, arg, &err);
		break;
	case KEY_X_VHOST_SCAN:
		option = "--x-vhost-scan";
		parse_vhost_scan(arg, machine, &err);
		break;
	case KEY_KERNEL:
		machine->kernel = arg;
		break;
	case KEY_INITRD:
		machine->initrd = arg;
		break;
	case KEY_APPEND:
		machine->append = arg;
		break;
	case KEY_GUEST:
		machine->guest = arg;
		break;
	case KEY_SERIAL:
		machine->serial = arg;
		break;
	case KEY_QMP:
		options->qmp = arg;
		break;
	case KEY_INCOMING:
		options->incoming = arg;
		break;
	case KEY_VERIFY:
		options->verify = true;
		break;
	case KEY_X_FAIL:
		option = "--x-fail";
		options->fail = arg;
		if (strcmp(arg, "help") != 0)
			mig_check_fail(arg, &err);
		break;
	case KEY_TRACE:
		trace_enable(arg);
		break;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s' is no option; options start with --",
			   arg);
		break;
	case ARGP_KEY_END:
		check(state, options);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	if (err.code)
		argp_error(state, "%s: %s", option, err_msg(&err));
	return 0;
}

static int enable_verify(struct mig *mig, struct err *err)
{
	struct mig_caps caps;

	mig_caps(mig, &caps);
	caps.verify = true;
	return mig_set_caps(mig, &caps, err);
}

/* From a built machine to one that runs, or waits for its migration. */
static int start(const struct run_options *options, struct control *control,
		 struct machine *machine, struct mig *mig, struct err *err)
{
	int ret = options->verify ? enable_verify(mig, err) : 0;

	if (!ret && options->fail)
		ret = mig_set_fail(mig, options->fail, err);
	if (!ret)
		ret = control_open(control, machine, mig, options->qmp, err);
	if (ret)
		return ret;
	if (!options->incoming)
		return machine_start(machine, err);
	if (strcmp(options->incoming, "defer") == 0)
		return 0;
	return control_incoming(control, options->incoming, true, err);
}

/* What a built-in guest has to say of a wrong option, or of memory that was lost,
 * goes to its serial port, and that may go nowhere. */
static void explain_exit(const struct run_options *options, int code)
{
	if (options->machine.guest && code >= CONTROL_EXIT_DEBUG)
		log_info(
			"the guest '%s' gave up with %d; its serial port says why",
			options->machine.guest, code - CONTROL_EXIT_DEBUG);
}

/*
 * A device with 33 queues has some 70 eventfds, and the usual soft limit of 1024 is for
 * programs that call select(), which nothing here does.
 */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_info("the limit of open files stays as it is: %s",
			 strerror(errno));
}

static void report(const struct err *err)
{
	struct rlimit limit;

	if (err->code == -EMFILE && getrlimit(RLIMIT_NOFILE, &limit) == 0)
		log_info(
			"%s; the hard limit is %llu open files: raise it (ulimit -Hn), or have fewer devices or queues",
			err_msg(err), (unsigned long long)limit.rlim_max);
	else
		log_info("%s", err_msg(err));
}

static int run(const struct run_options *options)
{
	struct control *control = NULL;
	struct machine *machine = NULL;
	struct err err = ERR_INIT;
	struct mig *mig = NULL;
	int ret;

	ret = control_new(&control, &err);
	if (ret)
		goto out;
	ret = machine_new(&options->machine, control_on_machine, control,
			  &machine, &err);
	if (control_is_ending(control)) {
		ret = CONTROL_EXIT_OK; /* whatever the signal made fail */
		goto out;
	}
	if (ret)
		goto out;
	mig = mig_new(machine, control_on_migration, control);
	if (!mig) {
		ret = err_set(&err, -ENOMEM, "out of memory");
		goto out;
	}
	ret = start(options, control, machine, mig, &err);
	if (!ret)
		ret = control_run(control);
	explain_exit(options, ret);
out:
	if (ret < 0) {
		report(&err);
		ret = CONTROL_EXIT_FAILED;
	}
	control_close(control);
	if (mig)
		mig_free(mig);
	if (machine)
		machine_free(machine);
	control_free(control);
	return ret;
}

int cli_run(int argc, char **argv)
{
	static const struct argp argp = {
		.options = option_list,
		.parser = parse,
		.doc = doc,
	};
	struct run_options run_options = {
		.machine.memory = DEFAULT_MEMORY,
		.machine.cpus = 1,
		.machine.serial = "stdio",
	};
	struct err err = ERR_INIT;

	if (accel_options_parse("kvm", &run_options.machine.accel, &err)) {
		log_info("%s", err_msg(&err));
		return CLI_EXIT_FAILED;
	}
	if (argp_parse(&argp, argc, argv, 0, NULL, &run_options))
		return CLI_EXIT_USAGE;
	if (run_options.fail && strcmp(run_options.fail, "help") == 0) {
		mig_print_arcs(stdout);
		return 0;
	}
	raise_descriptor_limit();
	return run(&run_options);
}
