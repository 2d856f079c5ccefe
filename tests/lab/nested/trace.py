# SPDX-License-Identifier: Apache-2.0
"""What a nested host's kernel saw: ioctls of one process in their order, guests' writes to a port."""
from __future__ import annotations

import re

from .host import Host

TRACING = "/sys/kernel/tracing"
CALL = "events/syscalls/sys_enter_ioctl"
TSC_OFFSET = "events/kvm/kvm_write_tsc_offset"
KVM_RUN, KVM_SET_CLOCK = 0xae80, 0x4030ae7b
PORTS = f"{TRACING}/instances/port"
PORT_ACCESS = "events/kvm/kvm_pio"
LINES = 200  # more than enough for the first of each


class Trace:
    """Of the threads that the process @pid has now; the oldest events are kept."""

    def __init__(self, host: Host, pid: int) -> None:
        self._host = host
        host.sh(f"""cd {TRACING}; echo 0 > tracing_on; echo > trace; echo 0 > options/overwrite
            echo $(ls /proc/{pid}/task) > set_event_pid
            echo 'cmd == {KVM_RUN} || cmd == {KVM_SET_CLOCK}' > {CALL}/filter
            echo 1 > {CALL}/enable; echo 1 > {TSC_OFFSET}/enable; echo 1 > tracing_on""")

    def end(self) -> list[str]:
        """What happened, by name: "run", "set-clock", "tsc-offset vcpu=N"."""
        text = self._host.sh(f"""cd {TRACING}; echo 0 > tracing_on; echo 0 > {CALL}/enable
            echo 0 > {TSC_OFFSET}/enable; echo > set_event_pid; head -n {LINES} trace; echo > trace""")
        found = []
        for line in text.splitlines():
            call = re.search(r"sys_ioctl\(.*cmd: (\w+)", line)
            offset = re.search(r"kvm_write_tsc_offset: (vcpu=\d+)", line)
            if call:
                found.append({KVM_RUN: "run", KVM_SET_CLOCK: "set-clock"}[int(call[1], 16)])
            elif offset:
                found.append(f"tsc-offset {offset[1]}")
        return found


class PortWrites:
    """Those of all guests of @host to @port, from now on."""

    def __init__(self, host: Host, port: int) -> None:
        self._host = host
        host.sh(f"""mkdir {PORTS}; cd {PORTS}; echo 'rw == 1 && port == {port}' > {PORT_ACCESS}/filter
            echo 1 > {PORT_ACCESS}/enable""")

    def end(self) -> list[int]:
        """What was written."""
        text = self._host.sh(f"cat {PORTS}/trace; rmdir {PORTS}")
        return [int(value, 16) for value in re.findall(r"kvm_pio: pio_write at .* val (\w+)", text)]
