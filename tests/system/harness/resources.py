# SPDX-License-Identifier: Apache-2.0
"""What a machine's process has open: a migration leaves nothing of it behind."""
from __future__ import annotations

import os
import time
from pathlib import Path

from .machine import Machine


def threads(machine: Machine) -> list[str]:
    """Their names."""
    names = []
    for task in Path(f"/proc/{machine.process.pid}/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:
            pass  # it has ended
    return names


def resources(machine: Machine) -> tuple[int, int]:
    """Descriptors and threads, but for the one that stays once a vCPU was held back."""
    count = sum(name != "governor" for name in threads(machine))
    return len(os.listdir(f"/proc/{machine.process.pid}/fd")), count


def assert_same(machine: Machine, before: tuple[int, int]) -> None:
    """A thread that has told its end takes a moment to be gone."""
    deadline = time.monotonic() + 5
    while resources(machine) != before:
        assert time.monotonic() < deadline, (
            machine, before, resources(machine), threads(machine),
            [os.readlink(link) for link in Path(f"/proc/{machine.process.pid}/fd").iterdir()])
        time.sleep(0.002)
