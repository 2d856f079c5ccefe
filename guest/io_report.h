/* SPDX-License-Identifier: Apache-2.0 */
/* Lines that `blk` and `net` have in common; README.md gives their formats. */
#ifndef GODWIT_GUEST_IO_REPORT_H
#define GODWIT_GUEST_IO_REPORT_H

#include "guest/io.h"

void io_report_start(const struct io *io);
void io_report_ready(void);
void io_report_counters(const struct io *io);
void io_report_gaps(const struct io *io);
void io_report_work(const struct io *io);

/* Of all vCPUs, steps back of the TSC included. */
uint64_t io_errors(const struct io *io);

#endif
