# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGINT to either side, at every step of a migration."""
from __future__ import annotations

import os
import signal
import socket

import pytest

from harness import guest
from harness.machine import Fleet, Machine
from harness.move import move, start, wait
from harness.relay import Link

MEMORY = {"memory": "64M", "guest_options": "hot=8M,rate=max,verify=on,tick=1ms"}
ENDED_BY_HOST = 0    # docs/exit-codes.md
INCOMING_FAILED = 6
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])


def working(fleet: Fleet) -> Machine:
    source = fleet.start("source", **MEMORY)
    source.serial.wait_ticks(50)
    # The link stands still for a while: that is not what is tested.
    source.qmp.command("migrate-set-parameters", downtime_limit=10_000)
    return source


def assert_ended(machine: Machine, code: int, *sockets: str) -> None:
    assert machine.wait_end() == code, machine.output
    left = [path for path in (machine.qmp_path, machine.serial_path, *sockets)
            if os.path.exists(path)]
    assert left == []


def assert_moves_after_all(fleet: Fleet, source: Machine) -> None:
    assert source.status == "running"
    before = source.report()
    source.serial.wait_ticks(50)
    after = guest.ask(source.serial, request=b"v")
    assert after["errors"] == 0 and after["pages"] > before["pages"]
    uri = f"unix:{fleet.folder}/last"
    last = fleet.start("last", incoming=uri, **MEMORY)
    moved = move(source, last, uri)
    assert moved.status == "completed", moved.info
    last.serial.wait_ticks(50)
    assert guest.ask(last.serial, request=b"v")["errors"] == 0
    assert not guest.complaints(last.serial)


def held(fleet: Fleet, source: Machine, record: str) -> tuple[Machine, Link, str]:
    """A migration that stands still in front of @record."""
    target = f"{fleet.folder}/target"
    destination = fleet.start("destination", incoming=f"unix:{target}", **MEMORY).ready()
    destination.serial
    link = Link(f"{fleet.folder}/link", target, hold_before=record)
    start(source, f"unix:{fleet.folder}/link")
    link.wait_held()
    return destination, link, target


@BOTH
def test_signal_ends_a_destination_that_listens(fleet: Fleet, number: int) -> None:
    target = f"{fleet.folder}/target"
    destination = fleet.start("destination", incoming=f"unix:{target}", **MEMORY).ready()
    assert os.path.exists(target)
    destination.kill(number)
    assert_ended(destination, ENDED_BY_HOST, target)


@BOTH
@pytest.mark.parametrize("record, theirs, ours", [
    ("SETUP_END", "building", "active"),
    ("RAM", "receiving", "active"),
    ("ROUND", "receiving", "active"),
    ("STATE", "receiving", "device"),
    ("READY", "loaded", "device"),
])
def test_signal_to_the_destination_leaves_the_guest_with_the_source(
        fleet: Fleet, number: int, record: str, theirs: str, ours: str) -> None:
    source = working(fleet)
    destination, link, target = held(fleet, source, record)
    wait(destination, 10, theirs)
    wait(source, 10, ours)
    destination.kill(number)
    assert_ended(destination, ENDED_BY_HOST, target)
    assert wait(source, 20) == "failed"
    link.join()
    assert source.qmp.command("query-migrate")["error-desc"]
    assert destination.serial.ticks == 0
    assert_moves_after_all(fleet, source)


@BOTH
@pytest.mark.parametrize("record, ours", [
    ("ROUND_DONE", "active"),
    ("STATE", "device"),
    ("READY", "device"),
])
def test_signal_to_the_source_ends_both_and_the_guest(fleet: Fleet, number: int, record: str,
                                                      ours: str) -> None:
    source = working(fleet)
    destination, link, target = held(fleet, source, record)
    wait(source, 10, ours)
    source.kill(number)
    assert_ended(source, ENDED_BY_HOST)
    assert_ended(destination, INCOMING_FAILED, target)
    link.join()
    assert destination.serial.ticks == 0


@BOTH
def test_signal_to_a_source_that_connects_ends_it_at_once(fleet: Fleet, number: int) -> None:
    source = working(fleet)
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        # Its backlog is full, so a further connect() waits.
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        start(source, f"tcp:127.0.0.1:{listener.getsockname()[1]}")
        wait(source, 10, "setup")
        assert source.qmp.command("query-migrate")["status"] == "setup"
        source.kill(number)
        assert source.wait_end(5) == ENDED_BY_HOST
    assert_ended(source, ENDED_BY_HOST)


@BOTH
def test_signal_to_the_source_after_go_leaves_the_guest_with_the_destination(fleet: Fleet,
                                                                             number: int) -> None:
    source = working(fleet)
    destination, link, _ = held(fleet, source, "RUNNING")
    destination.serial.wait_ticks(20)
    source.kill(number)
    assert_ended(source, ENDED_BY_HOST)
    link.join()
    destination.serial.wait_ticks(50)
    assert guest.ask(destination.serial, request=b"v")["errors"] == 0
    assert destination.status == "running"
