/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds where one JSON value ends and the next begins in a QMP byte stream.
 *
 * QMP has no framing: a request may come in pieces, several may come in one
 * read, and the space between them is optional.  The scanner counts braces
 * and brackets outside of strings and collects the text of one value; whether
 * that text is good JSON is the parser's business.  Both ends use it.  Its
 * input is hostile: what it keeps is bounded in size and depth.
 */
#ifndef GODWIT_CONTROL_QMP_SCAN_H
#define GODWIT_CONTROL_QMP_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#define QMP_SCAN_SIZE_MAX  (1u << 20) /* bytes of one value */
#define QMP_SCAN_DEPTH_MAX 64u        /* open braces and brackets */

enum qmp_scan_result {
	QMP_SCAN_MORE,     /* all input used, no value complete */
	QMP_SCAN_VALUE,    /* text and size hold one object or array */
	QMP_SCAN_GARBAGE,  /* skips to the next line or value; told once */
	QMP_SCAN_TOO_LONG, /* these three: give up on this stream */
	QMP_SCAN_TOO_DEEP,
	QMP_SCAN_NO_MEMORY,
};

struct qmp_scan {
	char *text;      /* owned; not terminated */
	size_t size;     /* of the value (so far) */
	size_t capacity; /* of @text */
	unsigned int depth;
	bool is_complete; /* VALUE was returned: the next feed starts anew */
	bool in_string, is_escaped, in_garbage;
};

/* An all-zero scanner is ready for use. */
void qmp_scan_fini(struct qmp_scan *scan);

/*
 * Looks at @data up to the end of one value or of what cannot be one; returns
 * how many bytes it used, above zero for @size above zero unless it gave up.
 * After VALUE, scan->text is valid until the next call.
 */
size_t qmp_scan_feed(struct qmp_scan *scan, const char *data, size_t size,
		     enum qmp_scan_result *ret_result);

/* For people: what a result that is neither MORE nor VALUE means. */
const char *qmp_scan_reason(enum qmp_scan_result result);

#endif
