// SPDX-License-Identifier: Apache-2.0
/* As in QEMU 7.1 and later, with two providers: KVM, and what is vhost's own. */
#include "control/qmp_stats.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "control/qmp_server.h"
#include "machine/machine.h"
#include "vhost/vhost.h"

enum provider {
	PROVIDER_KVM,
	PROVIDER_VHOST,
	PROVIDER_COUNT
};

static const char *const provider_names[PROVIDER_COUNT] = { "kvm", "vhost" };

/* What is asked of each provider: nothing, or the counters @names (NULL: all). */
struct wanted {
	bool is_wanted[PROVIDER_COUNT];
	const json_t *names[PROVIDER_COUNT];
};

struct collected {
	const json_t *names; /* of the counters wanted; NULL: all */
	json_t *stats;
};

json_t *qmp_vcpu_path_new(unsigned int index)
{
	char path[32];

	snprintf(path, sizeof(path), "/machine/cpu[%u]", index);
	return json_string(path);
}

static bool has_string(const json_t *array, const char *string)
{
	const json_t *item;
	size_t i;

	json_array_foreach(array, i, item)
	{
		if (strcmp(json_string_value(item), string) == 0)
			return true;
	}
	return false;
}

static void collect(void *opaque, const struct accel_stat *stat)
{
	struct collected *collected = opaque;
	json_t *value;

	if (collected->names && !has_string(collected->names, stat->name))
		return;
	value = json_array();
	for (unsigned int i = 0; i < stat->count; i++)
		json_array_append_new(
			value, json_integer((json_int_t)stat->values[i]));
	if (stat->count == 1) {
		json_t *only = json_incref(json_array_get(value, 0));

		json_decref(value);
		value = only;
	}
	json_array_append_new(
		collected->stats,
		json_pack("{s:s, s:o}", "name", stat->name, "value", value));
}

/* The counters of one vCPU, or of the VM if @vcpu is negative, at the end of
 * @list. */
static int append(struct machine *machine, int vcpu, const json_t *names,
		  json_t *list, struct err *err)
{
	struct collected collected = { .names = names };
	json_t *entry;
	int ret;

	collected.stats = json_array();
	ret = machine_read_stats(machine, vcpu, collect, &collected, err);
	entry = json_pack("{s:s, s:o}", "provider",
			  provider_names[PROVIDER_KVM], "stats",
			  collected.stats);
	if (vcpu >= 0)
		json_object_set_new(entry, "qom-path",
				    qmp_vcpu_path_new((unsigned int)vcpu));
	json_array_append_new(list, entry);
	return ret;
}

/* The counters of one type of back ends, at the end of @collected. */
static void collect_vhost(struct vh_board *board, enum vh_type type,
			  struct collected *collected)
{
	static const char *const types[VH_TYPE_COUNT] = { "kernel", "user" };
	static const char *const names[] = { "tables-built",  "tables-told",
					     "regions-added", "regions-removed",
					     "logs-told",     "scans",
					     "ring-scans",    "scan-ns",
					     "calls" };
	struct vh_counts counts;

	vh_board_counts(board, type, &counts);
	const uint64_t values[] = {
		counts.tables_built,  counts.tables_told,
		counts.regions_added, counts.regions_removed,
		counts.logs_told,     counts.scans,
		counts.ring_scans,    counts.scan_ns,
		counts.calls
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char name[32];

		snprintf(name, sizeof(name), "%s-%s", types[type], names[i]);
		collect(collected, &(struct accel_stat){ .name = name,
							 .values = &values[i],
							 .count = 1 });
	}
}

/* Nothing without vhost devices. */
static void append_vhost(struct machine *machine, const json_t *names,
			 json_t *list)
{
	struct vh_board *board = machine_vhost(machine);
	struct collected collected = { .names = names };

	if (!board)
		return;
	collected.stats = json_array();
	for (int type = 0; type < VH_TYPE_COUNT; type++)
		collect_vhost(board, (enum vh_type)type, &collected);
	json_array_append_new(list, json_pack("{s:s, s:o}", "provider",
					      provider_names[PROVIDER_VHOST],
					      "stats", collected.stats));
}

static int check_vcpus(const json_t *vcpus, unsigned int cpus, struct err *err)
{
	const json_t *item;
	size_t i;

	json_array_foreach(vcpus, i, item)
	{
		unsigned int cpu;
		char end;

		if (sscanf(json_string_value(item), "/machine/cpu[%u]%c", &cpu,
			   &end) != 1 ||
		    cpu >= cpus)
			return err_set(err, -EINVAL,
				       "Parameter 'vcpus[%zu]': there is no "
				       "'%.100s' (see query-cpus-fast)",
				       i, json_string_value(item));
	}
	return 0;
}

static enum provider provider_of(const char *name)
{
	int i = 0;

	while (i < PROVIDER_COUNT && strcmp(name, provider_names[i]) != 0)
		i++;
	return (enum provider)i;
}

/* All counters of all providers, or of those that are named, all or by name. */
static int find_wanted(const json_t *providers, struct wanted *ret_wanted,
		       struct err *err)
{
	const json_t *item;
	size_t i;

	*ret_wanted = (struct wanted){ 0 };
	for (i = 0; !providers && i < PROVIDER_COUNT; i++)
		ret_wanted->is_wanted[i] = true;
	json_array_foreach(providers, i, item)
	{
		const char *name = qmp_arg_string(item, "provider");
		enum provider provider = provider_of(name);

		if (provider == PROVIDER_COUNT)
			return err_set(err, -EINVAL,
				       "Parameter 'providers[%zu].provider' "
				       "does not accept value '%.100s'",
				       i, name);
		ret_wanted->is_wanted[provider] = true;
		ret_wanted->names[provider] = json_object_get(item, "names");
	}
	return 0;
}

static int append_vcpus(struct machine *machine, const json_t *vcpus,
			const json_t *names, json_t *list, struct err *err)
{
	unsigned int cpus = machine_options(machine)->cpus;
	int ret = check_vcpus(vcpus, cpus, err);

	for (unsigned int i = 0; !ret && i < cpus; i++) {
		json_t *path = qmp_vcpu_path_new(i);

		if (!vcpus || has_string(vcpus, json_string_value(path)))
			ret = append(machine, (int)i, names, list, err);
		json_decref(path);
	}
	return ret;
}

static int append_vm(struct machine *machine, const struct wanted *wanted,
		     json_t *list, struct err *err)
{
	int ret = 0;

	if (wanted->is_wanted[PROVIDER_KVM])
		ret = append(machine, -1, wanted->names[PROVIDER_KVM], list,
			     err);
	if (!ret && wanted->is_wanted[PROVIDER_VHOST])
		append_vhost(machine, wanted->names[PROVIDER_VHOST], list);
	return ret;
}

json_t *qmp_run_query_stats(struct qmp_call *call, const json_t *args,
			    struct err *err)
{
	const char *target = qmp_arg_string(args, "target");
	json_t *list = json_array();
	struct wanted wanted;
	int ret = find_wanted(json_object_get(args, "providers"), &wanted, err);

	if (!ret && strcmp(target, "vm") == 0)
		ret = append_vm(call->machine, &wanted, list, err);
	else if (!ret && strcmp(target, "vcpu") != 0)
		ret = err_set(err, -EINVAL,
			      "Parameter 'target' does not accept value "
			      "'%.100s' (vm, vcpu)",
			      target);
	else if (!ret && wanted.is_wanted[PROVIDER_KVM])
		ret = append_vcpus(call->machine,
				   json_object_get(args, "vcpus"),
				   wanted.names[PROVIDER_KVM], list, err);
	if (!ret)
		return list;
	json_decref(list);
	return NULL;
}
