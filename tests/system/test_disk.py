# SPDX-License-Identifier: Apache-2.0
"""Disks of a guest that moves while it reads, writes and checks them."""
from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness import injector
from harness.back_end import BackEnd, tool
from harness.machine import Fleet, Machine, run
from harness.move import start
from harness.travel import goes_on, last_report, travel

SPAN = 8 << 20
MOVES = 6
OPTIONS = f"span={SPAN},depth=16,tick=1ms"
# l_type, l_whence, l_start, l_len, l_pid of struct flock
FLOCK = "hhqqi4x"


@pytest.fixture
def image(folder: Path) -> Path:
    path = folder / "image"
    path.write_bytes(b"")
    os.truncate(path, 16 << 20)
    return path


def machine_options(disk: str, options: str = OPTIONS) -> dict[str, Any]:
    return {"guest": "blk", "guest_options": options, "cpus": 1, "extra": ["--disk", disk]}


def file_options(image: Path, disk: str = "", options: str = OPTIONS) -> dict[str, Any]:
    return machine_options(f"path={image}{disk}", options)


@pytest.mark.parametrize("disk, program", [
    ("", ""),
    (",queues=4", ",queues=all"),
    ("", ",packed=on"),
    ("", ",indirect=on,event-idx=off"),
    (",direct=on", ",msix=on"),
])
def test_disk_is_whole_after_moves_under_load(kvm: None, fleet: Fleet, image: Path, disk: str,
                                              program: str) -> None:
    last_report(travel(fleet, file_options(image, disk, OPTIONS + program), moves=MOVES))


@pytest.fixture
def exports(folder: Path, image: Path) -> Iterator[list[str]]:
    """The image behind two vhost-user sockets: a socket serves one machine at a time."""
    sockets = [f"{folder}/blk{number}" for number in range(2)]
    argv = [tool("qemu-storage-daemon"), "--blockdev",
            f"driver=file,node-name=file,filename={image}"]
    for number, path in enumerate(sockets):
        argv += ["--export", f"type=vhost-user-blk,id=e{number},node-name=file,addr.type=unix,"
                             f"addr.path={path},writable=on,num-queues=4"]
    daemon = BackEnd(sockets, argv)
    yield sockets
    was_there = daemon.process.poll() is None
    daemon.kill()
    assert was_there, "qemu-storage-daemon ended"


@pytest.mark.parametrize("disk, program", [
    ("", ""),
    (",queues=4", ",queues=all"),
    ("", ",indirect=on,event-idx=off"),
])
def test_vhost_user_disk_is_whole_after_moves_under_load(
        kvm: None, fleet: Fleet, exports: list[str], disk: str, program: str) -> None:
    options = [machine_options(f"vhost-user={path}{disk}", OPTIONS + program) for path in exports]
    last_report(travel(fleet, *options, moves=MOVES))


def lock_holder(image: Path) -> bool:
    """Whether some process has the image's lock."""
    with image.open("r+b") as file:
        wanted = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, wanted)
    return struct.unpack(FLOCK, found)[0] != fcntl.F_UNLCK


def test_disk_that_another_machine_has_is_refused(kvm: None, fleet: Fleet, image: Path) -> None:
    fleet.start("owner", **file_options(image)).ready()
    second = run("run", "--guest", "blk", "--serial", "null", "--disk", f"path={image}")
    assert second.returncode == 1
    assert len(second.stderr.splitlines()) == 1 and "disk0" in second.stderr
    assert "lock" in second.stderr


def test_destination_has_no_lock_before_the_guest_is_its_own(kvm: None, fleet: Fleet,
                                                             image: Path) -> None:
    options = file_options(image)
    uri = f"unix:{fleet.folder}/move"
    fleet.start("destination", incoming=uri, **options).ready()
    assert not lock_holder(image)
    source = fleet.start("source", **options).ready()
    source.serial.wait_line(r"ready\b")
    assert lock_holder(image)


@pytest.mark.parametrize("action", ["close", "exit"])
@pytest.mark.parametrize("side, arc", [
    ("source", "active-device"), ("source", "device-sent"), ("source", "sent-ready"),
    ("source", "ready-handed-over"), ("destination", "stopped-loading"),
    ("destination", "loading-loaded"), ("destination", "loaded-taking-over"),
])
def test_lesson_disk_lock_is_with_the_side_that_runs(kvm: None, fleet: Fleet, image: Path,
                                                     side: str, arc: str, action: str) -> None:
    """Locks freed early for a destination that then failed (CH 7111)."""
    options = file_options(image)
    uri = f"unix:{fleet.folder}/move"
    source = fleet.start("source", **options)
    source.serial.wait_line(r"ready\b")
    destination = fleet.start("destination", incoming=uri, **options).ready()
    destination.serial
    broken = source if side == "source" else destination
    injector.arm(broken, arc, action)
    start(source, uri)
    injector.wait_broken(broken, arc, action)
    end = injector.settled(source, destination)
    if end == injector.NOBODY:
        destination.kill()
        destination.wait_end()
        assert not lock_holder(image)
        source.qmp.command("cont", force=True)
    if end == injector.LOST:
        assert not lock_holder(image)
        return
    owner = source if end in (injector.SOURCE, injector.NOBODY) else destination
    assert lock_holder(image)
    goes_on(owner)
    last_report(owner)
