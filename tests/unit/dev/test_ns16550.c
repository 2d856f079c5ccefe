// SPDX-License-Identifier: Apache-2.0
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "dev/ns16550_priv.h"

#define IER_RX   0x01
#define IER_THRE 0x02
#define IER_LSR  0x04
#define IER_MSR  0x08
#define LSR_DR   0x01
#define LSR_OE   0x02
#define LSR_IDLE 0x60
#define FIFO_1   0x01
#define FIFO_8   0x81
#define FIFO_14  0xc1
#define DLAB     0x80
#define LOOP     0x10

#define RANDOM_CASES 20000

struct fixture {
	struct chardev chardev;
	char out[64];
	size_t out_size;
	unsigned int wakes;

	struct ns16550 uart;
	struct state_registry registry;
	int level;
	unsigned int rises;
	struct err err;
};

static void keep_output(struct chardev *chardev, const uint8_t *bytes,
			size_t size)
{
	struct fixture *f = container_of(chardev, struct fixture, chardev);

	for (size_t i = 0; i < size && f->out_size < sizeof(f->out); i++)
		f->out[f->out_size++] = (char)bytes[i];
}

static void count_wake(struct chardev *chardev)
{
	container_of(chardev, struct fixture, chardev)->wakes++;
}

static const struct chardev_ops test_ops = {
	.write = keep_output,
	.wake = count_wake,
};

static void set_line(void *opaque, unsigned int gsi, int level)
{
	struct fixture *f = opaque;

	assert_int_equal(gsi, 4);
	f->rises += level && !f->level;
	f->level = level;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->chardev.ops = &test_ops;
	ns16550_init(&f->uart, (struct irq_line){ set_line, f, 4 },
		     &f->chardev);
	state_registry_init(&f->registry);
	state_register(&f->registry, &f->uart.state, "serial0", &ns16550_state,
		       &f->uart);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ns16550_fini(&f->uart);
	free(f);
	return 0;
}

static uint8_t in(struct fixture *f, enum ns16550_reg reg)
{
	return (uint8_t)ns16550_io_ops.read(&f->uart, reg, 1);
}

static void out(struct fixture *f, enum ns16550_reg reg, uint8_t value)
{
	ns16550_io_ops.write(&f->uart, reg, value, 1);
}

static size_t room(struct fixture *f)
{
	return ns16550_front_ops.room(&f->uart);
}

static void receive(struct fixture *f, const char *text)
{
	ns16550_front_ops.receive(&f->uart, (const uint8_t *)text,
				  strlen(text));
}

static void test_bytes_written_reach_the_back_end(void **state)
{
	struct fixture *f = *state;

	out(f, NS16550_DATA, 'o');
	out(f, NS16550_DATA, 'k');
	assert_int_equal(f->out_size, 2);
	assert_memory_equal(f->out, "ok", 2);
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE);
	assert_int_equal(f->rises, 0);
}

static void test_divisor_hides_data_and_interrupt_enable(void **state)
{
	struct fixture *f = *state;

	receive(f, "a");
	out(f, NS16550_IER, IER_MSR);
	out(f, NS16550_LCR, DLAB | 3);
	out(f, NS16550_DATA, 0x0c);
	out(f, NS16550_IER, 0x5a);
	assert_int_equal(in(f, NS16550_DATA), 0x0c);
	assert_int_equal(in(f, NS16550_IER), 0x5a);
	assert_int_equal(f->out_size, 0);
	out(f, NS16550_LCR, 3);
	assert_int_equal(in(f, NS16550_DATA), 'a');
	assert_int_equal(in(f, NS16550_IER), IER_MSR);
}

static void test_registers_look_like_a_16550a(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, NS16550_IIR), 0x01);
	out(f, NS16550_IIR, FIFO_1);
	assert_int_equal(in(f, NS16550_IIR), 0xc1);
	out(f, NS16550_IIR, 0x21 | FIFO_1); /* no 64-byte FIFO */
	assert_int_equal(in(f, NS16550_IIR), 0xc1);
	out(f, NS16550_IER, 0xff);
	assert_int_equal(in(f, NS16550_IER), 0x0f);
	out(f, NS16550_MCR, 0xff);
	assert_int_equal(in(f, NS16550_MCR), 0x1f);
	out(f, NS16550_SCR, 0xa5);
	assert_int_equal(in(f, NS16550_SCR), 0xa5);
	out(f, NS16550_LSR, 0xff);
	out(f, NS16550_MCR, 0);
	in(f, NS16550_MSR);
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE);
	assert_int_equal(in(f, NS16550_MSR), 0xb0);
}

static void test_received_byte_interrupts_until_read(void **state)
{
	struct fixture *f = *state;

	out(f, NS16550_IER, IER_RX);
	receive(f, "x");
	assert_int_equal(f->level, 1);
	assert_int_equal(in(f, NS16550_IIR), 0x04);
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE | LSR_DR);
	assert_int_equal(in(f, NS16550_DATA), 'x');
	assert_int_equal(f->level, 0);
	assert_int_equal(in(f, NS16550_IIR), 0x01);
}

static void test_trigger_level_tells_data_from_timeout(void **state)
{
	struct fixture *f = *state;

	out(f, NS16550_IIR, FIFO_8);
	out(f, NS16550_IER, IER_RX);
	receive(f, "1234567");
	assert_int_equal(in(f, NS16550_IIR), 0xcc);
	receive(f, "8");
	assert_int_equal(in(f, NS16550_IIR), 0xc4);
	in(f, NS16550_DATA);
	assert_int_equal(in(f, NS16550_IIR), 0xcc);
}

static void test_timeout_comes_again_while_data_is_left(void **state)
{
	struct fixture *f = *state;

	out(f, NS16550_IIR, FIFO_14);
	out(f, NS16550_IER, IER_RX);
	receive(f, "ab");
	assert_int_equal(f->rises, 1);
	assert_int_equal(in(f, NS16550_DATA), 'a');
	assert_int_equal(f->rises, 2);
	assert_int_equal(in(f, NS16550_DATA), 'b');
	assert_int_equal(f->rises, 2);
	assert_int_equal(f->level, 0);
}

static void test_enabling_thre_interrupts_and_iir_read_clears(void **state)
{
	struct fixture *f = *state;

	out(f, NS16550_IER, IER_THRE);
	assert_int_equal(f->level, 1);
	assert_int_equal(in(f, NS16550_IIR), 0x02);
	assert_int_equal(f->level, 0);
	assert_int_equal(in(f, NS16550_IIR), 0x01);
	out(f, NS16550_IER, IER_THRE);
	assert_int_equal(f->level, 0);
	out(f, NS16550_IER, 0);
	out(f, NS16550_IER, IER_THRE);
	assert_int_equal(f->level, 1);
}

static void test_each_byte_written_brings_a_new_thre_edge(void **state)
{
	struct fixture *f = *state;

	out(f, NS16550_IER, IER_THRE);
	assert_int_equal(f->rises, 1);
	out(f, NS16550_DATA, 'a');
	out(f, NS16550_DATA, 'b');
	assert_int_equal(f->rises, 3);
	assert_int_equal(f->level, 1);
	out(f, NS16550_IER, 0);
	assert_int_equal(f->level, 0);
}

static void test_iir_shows_the_highest_priority_first(void **state)
{
	struct fixture *f = *state;

	out(f, NS16550_IER, IER_RX | IER_THRE | IER_LSR | IER_MSR);
	receive(f, "ab"); /* one byte is room for: overrun */
	out(f, NS16550_MCR, LOOP);
	assert_int_equal(in(f, NS16550_IIR), 0x06);
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE | LSR_DR | LSR_OE);
	assert_int_equal(in(f, NS16550_IIR), 0x04);
	assert_int_equal(in(f, NS16550_DATA), 'b');
	assert_int_equal(in(f, NS16550_IIR), 0x02);
	assert_int_equal(in(f, NS16550_IIR), 0x00);
	in(f, NS16550_MSR);
	assert_int_equal(in(f, NS16550_IIR), 0x01);
	assert_int_equal(f->level, 0);
}

static void test_overrun_keeps_the_fifo_and_sets_oe(void **state)
{
	struct fixture *f = *state;

	out(f, NS16550_IIR, FIFO_1);
	receive(f, "0123456789abcdef");
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE | LSR_DR);
	receive(f, "!");
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE | LSR_DR | LSR_OE);
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE | LSR_DR);
	for (const char *c = "0123456789abcdef"; *c; c++)
		assert_int_equal(in(f, NS16550_DATA), *c);
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE);
}

static void test_back_end_is_told_how_much_room_there_is(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(room(f), 1);
	out(f, NS16550_IIR, FIFO_1);
	assert_int_equal(room(f), 16);
	receive(f, "0123456789abcdef");
	assert_int_equal(room(f), 0);
	f->wakes = 0;
	in(f, NS16550_LSR);
	assert_int_equal(f->wakes, 0);
	in(f, NS16550_DATA);
	assert_int_equal(f->wakes, 1);
	assert_int_equal(room(f), 1);
	out(f, NS16550_IIR, FIFO_1 | 0x02);
	assert_int_equal(room(f), 16);
	assert_int_equal(f->wakes, 2);
	out(f, NS16550_MCR, LOOP);
	assert_int_equal(room(f), 0);
}

static void test_fifo_is_emptied_when_switched_or_reset(void **state)
{
	struct fixture *f = *state;

	receive(f, "a");
	out(f, NS16550_IIR, FIFO_1);
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE);
	receive(f, "abc");
	out(f, NS16550_IIR, FIFO_8);
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE | LSR_DR);
	out(f, NS16550_IIR, 0);
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE);
	assert_int_equal(room(f), 1);
}

static void test_loopback_turns_output_into_input(void **state)
{
	struct fixture *f = *state;

	out(f, NS16550_IIR, FIFO_1);
	out(f, NS16550_MCR, LOOP);
	out(f, NS16550_DATA, 'l');
	assert_int_equal(f->out_size, 0);
	assert_int_equal(in(f, NS16550_LSR), LSR_IDLE | LSR_DR);
	assert_int_equal(in(f, NS16550_DATA), 'l');
}

static void test_loopback_connects_the_modem_lines(void **state)
{
	struct fixture *f = *state;

	out(f, NS16550_MCR, LOOP);
	assert_int_equal(in(f, NS16550_MSR), 0x0b);
	out(f, NS16550_MCR, LOOP | 0x0a); /* RTS, OUT2: Linux's probe */
	assert_int_equal(in(f, NS16550_MSR), 0x90 | 0x09);
	out(f, NS16550_MCR, LOOP | 0x0f);
	assert_int_equal(in(f, NS16550_MSR), 0xf0 | 0x02);
	out(f, NS16550_MCR, LOOP); /* ring ends: that one counts */
	assert_int_equal(in(f, NS16550_MSR), 0x0f);
	assert_int_equal(in(f, NS16550_MSR), 0);
}

/* Another machine's UART with what the first one saved. */
static int move(struct fixture *from, struct fixture *to)
{
	struct bytes_writer saved = { .data = NULL };
	int ret;

	assert_int_equal(state_save(&from->uart.state, &saved, NULL), 0);
	ret = state_load(&to->uart.state, ns16550_state.version, saved.data,
			 saved.size, &to->err);
	bytes_writer_fini(&saved);
	return ret;
}

static void test_state_moves_in_the_middle_of_a_fifo(void **state)
{
	struct fixture *f = *state, *to;

	setup((void **)&to);
	out(f, NS16550_LCR, DLAB);
	out(f, NS16550_DATA, 1);
	out(f, NS16550_LCR, 3);
	out(f, NS16550_IIR, FIFO_8);
	out(f, NS16550_IER, IER_RX | IER_THRE | IER_LSR);
	receive(f, "hello, world, 16");
	receive(f, "!");
	in(f, NS16550_DATA);
	assert_int_equal(move(f, to), 0);
	assert_int_equal(to->level, 0);
	assert_int_equal(state_activate(&to->uart.state, &to->err), 0);
	assert_int_equal(to->level, 1);
	assert_int_equal(to->wakes, 1);
	assert_int_equal(in(to, NS16550_IIR), 0xc6);
	assert_int_equal(in(to, NS16550_LSR), LSR_IDLE | LSR_DR | LSR_OE);
	assert_int_equal(in(to, NS16550_IIR), 0xc4);
	for (const char *c = "ello, world, 16"; *c; c++)
		assert_int_equal(in(to, NS16550_DATA), *c);
	assert_int_equal(in(to, NS16550_IIR), 0xc2);
	assert_int_equal(in(to, NS16550_IIR), 0xc1);
	assert_int_equal(to->level, 0);
	teardown((void **)&to);
}

static void test_activation_lowers_a_line_that_is_not_pending(void **state)
{
	struct fixture *f = *state, *to;

	setup((void **)&to);
	out(to, NS16550_IER, IER_THRE);
	assert_int_equal(to->level, 1);
	assert_int_equal(move(f, to), 0);
	state_activate(&to->uart.state, &to->err);
	assert_int_equal(to->level, 0);
	teardown((void **)&to);
}

static void refuse(struct fixture *f, const char *reason)
{
	struct bytes_writer saved = { .data = NULL };
	struct fixture *to;

	/* The source itself refuses what breaks a limit of the table, so the
	 * bytes are made without it. */
	bytes_put_u8(&saved, f->uart.ier);
	bytes_put_u8(&saved, f->uart.lcr);
	bytes_put_u8(&saved, f->uart.mcr);
	bytes_put(&saved, "\0\0\0", 3);
	bytes_put_u8(&saved, f->uart.is_fifo);
	bytes_put_u8(&saved, f->uart.trigger);
	bytes_put_u8(&saved, f->uart.lsr_errors);
	bytes_put_u8(&saved, f->uart.msr_deltas);
	bytes_put_u8(&saved, f->uart.thre_pending);
	bytes_put_u32(&saved, f->uart.rx_count);
	bytes_put(&saved, f->uart.rx,
		  f->uart.rx_count < 16 ? f->uart.rx_count : 16);
	setup((void **)&to);
	assert_int_equal(state_load(&to->uart.state, 1, saved.data, saved.size,
				    &to->err),
			 -EBADMSG);
	assert_string_equal(err_msg(&to->err), reason);
	teardown((void **)&to);
	bytes_writer_fini(&saved);
	memset(&f->uart.ier, 0,
	       sizeof(f->uart) - offsetof(struct ns16550, ier));
}

/* docs/lessons.md: "index from the stream used unchecked". */
static void test_lesson_fifo_index_out_of_its_bounds_is_refused(void **state)
{
	struct fixture *f = *state;

	f->uart.rx_count = 255;
	refuse(f, "serial0: rx: 255 elements, at most 16");
	f->uart.rx_count = 2;
	refuse(f, "serial0: 2 bytes received, at most 1 without FIFO");
	f->uart.trigger = 7;
	refuse(f, "serial0: trigger[0]: 7, at most 3");
	f->uart.is_fifo = 2;
	refuse(f, "serial0: is_fifo[0]: 2, at most 1");
	f->uart.lsr_errors = 0x01;
	refuse(f, "serial0: lsr_errors: 0x1, not in 0x1e");
	f->uart.thre_pending = 2;
	refuse(f, "serial0: thre_pending[0]: 2, at most 1");
	f->uart.ier = 0x10;
	refuse(f, "serial0: ier[0]: 16, at most 15");
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void test_random_accesses_keep_state_that_loads(void **state)
{
	struct fixture *f = *state, *to;
	uint64_t seed = 0x853c49e6748fea9bull;

	setup((void **)&to);
	for (int i = 0; i < RANDOM_CASES; i++) {
		uint64_t what = next_random(&seed);
		uint8_t reg = what % 8, value = (uint8_t)(what >> 8);

		if (what >> 32 & 1)
			out(f, reg, value);
		else
			in(f, reg);
		if (what >> 33 & 1)
			receive(f, "in");
		assert_int_equal(move(f, to), 0);
		state_activate(&to->uart.state, NULL);
		assert_int_equal(to->level, f->level);
	}
	teardown((void **)&to);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_bytes_written_reach_the_back_end),
		TEST(test_divisor_hides_data_and_interrupt_enable),
		TEST(test_registers_look_like_a_16550a),
		TEST(test_received_byte_interrupts_until_read),
		TEST(test_trigger_level_tells_data_from_timeout),
		TEST(test_timeout_comes_again_while_data_is_left),
		TEST(test_enabling_thre_interrupts_and_iir_read_clears),
		TEST(test_each_byte_written_brings_a_new_thre_edge),
		TEST(test_iir_shows_the_highest_priority_first),
		TEST(test_overrun_keeps_the_fifo_and_sets_oe),
		TEST(test_back_end_is_told_how_much_room_there_is),
		TEST(test_fifo_is_emptied_when_switched_or_reset),
		TEST(test_loopback_turns_output_into_input),
		TEST(test_loopback_connects_the_modem_lines),
		TEST(test_state_moves_in_the_middle_of_a_fifo),
		TEST(test_activation_lowers_a_line_that_is_not_pending),
		TEST(test_lesson_fifo_index_out_of_its_bounds_is_refused),
		TEST(test_random_accesses_keep_state_that_loads),
	};

	return cmocka_run_group_tests_name("ns16550", tests, NULL, NULL);
}
