# SPDX-License-Identifier: Apache-2.0
"""A guest with devices (programs `blk` and `net`) that moves again and again."""
from __future__ import annotations

import time
from typing import Any

from . import guest
from .machine import Fleet, Machine
from .move import move

GOES_ON_S = 20.0


def goes_on(machine: Machine, ops: int = -1) -> int:
    """Wait until it has done more than @ops, or than now; returns how much."""
    deadline = time.monotonic() + GOES_ON_S
    if ops < 0:
        ops = machine.report()["ops"]
    while True:
        report = machine.report()
        assert report["errors"] == 0, guest.complaints(machine.serial)
        if report["ops"] > ops:
            return report["ops"]
        assert time.monotonic() < deadline, f"{machine}: no request completed"
        machine.serial.wait_ticks(5)


def leave(fleet: Fleet, machine: Machine) -> None:
    """Its guest has moved away."""
    machine.qmp.command("quit")
    assert machine.wait_end() == 0
    fleet.retire(machine)


def hop(fleet: Fleet, machine: Machine, number: int, options: dict[str, Any]) -> Machine:
    uri = f"unix:{fleet.folder}/{number}.move"
    there = fleet.start(f"m{number}", incoming=uri, **options)
    moved = move(machine, there, uri)
    assert moved.status == "completed", moved.info
    leave(fleet, machine)
    return there


def travel(fleet: Fleet, *options: dict[str, Any], moves: int) -> Machine:
    """Each machine has the next of @options, which differ in where a device is had."""
    machine = fleet.start("m0", **options[0])
    machine.serial.wait_line(r"ready\b")
    ops = 0
    for number in range(1, moves + 1):
        ops = goes_on(machine, ops)
        machine = hop(fleet, machine, number, options[number % len(options)])
    goes_on(machine, ops)
    return machine


def last_report(machine: Machine, timeout_s: float = 60.0) -> guest.Report:
    """The guest checks all that it did, and ends."""
    last = guest.ask(machine.serial, timeout_s=timeout_s, request=b"q")
    assert last["errors"] == 0, guest.complaints(machine.serial)
    assert machine.wait_end() == 0
    assert not guest.complaints(machine.serial)
    return last
