# SPDX-License-Identifier: Apache-2.0
"""Guests that change their devices at random while they move, and check all they did.

BARs move, devices are reset, vectors and rings change, RAM behind a BAR moves, goes
and comes back: some of it while memory is sent, some around the switch.
$CHURN_SEED repeats or changes a run.
"""
from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness import guest, network
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.network import Network
from harness.scene import listening, slow
from harness.travel import last_report, leave

SEED = os.environ.get("CHURN_SEED", "1")
MOVES = 4
CHANGES = 6  # after the last move
TRICKLE = 2 << 20  # bytes a second, in every other move: some rounds take half a second
ROUNDS = 3
CHURN = f"churn=2ms,watch=5ms,seed={SEED},tick=1ms"
SHMEM = ("--shmem", "size=64K")
TAPS = ("tap0", "tap1")


@pytest.fixture
def net(kvm: None) -> Iterator[Network]:
    yield from network.namespace()


def disk_machine(folder: Path, options: str) -> dict[str, Any]:
    extra = [*SHMEM, "--rng", "on"]
    for number, disk in enumerate(("queues=2", "direct=on")):
        image = folder / f"image{number}"
        image.write_bytes(b"")
        os.truncate(image, 4 << 20)
        extra += ["--disk", f"path={image},{disk}"]
    return {"guest": "blk", "memory": "64M", "cpus": 2, "extra": extra,
            "guest_options": f"span=2M,queues=all,depth=16,{CHURN},{options}"}


def net_machine(net: Network, options: str) -> dict[str, Any]:
    net.bridge(*TAPS)
    extra = [word for tap in TAPS for word in ("--net", f"tap={tap},queues=2")]
    return {"guest": "net", "memory": "64M", "cpus": 2, "network": net.name,
            "extra": [*SHMEM, *extra],
            "guest_options": f"peer=1,queues=all,depth=16,resend=20ms,{CHURN},{options}"}


def changes(report: guest.Report) -> dict[str, int]:
    """How many of each kind there were."""
    counts = (word.split(":") for word in report.members["churn"].split("+"))
    return {kind: int(count) for kind, count in counts}


def total(machine: Machine) -> int:
    return sum(changes(machine.report()).values())


def wait_changes(machine: Machine, count: int) -> None:
    goal = total(machine) + count
    while total(machine) < goal:
        machine.serial.wait_ticks(2)


def wait_rounds(machine: Machine) -> None:
    """Pages have been sent, and looked at again, or the move has ended by itself."""
    while True:
        info = machine.qmp.command("query-migrate")
        if info["status"] != "active" or info["ram"]["dirty-sync-count"] > ROUNDS:
            return
        time.sleep(0.005)


def move_on(fleet: Fleet, machine: Machine, number: int, options: dict[str, Any]) -> Machine:
    there, uri = listening(fleet, f"m{number}", **options)
    machine.qmp.take_events()
    if number % 2:
        slow(machine, TRICKLE)
    start(machine, uri)
    if number % 2:
        wait(machine, 30, "active")
        wait_rounds(machine)
        machine.qmp.command("migrate-set-parameters", max_bandwidth=0, downtime_limit=300)
    assert wait(machine) == "completed", machine.qmp.command("query-migrate")
    assert not guest.complaints(machine.serial)
    leave(fleet, machine)
    return there


def move_often(fleet: Fleet, options: dict[str, Any], moves: int = MOVES) -> guest.Report:
    """The last report, after the guest checked everything."""
    machine = fleet.start("m0", **options)
    machine.serial.wait_line(r"ready\b")
    for number in range(1, moves + 1):
        wait_changes(machine, 1)
        machine = move_on(fleet, machine, number, options)
    wait_changes(machine, CHANGES)
    last = last_report(machine)
    assert min(changes(last).values()) > 0, last
    return last


@pytest.mark.parametrize("options", [
    "what=bars", "what=reset,packed=on", "what=queues,indirect=on", "what=msix,msix=masked",
    "what=break",
    "flush=100,discard=100,zeroes=100,size=512+4K+32K,segments=3,packed=on",
])
def test_disks_that_change_while_they_move_keep_every_sector(kvm: None, fleet: Fleet, folder: Path,
                                                             options: str) -> None:
    last = move_often(fleet, disk_machine(folder, options))
    assert last["checked"] > 0
    assert (last["resets"] > 0) == ("break" in options)


def test_ram_behind_a_bar_that_comes_and_goes_is_whole_after_moves(kvm: None, fleet: Fleet,
                                                                   folder: Path) -> None:
    """Slower than a round, so that there are moves with it gone: what was written last is sent."""
    move_often(fleet, disk_machine(folder, "what=shmem,rate=2000,churn=12ms"), 2 * MOVES)


@pytest.mark.parametrize("options", ["what=bars+msix+shmem,packed=on", "rx-size=256,msix=masked"])
def test_cards_that_change_while_they_move_get_every_frame(fleet: Fleet, net: Network,
                                                           options: str) -> None:
    last = move_often(fleet, net_machine(net, options))
    assert last["back"] == last["flow_sent"] > 0
    assert last["lost"] == last["unasked"] == 0
