// SPDX-License-Identifier: Apache-2.0
/* First what is required and of which type, in the schema's order; then what is in
 * no schema. */
#include "control/qmp_args.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"

static const struct qmp_arg *find(const struct qmp_arg *schema,
				  const char *name)
{
	for (; schema->name; schema++) {
		if (strcmp(schema->name, name) == 0)
			return schema;
	}
	return NULL;
}

static const char *type_name(enum qmp_type type)
{
	switch (type) {
	case QMP_STRING:
		return "string";
	case QMP_BOOL:
		return "boolean";
	case QMP_UINT:
		return "integer";
	case QMP_STRINGS:
	case QMP_OBJECTS:
		return "array";
	}
	return "?";
}

static bool type_matches(enum qmp_type type, const json_t *value)
{
	switch (type) {
	case QMP_STRING:
		return json_is_string(value);
	case QMP_BOOL:
		return json_is_boolean(value);
	case QMP_UINT:
		return json_is_integer(value);
	case QMP_STRINGS:
	case QMP_OBJECTS:
		return json_is_array(value);
	}
	return false;
}

static int check_items(const struct qmp_arg *arg, const json_t *array,
		       const char *path, struct err *err)
{
	const json_t *item;
	char where[128];
	size_t i;
	int ret;

	json_array_foreach(array, i, item)
	{
		snprintf(where, sizeof(where), "%s%s[%zu]", path, arg->name, i);
		if (arg->type == QMP_STRINGS) {
			if (!json_is_string(item))
				return err_set(err, -EINVAL,
					       "Parameter '%s' expects string",
					       where);
			continue;
		}
		if (!json_is_object(item))
			return err_set(err, -EINVAL,
				       "Parameter '%s' expects object", where);
		strncat(where, ".", sizeof(where) - strlen(where) - 1);
		ret = qmp_args_check(arg->members, item, where, err);
		if (ret)
			return ret;
	}
	return 0;
}

static int check_value(const struct qmp_arg *arg, const json_t *value,
		       const char *path, struct err *err)
{
	if (!type_matches(arg->type, value))
		return err_set(err, -EINVAL, "Parameter '%s%s' expects %s",
			       path, arg->name, type_name(arg->type));
	if (arg->type == QMP_UINT && json_integer_value(value) < 0)
		return err_set(err, -EINVAL,
			       "Parameter '%s%s' expects a value of at least 0",
			       path, arg->name);
	if (json_is_array(value))
		return check_items(arg, value, path, err);
	return 0;
}

int qmp_args_check(const struct qmp_arg *schema, const json_t *args,
		   const char *path, struct err *err)
{
	const struct qmp_arg *arg;
	const json_t *value;
	const char *name;
	int ret;

	for (arg = schema; arg->name; arg++) {
		value = json_object_get(args, arg->name);
		if (!value && arg->is_optional)
			continue;
		if (!value)
			return err_set(err, -EINVAL,
				       "Parameter '%s%s' is missing", path,
				       arg->name);
		ret = check_value(arg, value, path, err);
		if (ret)
			return ret;
	}
	/* The cast: the macro declares a const iterator as it should not. */
	json_object_foreach((json_t *)args, name, value)
	{
		if (!find(schema, name))
			return err_set(err, -EINVAL,
				       "Parameter '%s%.100s' is unexpected",
				       path, name);
	}
	return 0;
}

const char *qmp_arg_string(const json_t *args, const char *name)
{
	return json_string_value(json_object_get(args, name));
}

bool qmp_arg_bool(const json_t *args, const char *name, bool otherwise)
{
	const json_t *value = json_object_get(args, name);

	return value ? json_is_true(value) : otherwise;
}

uint64_t qmp_arg_uint(const json_t *args, const char *name, uint64_t otherwise)
{
	const json_t *value = json_object_get(args, name);

	return value ? (uint64_t)json_integer_value(value) : otherwise;
}
