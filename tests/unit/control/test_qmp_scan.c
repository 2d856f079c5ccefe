// SPDX-License-Identifier: Apache-2.0
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "control/qmp_scan.h"

/* Everything a scanner says about a stream, as one text: values between < and
 * >, '!' for garbage, 'L', 'D' and 'M' for what ends a stream. */
struct log {
	char text[4096];
	size_t size;
	bool has_ended;
};

static void log_put(struct log *log, const char *data, size_t size)
{
	assert_true(log->size + size < sizeof(log->text));
	memcpy(log->text + log->size, data, size);
	log->size += size;
	log->text[log->size] = '\0';
}

static void feed(struct qmp_scan *scan, struct log *log, const char *data,
		 size_t size)
{
	enum qmp_scan_result result;
	size_t used;

	for (; size && !log->has_ended; size -= used, data += used) {
		used = qmp_scan_feed(scan, data, size, &result);
		assert_true(used > 0 && used <= size);
		switch (result) {
		case QMP_SCAN_MORE:
			assert_int_equal(used, size);
			break;
		case QMP_SCAN_VALUE:
			log_put(log, "<", 1);
			log_put(log, scan->text, scan->size);
			log_put(log, ">", 1);
			break;
		case QMP_SCAN_GARBAGE:
			log_put(log, "!", 1);
			break;
		case QMP_SCAN_TOO_LONG:
		case QMP_SCAN_TOO_DEEP:
		case QMP_SCAN_NO_MEMORY:
			log_put(log, &"LDM"[result - QMP_SCAN_TOO_LONG], 1);
			log->has_ended = true;
			break;
		}
	}
}

/* One read of all, then cut in two at each byte, then byte by byte. */
static void assert_scans_to(const char *stream, const char *expected)
{
	size_t size = strlen(stream), cut, i;

	for (cut = 0; cut <= size + 1; cut++) {
		struct qmp_scan scan = { .text = NULL };
		struct log log = { .size = 0 };

		if (cut <= size) {
			feed(&scan, &log, stream, cut);
			feed(&scan, &log, stream + cut, size - cut);
		} else {
			for (i = 0; i < size; i++)
				feed(&scan, &log, stream + i, 1);
		}
		assert_string_equal(log.text, expected);
		qmp_scan_fini(&scan);
	}
}

static void test_value_boundaries_do_not_depend_on_reads(void **state)
{
	(void)state;
	assert_scans_to("", "");
	assert_scans_to("{}", "<{}>");
	assert_scans_to("{}{}", "<{}><{}>");
	assert_scans_to(" {\"a\": 1}\r\n\t[1, [2]]\n",
			"<{\"a\": 1}><[1, [2]]>");
	assert_scans_to("{\"a\": {\"b\": [{}, {}]}}",
			"<{\"a\": {\"b\": [{}, {}]}}>");
	assert_scans_to("{", "");
}

static void test_braces_in_strings_do_not_count(void **state)
{
	(void)state;
	assert_scans_to("{\"}\": \"{[\"}", "<{\"}\": \"{[\"}>");
	assert_scans_to("{\"\\\"}\": 1}{}", "<{\"\\\"}\": 1}><{}>");
	assert_scans_to("{\"\\\\\"}{}", "<{\"\\\\\"}><{}>");
	assert_scans_to("{\"\\\\\\\"}\"}", "<{\"\\\\\\\"}\"}>");
	assert_scans_to("{\"\xc3\xa9}\"}", "<{\"\xc3\xa9}\"}>");
}

static void test_garbage_is_told_once_and_skipped(void **state)
{
	(void)state;
	assert_scans_to("hello world\n{}", "!<{}>");
	assert_scans_to("hello {}", "!<{}>");
	assert_scans_to("}}}]]", "!");
	assert_scans_to("a\nb\n", "!!");
	assert_scans_to("\"string\" 12 true\n{}", "!<{}>");
	assert_scans_to("\xff\xff{}", "!<{}>");
	assert_scans_to("{}x{}", "<{}>!<{}>");
}

static void test_control_character_ends_a_string(void **state)
{
	(void)state;
	assert_scans_to("{\"unfinished\n{}", "!<{}>");
	assert_scans_to("{\"a\tb\"} more\n{}", "!<{}>");
	assert_scans_to("{\"a\\\n{}", "!<{}>");
}

/* The parser refuses what these are. */
static void test_brackets_are_only_counted(void **state)
{
	(void)state;
	assert_scans_to("{]{}", "<{]><{}>");
	assert_scans_to("{1 2 x}", "<{1 2 x}>");
}

static void test_depth_is_bounded(void **state)
{
	char text[2 * QMP_SCAN_DEPTH_MAX + 4];
	struct qmp_scan scan = { .text = NULL };
	struct log log = { .size = 0 };

	(void)state;
	memset(text, '[', QMP_SCAN_DEPTH_MAX);
	memset(text + QMP_SCAN_DEPTH_MAX, ']', QMP_SCAN_DEPTH_MAX);
	feed(&scan, &log, text, 2 * QMP_SCAN_DEPTH_MAX);
	assert_int_equal(log.size, 2 * QMP_SCAN_DEPTH_MAX + 2);
	assert_false(log.has_ended);
	memset(text, '{', sizeof(text));
	feed(&scan, &log, text, QMP_SCAN_DEPTH_MAX + 1);
	assert_true(log.has_ended);
	assert_int_equal(log.text[log.size - 1], 'D');
	qmp_scan_fini(&scan);
}

/* What comes back for a value of @size bytes fed in pieces of @piece. */
static enum qmp_scan_result scan_size(size_t size, size_t piece)
{
	enum qmp_scan_result result = QMP_SCAN_MORE;
	struct qmp_scan scan = { .text = NULL };
	char *text = malloc(size);
	size_t at, used;

	memset(text, ' ', size);
	text[0] = '{';
	text[size - 1] = '}';
	for (at = 0; at < size && result == QMP_SCAN_MORE; at += used) {
		size_t left = size - at;

		used = qmp_scan_feed(&scan, text + at,
				     left < piece ? left : piece, &result);
	}
	assert_true(scan.capacity <= QMP_SCAN_SIZE_MAX);
	qmp_scan_fini(&scan);
	free(text);
	return result;
}

static void test_size_is_bounded(void **state)
{
	static const size_t pieces[] = { 1, 1000, 65536, SIZE_MAX };
	size_t i;

	(void)state;
	for (i = 0; i < array_size(pieces); i++) {
		assert_int_equal(scan_size(QMP_SCAN_SIZE_MAX, pieces[i]),
				 QMP_SCAN_VALUE);
		assert_int_equal(scan_size(QMP_SCAN_SIZE_MAX + 1, pieces[i]),
				 QMP_SCAN_TOO_LONG);
		assert_int_equal(scan_size(4 * QMP_SCAN_SIZE_MAX, pieces[i]),
				 QMP_SCAN_TOO_LONG);
	}
}

static void test_endless_garbage_takes_no_memory(void **state)
{
	struct qmp_scan scan = { .text = NULL };
	enum qmp_scan_result result;
	char text[4096];
	unsigned int i, told = 0;

	(void)state;
	memset(text, 'x', sizeof(text));
	for (i = 0; i < 1000; i++) {
		size_t at = 0;

		while (at < sizeof(text)) {
			at += qmp_scan_feed(&scan, text + at, sizeof(text) - at,
					    &result);
			told += result == QMP_SCAN_GARBAGE;
		}
	}
	assert_int_equal(told, 1);
	assert_int_equal(scan.capacity, 0);
	qmp_scan_fini(&scan);
}

/* Random streams from the alphabet that matters, with and without cuts: the
 * same answers, and nothing out of bounds (sanitizer builds look there). */
static void test_random_bytes_scan_the_same_in_pieces(void **state)
{
	static const char alphabet[] = "{}[]\"\\ \n,:a1\xff\x01";
	unsigned int seed = 1, round;

	(void)state;
	for (round = 0; round < 20000; round++) {
		struct qmp_scan whole = { .text = NULL };
		struct qmp_scan pieces = { .text = NULL };
		struct log whole_log = { .size = 0 };
		struct log pieces_log = { .size = 0 };
		char text[256];
		size_t size = (size_t)rand_r(&seed) % sizeof(text), at, step;

		for (at = 0; at < size; at++)
			text[at] = round % 4 == 0
					   ? (char)rand_r(&seed)
					   : alphabet[(size_t)rand_r(&seed) %
						      (sizeof(alphabet) - 1)];
		feed(&whole, &whole_log, text, size);
		for (at = 0; at < size; at += step) {
			step = (size_t)rand_r(&seed) % 9 + 1;
			if (step > size - at)
				step = size - at;
			feed(&pieces, &pieces_log, text + at, step);
		}
		assert_int_equal(whole_log.size, pieces_log.size);
		assert_memory_equal(whole_log.text, pieces_log.text,
				    whole_log.size);
		qmp_scan_fini(&whole);
		qmp_scan_fini(&pieces);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_value_boundaries_do_not_depend_on_reads),
		cmocka_unit_test(test_braces_in_strings_do_not_count),
		cmocka_unit_test(test_garbage_is_told_once_and_skipped),
		cmocka_unit_test(test_control_character_ends_a_string),
		cmocka_unit_test(test_brackets_are_only_counted),
		cmocka_unit_test(test_depth_is_bounded),
		cmocka_unit_test(test_size_is_bounded),
		cmocka_unit_test(test_endless_garbage_takes_no_memory),
		cmocka_unit_test(test_random_bytes_scan_the_same_in_pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
