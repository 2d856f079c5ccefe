/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether something reads stale (mem/space.h).  It runs in a child, which either dies by
 * SIGABRT or exits with the number counted.
 */
#ifndef GODWIT_TEST_MEM_STALE_H
#define GODWIT_TEST_MEM_STALE_H

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* What it said on stderr, and how it ended. */
struct stale_child {
	char text[16384];
	int status;
};

static inline void stale_run(uint64_t (*scene)(void), struct stale_child *child)
{
	size_t used = 0;
	int pipe_fds[2];
	ssize_t got;
	pid_t pid;

	assert_int_equal(pipe(pipe_fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit no_core = { 0, 0 };

		setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGABRT, SIG_DFL);
		dup2(pipe_fds[1], STDERR_FILENO);
		_exit((int)scene());
	}
	close(pipe_fds[1]);
	while (used < sizeof(child->text) - 1 &&
	       (got = read(pipe_fds[0], child->text + used,
			   sizeof(child->text) - 1 - used)) > 0)
		used += (size_t)got;
	child->text[used] = '\0';
	close(pipe_fds[0]);
	assert_int_equal(waitpid(pid, &child->status, 0), pid);
}

/*
 * @scene returns mem_stale_reads().  It reads stale once: in a debug build that is its
 * death with @cause and both stacks on stderr.  Without @cause it never does.  All that
 * @scene needs is made in it: a parent that never had a second thread (call_rcu's) may
 * fork under the thread sanitizer too.
 */
static inline void assert_stale(uint64_t (*scene)(void), const char *cause)
{
	struct stale_child child;

	stale_run(scene, &child);
	if (!cause) {
		assert_true(WIFEXITED(child.status));
		assert_int_equal(WEXITSTATUS(child.status), 0);
		return;
	}
#ifndef NDEBUG
	const char *begun, *read_at;

	assert_true(WIFSIGNALED(child.status));
	assert_int_equal(WTERMSIG(child.status), SIGABRT);
	assert_non_null(
		strstr(child.text, "stale read of address space memory"));
	assert_non_null(strstr(child.text, cause));
	begun = strstr(child.text, "begun at:\n");
	read_at = strstr(child.text, "read at:\n");
	assert_non_null(begun);
	assert_non_null(read_at);
	/* several frames each */
	assert_true(read_at > begun + 40);
	assert_true(strlen(read_at) > 40);
#else
	assert_true(WIFEXITED(child.status));
	assert_int_equal(WEXITSTATUS(child.status), 1);
#endif
}

#endif
