# SPDX-License-Identifier: Apache-2.0
"""What a failed test leaves to look at, taken before its hosts end."""
from __future__ import annotations

from harness.machine import Machine
from harness.qmp import QmpClosed, QmpTimeout

from .lab import Lab
from .packages import LabError

TAIL = 600  # characters


def evidence(lab: Lab) -> str:
    """Of each godwit that the test knows: what it said, and its exit status or where it is; and what
    its host traced."""
    machines = [machine for fleets in lab.fleets for machine in fleets.machines()
                if machine.host.is_alive]
    return "\n".join([*map(_of, machines), *_traced(lab)])


def _traced(lab: Lab) -> list[str]:
    try:
        return lab.traced()
    except (OSError, LabError) as error:
        return [f"no trace: {error}"]


def _of(machine: Machine) -> str:
    try:
        code = machine.process.poll()
        is_at = machine.whereabouts() if code is None else f"exit {code}"
        return f"{machine.name}: {is_at}\n{machine.output[-TAIL:]}\nserial: {_serial(machine)}"
    except (OSError, LabError) as error:
        return f"{machine.name}: nothing is known: {error}"


def _serial(machine: Machine) -> str:
    try:
        return machine.serial.other[-TAIL:].decode(errors="replace")
    except (QmpClosed, QmpTimeout) as error:  # it may have ended before it listened
        return str(error)
