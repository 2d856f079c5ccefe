# SPDX-License-Identifier: Apache-2.0
"""Ways of tracking and backing memory that are not the default: a move is a move."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Iterator

import pytest

from harness import guest
from harness.machine import Fleet, Machine
from harness.move import move, start, wait
from harness.relay import Link
from harness.scene import assert_moves, listening

pytestmark = pytest.mark.alone  # it changes the host's huge pages

PLAIN = {"extra": ["--accel", "kvm,x-plain-log=on"]}
VM = Path("/proc/sys/vm")
NR_HUGEPAGES = VM / "nr_hugepages"
HUGEPAGES = 2 * 64 // 2 + 8  # two machines of 64 MiB, and some


def started(fleet: Fleet, **options) -> Machine:
    source = fleet.start("source", **options)
    source.serial.wait_ticks(50)
    return source


def test_guest_moves_with_the_plain_dirty_log(kvm: None, fleet: Fleet) -> None:
    options = {**PLAIN, "guest_options": "hot=64M,rate=max,verify=on,tick=1ms"}
    assert_moves(fleet, started(fleet, **options), "destination", **options)


def test_guest_that_writes_nothing_moves_with_the_plain_dirty_log(kvm: None, fleet: Fleet) -> None:
    options = {**PLAIN, "guest_options": "hot=0,verify=on,tick=1ms"}
    source = started(fleet, **options)
    destination, uri = listening(fleet, **options)
    moved = move(source, destination, uri)
    assert moved.status == "completed", moved.info
    destination.serial.wait_ticks(50)
    assert guest.ask(destination.serial, request=b"v")["errors"] == 0


def test_ten_moves_with_the_plain_dirty_log_lose_nothing(kvm: None, fleet: Fleet) -> None:
    options = {**PLAIN, "memory": "128M", "guest_options": "hot=32M,rate=max,verify=on,tick=1ms"}
    machine = started(fleet, **options)
    for number in range(10):
        following = assert_moves(fleet, machine, f"m{number}", **options)
        machine.qmp.command("quit")
        machine.wait_end()
        machine = following


def test_cancel_with_the_plain_dirty_log_loses_no_pages(kvm: None, fleet: Fleet) -> None:
    options = {**PLAIN, "guest_options": "hot=64M,rate=max,verify=on,tick=1ms"}
    source = started(fleet, **options)
    source.qmp.command("migrate-set-parameters", max_bandwidth=100 << 20, downtime_limit=1,
                       max_cpu_throttle=0)
    first = fleet.start("first", incoming=f"unix:{fleet.folder}/first", **options).ready()
    start(source, f"unix:{fleet.folder}/first")
    wait(source, 30, "active")
    source.serial.wait_ticks(500)
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    assert first.wait_end() != 0
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, downtime_limit=300)
    assert_moves(fleet, source, "second", **options)


@pytest.mark.parametrize("far", ["kvm", "kvm,x-plain-log=on"])
def test_dirty_log_of_one_side_is_no_matter_of_the_other(kvm: None, fleet: Fleet, far: str) -> None:
    near = "kvm" if "plain" in far else "kvm,x-plain-log=on"
    source = started(fleet, extra=["--accel", near])
    assert_moves(fleet, source, "destination", extra=["--accel", far])


def allocated(count: int) -> int:
    """How many of @count."""
    NR_HUGEPAGES.write_text(f"{count}\n")
    return int(NR_HUGEPAGES.read_text())


@pytest.fixture
def hugepages() -> Iterator[None]:
    """Enough 2 MiB pages for two machines; as many as before afterwards."""
    before = NR_HUGEPAGES.read_text()
    if os.geteuid() != 0 and int(before) < HUGEPAGES:
        pytest.skip(f"only root can set {NR_HUGEPAGES}")
    if int(before) >= HUGEPAGES:
        yield
        return
    try:
        got = allocated(HUGEPAGES)
    except OSError as error:
        pytest.skip(f"{NR_HUGEPAGES}: {error.strerror}")
    try:
        if got < HUGEPAGES:  # what is free may be in pieces, or caches have it
            for name in ("drop_caches", "compact_memory"):
                (VM / name).write_text("1\n")
            got = allocated(HUGEPAGES)
        if got < HUGEPAGES:
            pytest.skip(f"{got} huge pages of {HUGEPAGES} could be had")
        yield
    finally:
        NR_HUGEPAGES.write_text(before)


HUGE = {"memory": "64M,hugepages=2M", "guest_options": "hot=16M,rate=max,verify=on,tick=1ms"}


def test_guest_in_huge_pages_moves(hugepages: None, fleet: Fleet) -> None:
    assert_moves(fleet, started(fleet, **HUGE), "destination", **HUGE)
    fleet.end()  # gives the pages back before their number is set


@pytest.mark.parametrize("near, far", [("64M,hugepages=2M", "64M"), ("64M", "64M,hugepages=2M")])
def test_guest_moves_between_huge_and_small_pages(hugepages: None, fleet: Fleet, near: str, far: str
                                                  ) -> None:
    source = started(fleet, **{**HUGE, "memory": near})
    assert_moves(fleet, source, "destination", **{**HUGE, "memory": far})
    fleet.end()


def test_busy_guest_moves_with_every_ram_record_checked(fleet: Fleet) -> None:
    # What is sent changes under the send, unless it is copied first.
    options = {"guest_options": "hot=64M,rate=max,verify=on,tick=1ms"}
    source = started(fleet, **options)
    source.qmp.command("migrate-set-capabilities", capabilities=[
        {"capability": "ram-checksum", "state": True}, {"capability": "verify", "state": True}])
    target = f"{fleet.folder}/target"
    destination = fleet.start("destination", incoming=f"unix:{target}", **options).ready()
    link = Link(f"{fleet.folder}/link", target)
    moved = move(source, destination, f"unix:{fleet.folder}/link")
    assert moved.status == "completed", moved.info
    assert "verify" in moved.info, json.dumps(moved.info)
    assert link.ram_flags == {1}
    destination.serial.wait_ticks(50)
    assert guest.ask(destination.serial, request=b"v")["errors"] == 0
    assert not guest.complaints(destination.serial)
