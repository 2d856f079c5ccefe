# SPDX-License-Identifier: Apache-2.0
"""Disks of a guest that moves while it reads, writes and checks them."""
from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness import injector
from harness.back_end import BackEnd, tool
from harness.machine import Fleet, Machine, run
from harness.move import start, wait
from harness.qmp import QmpClosed, QmpError
from harness.relay import Link
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


def is_locked(image: Path) -> bool:
    """Whether some process has the image's lock."""
    with image.open("r+b") as file:
        wanted = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, wanted)
    return struct.unpack(FLOCK, found)[0] != fcntl.F_UNLCK


def has_lock(machine: Machine, image: Path) -> bool:
    """Whether this one has it.  A lock belongs to an open file, so only that tells."""
    mine = re.compile(rf"^lock:.* OFDLCK .* WRITE .*:{image.stat().st_ino} ", re.MULTILINE)
    for info in Path(f"/proc/{machine.process.pid}/fdinfo").iterdir():
        try:
            if mine.search(info.read_text()):
                return True
        except FileNotFoundError:
            pass  # it was closed meanwhile
    return False


def assert_owner(image: Path, owner: Machine, *others: Machine) -> None:
    assert has_lock(owner, image)
    assert not any(has_lock(other, image) for other in others if other.is_alive)


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
    destination = fleet.start("destination", incoming=uri, **options).ready()
    assert not is_locked(image)
    source = fleet.start("source", **options).ready()
    source.serial.wait_ticks(1)
    assert_owner(image, source, destination)


def sides(fleet: Fleet, image: Path) -> tuple[Machine, Machine, str]:
    """At work; waiting for it; where to."""
    options = file_options(image)
    uri = f"unix:{fleet.folder}/move"
    source = fleet.start("source", **options)
    source.serial.wait_ticks(1)
    destination = fleet.start("destination", incoming=uri, **options).ready()
    destination.serial
    return source, destination, uri


@pytest.mark.parametrize("action", ["close", "exit"])
@pytest.mark.parametrize("side, arc", [
    ("source", "none-setup"), ("source", "setup-active"), ("source", "active-device"),
    ("source", "device-sent"), ("source", "sent-ready"), ("source", "ready-handed-over"),
    ("source", "handed-over-completed"), ("destination", "listening-building"),
    ("destination", "building-receiving"), ("destination", "receiving-stopped"),
    ("destination", "stopped-loading"), ("destination", "loading-loaded"),
    ("destination", "loaded-taking-over"), ("destination", "taking-over-started"),
    ("destination", "started-running"),
])
def test_lesson_disk_lock_is_with_the_side_that_runs(kvm: None, fleet: Fleet, image: Path,
                                                     side: str, arc: str, action: str) -> None:
    """Locks freed early for a destination that then failed (CH 7111)."""
    source, destination, uri = sides(fleet, image)
    broken = source if side == "source" else destination
    injector.arm(broken, arc, action)
    try:
        start(source, uri)
    except QmpClosed:  # before it could answer
        assert broken is source and action == "exit"
    injector.wait_broken(broken, arc, action)
    end = injector.settled(source, destination)
    if end == injector.NOBODY:
        destination.kill()
        destination.wait_end()
        assert not is_locked(image)
        source.qmp.command("cont", force=True)
    if end == injector.LOST:
        assert not is_locked(image)
        return
    is_back = end in (injector.SOURCE, injector.NOBODY)
    owner, other = (source, destination) if is_back else (destination, source)
    assert_owner(image, owner, other)
    goes_on(owner)
    last_report(owner)


def test_guest_is_paused_when_a_third_process_has_its_disk_at_the_end_of_a_failed_move(
        kvm: None, fleet: Fleet, image: Path) -> None:
    source, destination, uri = sides(fleet, image)
    injector.arm(destination, "stopped-loading", "stall")
    start(source, uri)
    injector.wait_broken(destination, "stopped-loading", "stall")
    while is_locked(image):  # the source drops it before it sends the end
        time.sleep(0.001)
    with image.open("r+b") as third:
        wanted = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(third, fcntl.F_OFD_SETLK, wanted)
        destination.kill()
        assert wait(source, 20) == "failed"
        assert source.status == "paused"
        told = source.qmp.command("query-migrate")["error-desc"]
        assert "the guest is paused" in told and "locked" in told, told
        assert not has_lock(source, image)
        with pytest.raises(QmpError, match="locked"):
            source.qmp.command("cont")
        source.qmp.take_events()
    source.qmp.wait_event("RESUME")
    assert_owner(image, source)
    goes_on(source)
    last_report(source)


LIMIT_MS, BUSY_S = 500, 1.0


def hung(fleet: Fleet, image: Path) -> tuple[Machine, Machine]:
    """A source that gave up on a destination that hangs with the disk; events are forgotten."""
    source, destination, uri = sides(fleet, image)
    link = Link(f"{fleet.folder}/link", uri.removeprefix("unix:"), hold_before="READY")
    source.qmp.command("migrate-set-parameters", downtime_limit=LIMIT_MS)
    start(source, f"unix:{fleet.folder}/link")
    link.wait_held()
    destination.kill(signal.SIGSTOP)
    start_s = time.monotonic()
    assert wait(source, 20) == "failed"
    assert time.monotonic() - start_s < LIMIT_MS / 1000 + BUSY_S
    assert has_lock(destination, image)
    assert source.status == "paused"
    told = source.qmp.command("query-migrate")["error-desc"]
    assert "the guest is paused until it has its disks again" in told and "locked" in told, told
    source.qmp.take_events()
    return source, destination


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGCONT], ids=["killed", "awake"])
def test_guest_goes_on_as_a_destination_that_hung_with_its_disk_lets_go(
        kvm: None, fleet: Fleet, image: Path, number: signal.Signals) -> None:
    source, destination = hung(fleet, image)
    destination.kill(number)
    source.qmp.wait_event("RESUME")
    destination.wait_end()
    assert_owner(image, source)
    goes_on(source)
    last_report(source)


def test_stop_keeps_a_guest_whose_disk_comes_back_paused(kvm: None, fleet: Fleet, image: Path
                                                         ) -> None:
    source, destination = hung(fleet, image)
    source.qmp.command("stop")
    destination.kill()
    destination.wait_end()
    for _ in range(20):  # nothing tells of what does not happen
        time.sleep(0.01)
        assert source.status == "paused" and not is_locked(image)
    source.qmp.command("cont")
    assert_owner(image, source)
    goes_on(source)
    last_report(source)
