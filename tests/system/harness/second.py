# SPDX-License-Identifier: Apache-2.0
"""What the tests of the second reader share: the reader itself, and saved streams."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from .edit import reader  # noqa: F401
from .machine import Fleet, Machine, run

SMALL = {"memory": "64M", "cpus": 2, "guest_options": "hot=1M,rate=1000/s,tick=1ms"}


def end(machine: Machine) -> None:
    machine.kill()
    machine.wait_end()


def save(fleet: Fleet, path: Path, *flags: str, is_paused: bool = False, **options: Any) -> bytes:
    source = fleet.start(**options)
    source.serial.wait_ticks(20)
    if is_paused:
        source.qmp.command("stop")
    told = run("migrate", "--qmp", f"unix:{source.qmp_path}", f"file:{path}", *flags)
    assert told.returncode == 0, told.stderr
    end(source)
    return path.read_bytes()


def assert_restores(fleet: Fleet, path: Path, **options: Any) -> None:
    restored = fleet.start("restored", incoming=f"file:{path}", **options)
    restored.serial.wait_ticks(5)
    end(restored)
