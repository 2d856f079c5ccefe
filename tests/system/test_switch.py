# SPDX-License-Identifier: Apache-2.0
"""What the pause of a machine with devices calls, on both sides."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness import guest
from harness.machine import Fleet, Machine
from harness.move import move

DISKS, MOVES = 4, 4


def options(folder: Path, program: str) -> dict[str, Any]:
    disks = []
    for number in range(DISKS):
        image = folder / f"image{number}"
        if not image.exists():
            image.write_bytes(b"")
            os.truncate(image, 16 << 20)
        disks += ["--disk", f"path={image}"]
    return {"guest": "blk", "guest_options": f"span=1M,depth=4,rate=2000,tick=1ms{program}",
            "cpus": 1, "extra": disks}


def destination_calls(fleet: Fleet, folder: Path, program: str) -> list[dict[str, int]]:
    """Of some moves of one guest, which finds nothing wrong."""
    every = options(folder, program)
    machine = fleet.start("m0", **every)
    machine.serial.wait_line(r"ready\b")
    machine.serial.wait_ticks(50)
    calls = []
    for number in range(MOVES):
        uri = f"unix:{fleet.folder}/{number}.move"
        there: Machine = fleet.start(f"m{number + 1}", incoming=uri, **every)
        moved = move(machine, there, uri)
        assert moved.status == "completed", moved.info
        calls.append(moved.info["pause"]["calls"]["destination"])
        machine.qmp.command("quit")
        assert machine.wait_end() == 0
        fleet.retire(machine)
        machine = there
    machine.serial.wait_ticks(50)
    # It knows its own part, and no other.
    assert machine.qmp.command("query-migrate")["pause"]["calls"] == {"destination": calls[-1]}
    assert machine.report()["errors"] == 0 and not guest.complaints(machine.serial)
    return calls


def test_guest_that_changes_nothing_meanwhile_costs_no_call(kvm: None, fleet: Fleet, folder: Path
                                                            ) -> None:
    for calls in destination_calls(fleet, folder, ",msix=on"):
        assert not any(calls.values()), calls
