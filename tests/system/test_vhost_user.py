# SPDX-License-Identifier: Apache-2.0
"""A vhost-user disk whose back end (tests/backend) ends in the middle of writes, or answers wrongly."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness import guest
from harness.machine import END_S, Fleet, Machine, binary
from harness.move import move

OPTIONS = f"span={4 << 20},depth=16,tick=1ms"
DIED = 9
DEATHS = 4
# tests/backend/back_end.h
GET_VRING_BASE, SILENT = 11, 1


class BackEnd:
    """The program; started again by start()."""

    def __init__(self, folder: Path, name: str, image: Path) -> None:
        self.path, self.image = folder / name, image
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> None:
        program = Path(binary()).resolve().parent / "tests" / "backend" / "vhost_user_blk"
        self.process = subprocess.Popen([program, self.path, self.image, "queues=2", *options],
                                        stdout=subprocess.PIPE, text=True)
        assert self.process.stdout and self.process.stdout.readline() == "ready\n"

    def wait_death(self) -> None:
        assert self.process and self.process.wait(END_S) == DIED

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()


@pytest.fixture
def back_ends(folder: Path) -> Iterator[list[BackEnd]]:
    image = folder / "image"
    image.write_bytes(b"")
    os.truncate(image, 16 << 20)
    both = [BackEnd(folder, f"blk{number}", image) for number in range(2)]
    yield both
    for back_end in both:
        back_end.end()


def options(back_end: BackEnd) -> dict[str, Any]:
    return {"guest": "blk", "guest_options": OPTIONS, "cpus": 1,
            "extra": ["--disk", f"vhost-user={back_end.path},queues=2"]}


def assert_goes_on(machine: Machine) -> None:
    """Its guest does, and has read what it wrote; its end."""
    machine.serial.wait_ticks(50)
    last = guest.ask(machine.serial, timeout_s=60, request=b"q")
    assert last["errors"] == 0, machine.serial.lines
    assert machine.wait_end() == 0


@pytest.mark.parametrize("where", ["taken", "written", "used"])
def test_no_write_is_lost_when_the_back_end_ends_and_comes_back(
        kvm: None, fleet: Fleet, back_ends: list[BackEnd], where: str) -> None:
    back_end = back_ends[0]
    back_end.start(f"die={where},50")
    machine = fleet.start("machine", **options(back_end))
    machine.serial.wait_line(r"ready\b")
    for death in range(DEATHS):
        back_end.wait_death()
        back_end.start(*([f"die={where},{90 + death}"] if death + 1 < DEATHS else []))
    machine.serial.wait_ticks(50)
    last = guest.ask(machine.serial, timeout_s=60, request=b"q")
    assert last["errors"] == 0, machine.serial.lines
    assert machine.wait_end() == 0
    assert not guest.complaints(machine.serial)


def test_guest_moves_after_its_back_end_came_back(
        kvm: None, fleet: Fleet, back_ends: list[BackEnd]) -> None:
    here, there = back_ends
    here.start("die=written,200")
    there.start()
    source = fleet.start("source", **options(here))
    source.serial.wait_line(r"ready\b")
    here.wait_death()
    here.start()
    uri = f"unix:{fleet.folder}/move"
    destination = fleet.start("destination", incoming=uri, **options(there))
    moved = move(source, destination, uri)
    assert moved.status == "completed", moved.info
    assert_goes_on(destination)


def test_back_end_that_never_stops_fails_the_move_and_the_guest_runs_on(
        kvm: None, fleet: Fleet, back_ends: list[BackEnd]) -> None:
    here, there = back_ends
    here.start(f"fault={GET_VRING_BASE},{SILENT}")
    there.start()
    source = fleet.start("source", **options(here))
    source.serial.wait_line(r"ready\b")
    uri = f"unix:{fleet.folder}/move"
    destination = fleet.start("destination", incoming=uri, **options(there))
    moved = move(source, destination, uri)
    assert moved.status == "failed", moved.info
    assert_goes_on(source)


@pytest.mark.parametrize("malice", ["cut=log", "eventfds=spoilt"])
def test_guest_moves_though_its_back_ends_spoil_what_they_share(
        kvm: None, fleet: Fleet, back_ends: list[BackEnd], malice: str) -> None:
    here, there = back_ends
    here.start(malice)
    there.start(malice)
    source = fleet.start("source", **options(here))
    source.serial.wait_line(r"ready\b")
    uri = f"unix:{fleet.folder}/move"
    destination = fleet.start("destination", incoming=uri, **options(there))
    moved = move(source, destination, uri)
    assert moved.status == "completed", moved.info
    assert_goes_on(destination)
