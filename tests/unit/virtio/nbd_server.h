/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A real NBD server on the file `disk` of a folder, to be killed, stopped and
 * started again.
 *
 * It gets its listening socket from here (LISTEN_FDS), so that it is there from the
 * moment on that server_start() returns.
 */
#ifndef GODWIT_TESTS_VIRTIO_NBD_SERVER_H
#define GODWIT_TESTS_VIRTIO_NBD_SERVER_H

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct server {
	char folder[64], path[96], socket[96], uri[160];
	const char *const *argv;
	pid_t pid; /* 0: none runs */
};

static const char *const nbdkit[] = { "nbdkit", "-f", "file", "disk", NULL };

static inline int listen_at(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	unlink(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static inline void exec_server(const struct server *s, int listener)
{
	char pid[16];
	int quiet = open("/dev/null", O_RDWR);

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	unsetenv("LISTEN_FDNAMES");
	dup2(listener, 3);
	dup2(quiet, 0);
	dup2(quiet, 1);
	dup2(quiet, 2);
	/* It does not outlive a test that crashed. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (chdir(s->folder) < 0)
		_exit(126);
	execvp(s->argv[0], (char *const *)s->argv);
	_exit(127);
}

static inline void server_start(struct server *s)
{
	int listener = listen_at(s->socket);

	s->pid = fork();
	if (s->pid == 0)
		exec_server(s, listener);
	assert_true(s->pid > 0);
	close(listener);
}

static inline void server_kill(struct server *s)
{
	if (s->pid == 0)
		return;
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	s->pid = 0;
}

/* It neither answers nor goes away, until server_go_on(). */
static inline void server_hang(struct server *s)
{
	int status;

	kill(s->pid, SIGSTOP);
	/* All of its threads have stopped. */
	assert_int_equal(waitpid(s->pid, &status, WUNTRACED), s->pid);
	assert_true(WIFSTOPPED(status));
}

static inline void server_go_on(struct server *s)
{
	kill(s->pid, SIGCONT);
}

/* A folder with a file of @size bytes, and the server running. */
static inline int server_init(struct server *s, const char *const *argv,
			      off_t size)
{
	int fd;

	s->argv = argv;
	snprintf(s->folder, sizeof(s->folder), "/tmp/godwit-nbd-XXXXXX");
	if (!mkdtemp(s->folder))
		return -1;
	snprintf(s->path, sizeof(s->path), "%s/disk", s->folder);
	snprintf(s->socket, sizeof(s->socket), "%s/nbd", s->folder);
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", s->socket);
	fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, size) < 0)
		return -1;
	close(fd);
	server_start(s);
	return 0;
}

static inline void server_fini(struct server *s)
{
	server_kill(s);
	unlink(s->path);
	unlink(s->socket);
	rmdir(s->folder);
}

/* False, said aloud, where the servers are not installed. */
static inline bool server_is_there(void)
{
	if (system("command -v nbdkit qemu-nbd >/dev/null") == 0)
		return true;
	print_message("skipped: needs nbdkit and qemu-nbd "
		      "(tools/install-deps test)\n");
	return false;
}

#endif
