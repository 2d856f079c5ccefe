// SPDX-License-Identifier: Apache-2.0
/* What a QMP client may ask: checked without a machine to run it on. */
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "control/qmp_commands.h"

struct verdict {
	int ret;
	char class[32];
	char desc[ERR_MSG_MAX];
	char command[64];
};

static struct verdict check(const char *text, bool is_negotiated)
{
	const struct qmp_command *command = NULL;
	struct qmp_fault fault = { .err = ERR_INIT };
	struct verdict verdict = { .ret = 0 };
	const json_t *args = NULL;
	json_t *request = json_loads(text, JSON_REJECT_DUPLICATES, NULL);

	assert_non_null(request);
	verdict.ret = qmp_request_check(request, is_negotiated, &command, &args,
					&fault);
	if (verdict.ret) {
		strcpy(verdict.class, fault.class);
		strcpy(verdict.desc, err_msg(&fault.err));
	} else {
		strcpy(verdict.command, command->name);
	}
	json_decref(request);
	return verdict;
}

static void assert_refused(const char *text, const char *desc)
{
	struct verdict verdict = check(text, true);

	assert_true(verdict.ret < 0);
	assert_string_equal(verdict.desc, desc);
	assert_string_equal(verdict.class, "GenericError");
}

static void assert_accepted(const char *text, const char *command)
{
	struct verdict verdict = check(text, true);

	assert_string_equal(verdict.desc, "");
	assert_int_equal(verdict.ret, 0);
	assert_string_equal(verdict.command, command);
}

static void test_well_formed_requests_are_accepted(void **state)
{
	(void)state;
	assert_accepted("{\"execute\": \"query-status\"}", "query-status");
	assert_accepted(
		"{\"execute\": \"query-status\", \"arguments\": {}, \"id\": [1]}",
		"query-status");
	assert_accepted(
		"{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"x\", \"detach\": true}}",
		"migrate");
	assert_accepted(
		"{\"execute\": \"migrate-set-parameters\", \"arguments\": {\"max-bandwidth\": 9223372036854775807}}",
		"migrate-set-parameters");
	assert_accepted(
		"{\"execute\": \"migrate-set-capabilities\", \"arguments\": {\"capabilities\": [{\"capability\": \"events\", \"state\": false}]}}",
		"migrate-set-capabilities");
	assert_accepted(
		"{\"execute\": \"cont\", \"arguments\": {\"force\": true}}",
		"cont");
}

static void test_envelope_is_strict(void **state)
{
	(void)state;
	assert_refused("[]", "QMP input must be a JSON object");
	assert_refused("{}", "QMP input lacks member 'execute'");
	assert_refused("{\"execute\": 1}",
		       "QMP input member 'execute' must be a string");
	assert_refused("{\"execute\": \"stop\", \"arguments\": []}",
		       "QMP input member 'arguments' must be an object");
	assert_refused("{\"execute\": \"stop\", \"args\": {}}",
		       "QMP input member 'args' is unexpected");
	assert_refused("{\"exec-oob\": \"stop\"}",
		       "QMP input member 'exec-oob' is unexpected");
}

static void test_arguments_are_strict(void **state)
{
	(void)state;
	assert_refused("{\"execute\": \"stop\", \"arguments\": {\"x\": 1}}",
		       "Parameter 'x' is unexpected");
	assert_refused("{\"execute\": \"migrate\"}",
		       "Parameter 'uri' is missing");
	assert_refused(
		"{\"execute\": \"migrate\", \"arguments\": {\"uri\": 1}}",
		"Parameter 'uri' expects string");
	assert_refused(
		"{\"execute\": \"migrate\", \"arguments\": {\"uri\": null}}",
		"Parameter 'uri' expects string");
	assert_refused(
		"{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"x\", \"detach\": 1}}",
		"Parameter 'detach' expects boolean");
	assert_refused(
		"{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"x\", \"channels\": []}}",
		"Parameter 'channels' is unexpected");
	assert_refused(
		"{\"execute\": \"migrate-set-parameters\", \"arguments\": {\"downtime-limit\": -1}}",
		"Parameter 'downtime-limit' expects a value of at least 0");
	assert_refused(
		"{\"execute\": \"migrate-set-parameters\", \"arguments\": {\"downtime-limit\": 1.5}}",
		"Parameter 'downtime-limit' expects integer");
	assert_refused(
		"{\"execute\": \"migrate-set-parameters\", \"arguments\": {\"downtime-limit\": \"1\"}}",
		"Parameter 'downtime-limit' expects integer");
}

static void test_nested_arguments_are_named_with_their_path(void **state)
{
	static const char *const format =
		"{\"execute\": \"migrate-set-capabilities\", \"arguments\": {\"capabilities\": ";
	static const struct {
		const char *list, *desc;
	} cases[] = {
		{ "{}", "Parameter 'capabilities' expects array" },
		{ "[1]", "Parameter 'capabilities[0]' expects object" },
		{ "[{}]", "Parameter 'capabilities[0].capability' is missing" },
		{ "[{\"capability\": \"verify\", \"state\": true}, {\"capability\": 1}]",
		  "Parameter 'capabilities[1].capability' expects string" },
		{ "[{\"capability\": \"verify\", \"state\": \"on\"}]",
		  "Parameter 'capabilities[0].state' expects boolean" },
		{ "[{\"capability\": \"a\", \"state\": true, \"b\": 1}]",
		  "Parameter 'capabilities[0].b' is unexpected" },
	};
	char text[512];
	size_t i;

	(void)state;
	for (i = 0; i < array_size(cases); i++) {
		snprintf(text, sizeof(text), "%s%s}}", format, cases[i].list);
		assert_refused(text, cases[i].desc);
	}
}

static void test_negotiation_comes_first_and_once(void **state)
{
	struct verdict verdict;

	(void)state;
	verdict = check("{\"execute\": \"query-status\"}", false);
	assert_string_equal(verdict.class, "CommandNotFound");
	assert_string_equal(
		verdict.desc,
		"Expecting capabilities negotiation with 'qmp_capabilities'");
	verdict = check("{\"execute\": \"nonsense\"}", false);
	assert_string_equal(verdict.class, "CommandNotFound");
	verdict = check("{\"execute\": \"qmp_capabilities\"}", false);
	assert_int_equal(verdict.ret, 0);
	verdict = check(
		"{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [1]}}",
		false);
	assert_string_equal(verdict.desc,
			    "Parameter 'enable[0]' expects string");
	verdict = check("{\"execute\": \"qmp_capabilities\"}", true);
	assert_string_equal(verdict.class, "CommandNotFound");
	assert_string_equal(
		verdict.desc,
		"Capabilities negotiation is already complete, command ignored");
}

static void test_unknown_command_has_its_class(void **state)
{
	struct verdict verdict = check("{\"execute\": \"fly\"}", true);

	(void)state;
	assert_string_equal(verdict.class, "CommandNotFound");
	assert_string_equal(verdict.desc, "The command fly has not been found");
}

static void test_every_command_refuses_an_unknown_argument(void **state)
{
	const struct qmp_command *command;
	char text[256];

	(void)state;
	for (command = qmp_commands(); command->name; command++) {
		snprintf(
			text, sizeof(text),
			"{\"execute\": \"%s\", \"arguments\": {\"uri\": \"u\", \"fdname\": \"f\", \"capabilities\": [], \"zz\": 1}}",
			command->name);
		assert_true(check(text, strcmp(command->name,
					       "qmp_capabilities") != 0)
				    .ret < 0);
	}
}

/* Valid JSON of random shape, from words that are known and words that are
 * not: no crash, and a refusal always has its words. */
static json_t *random_json(unsigned int *seed, unsigned int depth)
{
	static const char *const words[] = {
		"execute",    "arguments",
		"id",         "migrate",
		"uri",        "capabilities",
		"capability", "state",
		"cont",       "force",
		"enable",     "stop",
		"getfd",      "fdname",
		"",           "migrate-set-capabilities",
	};
	unsigned int kind = (unsigned int)rand_r(seed) % (depth ? 8 : 6);
	json_t *value;
	int i;

	switch (kind) {
	case 0:
		return json_integer(rand_r(seed) - RAND_MAX / 2);
	case 1:
		return json_boolean(rand_r(seed) % 2);
	case 2:
		return json_null();
	case 3:
		return json_real(0.5);
	case 4:
	case 5:
		return json_string(
			words[(size_t)rand_r(seed) % array_size(words)]);
	case 6:
		value = json_array();
		for (i = rand_r(seed) % 4; i > 0; i--)
			json_array_append_new(value,
					      random_json(seed, depth - 1));
		return value;
	default:
		value = json_object();
		for (i = rand_r(seed) % 5; i > 0; i--)
			json_object_set_new(
				value,
				words[(size_t)rand_r(seed) % array_size(words)],
				random_json(seed, depth - 1));
		return value;
	}
}

static void test_random_requests_are_judged_with_words(void **state)
{
	unsigned int seed = 7, round;

	(void)state;
	for (round = 0; round < 50000; round++) {
		struct qmp_fault fault = { .err = ERR_INIT };
		const struct qmp_command *command;
		const json_t *args;
		json_t *request = random_json(&seed, 4);

		if (round % 2 && json_is_object(request))
			json_object_set_new(
				request, "execute",
				json_string(round % 4 == 1
						    ? "migrate-set-capabilities"
						    : "migrate"));
		if (qmp_request_check(request, true, &command, &args, &fault))
			assert_true(*err_msg(&fault.err));
		json_decref(request);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_well_formed_requests_are_accepted),
		cmocka_unit_test(test_envelope_is_strict),
		cmocka_unit_test(test_arguments_are_strict),
		cmocka_unit_test(
			test_nested_arguments_are_named_with_their_path),
		cmocka_unit_test(test_negotiation_comes_first_and_once),
		cmocka_unit_test(test_unknown_command_has_its_class),
		cmocka_unit_test(
			test_every_command_refuses_an_unknown_argument),
		cmocka_unit_test(test_random_requests_are_judged_with_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
