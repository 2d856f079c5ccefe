// SPDX-License-Identifier: Apache-2.0
/* The QMP server over real sockets; requests are echoed, not executed. */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "control/qmp_scan.h"
#include "control/qmp_server.h"

#define WAIT_MS 5000

struct fixture {
	char dir[32];
	char path[64];
	uv_loop_t loop;
	struct qmp_server *server;
	unsigned int executed;
	int passed_fd;     /* of the last request */
	size_t reply_size; /* pad replies to this */
};

/* Negotiates at the first request; answers {"return": <request>}. */
static json_t *echo(void *opaque, struct qmp_peer *peer, const json_t *request)
{
	struct fixture *f = opaque;
	json_t *reply;
	char *pad;

	f->executed++;
	f->passed_fd = qmp_peer_take_fd(peer);
	qmp_peer_set_negotiated(peer);
	if (!f->reply_size)
		return json_pack("{s:O}", "return", request);
	pad = malloc(f->reply_size + 1);
	memset(pad, 'x', f->reply_size);
	pad[f->reply_size] = '\0';
	reply = json_pack("{s:s}", "return", pad);
	free(pad);
	return reply;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/test-qmp-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/qmp", f->dir);
	f->passed_fd = -1;
	assert_int_equal(uv_loop_init(&f->loop), 0);
	assert_int_equal(
		qmp_server_open(&f->loop, f->path, echo, f, &f->server, NULL),
		0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	qmp_server_close(f->server);
	uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	if (f->passed_fd >= 0)
		close(f->passed_fd);
	assert_int_equal(access(f->path, F_OK), -1);
	unlink(f->path);
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

static int client_open(const struct fixture *f)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, f->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)),
			 0);
	return fd;
}

/* Let the server work until @fd is readable. */
static void serve_until_readable(struct fixture *f, int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	uint64_t deadline = clock_mono_ns() + WAIT_MS * NS_PER_MS;

	while (poll(&pfd, 1, 1) == 0) {
		uv_run(&f->loop, UV_RUN_NOWAIT);
		assert_true(clock_mono_ns() < deadline);
	}
}

/* The next line that @fd gets, parsed; NULL at the end of the stream. */
static json_t *client_read(struct fixture *f, int fd)
{
	struct qmp_scan scan = { .text = NULL };
	enum qmp_scan_result result = QMP_SCAN_MORE;
	json_t *message = NULL;
	char byte;

	while (result != QMP_SCAN_VALUE) {
		serve_until_readable(f, fd);
		if (recv(fd, &byte, 1, 0) <= 0)
			break;
		qmp_scan_feed(&scan, &byte, 1, &result);
	}
	if (result == QMP_SCAN_VALUE)
		message = json_loadb(scan.text, scan.size, 0, NULL);
	qmp_scan_fini(&scan);
	return message;
}

static void client_send(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL),
			 strlen(text));
}

static void assert_reads(struct fixture *f, int fd, const char *expected)
{
	json_t *message = client_read(f, fd);
	char *text = json_dumps(message, 0);

	assert_non_null(text);
	assert_string_equal(text, expected);
	free(text);
	json_decref(message);
}

static int client_greeted(struct fixture *f)
{
	int fd = client_open(f);
	json_t *greeting = client_read(f, fd);
	const json_t *qmp = json_object_get(greeting, "QMP");

	assert_true(json_is_object(
		json_object_get(json_object_get(qmp, "version"), "qemu")));
	assert_true(json_is_array(json_object_get(qmp, "capabilities")));
	json_decref(greeting);
	return fd;
}

static void test_request_in_pieces_and_several_in_one_read(void **state)
{
	struct fixture *f = *state;
	int fd = client_greeted(f), i;

	client_send(fd, "{\"a\"");
	for (i = 0; i < 10; i++)
		uv_run(&f->loop, UV_RUN_NOWAIT);
	assert_int_equal(f->executed, 0);
	client_send(fd, ": 1}{\"b\": 2}\n[3]");
	assert_reads(f, fd, "{\"return\": {\"a\": 1}}");
	assert_reads(f, fd, "{\"return\": {\"b\": 2}}");
	assert_reads(f, fd, "{\"return\": [3]}");
	close(fd);
}

static void test_bad_json_is_answered_and_survived(void **state)
{
	struct fixture *f = *state;
	int fd = client_greeted(f);
	json_t *answer;

	client_send(fd, "{]{\"a\": 1, \"a\": 2}nonsense\n{\"c\": 3}");
	answer = client_read(f, fd);
	assert_string_equal(json_string_value(json_object_get(
				    json_object_get(answer, "error"), "class")),
			    "GenericError");
	json_decref(answer);
	answer = client_read(f, fd);
	assert_non_null(json_object_get(answer, "error"));
	json_decref(answer);
	answer = client_read(f, fd);
	assert_non_null(json_object_get(answer, "error"));
	json_decref(answer);
	assert_reads(f, fd, "{\"return\": {\"c\": 3}}");
	assert_int_equal(f->executed, 1);
	close(fd);
}

static void test_too_long_request_is_refused_and_ends_it(void **state)
{
	struct fixture *f = *state;
	int fd = client_greeted(f), i;
	char text[8192];
	json_t *answer;

	memset(text, ' ', sizeof(text));
	text[0] = '{';
	for (i = 0; i < 1000; i++) {
		if (send(fd, text, sizeof(text), MSG_NOSIGNAL | MSG_DONTWAIT) <
			    0 &&
		    errno != EAGAIN)
			break;
		text[0] = ' ';
		uv_run(&f->loop, UV_RUN_NOWAIT);
	}
	answer = client_read(f, fd);
	assert_string_equal(json_string_value(json_object_get(
				    json_object_get(answer, "error"), "desc")),
			    "JSON text is longer than 1 MiB");
	json_decref(answer);
	assert_null(client_read(f, fd));
	assert_int_equal(f->executed, 0);
	close(fd);
}

static void test_too_deep_request_is_refused_and_ends_it(void **state)
{
	struct fixture *f = *state;
	char text[QMP_SCAN_DEPTH_MAX + 2];
	int fd = client_greeted(f);
	json_t *answer;

	memset(text, '[', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	client_send(fd, text);
	answer = client_read(f, fd);
	assert_non_null(json_object_get(answer, "error"));
	json_decref(answer);
	assert_null(client_read(f, fd));
	close(fd);
}

static void test_client_that_never_reads_is_dropped(void **state)
{
	struct fixture *f = *state;
	int fd = client_greeted(f), other = client_greeted(f), i;

	f->reply_size = 256 << 10;
	for (i = 0; i < 100; i++) {
		if (send(fd, "{}", 2, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		uv_run(&f->loop, UV_RUN_NOWAIT);
		uv_run(&f->loop, UV_RUN_NOWAIT);
	}
	assert_true(i > 10 && i < 40);
	f->reply_size = 0;
	client_send(other, "{\"still\": 1}");
	assert_reads(f, other, "{\"return\": {\"still\": 1}}");
	close(fd);
	close(other);
}

static void test_client_that_reads_late_gets_all(void **state)
{
	struct fixture *f = *state;
	int fd = client_greeted(f), i;
	json_t *answer;

	f->reply_size = 256 << 10;
	for (i = 0; i < 12; i++)
		client_send(fd, "{}");
	shutdown(fd, SHUT_WR);
	for (i = 0; i < 20; i++)
		uv_run(&f->loop, UV_RUN_NOWAIT);
	assert_int_equal(f->executed, 12);
	for (i = 0; i < 12; i++) {
		answer = client_read(f, fd);
		assert_int_equal(
			json_string_length(json_object_get(answer, "return")),
			256 << 10);
		json_decref(answer);
	}
	assert_null(client_read(f, fd));
	close(fd);
}

static void test_events_go_to_negotiated_clients_only(void **state)
{
	struct fixture *f = *state;
	int one = client_greeted(f), two = client_greeted(f);
	json_t *event = json_pack("{s:s}", "event", "STOP");

	client_send(one, "{}");
	assert_reads(f, one, "{\"return\": {}}");
	qmp_server_broadcast(f->server, event);
	assert_reads(f, one, "{\"event\": \"STOP\"}");
	client_send(two, "{}");
	assert_reads(f, two, "{\"return\": {}}");
	qmp_server_broadcast(f->server, event);
	assert_reads(f, one, "{\"event\": \"STOP\"}");
	assert_reads(f, two, "{\"event\": \"STOP\"}");
	json_decref(event);
	close(one);
	close(two);
}

static void send_with_fds(int fd, const char *text, const int *fds, size_t n)
{
	union {
		char space[CMSG_SPACE(32 * sizeof(int))];
		struct cmsghdr align;
	} control = { .space = { 0 } };
	struct iovec iov = { (char *)(uintptr_t)text, strlen(text) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = CMSG_SPACE(n * sizeof(int)),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(cmsg), fds, n * sizeof(int));
	assert_int_equal(sendmsg(fd, &msg, MSG_NOSIGNAL), strlen(text));
}

static void test_descriptor_arrives_with_its_request(void **state)
{
	struct fixture *f = *state;
	int fd = client_greeted(f), pipe_fds[2];
	char byte = 0;

	assert_int_equal(pipe(pipe_fds), 0);
	send_with_fds(fd, "{\"fd\": 1}", &pipe_fds[1], 1);
	assert_reads(f, fd, "{\"return\": {\"fd\": 1}}");
	assert_true(f->passed_fd >= 0);
	assert_int_equal(fcntl(f->passed_fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(write(f->passed_fd, "x", 1), 1);
	assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
	assert_int_equal(byte, 'x');
	close(f->passed_fd);
	client_send(fd, "{\"fd\": 2}");
	assert_reads(f, fd, "{\"return\": {\"fd\": 2}}");
	assert_int_equal(f->passed_fd, -1);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	close(fd);
}

static unsigned int open_fds(void)
{
	unsigned int count = 0;
	int fd;

	for (fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void test_descriptors_nobody_takes_are_closed(void **state)
{
	struct fixture *f = *state;
	int fd = client_greeted(f), i;
	int fds[20];
	unsigned int before;
	json_t *answer;

	for (i = 0; i < 20; i++)
		fds[i] = fd;
	before = open_fds();
	for (i = 0; i < 50; i++)
		send_with_fds(fd, " ", fds, 20);
	client_send(fd, "{}");
	answer = client_read(f, fd);
	json_decref(answer);
	assert_int_equal(open_fds(), before + (f->passed_fd >= 0));
	close(fd);
}

static void test_clients_are_bounded(void **state)
{
	struct fixture *f = *state;
	int fds[QMP_PEERS_MAX + 1];
	json_t *answer;
	unsigned int i;

	for (i = 0; i < QMP_PEERS_MAX; i++)
		fds[i] = client_greeted(f);
	fds[i] = client_open(f);
	answer = client_read(f, fds[i]);
	assert_non_null(json_object_get(answer, "error"));
	json_decref(answer);
	assert_null(client_read(f, fds[i]));
	close(fds[i]);
	close(fds[0]);
	for (i = 0; i < 10; i++)
		uv_run(&f->loop, UV_RUN_NOWAIT);
	fds[0] = client_greeted(f);
	for (i = 0; i < QMP_PEERS_MAX; i++)
		close(fds[i]);
}

static void test_path_of_a_live_server_is_refused(void **state)
{
	struct fixture *f = *state;
	struct qmp_server *second = NULL;
	struct err err = ERR_INIT;

	assert_int_equal(
		qmp_server_open(&f->loop, f->path, echo, f, &second, &err),
		-EADDRINUSE);
	assert_non_null(strstr(err_msg(&err), "another process listens"));
	assert_null(second);
	close(client_greeted(f));
}

static void test_stale_socket_is_replaced_and_a_file_is_not(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct qmp_server *second = NULL;
	struct err err = ERR_INIT;
	struct stat st;
	int fd;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s2", f->path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	assert_int_equal(qmp_server_open(&f->loop, addr.sun_path, echo, f,
					 &second, &err),
			 0);
	assert_int_equal(stat(addr.sun_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	qmp_server_close(second);
	uv_run(&f->loop, UV_RUN_NOWAIT);
	assert_int_equal(access(addr.sun_path, F_OK), -1);

	fd = open(addr.sun_path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	assert_int_equal(qmp_server_open(&f->loop, addr.sun_path, echo, f,
					 &second, &err),
			 -EEXIST);
	assert_int_equal(access(addr.sun_path, F_OK), 0);
	unlink(addr.sun_path);
}

static void test_path_that_does_not_fit_is_refused(void **state)
{
	struct fixture *f = *state;
	struct qmp_server *second = NULL;
	char path[200];

	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(
		qmp_server_open(&f->loop, path, echo, f, &second, NULL),
		-ENAMETOOLONG);
	assert_int_equal(qmp_server_open(&f->loop, "", echo, f, &second, NULL),
			 -EINVAL);
	assert_int_equal(qmp_server_open(&f->loop, "/nonexistent/qmp", echo, f,
					 &second, NULL),
			 -ENOENT);
}

static void test_error_text_that_is_no_utf8_is_told(void **state)
{
	json_t *error = qmp_error_new("GenericError", "file \xff\xfe.img");
	char *text = json_dumps(error, 0);

	(void)state;
	assert_string_equal(
		text,
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"file ?\?.img\"}}");
	free(text);
	json_decref(error);
}

#define served(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		served(test_request_in_pieces_and_several_in_one_read),
		served(test_bad_json_is_answered_and_survived),
		served(test_too_long_request_is_refused_and_ends_it),
		served(test_too_deep_request_is_refused_and_ends_it),
		served(test_client_that_never_reads_is_dropped),
		served(test_client_that_reads_late_gets_all),
		served(test_events_go_to_negotiated_clients_only),
		served(test_descriptor_arrives_with_its_request),
		served(test_descriptors_nobody_takes_are_closed),
		served(test_clients_are_bounded),
		served(test_path_of_a_live_server_is_refused),
		served(test_stale_socket_is_replaced_and_a_file_is_not),
		served(test_path_that_does_not_fit_is_refused),
		cmocka_unit_test(test_error_text_that_is_no_utf8_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
