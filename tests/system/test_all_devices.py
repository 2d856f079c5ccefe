# SPDX-License-Identifier: Apache-2.0
"""One machine with a device of each kind: it moves again and again, and is saved and explained."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness import guest, network
from harness.edit import TYPES, Edit, Edited, insert
from harness.machine import ROOT, Fleet, Machine, run
from harness.move import move
from harness.network import Network
from harness.scene import save
from harness.second import reader
from test_second_reader import assert_told_alike

MOVES = 10
KINDS = ("disk0", "disk1", "net0", "net1", "rng0", "console0", "shmem0")


@pytest.fixture
def net(kvm: None) -> Iterator[Network]:
    yield from network.namespace()


@pytest.fixture
def options(net: Network, folder: Path) -> dict[str, Any]:
    """A machine of all kinds; its guest works on the disks, and moves the RAM of --shmem."""
    net.bridge("tap0", "tap1")
    extra = []
    for number in range(2):
        path = folder / f"image{number}"
        path.write_bytes(b"")
        os.truncate(path, 4 << 20)
        extra += ["--disk", f"path={path},queues=2"]
    for tap in ("tap0", "tap1"):
        extra += ["--net", f"tap={tap}"]
    extra += ["--rng", "on", "--console", "null", "--shmem", "size=1M", "--verify"]
    return {"guest": "blk", "cpus": 1, "memory": "64M", "network": net.name, "extra": extra,
            "guest_options": "span=1M,tick=1ms,queues=all,churn=50ms,what=shmem+bars+msix+reset"}


def assert_works(machine: Machine, ops: int) -> int:
    machine.serial.wait_ticks(20)
    report = machine.report()
    assert report["errors"] == 0 and report["ops"] > ops
    return report["ops"]


def test_machine_with_a_device_of_each_kind_moves_and_moves(fleet: Fleet,
                                                            options: dict[str, Any]) -> None:
    machine = fleet.start("m0", **options)
    machine.serial.wait_ticks(1)
    ops = assert_works(machine, 0)
    for number in range(1, MOVES + 1):
        uri = f"unix:{fleet.folder}/{number}.move"
        there = fleet.start(f"m{number}", incoming=uri, **options)
        moved = move(machine, there, uri)
        assert moved.status == "completed", moved.info
        machine.qmp.command("quit")
        assert machine.wait_end() == 0
        fleet.retire(machine)
        machine = there
        ops = assert_works(machine, ops)
    last = guest.ask(machine.serial, timeout_s=60, request=b"q")
    assert last["errors"] == 0 and not guest.complaints(machine.serial)
    assert machine.wait_end() == 0


def test_saved_stream_with_devices_of_all_kinds_is_whole_to_both_readers(
        fleet: Fleet, folder: Path, options: dict[str, Any]) -> None:
    machine = fleet.start("m0", **options)
    machine.serial.wait_ticks(1)
    assert_works(machine, 0)
    save(machine, folder / "saved")
    told = run("stream", str(folder / "saved"))
    assert told.returncode == 0, told.stderr
    second = subprocess.run([str(ROOT / "tools" / "verify-stream"), "-v", str(folder / "saved")],
                            capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    for name in KINDS:
        assert f"{name}-pci" in told.stdout and f"{name}-pci" in second.stdout
    data = (folder / "saved").read_bytes()
    stream = reader.verify(data)
    assert {f"{name}-pci" for name in KINDS} <= stream.states.keys()
    assert_told_alike(told.stdout, stream)
    # Whether its guest changed a device while it was saved or not, this one says so.
    edit = Edit.parse(data)
    insert(Edited(TYPES["SETUP_AGAIN"], edit.at("EARLY_STATE", -1).body), "SWITCH")(edit)
    (folder / "again").write_bytes(edit.pack())
    again = reader.verify(edit.pack())
    assert len(again.said) == len(stream.said) + 1
    assert_told_alike(run("stream", str(folder / "again")).stdout, again)
