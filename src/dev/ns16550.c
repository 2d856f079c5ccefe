// SPDX-License-Identifier: Apache-2.0
/*
 * Register by register.  The interrupt line follows pending() after every change;
 * a byte that goes out raises its THRE interrupt anew (pulse_irq()).
 */
#include "dev/ns16550.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "dev/ns16550_priv.h"

/* Interrupt enable register, 8.7 */
#define IER_RX   0x01
#define IER_THRE 0x02
#define IER_LSR  0x04
#define IER_MSR  0x08
#define IER_MASK 0x0f

/* Interrupt identification, 8.6, in falling priority */
#define IIR_LSR     0x06
#define IIR_RX      0x04
#define IIR_TIMEOUT 0x0c
#define IIR_THRE    0x02
#define IIR_MSR     0x00
#define IIR_NONE    0x01
#define IIR_FIFO    0xc0

#define FCR_ENABLE   0x01
#define FCR_RESET_RX 0x02

#define LCR_DLAB 0x80

#define MCR_DTR  0x01
#define MCR_RTS  0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DR     0x01
#define LSR_OE     0x02
#define LSR_ERRORS 0x1e
#define LSR_THRE   0x20
#define LSR_TEMT   0x40

#define MSR_DELTAS 0x0f
#define MSR_TERI   0x04
#define MSR_CTS    0x10
#define MSR_DSR    0x20
#define MSR_RI     0x40
#define MSR_DCD    0x80

static const uint8_t trigger_levels[] = { 1, 4, 8, 14 };

static uint32_t rx_capacity(const struct ns16550 *uart)
{
	return uart->is_fifo ? NS16550_FIFO : 1;
}

static uint32_t rx_trigger(const struct ns16550 *uart)
{
	return uart->is_fifo ? trigger_levels[uart->trigger] : 1;
}

/* The interrupt of highest priority that is enabled and pending. */
static uint8_t pending(const struct ns16550 *uart)
{
	if ((uart->ier & IER_LSR) && uart->lsr_errors)
		return IIR_LSR;
	if ((uart->ier & IER_RX) && uart->rx_count >= rx_trigger(uart))
		return IIR_RX;
	if ((uart->ier & IER_RX) && uart->rx_count > 0)
		return IIR_TIMEOUT;
	if ((uart->ier & IER_THRE) && uart->thre_pending)
		return IIR_THRE;
	if ((uart->ier & IER_MSR) && uart->msr_deltas)
		return IIR_MSR;
	return IIR_NONE;
}

static void set_level(struct ns16550 *uart, int level)
{
	if (level != uart->level) {
		uart->level = level;
		irq_set(&uart->irq, level);
	}
}

static void update_irq(struct ns16550 *uart)
{
	set_level(uart, pending(uart) != IIR_NONE);
}

/*
 * The cause was withdrawn and came back: an edge-triggered line needs to be
 * seen low in between, or a driver that handles one cause an interrupt would
 * wait for ever.
 */
static void pulse_irq(struct ns16550 *uart)
{
	set_level(uart, 0);
	update_irq(uart);
}

/* A received byte: from the back end, or looped back. */
static void rx_put(struct ns16550 *uart, uint8_t byte)
{
	if (uart->rx_count < rx_capacity(uart)) {
		uart->rx[uart->rx_count++] = byte;
		return;
	}
	uart->lsr_errors |= LSR_OE;
	/* The FIFO keeps what it has, the single register does not (8.4). */
	if (!uart->is_fifo)
		uart->rx[0] = byte;
}

static uint8_t rx_take(struct ns16550 *uart)
{
	uint8_t byte = uart->rx[0];
	bool was_below = uart->rx_count < rx_trigger(uart);

	if (uart->rx_count == 0)
		return 0;
	uart->rx_count--;
	memmove(uart->rx, uart->rx + 1, uart->rx_count);
	/* A timeout ends with the read and, with data left, comes again. */
	if (was_below)
		pulse_irq(uart);
	else
		update_irq(uart);
	return byte;
}

static uint8_t modem_lines(const struct ns16550 *uart)
{
	uint8_t lines = 0;

	if (!(uart->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	if (uart->mcr & MCR_RTS)
		lines |= MSR_CTS;
	if (uart->mcr & MCR_DTR)
		lines |= MSR_DSR;
	if (uart->mcr & MCR_OUT1)
		lines |= MSR_RI;
	if (uart->mcr & MCR_OUT2)
		lines |= MSR_DCD;
	return lines;
}

static void write_mcr(struct ns16550 *uart, uint8_t value)
{
	uint8_t before = modem_lines(uart);
	uint8_t deltas;

	uart->mcr = value & MCR_MASK;
	deltas = (uint8_t)((before ^ modem_lines(uart)) >> 4);
	/* Ring counts when it ends (8.9). */
	if (!(before & MSR_RI))
		deltas &= (uint8_t)~MSR_TERI;
	uart->msr_deltas |= deltas;
}

static void write_fcr(struct ns16550 *uart, uint8_t value)
{
	bool is_fifo = value & FCR_ENABLE;

	if (is_fifo != uart->is_fifo || (is_fifo && (value & FCR_RESET_RX)))
		uart->rx_count = 0;
	uart->is_fifo = is_fifo;
	uart->trigger = is_fifo ? value >> 6 : 0;
}

static void write_ier(struct ns16550 *uart, uint8_t value)
{
	/* The transmitter is empty, which counts as soon as it is enabled. */
	if ((value & IER_THRE) && !(uart->ier & IER_THRE))
		uart->thre_pending = 1;
	if (!(value & IER_THRE))
		uart->thre_pending = 0;
	uart->ier = value & IER_MASK;
}

static void write_thr(struct ns16550 *uart, uint8_t byte)
{
	/* Filled, and empty again. */
	if (uart->thre_pending) {
		uart->thre_pending = 0;
		update_irq(uart);
	}
	if (uart->mcr & MCR_LOOP)
		rx_put(uart, byte);
	else
		chardev_write(uart->chardev, &byte, 1);
	uart->thre_pending = (uart->ier & IER_THRE) != 0;
}

static uint8_t read_iir(struct ns16550 *uart)
{
	uint8_t iir = pending(uart);

	if (iir == IIR_THRE)
		uart->thre_pending = 0;
	return iir | (uart->is_fifo ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct ns16550 *uart)
{
	uint8_t lsr = LSR_THRE | LSR_TEMT | uart->lsr_errors;

	if (uart->rx_count > 0)
		lsr |= LSR_DR;
	uart->lsr_errors = 0;
	return lsr;
}

static uint8_t read_msr(struct ns16550 *uart)
{
	uint8_t msr = modem_lines(uart) | uart->msr_deltas;

	uart->msr_deltas = 0;
	return msr;
}

static uint8_t read_reg(struct ns16550 *uart, uint64_t reg)
{
	bool is_divisor = uart->lcr & LCR_DLAB;

	switch (reg) {
	case NS16550_DATA:
		return is_divisor ? uart->dll : rx_take(uart);
	case NS16550_IER:
		return is_divisor ? uart->dlm : uart->ier;
	case NS16550_IIR:
		return read_iir(uart);
	case NS16550_LCR:
		return uart->lcr;
	case NS16550_MCR:
		return uart->mcr;
	case NS16550_LSR:
		return read_lsr(uart);
	case NS16550_MSR:
		return read_msr(uart);
	case NS16550_SCR:
		return uart->scr;
	}
	return 0xff;
}

static void write_reg(struct ns16550 *uart, uint64_t reg, uint8_t value)
{
	bool is_divisor = uart->lcr & LCR_DLAB;

	switch (reg) {
	case NS16550_DATA:
		if (is_divisor)
			uart->dll = value;
		else
			write_thr(uart, value);
		break;
	case NS16550_IER:
		if (is_divisor)
			uart->dlm = value;
		else
			write_ier(uart, value);
		break;
	case NS16550_IIR:
		write_fcr(uart, value);
		break;
	case NS16550_LCR:
		uart->lcr = value;
		break;
	case NS16550_MCR:
		write_mcr(uart, value);
		break;
	case NS16550_SCR:
		uart->scr = value;
		break;
	default: /* LSR and MSR are for reading (8.4 advises against more) */
		break;
	}
}

static uint64_t io_read(void *dev, uint64_t offset, unsigned int size)
{
	struct ns16550 *uart = dev;
	bool has_room;
	uint8_t value;

	(void)size;
	lock_acquire(&uart->lock);
	value = read_reg(uart, offset);
	update_irq(uart);
	has_room = uart->rx_count < rx_capacity(uart);
	lock_release(&uart->lock);
	if (has_room && offset == NS16550_DATA)
		chardev_wake(uart->chardev);
	return value;
}

static void io_write(void *dev, uint64_t offset, uint64_t value,
		     unsigned int size)
{
	struct ns16550 *uart = dev;

	(void)size;
	lock_acquire(&uart->lock);
	write_reg(uart, offset, (uint8_t)value);
	update_irq(uart);
	lock_release(&uart->lock);
	/* The receiver was emptied, or left loopback. */
	if (offset == NS16550_IIR || offset == NS16550_MCR)
		chardev_wake(uart->chardev);
}

const struct mem_io_ops ns16550_io_ops = {
	.read = io_read,
	.write = io_write,
	.max_access = 1,
};

/* In loopback the serial input is disconnected (8.8). */
static size_t front_room(void *opaque)
{
	struct ns16550 *uart = opaque;
	size_t room = 0;

	lock_acquire(&uart->lock);
	if (!(uart->mcr & MCR_LOOP))
		room = rx_capacity(uart) - uart->rx_count;
	lock_release(&uart->lock);
	return room;
}

static void front_receive(void *opaque, const uint8_t *bytes, size_t size)
{
	struct ns16550 *uart = opaque;

	lock_acquire(&uart->lock);
	for (size_t i = 0; i < size; i++)
		rx_put(uart, bytes[i]);
	update_irq(uart);
	lock_release(&uart->lock);
}

const struct chardev_front_ops ns16550_front_ops = {
	.room = front_room,
	.receive = front_receive,
};

static const struct state_field fields[] = {
	STATE_FIELD_MAX(struct ns16550, ier, STATE_U8, IER_MASK),
	STATE_FIELD(struct ns16550, lcr, STATE_U8),
	STATE_FIELD_MAX(struct ns16550, mcr, STATE_U8, MCR_MASK),
	STATE_FIELD(struct ns16550, scr, STATE_U8),
	STATE_FIELD(struct ns16550, dll, STATE_U8),
	STATE_FIELD(struct ns16550, dlm, STATE_U8),
	STATE_FIELD_MAX(struct ns16550, is_fifo, STATE_U8, 1),
	STATE_FIELD_MAX(struct ns16550, trigger, STATE_U8, 3),
	STATE_FIELD_MAX(struct ns16550, lsr_errors, STATE_U8, LSR_ERRORS),
	STATE_FIELD_MAX(struct ns16550, msr_deltas, STATE_U8, MSR_DELTAS),
	STATE_FIELD_MAX(struct ns16550, thre_pending, STATE_U8, 1),
	STATE_VARRAY(struct ns16550, rx, STATE_U8, rx_count),
};

static int check_loaded(void *obj, uint16_t version, struct err *err)
{
	const struct ns16550 *uart = obj;

	(void)version;
	if (uart->rx_count > rx_capacity(uart))
		return err_set(err, -EBADMSG,
			       "%u bytes received, at most %u without FIFO",
			       uart->rx_count, rx_capacity(uart));
	if (uart->lsr_errors & ~LSR_ERRORS)
		return err_set(err, -EBADMSG, "lsr_errors: 0x%x, not in 0x%x",
			       uart->lsr_errors, LSR_ERRORS);
	return 0;
}

/* The line's level is not saved: it follows from the registers. */
static int activate(void *obj, struct err *err)
{
	struct ns16550 *uart = obj;

	(void)err;
	lock_acquire(&uart->lock);
	uart->level = pending(uart) != IIR_NONE;
	irq_set(&uart->irq, uart->level);
	lock_release(&uart->lock);
	chardev_wake(uart->chardev);
	return 0;
}

const struct state_desc ns16550_state = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.load = check_loaded,
	.activate = activate,
};

void ns16550_init(struct ns16550 *uart, struct irq_line irq,
		  struct chardev *chardev)
{
	memset(uart, 0, sizeof(*uart));
	uart->irq = irq;
	uart->chardev = chardev;
	lock_init(&uart->lock, LOCK_DEVICE);
}

void ns16550_fini(struct ns16550 *uart)
{
	lock_fini(&uart->lock);
}

struct ns16550 *ns16550_new(struct mem *mem, struct mem_region *io_root,
			    uint16_t port, struct irq_line irq,
			    struct chardev *chardev,
			    struct state_registry *registry, const char *name)
{
	struct ns16550 *uart = malloc(sizeof(*uart));

	if (!uart)
		return NULL;
	ns16550_init(uart, irq, chardev);
	uart->region = mem_region_new_io(mem, name, NS16550_PORTS,
					 &ns16550_io_ops, uart);
	if (!uart->region) {
		ns16550_free(uart);
		return NULL;
	}
	mem_region_add(io_root, port, uart->region, 0);
	state_register(registry, &uart->state, name, &ns16550_state, uart);
	chardev_attach(chardev, &ns16550_front_ops, uart);
	return uart;
}

void ns16550_free(struct ns16550 *uart)
{
	if (!uart)
		return;
	if (uart->region) {
		ns16550_stop(uart);
		chardev_attach(uart->chardev, NULL, NULL);
		mem_region_del(uart->region);
		mem_region_put(uart->region);
	}
	state_unregister(&uart->state);
	ns16550_fini(uart);
	free(uart);
}

void ns16550_start(struct ns16550 *uart)
{
	chardev_start(uart->chardev);
}

void ns16550_stop(struct ns16550 *uart)
{
	chardev_stop(uart->chardev);
}
