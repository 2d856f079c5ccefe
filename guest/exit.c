/* SPDX-License-Identifier: Apache-2.0 */
/* Ends of the program, and traps: see exit.h. */
#include "guest/exit.h"

#include <stddef.h>

#include "guest/cpu.h"
#include "guest/serial.h"

/* Out to this port ends the machine (QEMU: isa-debug-exit). */
#define EXIT_PORT 0xf4

void trap_main(uint64_t vector, uint64_t error, uint64_t rip, uint64_t addr,
	       uint64_t rsp);
void trap_exit_failed(void); /* start.S */

/* Godwit ends at the first; other VMMs are asked in other ways, too. */
_Noreturn void machine_exit(enum exit_code code)
{
	port_out32(EXIT_PORT, code);
	port_out8(0x64, 0xfe); /* i8042: reset */
	trap_exit_failed();
	__builtin_unreachable();
}

/* start.S comes here. */
void trap_main(uint64_t vector, uint64_t error, uint64_t rip, uint64_t addr,
	       uint64_t rsp)
{
	struct line line;

	line_begin_forced(&line, "@trap ");
	line_decimal(&line, "vector=", vector);
	line_hex(&line, " error=", error);
	line_hex(&line, " rip=", rip);
	line_hex(&line, " addr=", addr);
	line_hex(&line, " rsp=", rsp);
	line_end(&line);
	machine_exit(EXIT_TRAP);
}

_Noreturn void machine_fail(const char *why, const char *culprit)
{
	struct line line;

	line_begin(&line, NULL, "@fail ");
	line_text(&line, why);
	for (; culprit && *culprit && *culprit != ',' && *culprit != ' ';
	     culprit++)
		line_char(&line, *culprit);
	line_end(&line);
	machine_exit(EXIT_CONFIG);
}
