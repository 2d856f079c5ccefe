# SPDX-License-Identifier: Apache-2.0
"""Whatever breaks before GO: the source's guest runs on and moves next time."""
from __future__ import annotations

import signal
import socket
import threading

import pytest

from harness.machine import Fleet
from harness.move import move, start, wait
from harness.qmp import QmpClosed, QmpError
from harness.relay import Link
from harness.scene import assert_moves_after_all, endless, listening, pair, slow, working


@pytest.mark.parametrize("ticks", [0, 5, 50, 500, 2500])
def test_cancelled_migration_leaves_a_guest_that_works_and_moves(fleet: Fleet, ticks: int) -> None:
    source, destination, uri = pair(fleet)
    slow(source)
    start(source, uri)
    if ticks:
        wait(source, 30, "active")
        source.serial.wait_ticks(ticks)
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    assert source.qmp.command("query-migrate")["status"] == "cancelled"
    assert destination.wait_end() != 0
    assert_moves_after_all(fleet, source)


def test_cancel_at_the_end_of_a_fast_migration_leaves_one_guest(fleet: Fleet) -> None:
    options = {"memory": "64M", "guest_options": "hot=4M,rate=max,tick=1ms"}
    source = working(fleet, **options)
    for number in range(12):
        destination, uri = listening(fleet, f"d{number}", **options)
        source.qmp.take_events()
        start(source, uri)
        wait(source, 30, "active")
        threading.Event().wait(number * 0.001)  # not synchronisation: a spread
        source.qmp.command("migrate_cancel")
        status = wait(source)
        if status == "cancelled":
            assert source.status == "running"
            assert destination.wait_end() != 0
        else:
            assert status == "completed"
            assert source.status == "postmigrate"
            destination.serial.wait_ticks(20)
            source = destination
        assert source.report()["errors"] == 0


def test_cancel_without_a_migration_does_nothing(fleet: Fleet) -> None:
    source = working(fleet)
    source.qmp.command("migrate_cancel")
    assert_moves_after_all(fleet, source)


def test_destination_killed_in_a_round_costs_nothing(fleet: Fleet) -> None:
    source, destination = endless(fleet)
    source.serial.wait_ticks(100)
    destination.kill()
    assert wait(source) == "failed"
    assert source.qmp.command("query-migrate")["error-desc"]
    assert_moves_after_all(fleet, source)


def test_source_killed_in_a_round_leaves_no_guest_on_the_destination(fleet: Fleet) -> None:
    source, destination = endless(fleet)
    source.serial.wait_ticks(100)
    source.kill()
    assert destination.wait_end() != 0
    assert destination.serial.ticks == 0
    assert "godwit" in destination.output


def test_nobody_listens_fails_the_migration_only(fleet: Fleet) -> None:
    source = working(fleet)
    for uri in (f"unix:{fleet.folder}/nobody", "tcp:127.0.0.1:1", "tcp:no.such.host.invalid:1",
                "fd:nothing", "fd:9999", f"file:{fleet.folder}/no/such/folder"):
        try:
            start(source, uri)
        except QmpError as error:
            assert error.desc
        else:
            assert wait(source) == "failed", uri
            assert source.qmp.command("query-migrate")["error-desc"]
    assert_moves_after_all(fleet, source)


@pytest.mark.parametrize("uri", ["", "unix:", "tcp:", "tcp:host", "tcp:host:", "tcp:host:99999",
                                 "tcp:h:1x", "fd:", "file:", "nonsense", "exec:true",
                                 "unix:" + "x" * 300, "x" * 5000])
def test_uri_that_makes_no_sense_is_refused(fleet: Fleet, uri: str) -> None:
    source = fleet.start("source", memory="32M", cpus=1, guest_options="hot=1M,tick=1ms")
    source.serial.wait_ticks(5)
    try:
        start(source, uri)
    except QmpError as error:
        assert error.desc
    else:
        assert wait(source) == "failed"
    assert source.status == "running"
    source.serial.wait_ticks(5)


@pytest.mark.parametrize("cut_after", [1, 100, 4096, 100_000, 10_000_000, 80_000_000])
def test_link_that_breaks_before_go_costs_nothing(fleet: Fleet, cut_after: int) -> None:
    # 64 MiB are rewritten all the time, so even 80 MB are before the switch; on a busy machine in a
    # round that is long enough.
    source = working(fleet)
    source.qmp.command("migrate-set-parameters", max_bandwidth=100 << 20, downtime_limit=1,
                       max_cpu_throttle=0)
    target = f"{fleet.folder}/target"
    destination = fleet.start("destination", incoming=f"unix:{target}")
    destination.ready()
    link = Link(f"{fleet.folder}/link", target, cut_after=cut_after)
    start(source, f"unix:{fleet.folder}/link")
    assert wait(source) == "failed"
    link.join()
    assert destination.wait_end() != 0
    assert destination.output.strip()
    assert_moves_after_all(fleet, source)


def test_peer_that_is_no_godwit_fails_the_migration_only(fleet: Fleet) -> None:
    source = working(fleet)
    for answer in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 4096, b"\xff" * 4096):
        path = f"{fleet.folder}/stranger"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            listener.listen(1)
            start(source, f"unix:{path}")
            peer, _ = listener.accept()
            peer.recv(64)
            peer.sendall(answer)
            peer.close()
        assert wait(source) == "failed"
        (fleet.folder / "stranger").unlink()
    assert_moves_after_all(fleet, source)


def test_destination_that_was_only_looked_at_keeps_listening(fleet: Fleet) -> None:
    source = working(fleet)
    path = f"{fleet.folder}/last"
    destination = fleet.start("last", incoming=f"unix:{path}").ready()
    destination.kill(signal.SIGSTOP)  # as on a busy host: it sees none of them off before the next
    for _ in range(8):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(path)
    destination.kill(signal.SIGCONT)
    moved = move(source, destination, f"unix:{path}")
    assert moved.status == "completed", moved.info
    destination.serial.wait_ticks(50)
    assert destination.report()["errors"] == 0


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.0\r\n\r\n", b"\0" * 65536, b"\xff" * 65536,
                                  bytes(range(256)) * 256],
                         ids=["byte", "http", "zeroes", "ones", "bytes"])
def test_stranger_who_connects_to_a_destination_ends_it_with_a_reason(fleet: Fleet, data: bytes
                                                                      ) -> None:
    path = f"{fleet.folder}/move"
    destination = fleet.start("destination", incoming=f"unix:{path}")
    destination.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
        except OSError:
            pass
    code = destination.wait_end()
    assert code > 0
    assert destination.output.strip()


@pytest.mark.parametrize("difference", [
    {"memory": "128M"}, {"memory": "512M"}, {"cpus": 1}, {"cpus": 3},
], ids=["less memory", "more memory", "fewer cpus", "more cpus"])
def test_other_machine_on_the_destination_is_told_on_both_sides(fleet: Fleet, difference: dict
                                                                ) -> None:
    source = working(fleet)
    destination, uri = listening(fleet, **difference)
    start(source, uri)
    assert wait(source) == "failed"
    what = "cpu" if "cpus" in difference else "memory"
    told = source.qmp.command("query-migrate")["error-desc"].lower()
    assert what in told or (what == "memory" and "ram" in told), told
    assert destination.wait_end() > 0
    assert what in destination.output.lower() or "ram" in destination.output.lower()
    assert_moves_after_all(fleet, source)


def test_source_that_quits_in_the_middle_ends_both(fleet: Fleet) -> None:
    source, destination = endless(fleet)
    try:
        source.qmp.command("quit")
    except QmpClosed:
        pass
    source.wait_end()
    assert destination.wait_end() != 0
    assert destination.serial.ticks == 0


def test_guest_that_ends_in_the_middle_ends_the_migration(fleet: Fleet) -> None:
    source, destination = endless(fleet)
    source.serial.send(b"q")
    assert source.wait_end() == 0  # its own code: no errors
    assert destination.wait_end() != 0
    assert destination.serial.ticks == 0
