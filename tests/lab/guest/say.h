/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines on the serial port that the tests parse: "@NAME KEY=VALUE ...".  Any
 * thread may call; lines never mix.
 */
#ifndef LAB_GUEST_SAY_H
#define LAB_GUEST_SAY_H

/* Opens @path raw; returns its descriptor, for reading commands. */
int say_open(const char *path);

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Says "@failed ..." with errno's meaning when @result is negative; returns it. */
long tried(long result, const char *what);

#endif
