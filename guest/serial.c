/* SPDX-License-Identifier: Apache-2.0 */
/* COM1 (16550): see serial.h. */
#include "guest/serial.h"

#include <stddef.h>

#include "guest/cpu.h"
#include "guest/gauge.h"

#define COM1       0x3f8
#define COM1_FCR   (COM1 + 2)
#define COM1_LCR   (COM1 + 3)
#define COM1_MCR   (COM1 + 4)
#define COM1_LSR   (COM1 + 5)
#define LSR_DR     0x01
#define LCR_8N1    0x03
#define FCR_ENABLE 0x01
#define MCR_DTRRTS 0x03

static bool is_locked;

static bool try_lock(void)
{
	return !__atomic_exchange_n(&is_locked, true, __ATOMIC_ACQUIRE);
}

static void unlock(void)
{
	__atomic_store_n(&is_locked, false, __ATOMIC_RELEASE);
}

void serial_init(void)
{
	port_out8(COM1_LCR, LCR_8N1);
	port_out8(COM1_FCR, FCR_ENABLE);
	port_out8(COM1_MCR, MCR_DTRRTS);
}

void serial_tick(char c)
{
	if (!try_lock())
		return;
	port_out8(COM1, (uint8_t)c);
	unlock();
}

int serial_poll(void)
{
	if (!(port_in8(COM1_LSR) & LSR_DR))
		return -1;
	return port_in8(COM1);
}

void line_begin(struct line *line, struct gauge *gauge, const char *text)
{
	while (!try_lock()) {
		cpu_pause();
		if (gauge)
			gauge_look(gauge, cpu_tsc());
	}
	*line = (struct line){ .gauge = gauge, .has_lock = true };
	line_char(line, '\n');
	line_text(line, text);
}

void line_begin_forced(struct line *line, const char *text)
{
	*line = (struct line){ .gauge = NULL };
	line_char(line, '\n');
	line_text(line, text);
}

void line_char(struct line *line, char c)
{
	port_out8(COM1, (uint8_t)c);
	if (line->gauge)
		gauge_look(line->gauge, cpu_tsc());
}

void line_text(struct line *line, const char *text)
{
	for (; *text; text++)
		line_char(line, *text);
}

static void line_number(struct line *line, uint64_t value, unsigned int base)
{
	char digits[20];
	int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (n)
		line_char(line, digits[--n]);
}

void line_decimal(struct line *line, const char *prefix, uint64_t value)
{
	line_text(line, prefix);
	line_number(line, value, 10);
}

void line_hex(struct line *line, const char *prefix, uint64_t value)
{
	line_text(line, prefix);
	line_text(line, "0x");
	line_number(line, value, 16);
}

void line_end(struct line *line)
{
	line_char(line, '\n');
	if (line->has_lock)
		unlock();
}
