/* SPDX-License-Identifier: Apache-2.0 */
/* Amounts for people, with the unit that fits. */
#ifndef GODWIT_CLI_AMOUNT_H
#define GODWIT_CLI_AMOUNT_H

#define AMOUNT_MAX 32

/* "1.50 GiB"; "312 us".  Return @text. */
const char *amount_size(double bytes, char text[AMOUNT_MAX]);
const char *amount_us(double us, char text[AMOUNT_MAX]);

#endif
