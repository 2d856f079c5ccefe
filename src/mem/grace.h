/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RCU for this tree: liburcu's "bp" flavour.  A thread is registered by its
 * first rcu_read_lock() and forgotten when it ends, so that no thread can read
 * unregistered, and a read section costs the same as in the memb flavour (both
 * leave the barrier to membarrier(2)).  Include this and no other flavour.
 *
 * liburcu is not built with the thread sanitizer, which therefore does not see
 * that a grace period orders what readers did before what a call_rcu()
 * callback does.  It is told here: whoever calls call_rcu() says
 * grace_release() before, and the callback begins with grace_acquire(), which
 * also comes after synchronize_rcu().  A reader that has not left its section
 * is still reported.
 */
#ifndef GODWIT_MEM_GRACE_H
#define GODWIT_MEM_GRACE_H

#include <urcu-bp.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define GRACE_IS_TRACED
#endif
#elif defined(__SANITIZE_THREAD__)
#define GRACE_IS_TRACED
#endif

#ifdef GRACE_IS_TRACED
#include <sanitizer/tsan_interface.h>

extern char grace_tag; /* its address is all that counts */

#define grace_release() __tsan_release(&grace_tag)
#define grace_acquire() __tsan_acquire(&grace_tag)

#undef rcu_read_unlock
#define rcu_read_unlock()              \
	do {                           \
		grace_release();       \
		urcu_bp_read_unlock(); \
	} while (0)
#else
#define grace_release() ((void)0)
#define grace_acquire() ((void)0)
#endif

#endif
