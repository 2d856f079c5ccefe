# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGINT to a side that waits for its peer; test_injector.py has every step."""
from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from harness import guest
from harness.machine import Fleet, Machine, binary
from harness.move import start, wait
from harness.relay import Link
from harness.scene import assert_moves_after_all, working

MEMORY = {"memory": "64M", "guest_options": "hot=8M,rate=max,verify=on,tick=1ms"}
ENDED_BY_HOST = 0    # docs/exit-codes.md
INCOMING_FAILED = 6
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])


def patient(fleet: Fleet) -> Machine:
    source = working(fleet, **MEMORY)
    # The link stands still for a while: that is not what is tested.
    source.qmp.command("migrate-set-parameters", downtime_limit=10_000)
    return source


def assert_ended(machine: Machine, code: int, *sockets: str) -> None:
    assert machine.wait_end() == code, machine.output
    left = [path for path in (machine.qmp_path, machine.serial_path, *sockets)
            if os.path.exists(path)]
    assert left == []


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
    ("RAM", "receiving", "active"),
    ("READY", "loaded", "device"),
])
def test_signal_to_the_destination_leaves_the_guest_with_the_source(
        fleet: Fleet, number: int, record: str, theirs: str, ours: str) -> None:
    source = patient(fleet)
    destination, link, target = held(fleet, source, record)
    wait(destination, 10, theirs)
    wait(source, 10, ours)
    destination.kill(number)
    assert_ended(destination, ENDED_BY_HOST, target)
    assert wait(source, 20) == "failed"
    link.join()
    assert source.qmp.command("query-migrate")["error-desc"]
    assert destination.serial.ticks == 0
    assert_moves_after_all(fleet, source, **MEMORY)


@BOTH
@pytest.mark.parametrize("record, ours", [
    ("MACHINE", "setup"),
    ("SETUP_END", "setup"),
    ("BUILT", "setup"),
    ("ROUND_DONE", "active"),
    ("READY", "device"),
])
def test_signal_to_the_source_ends_both_and_the_guest(fleet: Fleet, number: int, record: str,
                                                      ours: str) -> None:
    source = patient(fleet)
    destination, link, target = held(fleet, source, record)
    wait(source, 10, ours)
    source.kill(number)
    assert_ended(source, ENDED_BY_HOST)
    assert_ended(destination, INCOMING_FAILED, target)
    link.join()
    assert destination.serial.ticks == 0


@BOTH
def test_signal_to_a_source_that_connects_ends_it_at_once(fleet: Fleet, number: int) -> None:
    source = patient(fleet)
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


@pytest.fixture
def silent_name_server(folder: Path) -> str:
    """A godwit in a network whose name server swallows every question."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("a network of its own needs root, ip and unshare")
    resolver = folder / "resolv.conf"
    resolver.write_text("nameserver 192.0.2.2\noptions timeout:30 attempts:5\n")
    program = folder / "godwit-alone"
    program.write_text(f"""#!/bin/sh -e
ip link add silent type veth peer name nobody
ip addr add 192.0.2.1/24 dev silent
ip link set silent up
ip link set nobody up
ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev silent
mount --bind {resolver} /etc/resolv.conf
exec {binary()} "$@"
""")
    program.chmod(0o755)
    alone = folder / "alone"
    alone.write_text(f'#!/bin/sh\nexec unshare --net --mount {program} "$@"\n')
    alone.chmod(0o755)
    return str(alone)


@BOTH
def test_signal_to_a_source_that_waits_for_a_name_ends_it_at_once(
        fleet: Fleet, silent_name_server: str, number: int) -> None:
    source = fleet.start("source", program=silent_name_server, **MEMORY)
    source.serial.wait_ticks(50)
    start(source, "tcp:destination.example:4444")
    wait(source, 10, "setup")
    source.serial.wait_ticks(200)
    assert source.qmp.command("query-migrate")["status"] == "setup"
    source.kill(number)
    assert source.wait_end(5) == ENDED_BY_HOST
    assert_ended(source, ENDED_BY_HOST)


def test_cancel_while_a_name_is_looked_up_leaves_a_guest_that_moves(
        fleet: Fleet, silent_name_server: str) -> None:
    source = fleet.start("source", program=silent_name_server, **MEMORY)
    source.serial.wait_ticks(50)
    start(source, "tcp:destination.example:4444")
    wait(source, 10, "setup")
    source.qmp.command("migrate_cancel")
    assert wait(source, 5) == "cancelled"
    source.qmp.command("migrate-set-parameters", downtime_limit=10_000)
    assert_moves_after_all(fleet, source, **MEMORY)


@BOTH
def test_signal_to_the_source_after_go_leaves_the_guest_with_the_destination(fleet: Fleet,
                                                                             number: int) -> None:
    source = patient(fleet)
    destination, link, _ = held(fleet, source, "RUNNING")
    destination.serial.wait_ticks(20)
    source.kill(number)
    assert source.wait_end(5) == ENDED_BY_HOST  # and not when the answer is overdue
    assert_ended(source, ENDED_BY_HOST)
    link.join()
    destination.serial.wait_ticks(50)
    assert guest.ask(destination.serial, request=b"v")["errors"] == 0
    assert destination.status == "running"
