# SPDX-License-Identifier: Apache-2.0
"""How tests of migrations begin and end: a guest at work, a destination, proof of no harm."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from . import guest
from .machine import Fleet, Machine
from .move import move, start, wait

SLOW = 40 << 20  # bytes a second: 64 MiB that change all the time never fit through
WORK_TICKS = 25
# The machine of the fixture `saved`, and what `godwit run` is told to restore it.
SAVED: dict[str, Any] = {"memory": "32M", "cpus": 1,
                         "guest_options": "hot=1M,rate=10000/s,tick=1ms"}
SAVED_HOT_PAGES = 256
SAVED_ARGV = ["--memory", SAVED["memory"], "--cpus", str(SAVED["cpus"]), "--serial", "null",
              "--guest", "stress," + SAVED["guest_options"]]


def working(fleet: Fleet, **options: Any) -> Machine:
    """A source whose guest is at work."""
    source = fleet.start("source", **options)
    source.serial.wait_ticks(WORK_TICKS)
    return source


def listening(fleet: Fleet, name: str = "destination", **options: Any) -> tuple[Machine, str]:
    """A destination and its URI; its serial port is read from the first byte on."""
    uri = f"unix:{fleet.folder}/{name}.move"
    destination = fleet.start(name, incoming=uri, **options).ready()
    destination.serial
    return destination, uri


def pair(fleet: Fleet, **options: Any) -> tuple[Machine, Machine, str]:
    """Both, alike, and the URI from one to the other; events so far are forgotten."""
    source = working(fleet, **options)
    destination, uri = listening(fleet, **options)
    source.qmp.take_events()
    return source, destination, uri


def slow(source: Machine, bandwidth: int = SLOW) -> None:
    source.qmp.command("migrate-set-parameters", max_bandwidth=bandwidth, downtime_limit=0,
                       max_cpu_throttle=0)


def endless(fleet: Fleet, **options: Any) -> tuple[Machine, Machine]:
    """A migration that is active and will not end by itself."""
    source, destination, uri = pair(fleet, **options)
    slow(source)
    start(source, uri)
    wait(source, 30, "active")
    return source, destination


def save(source: Machine, path: Path) -> None:
    """To its end: however slow the disk is, one pass of all that changes is short enough."""
    source.qmp.command("migrate-set-parameters", downtime_limit=1_000_000)
    start(source, f"file:{path}")
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    source.qmp.command("migrate-set-parameters", downtime_limit=300)


def assert_works(machine: Machine, ticks: int = 2 * WORK_TICKS) -> None:
    """It goes on, and all of its memory is right."""
    assert machine.status == "running"
    before = machine.report()
    machine.serial.wait_ticks(ticks)
    after = guest.ask(machine.serial, request=b"v")
    assert after["errors"] == 0 and after["pages"] > before["pages"]
    assert not guest.complaints(machine.serial)


def assert_moves(fleet: Fleet, source: Machine, name: str = "last", **options: Any) -> Machine:
    """A migration succeeds, and the guest works there, with all that it had done."""
    pages = source.report()["pages"]
    destination, uri = listening(fleet, name, **options)
    moved = move(source, destination, uri)
    assert moved.status == "completed", moved.info
    assert destination.report()["pages"] >= pages
    assert_works(destination)
    return destination


def assert_moves_after_all(fleet: Fleet, source: Machine, **options: Any) -> Machine:
    """It works, the next migration succeeds, and it works there."""
    assert_works(source)
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, downtime_limit=300,
                       max_cpu_throttle=99)
    return assert_moves(fleet, source, **options)
