# SPDX-License-Identifier: Apache-2.0
"""A guest moves while it works, and proves that nothing was lost."""
from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from harness import guest
from harness.machine import Fleet, Machine, run
from harness.move import Move, move, wait

SHARED_S = 60.0  # until a guest whose 256 vCPUs all spin at first, on a few processors, has begun


def assert_arrived(moved: Move, source: Machine, destination: Machine) -> None:
    """The switch happened, and the guest goes on over there with its memory right."""
    assert moved.status == "completed", moved.info
    assert source.status == "postmigrate"
    assert destination.status == "running"
    first = destination.report()
    destination.serial.wait_ticks(50)
    second = destination.report()
    assert first["errors"] == 0 and second["errors"] == 0
    assert second["pages"] > first["pages"]
    assert second["checked"] > first["checked"]
    assert not guest.complaints(destination.serial)
    assert source.is_alive


def one_move(fleet: Fleet, uri: str, incoming: str | None = None, **options) -> Move:
    source = fleet.start("source", **options)
    source.serial.wait_ticks(50)
    before = source.report()
    destination = fleet.start("destination", incoming=incoming or uri, **options)
    assert destination.status == "inmigrate"
    moved = move(source, destination, uri)
    assert_arrived(moved, source, destination)
    assert destination.report()["pages"] > before["pages"]
    return moved


@pytest.mark.parametrize("cpus", [1, 2, 3, 4])
def test_working_guest_moves_over_a_unix_socket(fleet: Fleet, cpus: int) -> None:
    one_move(fleet, f"unix:{fleet.folder}/move", cpus=cpus)


@pytest.mark.alone  # each spins until the first one has begun
def test_256_vcpus_move_stopped_and_go_on(fleet: Fleet) -> None:
    """A few of them at work and the others halted: as many that run would share a few processors."""
    options = {"cpus": 256, "memory": "64M", "guest_options": "cpus=4,hot=4M,rate=10000/s,tick=1ms"}
    uri = f"unix:{fleet.folder}/move"
    source = fleet.start("source", **options)
    source.serial.wait_line(r"ready\b", timeout_s=SHARED_S)
    source.serial.wait_ticks(20)
    before = source.report()
    source.qmp.command("stop")
    destination = fleet.start("destination", incoming=uri, **options)
    moved = move(source, destination, uri, is_silent=True)
    assert moved.status == "completed", moved.info
    assert destination.status == "paused"
    assert len(destination.qmp.command("query-cpus-fast")) == 256
    destination.qmp.command("cont")
    destination.serial.wait_ticks(50)
    after = guest.ask(destination.serial, request=b"v")  # all its memory is checked
    assert after["errors"] == 0 and after["pages"] > before["pages"]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_working_guest_moves_over_tcp(fleet: Fleet) -> None:
    one_move(fleet, f"tcp:127.0.0.1:{free_port()}")


def test_working_guest_moves_over_tcp_by_host_name(fleet: Fleet) -> None:
    port = free_port()
    one_move(fleet, f"tcp:localhost:{port}", incoming=f"tcp:127.0.0.1:{port}", memory="64M",
             guest_options="hot=16M,tick=1ms")


def test_working_guest_moves_over_a_descriptor_handed_in(fleet: Fleet) -> None:
    source = fleet.start("source")
    source.serial.wait_ticks(50)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        destination = fleet.start("destination", incoming=f"fd:{theirs.fileno()}",
                                  pass_fds=[theirs.fileno()])
        source.qmp.command("getfd", fd=ours.fileno(), fdname="link")
    moved = move(source, destination, "fd:link")
    assert_arrived(moved, source, destination)


@pytest.mark.parametrize("options", [
    "hot=0,tick=1ms",
    "hot=16M,rate=20000/s,pattern=random,tick=1ms",
    "hot=64M,rate=max,pattern=zipf,tick=1ms",
    "hot=128M,rate=max,pattern=seq,tick=1ms",
])
def test_every_way_of_working_survives_a_move(fleet: Fleet, options: str) -> None:
    source = fleet.start("source", guest_options=options)
    source.serial.wait_ticks(50)
    uri = f"unix:{fleet.folder}/move"
    destination = fleet.start("destination", guest_options=options, incoming=uri)
    moved = move(source, destination, uri)
    assert moved.status == "completed", moved.info
    destination.serial.wait_ticks(50)
    assert destination.report()["errors"] == 0
    assert not guest.complaints(destination.serial)


def test_memory_above_4_gib_moves(fleet: Fleet) -> None:
    one_move(fleet, f"unix:{fleet.folder}/move", memory="6G",
             guest_options="skip=4608M,hot=64M,rate=max,tick=1ms")


def test_memory_never_touched_is_not_sent(fleet: Fleet) -> None:
    moved = one_move(fleet, f"unix:{fleet.folder}/move", memory="2G",
                     guest_options="hot=8M,rate=20000/s,tick=1ms")
    assert moved.info["ram"]["total"] >= 2 << 30
    assert moved.info["ram"]["transferred"] < 400 << 20


def test_ten_moves_in_a_row_lose_nothing(fleet: Fleet) -> None:
    machine = fleet.start("m0", memory="128M", guest_options="hot=32M,rate=max,tick=1ms")
    machine.serial.wait_ticks(50)
    work = machine.report()["pages"]
    for number in range(1, 11):
        uri = f"unix:{fleet.folder}/move{number}"
        following = fleet.start(f"m{number}", memory="128M", incoming=uri,
                                guest_options="hot=32M,rate=max,tick=1ms")
        moved = move(machine, following, uri)
        assert moved.status == "completed", moved.info
        following.serial.wait_ticks(10)
        report = following.report()
        assert report["errors"] == 0 and report["pages"] > work
        work = report["pages"]
        machine.qmp.command("quit")
        machine.wait_end()
        machine = following


def test_hashes_of_both_sides_agree(fleet: Fleet) -> None:
    source = fleet.start("source")
    source.serial.wait_ticks(50)
    uri = f"unix:{fleet.folder}/move"
    destination = fleet.start("destination", incoming=uri).ready()
    destination.serial
    told = run("migrate", "--qmp", f"unix:{source.qmp_path}", uri, "--verify", "--json")
    assert told.returncode == 0, told.stderr
    info = json.loads(told.stdout.strip().splitlines()[-1])
    assert info["status"] == "completed"
    assert "verif" in json.dumps(info)
    destination.serial.wait_ticks(50)
    assert destination.report()["errors"] == 0


def test_command_line_moves_and_says_where_the_pause_went(fleet: Fleet) -> None:
    source = fleet.start("source")
    source.serial.wait_ticks(50)
    uri = f"unix:{fleet.folder}/move"
    destination = fleet.start("destination", incoming=uri).ready()
    told = run("migrate", "--qmp", f"unix:{source.qmp_path}", uri)
    assert told.returncode == 0, told.stderr
    assert "\033" not in told.stdout and "\r" not in told.stdout  # not a terminal
    for phase in ("stop-vcpus", "last-sync", "send-ram"):
        assert phase in told.stdout.replace(" ", "-").lower(), told.stdout
    destination.serial.wait_ticks(50)
    assert destination.report()["errors"] == 0


def test_destination_that_listens_later_by_command_gets_the_guest(fleet: Fleet) -> None:
    source = fleet.start("source")
    source.serial.wait_ticks(50)
    destination = fleet.start("destination", incoming="defer")
    uri = f"unix:{fleet.folder}/move"
    destination.qmp.command("migrate-incoming", uri=uri)
    assert_arrived(move(source, destination, uri), source, destination)


def save(fleet: Fleet, path: Path, **options) -> Machine:
    source = fleet.start("source", **options)
    source.serial.wait_ticks(50)
    source.qmp.command("migrate", uri=f"file:{path}")
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    return source


def test_guest_saved_to_a_file_goes_on_from_it(fleet: Fleet) -> None:
    path = fleet.folder / "saved"
    # What a disk takes is less than what a guest may write: this one is slow.
    source = save(fleet, path, guest_options="hot=64M,rate=5000/s,tick=1ms")
    work = int(source.qmp.command("query-migrate")["ram"]["transferred"])
    assert work > 64 << 20
    source.qmp.command("quit")
    source.wait_end()
    for name in ("first", "second"):  # a file restores as often as one likes
        restored = fleet.start(name, incoming=f"file:{path}")
        restored.serial.wait_ticks(50)
        assert restored.report()["errors"] == 0
        assert restored.status == "running"
        restored.qmp.command("quit")
        restored.wait_end()


def test_paused_guest_is_saved_and_restored_paused(fleet: Fleet) -> None:
    path = fleet.folder / "saved"
    source = fleet.start("source")
    source.serial.wait_ticks(50)
    source.qmp.command("stop")
    source.qmp.command("migrate", uri=f"file:{path}")
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    restored = fleet.start("restored", incoming=f"file:{path}")
    restored.serial
    wait(restored, 20, "running", "completed")
    assert restored.status == "paused"
    restored.qmp.command("cont")
    restored.serial.wait_ticks(50)
    assert restored.report()["errors"] == 0


def test_saved_stream_is_explained(fleet: Fleet) -> None:
    path = fleet.folder / "saved"
    save(fleet, path, memory="64M", guest_options="hot=8M,tick=1ms")
    told = run("stream", str(path))
    assert told.returncode == 0, told.stderr
    for part in ("vcpu", "serial", "ram"):
        assert part in told.stdout.lower()


def test_guest_with_huge_pages_advice_moves(fleet: Fleet) -> None:
    one_move(fleet, f"unix:{fleet.folder}/move", memory="256M,thp=on")
