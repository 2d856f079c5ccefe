# SPDX-License-Identifier: Apache-2.0
"""Whether the emulator under a nested host did something that no processor does.

QEMU (7.2 and 10.0.2 seen, several threads, busy machines) now and then performs one #VMEXIT twice.
The second one stores what the first has just loaded, the host's own registers, as the guest's: that
vCPU then goes on at the instruction behind the host's VMRUN, on the host's page tables, and the guest
hangs or dies of a triple fault.  So the kernel's trace points are made to keep each exit whose guest
address lies in the function of kvm_amd that holds VMRUN; a guest is never there.

Or a vCPU triple-faults as a page fault of an instruction fetch is delivered, in the middle of code that
it has run all the time: its fetch went through other page tables than its own.  (Seen in sources only,
while pages are protected for the log, which makes no fetch fault.)  Of other triple faults what the
guest did last is kept: it is all that is left of it.
"""
from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .packages import LabError

if TYPE_CHECKING:
    from .host import Host

TRACES = "/sys/kernel/tracing/instances/emulator"
EVENT = "events/kvm/kvm_exit"
FUNCTION = "__svm_vcpu_run"
SHUTDOWN = 0x7f  # AMD's manual, appendix C: a triple fault
# The event that was being delivered, valid: a page fault; its code has the bit of a fetch.
LOST_FETCH = re.compile(r"reason shutdown .* intr_info 0x80000b0e error_code 0x\w*[13579bdf]\w\b")
LOST = "lost a fetch"
ANSWER_S = 15.0


class EmulatorFault(Exception):
    """A test failed, and the emulator is to blame."""


def arm(host: "Host") -> None:
    host.sh(f"""mkdir {TRACES}; cd {TRACES}
        range=$(grep -F '[kvm_amd]' /proc/kallsyms | sort | awk '$3 == "{FUNCTION}" {{ start = $1; next }}
            start {{ print "guest_rip >= 0x" start " && guest_rip < 0x" $1; exit }}')
        echo "exit_reason == {SHUTDOWN:#x} || ($range)" > {EVENT}/filter; echo 1 > {EVENT}/enable""")


def traced(host: "Host") -> list[str]:
    return host.sh(f"grep kvm_exit: {TRACES}/trace || true", ANSWER_S).splitlines()


def fault(host: "Host") -> str:
    """What is known to have gone wrong; empty when nothing is."""
    if not host.is_alive:
        return f"host {host.name} ended: {host.told()[-300:]!r}"
    try:
        lines = traced(host)
    except (OSError, LabError) as error:
        return f"host {host.name} does not answer: {error}"
    for line in map(str.strip, lines):
        if "reason shutdown" not in line:
            return f"host {host.name}: QEMU did a #VMEXIT twice: {line}"
        if LOST_FETCH.search(line):
            return f"host {host.name}: QEMU {LOST}: {line}"
    return ""


def explains_content(told: str) -> bool:
    """Whether that fault() may have changed memory; a guest that died has not."""
    return bool(told) and LOST not in told
