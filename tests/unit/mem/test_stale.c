// SPDX-License-Identifier: Apache-2.0
/*
 * Stale reads abort in debug builds, with both stacks, and are counted in
 * release builds.  Each case runs in a child, which either dies by SIGABRT or
 * exits with the number counted.
 */
#include <cmocka.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mem/access.h"
#include "mem/space.h"

static const struct mem_io_ops no_ops;

struct fixture {
	struct mem *mem;
	struct mem_region *root, *io, *ports;
	struct addr_space *as, *port_as;
};

/* In the child only: a parent that never had a second thread (call_rcu's) may
 * fork under the thread sanitizer too. */
static struct fixture *fixture_new(void)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->mem = mem_new();
	f->root = mem_region_new_container(f->mem, "root", MEM_SIZE_2_64);
	f->ports = mem_region_new_container(f->mem, "ports", 0x10000);
	f->io = mem_region_new_io(f->mem, "io", 0x1000, &no_ops, NULL);
	mem_region_add(f->root, 0, f->io, 0);
	f->as = addr_space_new(f->mem, "memory", f->root);
	f->port_as = addr_space_new(f->mem, "ports", f->ports);
	return f;
}

static void translate(struct addr_space *as)
{
	uint8_t byte;

	mem_read(as, 0, &byte, sizeof(byte));
}

static void *translate_thread(void *as)
{
	translate(as);
	return NULL;
}

static void translate_elsewhere(struct addr_space *as)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, translate_thread, as))
		abort();
	pthread_join(thread, NULL);
}

/* Runs @scene in a child and asserts that it reads stale once, in a debug build
 * by its death with @cause on stderr; or never, without @cause. */
static void assert_stale(void (*scene)(struct fixture *f), const char *cause)
{
	char text[16384];
	size_t used = 0;
	int pipe_fds[2], status;
	ssize_t got;
	pid_t pid;

	assert_int_equal(pipe(pipe_fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit no_core = { 0, 0 };
		struct fixture *f = fixture_new();

		setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGABRT, SIG_DFL);
		dup2(pipe_fds[1], STDERR_FILENO);
		scene(f);
		_exit((int)mem_stale_reads(f->mem));
	}
	close(pipe_fds[1]);
	while (used < sizeof(text) - 1 &&
	       (got = read(pipe_fds[0], text + used, sizeof(text) - 1 - used)) >
		       0)
		used += (size_t)got;
	text[used] = '\0';
	close(pipe_fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!cause) {
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
		return;
	}
#ifndef NDEBUG
	const char *begun, *read_at;

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
	assert_non_null(strstr(text, "stale read of address space memory"));
	assert_non_null(strstr(text, cause));
	begun = strstr(text, "begun at:\n");
	read_at = strstr(text, "read at:\n");
	assert_non_null(begun);
	assert_non_null(read_at);
	/* several frames each */
	assert_true(read_at > begun + 40);
	assert_true(strlen(read_at) > 40);
#else
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
#endif
}

static void read_in_own_transaction(struct fixture *f)
{
	mem_begin(f->mem);
	mem_region_set_offset(f->io, 0x1000);
	translate(f->as);
	mem_commit(f->mem);
}

static void
test_reading_what_ones_own_transaction_changed_is_caught(void **state)
{
	(void)state;
	assert_stale(read_in_own_transaction, "has not committed yet");
}

static void read_other_space(struct fixture *f)
{
	mem_begin(f->mem);
	translate(f->as); /* not changed yet */
	mem_region_set_offset(f->io, 0x1000);
	translate(f->port_as);
	translate_elsewhere(f->as);
	mem_commit(f->mem);
	translate(f->as);
}

static void test_unchanged_spaces_and_other_threads_may_read_on(void **state)
{
	(void)state;
	assert_stale(read_other_space, NULL);
}

static void read_while_loading(struct fixture *f)
{
	mem_load_begin(f->mem);
	translate(f->as);
	mem_load_end(f->mem);
}

static void test_reading_while_state_loads_is_caught(void **state)
{
	(void)state;
	assert_stale(read_while_loading, "is being loaded");
}

static void read_elsewhere_while_loading(struct fixture *f)
{
	mem_load_begin(f->mem);
	translate_elsewhere(f->as);
	mem_load_end(f->mem);
}

static void test_reading_while_state_loads_is_caught_in_any_thread(void **state)
{
	(void)state;
	assert_stale(read_elsewhere_while_loading, "is being loaded");
}

static void load_and_read(struct fixture *f)
{
	mem_load_begin(f->mem);
	mem_begin(f->mem);
	mem_region_set_offset(f->io, 0x1000);
	mem_commit(f->mem);
	mem_load_end(f->mem);
	translate(f->as);
	translate_elsewhere(f->as);
}

static void test_reading_after_the_load_and_its_commit_is_fine(void **state)
{
	(void)state;
	assert_stale(load_and_read, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_reading_what_ones_own_transaction_changed_is_caught),
		cmocka_unit_test(
			test_unchanged_spaces_and_other_threads_may_read_on),
		cmocka_unit_test(test_reading_while_state_loads_is_caught),
		cmocka_unit_test(
			test_reading_while_state_loads_is_caught_in_any_thread),
		cmocka_unit_test(
			test_reading_after_the_load_and_its_commit_is_fine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
