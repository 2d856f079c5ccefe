// SPDX-License-Identifier: Apache-2.0
/* Groups of interrupt routes, with an accelerator that notes what it is told. */
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "accel/routes.h"
#include "base/err.h"

#define MAX     40u
#define ADDRESS 0xfee00000u

struct fixture {
	struct accel accel;
	struct accel_routes routes;
	struct accel_route told[MAX];
	unsigned int told_count;
	unsigned int tells, binds, unbinds;
	int tell_fails, irqfd_fails;
};

static int tell(void *opaque, const struct accel_route *routes,
		unsigned int count)
{
	struct fixture *f = opaque;

	f->tells++;
	if (f->tell_fails)
		return f->tell_fails;
	memcpy(f->told, routes, count * sizeof(*routes));
	f->told_count = count;
	return 0;
}

static int irqfd(void *opaque, unsigned int gsi, int fd, bool is_bound)
{
	struct fixture *f = opaque;

	(void)gsi;
	(void)fd;
	if (f->irqfd_fails)
		return f->irqfd_fails;
	if (is_bound)
		f->binds++;
	else
		f->unbinds++;
	return 0;
}

static const struct accel_routes_ops ops = { .tell = tell, .irqfd = irqfd };

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->accel.routes = &f->routes;
	accel_routes_init(&f->routes, &ops, f, MAX);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	accel_routes_fini(&f->routes);
	free(f);
	return 0;
}

static unsigned int new_route(struct fixture *f)
{
	unsigned int gsi = 0;

	assert_int_equal(accel_route_new(&f->accel, &gsi, NULL), 0);
	return gsi;
}

static void set(struct fixture *f, unsigned int gsi, uint32_t data)
{
	const struct accel_msi msi = { .address = ADDRESS, .data = data };

	accel_route_set(&f->accel, gsi, &msi);
}

static bool was_told(struct fixture *f, unsigned int gsi, uint32_t data)
{
	const struct accel_route *route = &f->told[gsi - ACCEL_ROUTE_FIRST];

	return gsi - ACCEL_ROUTE_FIRST < f->told_count && route->has_msi &&
	       route->msi.data == data;
}

static void test_gsis_are_found_again_when_they_were_freed(void **state)
{
	struct fixture *f = *state;
	unsigned int gsis[MAX], gsi;
	struct err err = ERR_INIT;

	for (unsigned int i = 0; i < MAX; i++) {
		gsis[i] = new_route(f);
		assert_int_equal(gsis[i], ACCEL_ROUTE_FIRST + i);
	}
	assert_int_equal(accel_route_new(&f->accel, &gsi, &err), -ENOSPC);
	accel_route_free(&f->accel, gsis[17]);
	assert_int_equal(new_route(f), gsis[17]);
	assert_int_equal(f->tells, 0);
}

static void test_freed_route_keeps_no_message(void **state)
{
	struct fixture *f = *state;
	unsigned int gsi = new_route(f), other = new_route(f);

	accel_routes_begin(&f->accel);
	set(f, gsi, 1);
	assert_int_equal(accel_routes_commit(&f->accel, NULL), 0);
	assert_true(was_told(f, gsi, 1));
	accel_route_free(&f->accel, gsi);
	assert_int_equal(new_route(f), gsi);
	accel_routes_begin(&f->accel);
	set(f, other, 2);
	assert_int_equal(accel_routes_commit(&f->accel, NULL), 0);
	assert_false(was_told(f, gsi, 1));
	assert_true(was_told(f, other, 2));
}

static void test_groups_nest_and_the_outermost_tells(void **state)
{
	struct fixture *f = *state;
	unsigned int gsi = new_route(f);

	accel_routes_begin(&f->accel);
	accel_routes_begin(&f->accel);
	set(f, gsi, 1);
	assert_int_equal(accel_routes_commit(&f->accel, NULL), 0);
	set(f, gsi, 2);
	assert_int_equal(f->tells, 0);
	assert_int_equal(accel_routes_commit(&f->accel, NULL), 0);
	assert_int_equal(f->tells, 1);
	assert_true(was_told(f, gsi, 2));
}

static void test_commit_without_a_change_tells_nobody(void **state)
{
	struct fixture *f = *state;
	unsigned int gsi = new_route(f);

	for (int i = 0; i < 3; i++) {
		accel_routes_begin(&f->accel);
		set(f, gsi, 7);
		assert_int_equal(accel_routes_commit(&f->accel, NULL), 0);
	}
	assert_int_equal(f->tells, 1);
	accel_route_set(&f->accel, new_route(f), NULL);
	accel_routes_begin(&f->accel);
	assert_int_equal(accel_routes_commit(&f->accel, NULL), 0);
	assert_int_equal(f->tells, 1);
}

static void test_eventfd_is_bound_after_its_route_was_told(void **state)
{
	struct fixture *f = *state;
	unsigned int gsi = new_route(f);

	accel_routes_begin(&f->accel);
	assert_int_equal(accel_irqfd_set(&f->accel, gsi, 5, true, NULL), 0);
	set(f, gsi, 1);
	assert_int_equal(f->binds, 0);
	assert_int_equal(accel_routes_commit(&f->accel, NULL), 0);
	assert_int_equal(f->binds, 1);
	/* And at once when no group is open; then the routes go first. */
	assert_int_equal(accel_irqfd_set(&f->accel, gsi, 5, false, NULL), 0);
	assert_int_equal(f->unbinds, 1);
	set(f, gsi, 2);
	assert_int_equal(accel_irqfd_set(&f->accel, gsi, 5, true, NULL), 0);
	assert_int_equal(f->binds, 2);
	assert_true(was_told(f, gsi, 2));
}

static void test_eventfd_unbound_before_the_commit_is_never_bound(void **state)
{
	struct fixture *f = *state;
	unsigned int gsi = new_route(f);

	accel_routes_begin(&f->accel);
	accel_irqfd_set(&f->accel, gsi, 5, true, NULL);
	accel_irqfd_set(&f->accel, gsi, 5, false, NULL);
	assert_int_equal(accel_routes_commit(&f->accel, NULL), 0);
	assert_int_equal(f->binds + f->unbinds, 0);
	assert_int_equal(accel_irqfd_set(&f->accel, gsi, 5, false, NULL), 0);
	assert_int_equal(f->unbinds, 0);
}

static void test_failed_commit_is_made_good_by_the_next(void **state)
{
	struct fixture *f = *state;
	unsigned int gsi = new_route(f);
	struct err err = ERR_INIT;
	struct accel_irq_counts counts;

	accel_routes_begin(&f->accel);
	set(f, gsi, 1);
	accel_irqfd_set(&f->accel, gsi, 5, true, NULL);
	f->tell_fails = -ENOMEM;
	assert_int_equal(accel_routes_commit(&f->accel, &err), -ENOMEM);
	assert_int_equal(err.code, -ENOMEM);
	assert_int_equal(f->binds, 0);
	f->tell_fails = 0;
	f->irqfd_fails = -EBUSY;
	accel_routes_begin(&f->accel);
	assert_int_equal(accel_routes_commit(&f->accel, NULL), -EBUSY);
	assert_true(was_told(f, gsi, 1));
	f->irqfd_fails = 0;
	accel_routes_begin(&f->accel);
	assert_int_equal(accel_routes_commit(&f->accel, NULL), 0);
	assert_int_equal(f->binds, 1);
	accel_irq_counts(&f->accel, &counts);
	assert_int_equal(counts.route_commits, 1);
	assert_int_equal(counts.irqfd_calls, 1);
}

static void *commit_one(void *opaque)
{
	struct fixture *f = opaque;
	unsigned int gsi = new_route(f);

	accel_routes_begin(&f->accel);
	set(f, gsi, 99);
	accel_irqfd_set(&f->accel, gsi, 6, true, NULL);
	accel_routes_commit(&f->accel, NULL);
	return NULL;
}

static void test_commit_does_not_wait_for_another_thread_s_group(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;

	accel_routes_begin(&f->accel);
	assert_int_equal(pthread_create(&thread, NULL, commit_one, f), 0);
	pthread_join(thread, NULL);
	assert_int_equal(f->tells, 1);
	assert_int_equal(f->binds, 1);
	assert_true(was_told(f, ACCEL_ROUTE_FIRST, 99));
	assert_int_equal(accel_routes_commit(&f->accel, NULL), 0);
	assert_int_equal(f->tells, 1);
}

static void *commit_many(void *opaque)
{
	for (int i = 0; i < 8; i++)
		commit_one(opaque);
	return NULL;
}

static void test_threads_with_groups_of_their_own_lose_no_route(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[4];

	for (size_t i = 0; i < 4; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, commit_many, f), 0);
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(f->binds, 32);
	for (unsigned int i = 0; i < 32; i++)
		assert_true(was_told(f, ACCEL_ROUTE_FIRST + i, 99));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_gsis_are_found_again_when_they_were_freed),
		T(test_freed_route_keeps_no_message),
		T(test_groups_nest_and_the_outermost_tells),
		T(test_commit_without_a_change_tells_nobody),
		T(test_eventfd_is_bound_after_its_route_was_told),
		T(test_eventfd_unbound_before_the_commit_is_never_bound),
		T(test_failed_commit_is_made_good_by_the_next),
		T(test_commit_does_not_wait_for_another_thread_s_group),
		T(test_threads_with_groups_of_their_own_lose_no_route),
	};

	return cmocka_run_group_tests_name("routes", tests, NULL, NULL);
}
