# SPDX-License-Identifier: Apache-2.0
"""Move a guest from one machine to another by QMP."""
from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from .machine import Machine

MOVE_S = 60.0
ENDED = ("completed", "failed", "cancelled")


@dataclass
class Move:
    """How a migration went; `pause_ns` is the gap in the serial output."""
    status: str
    info: dict[str, Any]
    pause_ns: int = 0
    statuses: list[str] = field(default_factory=list)
    started_ns: int = 0


def status_of(event: dict[str, Any]) -> str:
    return event.get("status", "")


def start(source: Machine, uri: str) -> None:
    source.qmp.command("migrate", uri=uri)


def wait(source: Machine, timeout_s: float = MOVE_S, *wanted: str) -> str:
    """The status of the first MIGRATION event among @wanted (the final ones)."""
    names = wanted or ENDED
    event = source.qmp.wait_event("MIGRATION", timeout_s,
                                  lambda data: status_of(data) in names)
    return status_of(event["data"])


def statuses(machine: Machine) -> list[str]:
    """Take the MIGRATION events seen so far."""
    kept, taken = [], []
    for event in machine.qmp.take_events():
        if event["event"] == "MIGRATION":
            taken.append(status_of(event["data"]))
        else:
            kept.append(event)
    machine.qmp.events = kept
    return taken


def move(source: Machine, destination: Machine, uri: str, timeout_s: float = MOVE_S,
         is_silent: bool = False) -> Move:
    """Migrate and wait until the guest prints on @destination.

    With @is_silent nothing is expected from its serial port (a paused guest).
    """
    destination_serial = destination.ready().serial  # connected before the first byte
    source_serial = source.serial
    started = time.monotonic_ns()
    start(source, uri)
    status = wait(source, timeout_s)
    info = source.qmp.command("query-migrate")
    pause = 0
    if status == "completed" and not is_silent:
        destination_serial.wait(lambda: destination_serial.ticks > 0, "the first tick after a move")
        pause = destination_serial.first_byte_ns - source_serial.last_tick_ns
    return Move(status, info, pause, started_ns=started)

