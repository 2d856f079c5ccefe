// SPDX-License-Identifier: Apache-2.0
/* jansson's getters take NULL and the wrong type; these give that a value. */
#include "cli/answer.h"

const char *answer_text(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

json_int_t answer_int(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

double answer_number(const json_t *object, const char *name)
{
	return json_number_value(json_object_get(object, name));
}
