# SPDX-License-Identifier: Apache-2.0
"""Run a program that may take only so much memory: peak.py LIMIT_S ARGV...

What wait4() says of a child's peak includes that of the process which started
it, so a small one has to: this one.  Prints exit status, peak in KiB, and
whether it was ended (SIGTERM) after LIMIT_S; the program's output goes to
stderr.
"""
import os
import signal
import sys

limit_s, argv = float(sys.argv[1]), sys.argv[2:]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
pid = os.posix_spawn(argv[0], argv, os.environ, setsigmask=[],
                     file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
has_ended = signal.sigtimedwait([signal.SIGCHLD], limit_s)
if not has_ended:
    os.kill(pid, signal.SIGTERM)
_, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss, int(not has_ended))
