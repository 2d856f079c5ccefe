// SPDX-License-Identifier: Apache-2.0
/*
 * The timer is not counted but computed, from the monotonic clock since zero_ns;
 * only a load, which may come from another host, asks the realtime.
 */
#include "dev/acpi_pm.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "dev/acpi_pm_priv.h"

#define STATUS_POWER_BUTTON 0x0100u

/* Timer, global lock, power button, sleep button, clock: a driver reads back
 * what it enabled, also of events that never come. */
#define ENABLE_WRITABLE 0x0721u

#define CONTROL_SCI         0x0001u /* ACPI mode; always */
#define CONTROL_BUS_MASTER  0x0002u
#define CONTROL_SLEEP_TYPE  0x1c00u
#define CONTROL_SLEEP       0x2000u /* write only */
#define CONTROL_WRITABLE    (CONTROL_BUS_MASTER | CONTROL_SLEEP_TYPE)
#define SLEEP_TYPE(control) (((control)&CONTROL_SLEEP_TYPE) >> 10)

/* A thread that loses its CPU between two clocks reads them again. */
#define CLOCK_TRIES  8
#define CLOCK_GAP_NS 2000u

static struct acpi_pm_time host_now(void *source)
{
	struct acpi_pm_time best = { .mono_ns = 0 };
	uint64_t best_gap_ns = UINT64_MAX;

	(void)source;
	for (int i = 0; i < CLOCK_TRIES && best_gap_ns > CLOCK_GAP_NS; i++) {
		uint64_t before_ns = clock_mono_ns();
		uint64_t real_ns = clock_real_ns();
		uint64_t gap_ns = clock_mono_ns() - before_ns;

		if (gap_ns < best_gap_ns) {
			best_gap_ns = gap_ns;
			best.mono_ns = before_ns + gap_ns / 2;
			best.real_ns = real_ns;
		}
	}
	return best;
}

static uint32_t timer_at(const struct acpi_pm *dev, uint64_t mono_ns)
{
	unsigned __int128 passed_ns = mono_ns - dev->zero_ns;

	return (uint32_t)(passed_ns * ACPI_PM_HZ / NS_PER_SEC);
}

static void update_sci(struct acpi_pm *dev)
{
	irq_set(&dev->sci, (dev->status & dev->enable) != 0);
}

static uint64_t io_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct acpi_pm *dev = opaque;
	uint8_t bytes[ACPI_PM_PORTS + 8] = { 0 };
	struct le16 pm1[3];
	struct le32 timer;
	struct le64 value;

	(void)size; /* whoever asked takes the low bytes */
	lock_acquire(&dev->lock);
	pm1[0] = le16_of(dev->status);
	pm1[1] = le16_of(dev->enable);
	pm1[2] = le16_of(dev->control | CONTROL_SCI);
	timer = le32_of(timer_at(dev, dev->now(dev->source).mono_ns));
	lock_release(&dev->lock);
	memcpy(bytes, pm1, sizeof(pm1));
	memcpy(bytes + ACPI_PM_TIMER, &timer, sizeof(timer));
	memcpy(&value, bytes + offset, sizeof(value));
	return le64_get(value);
}

/* True when it powers the machine off. */
static bool write_byte(struct acpi_pm *dev, uint64_t offset, uint8_t byte)
{
	unsigned int shift = offset % 2 * 8;
	uint16_t mask = (uint16_t)(0xff << shift);
	uint16_t value = (uint16_t)(byte << shift);

	switch (offset & ~1ull) {
	case ACPI_PM_EVENT:
		dev->status &= (uint16_t)~value;
		break;
	case ACPI_PM_EVENT + 2:
		dev->enable = (dev->enable & (uint16_t)~mask) |
			      (value & ENABLE_WRITABLE);
		break;
	case ACPI_PM_CONTROL:
		dev->control = (dev->control & (uint16_t)~mask) |
			       (value & CONTROL_WRITABLE);
		return (value & CONTROL_SLEEP) &&
		       SLEEP_TYPE(dev->control) == ACPI_PM_SLEEP_OFF;
	}
	return false;
}

static void io_write(void *opaque, uint64_t offset, uint64_t value,
		     unsigned int size)
{
	struct acpi_pm *dev = opaque;
	bool is_off = false;

	lock_acquire(&dev->lock);
	for (unsigned int i = 0; i < size; i++)
		is_off |=
			write_byte(dev, offset + i, (uint8_t)(value >> i * 8));
	update_sci(dev);
	lock_release(&dev->lock);
	if (is_off)
		dev->on_power_off(dev->opaque);
}

const struct mem_io_ops acpi_pm_io_ops = {
	.read = io_read,
	.write = io_write,
	.max_access = 4,
};

void acpi_pm_press_power_button(struct acpi_pm *dev)
{
	lock_acquire(&dev->lock);
	dev->status |= STATUS_POWER_BUTTON;
	update_sci(dev);
	lock_release(&dev->lock);
}

static const struct state_field fields[] = {
	STATE_FIELD(struct acpi_pm, status, STATE_U16),
	STATE_FIELD(struct acpi_pm, enable, STATE_U16),
	STATE_FIELD(struct acpi_pm, control, STATE_U16),
	STATE_FIELD(struct acpi_pm, passed_ns, STATE_U64),
	STATE_FIELD(struct acpi_pm, realtime_ns, STATE_U64),
};

static int save(void *obj, struct err *err)
{
	struct acpi_pm *dev = obj;
	struct acpi_pm_time now = dev->now(dev->source);

	(void)err;
	lock_acquire(&dev->lock);
	dev->passed_ns = now.mono_ns - dev->zero_ns;
	dev->realtime_ns = now.real_ns;
	lock_release(&dev->lock);
	return 0;
}

static int check_loaded(void *obj, uint16_t version, struct err *err)
{
	const struct acpi_pm *dev = obj;

	(void)version;
	if ((dev->status & ~STATUS_POWER_BUTTON) ||
	    (dev->enable & ~ENABLE_WRITABLE) ||
	    (dev->control & ~CONTROL_WRITABLE))
		return err_set(err, -EBADMSG,
			       "PM1: 0x%x, 0x%x, 0x%x have bits beyond 0x%x, "
			       "0x%x, 0x%x",
			       dev->status, dev->enable, dev->control,
			       STATUS_POWER_BUTTON, ENABLE_WRITABLE,
			       CONTROL_WRITABLE);
	return 0;
}

/* The line's level is not saved: it follows from the registers. */
static int activate(void *obj, struct err *err)
{
	struct acpi_pm *dev = obj;
	struct acpi_pm_time now = dev->now(dev->source);
	uint64_t passed_ns = dev->passed_ns;

	(void)err;
	lock_acquire(&dev->lock);
	if (now.real_ns > dev->realtime_ns)
		passed_ns += now.real_ns - dev->realtime_ns;
	dev->zero_ns = now.mono_ns - passed_ns;
	update_sci(dev);
	lock_release(&dev->lock);
	return 0;
}

const struct state_desc acpi_pm_state = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.save = save,
	.load = check_loaded,
	.activate = activate,
};

void acpi_pm_init(struct acpi_pm *dev, struct irq_line sci,
		  void (*on_power_off)(void *opaque), void *opaque)
{
	memset(dev, 0, sizeof(*dev));
	dev->sci = sci;
	dev->on_power_off = on_power_off;
	dev->opaque = opaque;
	dev->now = host_now;
	dev->zero_ns = clock_mono_ns();
	lock_init(&dev->lock, LOCK_DEVICE);
}

void acpi_pm_fini(struct acpi_pm *dev)
{
	lock_fini(&dev->lock);
}

struct acpi_pm *acpi_pm_new(struct mem *mem, struct mem_region *io_root,
			    uint16_t port, struct irq_line sci,
			    void (*on_power_off)(void *opaque), void *opaque,
			    struct state_registry *registry, const char *name)
{
	struct acpi_pm *dev = malloc(sizeof(*dev));

	if (!dev)
		return NULL;
	acpi_pm_init(dev, sci, on_power_off, opaque);
	dev->region = mem_region_new_io(mem, name, ACPI_PM_PORTS,
					&acpi_pm_io_ops, dev);
	if (!dev->region) {
		acpi_pm_fini(dev);
		free(dev);
		return NULL;
	}
	mem_region_add(io_root, port, dev->region, 0);
	state_register(registry, &dev->state, name, &acpi_pm_state, dev);
	return dev;
}

void acpi_pm_free(struct acpi_pm *dev)
{
	if (!dev)
		return;
	mem_region_del(dev->region);
	mem_region_put(dev->region);
	state_unregister(&dev->state);
	acpi_pm_fini(dev);
	free(dev);
}
