// SPDX-License-Identifier: Apache-2.0
/*
 * Operators' limits that cannot be kept.  The program is linked with
 * --wrap=governor_set, machine_vcpu_writes and pthread_create: limits come here,
 * and threads there may be none.
 */
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"
#include "machine/machine.h"
#include "mem/ram.h"
#include "migrate/dirty_limit.h"
#include "migrate/governor.h"
#include "puppet/puppet.h"

#define CPUS 2u

static struct {
	struct machine *machine;
	struct governor *governor;
	struct dirty_limit *limit;
	uint64_t limits[CPUS]; /* the governor's */
	bool has_no_thread, is_unknown;
} scene;

int __wrap_governor_set(struct governor *governor, enum governor_client client,
			unsigned int vcpu, uint64_t pages_per_sec,
			struct err *err);
int __wrap_machine_vcpu_writes(struct machine *machine, unsigned int vcpu,
			       uint64_t *ret_pages);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*main)(void *), void *opaque);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*main)(void *), void *opaque);

int __wrap_governor_set(struct governor *governor, enum governor_client client,
			unsigned int vcpu, uint64_t pages_per_sec,
			struct err *err)
{
	assert_ptr_equal(governor, scene.governor);
	assert_int_equal(client, GOVERNOR_OPERATOR);
	if (scene.is_unknown)
		return err_set(err, -ENOTSUP, "who writes is not known");
	scene.limits[vcpu] = pages_per_sec;
	return 0;
}

int __wrap_machine_vcpu_writes(struct machine *machine, unsigned int vcpu,
			       uint64_t *ret_pages)
{
	(void)machine;
	(void)vcpu;
	*ret_pages = 0;
	return 0;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*main)(void *), void *opaque)
{
	return scene.has_no_thread
		       ? EAGAIN
		       : __real_pthread_create(thread, attr, main, opaque);
}

static void on_machine(void *opaque, enum machine_event event)
{
	(void)opaque;
	(void)event;
}

static int setup(void **state)
{
	struct machine_options options;

	(void)state;
	memset(&scene, 0, sizeof(scene));
	puppet_options(&options, CPUS, false);
	assert_int_equal(
		machine_new(&options, on_machine, NULL, &scene.machine, NULL),
		0);
	scene.governor = governor_new(scene.machine);
	scene.limit = dirty_limit_new(scene.machine, scene.governor);
	assert_non_null(scene.limit);
	for (unsigned int i = 0; i < CPUS; i++)
		scene.limits[i] = GOVERNOR_ANY;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dirty_limit_free(scene.limit);
	governor_free(scene.governor);
	machine_free(scene.machine);
	return 0;
}

static void assert_no_limit(void)
{
	struct dirty_limit_info info;

	for (unsigned int i = 0; i < CPUS; i++) {
		assert_false(dirty_limit_query(scene.limit, i, &info));
		assert_int_equal(info.limit, 0);
		assert_true(scene.limits[i] == GOVERNOR_ANY);
	}
}

static void assert_limited(unsigned int vcpu, uint64_t mib_per_sec)
{
	struct dirty_limit_info info;

	assert_true(dirty_limit_query(scene.limit, vcpu, &info));
	assert_int_equal(info.limit, mib_per_sec);
	assert_int_equal(scene.limits[vcpu],
			 mib_per_sec * ((1u << 20) / RAM_PAGE_SIZE));
}

/* ---- facts ---- */

static void test_limit_without_a_thread_is_none(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	scene.has_no_thread = true;
	assert_int_equal(dirty_limit_set(scene.limit, 0, 100, &err), -EAGAIN);
	assert_non_null(strstr(err_msg(&err), "thread"));
	assert_no_limit();
	/* To have none needs none. */
	assert_int_equal(dirty_limit_set(scene.limit, 0, 0, NULL), 0);
	scene.has_no_thread = false;
	assert_int_equal(dirty_limit_set(scene.limit, 0, 100, NULL), 0);
	assert_limited(0, 100);
	assert_int_equal(dirty_limit_set(scene.limit, 0, 0, NULL), 0);
	assert_no_limit();
}

static void test_limit_that_fails_leaves_others_as_they_were(void **state)
{
	(void)state;
	assert_int_equal(dirty_limit_set(scene.limit, 1, 50, NULL), 0);
	scene.is_unknown = true;
	assert_int_equal(dirty_limit_set(scene.limit, 0, 100, NULL), -ENOTSUP);
	assert_int_equal(dirty_limit_set(scene.limit, 1, 70, NULL), -ENOTSUP);
	assert_limited(1, 50);
	assert_true(scene.limits[0] == GOVERNOR_ANY);
}

static void test_limit_that_fails_at_once_is_none(void **state)
{
	(void)state;
	scene.is_unknown = true;
	for (int i = 0; i < 20; i++)
		assert_int_equal(dirty_limit_set(scene.limit, 0, 100, NULL),
				 -ENOTSUP);
	assert_no_limit();
	scene.is_unknown = false;
	assert_int_equal(dirty_limit_set(scene.limit, 0, 100, NULL), 0);
	assert_limited(0, 100);
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_limit_without_a_thread_is_none),
		fact(test_limit_that_fails_leaves_others_as_they_were),
		fact(test_limit_that_fails_at_once_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
