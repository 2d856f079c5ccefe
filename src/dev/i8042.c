// SPDX-License-Identifier: Apache-2.0
/*
 * One output byte and no queue: nothing ever produces two.  Both ports lock, since
 * vCPUs may access them at once.
 */
#include "dev/i8042.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "dev/i8042_priv.h"

#define STATUS_OUTPUT  0x01 /* a byte waits for the guest */
#define STATUS_SYSTEM  0x04 /* self-test passed; always */
#define STATUS_COMMAND 0x08 /* the last write was a command */
#define STATUS_KEYLOCK 0x10 /* not locked; always */
#define STATUS_TIMEOUT 0x40 /* the device did not answer */
#define STATUS_VARIES  (STATUS_OUTPUT | STATUS_COMMAND | STATUS_TIMEOUT)

enum {
	CMD_READ_CONTROL = 0x20,
	CMD_WRITE_CONTROL = 0x60,
	CMD_AUX_OFF = 0xa7,
	CMD_AUX_ON = 0xa8,
	CMD_AUX_TEST = 0xa9,
	CMD_SELF_TEST = 0xaa,
	CMD_KEYBOARD_TEST = 0xab,
	CMD_KEYBOARD_OFF = 0xad,
	CMD_KEYBOARD_ON = 0xae,
	CMD_READ_OUTPUT_PORT = 0xd0,
	CMD_WRITE_OUTPUT_PORT = 0xd1,
	CMD_WRITE_KEYBOARD_BUFFER = 0xd2,
	CMD_WRITE_AUX_BUFFER = 0xd3,
	CMD_WRITE_AUX = 0xd4,
	CMD_PULSE = 0xf0, /* to 0xff: output port bits that are 0 go low */
};

#define CONTROL_KEYBOARD_OFF 0x10
#define CONTROL_AUX_OFF      0x20

#define OUTPUT_PORT_RUN 0x01 /* low: the CPUs are held in reset */
#define OUTPUT_PORT     0x03 /* running, A20 open */

#define SELF_TEST_PASSED 0x55
#define TEST_PASSED      0x00
#define TEST_CLOCK_LOW   0x01
#define RESEND           0xfe

static void answer(struct i8042 *dev, uint8_t byte)
{
	dev->output = byte;
	dev->status = (dev->status & STATUS_COMMAND) | STATUS_OUTPUT;
}

/* True when the command resets the machine. */
static bool run_command(struct i8042 *dev, uint8_t command)
{
	dev->pending = 0;
	dev->status |= STATUS_COMMAND;
	switch (command) {
	case CMD_READ_CONTROL:
		answer(dev, dev->control);
		break;
	case CMD_AUX_OFF:
		dev->control |= CONTROL_AUX_OFF;
		break;
	case CMD_AUX_ON:
		dev->control &= (uint8_t)~CONTROL_AUX_OFF;
		break;
	case CMD_AUX_TEST:
		answer(dev, TEST_CLOCK_LOW);
		break;
	case CMD_SELF_TEST:
		answer(dev, SELF_TEST_PASSED);
		break;
	case CMD_KEYBOARD_TEST:
		answer(dev, TEST_PASSED);
		break;
	case CMD_KEYBOARD_OFF:
		dev->control |= CONTROL_KEYBOARD_OFF;
		break;
	case CMD_KEYBOARD_ON:
		dev->control &= (uint8_t)~CONTROL_KEYBOARD_OFF;
		break;
	case CMD_READ_OUTPUT_PORT:
		answer(dev, OUTPUT_PORT);
		break;
	case CMD_WRITE_CONTROL:
	case CMD_WRITE_OUTPUT_PORT:
	case CMD_WRITE_KEYBOARD_BUFFER:
	case CMD_WRITE_AUX_BUFFER:
	case CMD_WRITE_AUX:
		dev->pending = command;
		break;
	default:
		return command >= CMD_PULSE && !(command & OUTPUT_PORT_RUN);
	}
	return false;
}

/* True when the byte resets the machine. */
static bool take_data(struct i8042 *dev, uint8_t byte)
{
	uint8_t command = dev->pending;

	dev->pending = 0;
	dev->status &= (uint8_t)~STATUS_COMMAND;
	switch (command) {
	case CMD_WRITE_CONTROL:
		dev->control = byte;
		break;
	case CMD_WRITE_OUTPUT_PORT:
		return !(byte & OUTPUT_PORT_RUN);
	case CMD_WRITE_KEYBOARD_BUFFER:
		answer(dev, byte);
		break;
	case CMD_WRITE_AUX_BUFFER: /* no auxiliary port: nothing comes back */
		break;
	default: /* for the keyboard or the auxiliary device */
		answer(dev, RESEND);
		dev->status |= STATUS_TIMEOUT;
		break;
	}
	return false;
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct i8042 *dev = opaque;
	uint8_t value;

	(void)offset;
	(void)size;
	lock_acquire(&dev->lock);
	value = dev->output;
	dev->status &= (uint8_t) ~(STATUS_OUTPUT | STATUS_TIMEOUT);
	lock_release(&dev->lock);
	return value;
}

/* A byte for one of the two ports; @take says whether it pulls the reset line. */
static void write_port(struct i8042 *dev, bool (*take)(struct i8042 *, uint8_t),
		       uint64_t value)
{
	bool is_reset;

	lock_acquire(&dev->lock);
	is_reset = take(dev, (uint8_t)value);
	lock_release(&dev->lock);
	if (is_reset)
		dev->on_reset(dev->opaque);
}

static void data_write(void *opaque, uint64_t offset, uint64_t value,
		       unsigned int size)
{
	(void)offset;
	(void)size;
	write_port(opaque, take_data, value);
}

static uint64_t command_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct i8042 *dev = opaque;
	uint8_t value;

	(void)offset;
	(void)size;
	lock_acquire(&dev->lock);
	value = dev->status | STATUS_SYSTEM | STATUS_KEYLOCK;
	lock_release(&dev->lock);
	return value;
}

static void command_write(void *opaque, uint64_t offset, uint64_t value,
			  unsigned int size)
{
	(void)offset;
	(void)size;
	write_port(opaque, run_command, value);
}

const struct mem_io_ops i8042_data_ops = {
	.read = data_read,
	.write = data_write,
	.max_access = 1,
};

const struct mem_io_ops i8042_command_ops = {
	.read = command_read,
	.write = command_write,
	.max_access = 1,
};

static const struct state_field fields[] = {
	STATE_FIELD_MAX(struct i8042, status, STATE_U8, STATUS_VARIES),
	STATE_FIELD(struct i8042, control, STATE_U8),
	STATE_FIELD(struct i8042, pending, STATE_U8),
	STATE_FIELD(struct i8042, output, STATE_U8),
};

static int check_loaded(void *obj, uint16_t version, struct err *err)
{
	const struct i8042 *dev = obj;

	(void)version;
	if (dev->status & ~STATUS_VARIES)
		return err_set(err, -EBADMSG, "status: 0x%x, not in 0x%x",
			       dev->status, STATUS_VARIES);
	return 0;
}

const struct state_desc i8042_state = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.load = check_loaded,
};

void i8042_init(struct i8042 *dev, void (*on_reset)(void *opaque), void *opaque)
{
	memset(dev, 0, sizeof(*dev));
	dev->on_reset = on_reset;
	dev->opaque = opaque;
	dev->control = CONTROL_AUX_OFF;
	lock_init(&dev->lock, LOCK_DEVICE);
}

void i8042_fini(struct i8042 *dev)
{
	lock_fini(&dev->lock);
}

struct i8042 *i8042_new(struct mem *mem, struct mem_region *io_root,
			void (*on_reset)(void *opaque), void *opaque,
			struct state_registry *registry, const char *name)
{
	struct i8042 *dev = malloc(sizeof(*dev));

	if (!dev)
		return NULL;
	i8042_init(dev, on_reset, opaque);
	dev->data =
		mem_region_new_io(mem, "i8042-data", 1, &i8042_data_ops, dev);
	dev->command = mem_region_new_io(mem, "i8042-command", 1,
					 &i8042_command_ops, dev);
	if (!dev->data || !dev->command) {
		mem_region_put(dev->data);
		mem_region_put(dev->command);
		i8042_fini(dev);
		free(dev);
		return NULL;
	}
	mem_region_add(io_root, I8042_DATA_PORT, dev->data, 0);
	mem_region_add(io_root, I8042_COMMAND_PORT, dev->command, 0);
	state_register(registry, &dev->state, name, &i8042_state, dev);
	return dev;
}

void i8042_free(struct i8042 *dev)
{
	if (!dev)
		return;
	mem_region_del(dev->data);
	mem_region_del(dev->command);
	mem_region_put(dev->data);
	mem_region_put(dev->command);
	state_unregister(&dev->state);
	i8042_fini(dev);
	free(dev);
}
