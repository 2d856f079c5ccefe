# SPDX-License-Identifier: Apache-2.0
"""vhost-user back ends that are killed and started again under a disk's load: nothing is lost."""
from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from harness import guest
from harness.back_end import BackEnd, BackEnds
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.scene import listening, slow

SPAN = 8 << 20
OPTIONS = f"span={SPAN},depth=16,tick=1ms,reads=30"
KILLS = 5
SLOW = 1 << 20  # bytes a second: a millisecond of that is less than the buffers of requests


@pytest.fixture
def image(folder: Path) -> Path:
    return image_new(folder / "image")


def image_new(path: Path) -> Path:
    path.write_bytes(b"")
    os.truncate(path, 16 << 20)
    return path


def options_of(*back_ends: BackEnd, program: str = "", disk: str = "",
               extra: tuple[str, ...] = ("--verify",)) -> dict[str, Any]:
    disks = [word for back_end in back_ends
             for word in ("--disk", f"vhost-user={back_end.socket}{disk}")]
    return {"guest": "blk", "guest_options": OPTIONS + program, "cpus": 1,
            "extra": [*disks, *extra]}


def working(fleet: Fleet, **options: Any) -> Machine:
    machine = fleet.start("source", **options)
    machine.serial.wait_ticks(20)
    return machine


def wait_progress(machine: Machine) -> None:
    """Requests are completed that began after now: there are 16 in flight, a queue."""
    goal = machine.report()["ops"] + 200
    while machine.report()["ops"] < goal:
        machine.serial.wait_ticks(10)


def restart_at_work(back_end: BackEnd, machine: Machine) -> None:
    """It is killed with requests that it has not finished."""
    back_end.pause()
    machine.serial.wait_ticks(10)
    back_end.restart()


def resets(machine: Machine) -> list[str]:
    return [line for _, line in machine.serial.lines if line.startswith("reset ")]


def assert_whole(machine: Machine) -> guest.Report:
    """Each sector reads as it was written last, each request was completed once."""
    last = guest.ask(machine.serial, timeout_s=60, request=b"q")
    assert last["errors"] == 0, guest.complaints(machine.serial)
    assert not guest.complaints(machine.serial)
    assert machine.wait_end() == 0
    return last


def finish_move(source: Machine, destination: Machine) -> None:
    assert source.qmp.command("query-migrate")["status"] == "active"
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, downtime_limit=300,
                       max_cpu_throttle=99)
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    destination.serial.wait_ticks(20)


@pytest.mark.parametrize("queues", [1, 4])
def test_no_write_is_lost_when_a_back_end_with_a_record_is_killed(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, queues: int) -> None:
    back_end = back_ends.recorded("blk", image, f"queues={queues}")
    machine = working(fleet, **options_of(back_end, program=",queues=all",
                                          disk=f",queues={queues}"))
    for _ in range(KILLS):
        back_end.restart()
        wait_progress(machine)
    assert not resets(machine)
    assert_whole(machine)


@pytest.mark.parametrize("where", ["taken", "written", "used"])
def test_no_write_is_lost_wherever_in_a_request_the_back_end_dies(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, where: str) -> None:
    back_end = back_ends.recorded("blk", image, f"die={where},300")
    machine = working(fleet, **options_of(back_end))
    assert back_end.wait_end() == 9
    back_end.argv.pop()
    back_end.start()
    wait_progress(machine)
    assert not resets(machine)
    assert_whole(machine)
    again = re.search(r"resubmitted=(\d+)", back_end.end())
    assert again and (int(again[1]) > 0 or where == "used")


def test_device_asks_for_a_reset_when_a_back_end_without_a_record_is_killed(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:
    daemon = back_ends.daemon("blk", image)
    machine = working(fleet, **options_of(daemon))
    for _ in range(KILLS):
        daemon.restart()  # which may have had nothing to do, and is no reason for a reset then
        wait_progress(machine)
    restart_at_work(daemon, machine)
    wait_progress(machine)
    asked = resets(machine)
    assert 0 < len(asked) <= KILLS + 1 and all("asked=1" in line for line in asked), asked
    assert_whole(machine)


def test_device_asks_for_a_reset_when_a_record_finds_no_back_end_that_knows_records(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:
    back_end = back_ends.recorded("blk", image, "die=taken,300")
    machine = working(fleet, **options_of(back_end))
    assert back_end.wait_end() == 9
    back_end.argv[-1] = "inflight=off"
    back_end.start()
    machine.serial.wait_line(r"reset .*asked=1")
    wait_progress(machine)
    assert_whole(machine)


@pytest.mark.parametrize("kind", ["recorded", "daemon"])
def test_device_asks_for_one_reset_when_a_request_ends_each_back_end(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str) -> None:
    """They take descriptors that break the rules for a reason to end the connection.  The pauses
    before it is made again may grow to a second."""
    back_end = getattr(back_ends, kind)("blk", image)
    machine = working(fleet, **options_of(back_end, program=",churn=2s,what=break"))
    for _ in range(2):
        machine.serial.wait_line(r"reset .*asked=1", len(machine.serial.lines))
        wait_progress(machine)
    last = assert_whole(machine)
    offences = int(last.members["churn"].removeprefix("break:"))
    assert 2 <= len(resets(machine)) == last["resets"] <= offences


@pytest.mark.parametrize("kind", ["recorded", "daemon"])
def test_back_end_killed_during_rounds_costs_no_page_and_no_write(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str) -> None:
    ends = [getattr(back_ends, kind)(f"blk{number}", image) for number in range(2)]
    source = working(fleet, **options_of(ends[0]))
    destination, uri = listening(fleet, **options_of(ends[1]))
    slow(source, SLOW)
    start(source, uri)
    wait(source, 30, "active")
    for restart in (ends[0].restart, lambda: restart_at_work(ends[0], source)) * 2:
        restart()
        wait_progress(source)
    ends[0].restart()  # and it moves while the device comes back
    finish_move(source, destination)
    assert bool(resets(source)) == (kind == "daemon")
    wait_progress(destination)
    assert_whole(destination)


def scans(machine: Machine) -> dict[str, int]:
    provider, = machine.qmp.command("query-stats", target="vm", providers=[{"provider": "vhost"}])
    return {stat["name"].removeprefix("user-"): stat["value"] for stat in provider["stats"]
            if stat["name"].startswith("user-")}


@pytest.mark.parametrize("scan", ["once", "each"])
def test_one_device_scans_the_log_for_all_unless_each_is_told_to(
        kvm: None, back_ends: BackEnds, fleet: Fleet, folder: Path, scan: str) -> None:
    count = 3
    sides = [[back_ends.recorded(f"{side}{number}", image)
              for number, image in enumerate(images(folder, count))] for side in "ab"]
    extra = ("--verify", "--x-vhost-scan", scan)
    source = working(fleet, **options_of(*sides[0], extra=extra))
    destination, uri = listening(fleet, **options_of(*sides[1], extra=extra))
    assert scans(source)["scans"] == 0
    start(source, uri)
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    counted = scans(source)
    assert counted["scans"] > 1
    assert counted["ring-scans"] == counted["scans"] * (1 if scan == "each" else count), counted
    assert counted["tables-told"] == counted["logs-told"] == count, counted
    assert_whole(destination)


def images(folder: Path, count: int) -> list[Path]:
    return [path if path.exists() else image_new(path)
            for path in (folder / f"image{number}" for number in range(count))]


def rounds(source: Machine) -> int:
    return source.qmp.command("query-migrate")["ram"]["dirty-sync-count"]


def wait_round(source: Machine) -> None:
    """It is in the middle of one that began after now."""
    goal, deadline = rounds(source) + 1, time.monotonic() + 30
    while rounds(source) < goal:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_scanned_once_a_round(source: Machine) -> None:
    """The scan comes a moment before its round is counted."""
    deadline = time.monotonic() + 5
    while True:
        before, counted = rounds(source), scans(source)["scans"]
        if counted == before == rounds(source):
            return
        assert time.monotonic() < deadline, (before, counted)
        time.sleep(0.005)


def test_no_page_is_lost_while_the_devices_that_scan_die_leave_and_join(
        kvm: None, back_ends: BackEnds, fleet: Fleet, folder: Path) -> None:
    """Each of three is the first in turn: killed in a round; the guest resets others meanwhile."""
    sides = [[back_ends.recorded(f"{side}{number}", image)
              for number, image in enumerate(images(folder, 3))] for side in "ab"]
    program = ",churn=20ms,what=reset+queues"
    source = working(fleet, **options_of(*sides[0], program=program))
    destination, uri = listening(fleet, **options_of(*sides[1], program=program))
    slow(source, SLOW)
    # Else a round in which a guest that waits writes nothing is the last one.
    source.qmp.command("migrate-set-parameters", downtime_limit=0)
    start(source, uri)
    wait(source, 30, "active")
    for _ in range(2):
        for back_end in sides[0]:
            wait_round(source)
            assert_scanned_once_a_round(source)
            back_end.kill()
            wait_round(source)  # by the next one
            assert_scanned_once_a_round(source)
            back_end.start()
            wait_progress(source)
    wait_round(source)
    assert_scanned_once_a_round(source)
    assert "churn=" in source.serial.wait_line(r"report .*churn=")
    finish_move(source, destination)
    wait_progress(destination)
    assert_whole(destination)


def shmem_changes(machine: Machine) -> int:
    return int(machine.report().members["churn"].removeprefix("shmem:"))


@pytest.mark.parametrize("kind", ["recorded", "daemon"])
def test_ram_behind_a_bar_that_changes_in_rounds_is_whole_and_no_write_is_lost(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str) -> None:
    """A logged memslot comes and goes with the table that a back end at work is told."""
    ends = [getattr(back_ends, kind)(f"blk{number}", image) for number in range(2)]
    sides = [options_of(end, program=",churn=20ms,what=shmem",
                        extra=("--verify", "--shmem", "size=64K")) for end in ends]
    source = working(fleet, **sides[0])
    destination, uri = listening(fleet, **sides[1])
    slow(source, SLOW)
    source.qmp.command("migrate-set-parameters", downtime_limit=0)
    start(source, uri)
    wait(source, 30, "active")
    wait_round(source)
    tables, changes = scans(source)["tables-told"], shmem_changes(source)
    for _ in range(3):
        wait_round(source)
        wait_progress(source)
    assert scans(source)["tables-told"] > tables and shmem_changes(source) > changes
    finish_move(source, destination)
    wait_progress(destination)
    assert shmem_changes(destination) > changes
    assert not resets(destination)
    assert_whole(destination)
