// SPDX-License-Identifier: Apache-2.0
/* As in QEMU 7.1 and later, with KVM as the only provider. */
#include "control/qmp_stats.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "control/qmp_server.h"
#include "machine/machine.h"

#define PROVIDER "kvm"

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
	entry = json_pack("{s:s, s:o}", "provider", PROVIDER, "stats",
			  collected.stats);
	if (vcpu >= 0)
		json_object_set_new(entry, "qom-path",
				    qmp_vcpu_path_new((unsigned int)vcpu));
	json_array_append_new(list, entry);
	return ret;
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

/* Which of KVM's counters are wanted: all of them (NULL), or those named. */
static int wanted_names(const json_t *providers, const json_t **ret_names,
			struct err *err)
{
	const json_t *item;
	size_t i;

	*ret_names = NULL;
	json_array_foreach(providers, i, item)
	{
		const char *name = qmp_arg_string(item, "provider");

		if (strcmp(name, PROVIDER) != 0)
			return err_set(err, -EINVAL,
				       "Parameter 'providers[%zu].provider' "
				       "does not accept value '%.100s'",
				       i, name);
		*ret_names = json_object_get(item, "names");
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

json_t *qmp_run_query_stats(struct qmp_call *call, const json_t *args,
			    struct err *err)
{
	const char *target = qmp_arg_string(args, "target");
	json_t *list = json_array();
	const json_t *names;
	int ret = wanted_names(json_object_get(args, "providers"), &names, err);

	if (!ret && strcmp(target, "vm") == 0)
		ret = append(call->machine, -1, names, list, err);
	else if (!ret && strcmp(target, "vcpu") == 0)
		ret = append_vcpus(call->machine,
				   json_object_get(args, "vcpus"), names, list,
				   err);
	else if (!ret)
		ret = err_set(err, -EINVAL,
			      "Parameter 'target' does not accept value "
			      "'%.100s' (vm, vcpu)",
			      target);
	if (!ret)
		return list;
	json_decref(list);
	return NULL;
}
