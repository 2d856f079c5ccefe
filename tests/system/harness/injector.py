# SPDX-License-Identifier: Apache-2.0
"""The failure injector (--x-fail), and who has the guest after it did its work."""
from __future__ import annotations

import signal
import time

from .machine import Machine, run
from .move import wait
from .qmp import QmpClosed

SETTLED_S = 20.0
# How a move may end.
SOURCE = "the source runs the guest"
MOVED = "the destination runs the guest, the source knows or is gone"
HANDED = "the destination runs the guest, the source has not heard of it"
NOBODY = "nobody runs the guest, the source does after `cont` with force"
SAVED = "the guest is here, paused, and in the file"
LOST = "the guest ended with the process that had it"


def printed() -> dict[str, tuple[str, str]]:
    """Side and owner of the guest at each arc, as the binary has them."""
    lines = run("run", "--x-fail", "help").stdout.splitlines()
    assert lines[0].split() == ["ARC", "SIDE", "OWNER", "OF", "THE", "GUEST"], lines
    return {name: (side, owner) for name, side, owner in map(str.split, lines[1:])}


def arm(machine: Machine, arc: str, action: str) -> None:
    machine.output_seen = len(machine.output)  # it may have broken at this arc before
    machine.qmp.command("migrate-set-parameters", x_fail=f"{arc},action={action}")


def wait_broken(machine: Machine, arc: str, action: str) -> None:
    machine.wait_output(f"x-fail: {arc},action={action}")
    if action == "exit":
        assert machine.wait_end() == -signal.SIGKILL


def runs(machine: Machine) -> bool:
    """Whether it does, once that is decided; the source has given up or ended."""
    deadline = time.monotonic() + SETTLED_S
    while machine.is_alive:
        try:
            if machine.status == "running":
                return True
            if machine.qmp.command("query-migrate")["status"] in ("none", "listening", "failed"):
                assert machine.status == "inmigrate"
                return False
        except QmpClosed:
            machine.wait_end()
        assert time.monotonic() < deadline, f"{machine} neither runs nor gives up"
        time.sleep(0.001)
    return False


def settled(source: Machine, destination: Machine, is_migrating: bool = True) -> str:
    """Who has the guest when both are done with the migration: never two."""
    status = "gone"
    if source.is_alive:
        if is_migrating:
            wait(source, SETTLED_S)
        status = source.status
    is_there = runs(destination)
    if status == "running":
        assert not is_there
        return SOURCE
    if status == "handed-over":
        return HANDED if is_there else NOBODY
    assert status in ("gone", "postmigrate"), status
    return MOVED if is_there else LOST
