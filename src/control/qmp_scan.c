// SPDX-License-Identifier: Apache-2.0
/*
 * A state machine of four states (outside, in a value, in a string, behind a
 * backslash), fed byte by byte.
 */
#include "control/qmp_scan.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 512

void qmp_scan_fini(struct qmp_scan *scan)
{
	free(scan->text);
	*scan = (struct qmp_scan){ .text = NULL };
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void reset(struct qmp_scan *scan)
{
	scan->size = 0;
	scan->depth = 0;
	scan->is_complete = scan->in_string = scan->is_escaped = false;
}

/* Keep [data, data + size): 0 or the result that ends the stream. */
static enum qmp_scan_result keep(struct qmp_scan *scan, const char *data,
				 size_t size)
{
	size_t want = scan->capacity ? scan->capacity : FIRST_CAPACITY;
	char *text;

	if (size > QMP_SCAN_SIZE_MAX - scan->size)
		return QMP_SCAN_TOO_LONG;
	while (want < scan->size + size)
		want *= 2;
	if (want != scan->capacity) {
		text = realloc(scan->text, want);
		if (!text)
			return QMP_SCAN_NO_MEMORY;
		scan->text = text;
		scan->capacity = want;
	}
	if (size)
		memcpy(scan->text + scan->size, data, size);
	scan->size += size;
	return QMP_SCAN_MORE;
}

/* One byte inside a value. */
static enum qmp_scan_result step(struct qmp_scan *scan, char c)
{
	if (scan->in_string) {
		if ((unsigned char)c < ' ')
			return QMP_SCAN_GARBAGE;
		if (scan->is_escaped)
			scan->is_escaped = false;
		else if (c == '\\')
			scan->is_escaped = true;
		else if (c == '"')
			scan->in_string = false;
		return QMP_SCAN_MORE;
	}
	switch (c) {
	case '"':
		scan->in_string = true;
		break;
	case '{':
	case '[':
		if (scan->depth == QMP_SCAN_DEPTH_MAX)
			return QMP_SCAN_TOO_DEEP;
		scan->depth++;
		break;
	case '}':
	case ']':
		if (--scan->depth == 0)
			return QMP_SCAN_VALUE;
		break;
	default:
		break;
	}
	return QMP_SCAN_MORE;
}

/* Between values: how many bytes to skip; *ret_is_news when garbage begins. */
static size_t skip(struct qmp_scan *scan, const char *data, size_t size,
		   bool *ret_is_news)
{
	size_t i;

	*ret_is_news = false;
	for (i = 0; i < size && data[i] != '{' && data[i] != '['; i++) {
		if (data[i] == '\n') {
			scan->in_garbage = false;
		} else if (!is_space(data[i]) && !scan->in_garbage) {
			scan->in_garbage = true;
			*ret_is_news = true;
			return i + 1;
		}
	}
	return i;
}

size_t qmp_scan_feed(struct qmp_scan *scan, const char *data, size_t size,
		     enum qmp_scan_result *ret_result)
{
	enum qmp_scan_result result = QMP_SCAN_MORE, kept;
	size_t start = 0, at;
	bool is_news;

	if (scan->is_complete)
		reset(scan);
	if (scan->depth == 0) {
		start = skip(scan, data, size, &is_news);
		if (is_news || start == size) {
			*ret_result =
				is_news ? QMP_SCAN_GARBAGE : QMP_SCAN_MORE;
			return start;
		}
		scan->in_garbage = false;
	}
	for (at = start; at < size && result == QMP_SCAN_MORE; at++)
		result = step(scan, data[at]);

	kept = keep(scan, data + start, at - start);
	if (kept != QMP_SCAN_MORE)
		result = kept;
	if (result == QMP_SCAN_VALUE) {
		scan->is_complete = true;
	} else if (result == QMP_SCAN_GARBAGE) {
		reset(scan);
		scan->in_garbage = data[at - 1] != '\n';
	}
	*ret_result = result;
	return at;
}

const char *qmp_scan_reason(enum qmp_scan_result result)
{
	switch (result) {
	case QMP_SCAN_GARBAGE:
		return "JSON parse error, stray or control character";
	case QMP_SCAN_TOO_LONG:
		return "JSON text is longer than 1 MiB";
	case QMP_SCAN_TOO_DEEP:
		return "JSON text is nested deeper than 64 levels";
	case QMP_SCAN_NO_MEMORY:
		return "out of memory for JSON text";
	case QMP_SCAN_MORE:
	case QMP_SCAN_VALUE:
		break;
	}
	return "";
}
