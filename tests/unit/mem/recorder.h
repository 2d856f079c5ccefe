/* SPDX-License-Identifier: Apache-2.0 */
/* A listener that writes down its calls as text, and views as text. */
#ifndef GODWIT_TEST_MEM_RECORDER_H
#define GODWIT_TEST_MEM_RECORDER_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mem/space.h"

struct recorder {
	struct mem_listener listener;
	const char *name; /* put before each call */
	char *text;       /* where to write, shared by several recorders */
	size_t size;
};

__attribute__((format(printf, 3, 4), unused)) static void
text_add(char *text, size_t size, const char *fmt, ...)
{
	size_t used = strlen(text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text + used, size - used, fmt, ap);
	va_end(ap);
}

static void text_add_range(char *text, size_t size,
			   const struct mem_range *range)
{
	text_add(text, size, "%lx+%lx:%s@%lx%s", range->gpa,
		 (unsigned long)range->size, mem_region_name(range->region),
		 range->offset, range->is_readonly ? "!" : "");
}

/* "0+1000:ram@0 ..." with "!" for readonly; a size of 2^64 shows as 0. */
__attribute__((unused)) static const char *view_text(struct addr_space *as,
						     char *text, size_t size)
{
	const struct mem_range *range;

	text[0] = '\0';
	rcu_read_lock();
	flat_view_for_each(range, addr_space_view(as))
	{
		if (text[0])
			text_add(text, size, " ");
		text_add_range(text, size, range);
	}
	rcu_read_unlock();
	return text;
}

#define assert_view(as, expected)                                        \
	do {                                                             \
		char text_[2048];                                        \
		assert_string_equal(view_text(as, text_, sizeof(text_)), \
				    expected);                           \
	} while (0)

static void record(struct recorder *r, const char *what,
		   const struct mem_range *range)
{
	text_add(r->text, r->size, "%s%s", r->name, what);
	if (range) {
		text_add(r->text, r->size, " ");
		text_add_range(r->text, r->size, range);
	}
	text_add(r->text, r->size, "\n");
}

static void record_begin(void *opaque, struct addr_space *as)
{
	(void)as;
	record(opaque, "begin", NULL);
}

static void record_add(void *opaque, const struct mem_section *section)
{
	record(opaque, "add", &section->range);
}

static void record_del(void *opaque, const struct mem_section *section)
{
	record(opaque, "del", &section->range);
}

static void record_commit(void *opaque, struct addr_space *as,
			  const struct flat_view *view)
{
	(void)as;
	(void)view;
	record(opaque, "commit", NULL);
}

static void record_log_start(void *opaque, const struct mem_section *section)
{
	record(opaque, "log-start", &section->range);
}

static void record_log_stop(void *opaque, const struct mem_section *section)
{
	record(opaque, "log-stop", &section->range);
}

static void record_event(struct recorder *r, const char *what,
			 const struct mem_section *section,
			 const struct mem_eventfd *event)
{
	text_add(r->text, r->size, "%s%s %lx/%u fd %d", r->name, what,
		 section->range.gpa + (event->offset - section->range.offset),
		 event->size, event->fd);
	if (event->has_value)
		text_add(r->text, r->size, " =%lu", event->value);
	text_add(r->text, r->size, "\n");
}

static void record_eventfd_add(void *opaque, const struct mem_section *section,
			       const struct mem_eventfd *event)
{
	record_event(opaque, "eventfd-add", section, event);
}

static void record_eventfd_del(void *opaque, const struct mem_section *section,
			       const struct mem_eventfd *event)
{
	record_event(opaque, "eventfd-del", section, event);
}

__attribute__((unused)) static const struct mem_listener_ops recorder_ops = {
	.begin = record_begin,
	.region_add = record_add,
	.region_del = record_del,
	.commit = record_commit,
	.log_start = record_log_start,
	.log_stop = record_log_stop,
	.eventfd_add = record_eventfd_add,
	.eventfd_del = record_eventfd_del,
};

#endif
