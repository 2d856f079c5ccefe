/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work that notices lost memory.  Counters and hashes are kept apart from the
 * pages that they describe.
 */
#ifndef LAB_GUEST_LOAD_H
#define LAB_GUEST_LOAD_H

/*
 * Starts: on each processor a thread that checks and rewrites stamped pages
 * (@mib of them a processor) in ring 3; one that has the kernel do the same to a
 * file in tmpfs, whose pages only ring 0 writes and reads; and one that hashes
 * a buffer whose content never changes, over and over.
 */
void load_start(int mib);

/* Lets the threads of load_start() go on, or rest; what they know they keep. */
void load_go(int is_on);

/* Starts or ends a thread a processor that holds patterns in its vector registers. */
void load_hold(int is_on);

/*
 * Says "@report cpus=N pages=N ring0=N passes=N holds=N errors=N hash=HEX": pages
 * rewritten in ring 3 and in ring 0, hashes taken, rounds of the vector registers
 * on each processor at least, what was found to be wrong so far, and the last hash.
 */
void load_report(void);

#endif
