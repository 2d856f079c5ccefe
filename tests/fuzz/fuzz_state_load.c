// SPDX-License-Identifier: Apache-2.0
/*
 * state_load() into real devices, and state_explain() of any description with
 * any data.  The first byte chooses, the next two are the version (and, for a
 * description, the two after them its length).  What loads must save again.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/err.h"
#include "dev/mc146818_priv.h"
#include "dev/ns16550_priv.h"
#include "state/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void swallow(struct chardev *chardev, const uint8_t *bytes, size_t size)
{
	(void)chardev;
	(void)bytes;
	(void)size;
}

static const struct chardev_ops null_ops = { .write = swallow };

/* Afterwards every register can be read. */
static void try_load(struct state_entry *entry, const struct mem_io_ops *ops,
		     uint16_t version, const struct bytes_reader *r,
		     unsigned int ports)
{
	struct bytes_writer saved = { .data = NULL };
	struct err err = ERR_INIT;
	int ret = state_load(entry, version, r->at, bytes_left(r), &err);

	if (ret ? err.code != ret : state_save(entry, &saved, NULL) != 0)
		abort();
	if (ret == 0 && saved.size != bytes_left(r))
		abort();
	if (ret == 0 && state_activate(entry, NULL) != 0)
		abort();
	for (unsigned int i = 0; ret == 0 && i < 4 * ports; i++)
		ops->read(entry->obj, i % ports, 1);
	bytes_writer_fini(&saved);
}

static void load_serial(struct state_registry *registry, uint16_t version,
			const struct bytes_reader *r)
{
	struct chardev chardev = { .ops = &null_ops };
	struct irq_line irq = { NULL, NULL, 4 };
	struct ns16550 uart;

	ns16550_init(&uart, irq, &chardev);
	state_register(registry, &uart.state, "serial0", &ns16550_state, &uart);
	try_load(&uart.state, &ns16550_io_ops, version, r, NS16550_PORTS);
	state_unregister(&uart.state);
	ns16550_fini(&uart);
}

static void load_rtc(struct state_registry *registry, uint16_t version,
		     const struct bytes_reader *r)
{
	struct mc146818 rtc;

	mc146818_init(&rtc);
	state_register(registry, &rtc.state, "rtc", &mc146818_state, &rtc);
	try_load(&rtc.state, &mc146818_io_ops, version, r, MC146818_PORTS);
	state_unregister(&rtc.state);
	mc146818_fini(&rtc);
}

static int read_all(void *opaque, const struct state_field_text *field,
		    const void *values, uint32_t used)
{
	uint64_t *sum = opaque;

	for (uint32_t i = 0; values && i < used; i++)
		*sum += state_value(values, field->kind, i);
	return 0;
}

static void explain(uint16_t version, struct bytes_reader *r)
{
	const struct state_visitor visitor = { NULL, read_all };
	uint16_t length = bytes_take_u16(r);
	const void *bytes = bytes_take(r, length);
	struct bytes_reader description;
	struct err err = ERR_INIT;
	uint64_t sum = 0;
	int ret;

	if (!bytes)
		return;
	description = bytes_read(bytes, length);
	ret = state_explain(&description, version, r->at, bytes_left(r),
			    &visitor, &sum, &err);
	if (err.code != ret)
		abort();
	description = bytes_read(bytes, length);
	state_describe_read(&description, &visitor, &sum, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bytes_reader r = bytes_read(data, size);
	struct state_registry registry;
	uint8_t what = bytes_take_u8(&r);
	uint16_t version = bytes_take_u16(&r);

	state_registry_init(&registry);
	if (r.is_short)
		return 0;
	if (what % 3 == 0)
		load_serial(&registry, version, &r);
	else if (what % 3 == 1)
		load_rtc(&registry, version, &r);
	else
		explain(version, &r);
	return 0;
}
