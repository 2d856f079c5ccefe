/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that stay on one processor. */
#ifndef LAB_GUEST_THREADS_H
#define LAB_GUEST_THREADS_H

int threads_cpus(void);

/* Runs @body(@arg) on @cpu for good. */
void threads_start(int cpu, void *(*body)(void *), void *arg);

#endif
