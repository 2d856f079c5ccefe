# SPDX-License-Identifier: Apache-2.0
"""Devices that cannot be had: one line that says what to do, and nobody is hurt."""
from __future__ import annotations

import os
import resource
import socket
import stat
from pathlib import Path
from typing import Iterator

import pytest

from harness import guest, network
from harness.back_end import BackEnds
from harness.machine import Fleet, Machine, run
from harness.move import start, wait
from harness.network import Network

MIB = 1 << 20
NOBODY = 65534
# Requests of vhost-user, and what the back end of tests/backend does with them.
GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_CONFIG = 1, 15, 17, 24
SILENT, LATE, SHORT, LONG, HUGE, TORN, TWICE, WITH_FDS, OTHER, NO_FLAG, GONE = (
    1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13)


@pytest.fixture
def image(folder: Path) -> Path:
    return image_new(folder / "image")


def image_new(path: Path, size: int = MIB) -> Path:
    path.write_bytes(b"")
    os.truncate(path, size)
    return path


def refused(*argv: str, **options) -> str:
    """The machine does not start: exit code 1, and the one line that tells why."""
    told = run("run", "--guest", "blk", "--serial", "null", *argv, **options)
    assert told.returncode == 1, (told.returncode, told.stderr)
    lines = told.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("godwit"), told.stderr
    return lines[0]


# ---- disks


def test_missing_image_is_told_how_to_make(kvm: None, folder: Path) -> None:
    line = refused("--disk", f"path={folder}/no")
    assert f"{folder}/no does not exist" in line and "truncate -s SIZE" in line


def test_directory_is_no_image(kvm: None, folder: Path) -> None:
    assert "is a directory" in refused("--disk", f"path={folder}")
    assert "is a directory" in refused("--disk", f"path={folder},readonly=on")


@pytest.mark.parametrize("size", [0, 511, 513, MIB + 1])
def test_image_of_no_whole_sectors_is_told_how_to_extend(kvm: None, folder: Path, size: int
                                                         ) -> None:
    line = refused("--disk", f"path={image_new(folder / 'odd', size)}")
    assert "truncate" in line


def test_neither_file_nor_block_device_is_an_image(kvm: None, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    assert "neither a file nor a block device" in refused("--disk", f"path={folder}/fifo")
    assert "neither a file nor a block device" in refused("--disk", "path=/dev/null")


def without_rights() -> None:
    os.setgroups([os.stat("/dev/kvm").st_gid])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")
def test_image_that_may_only_be_read_needs_readonly(kvm: None, folder: Path, image: Path) -> None:
    folder.chmod(0o755)
    if not os.stat("/dev/kvm").st_mode & stat.S_IRGRP:
        pytest.skip("/dev/kvm is root's alone")
    image.chmod(0o444)
    assert "readonly=on" in refused("--disk", f"path={image}", preexec_fn=without_rights)
    image.chmod(0)
    for options in ("", ",readonly=on"):
        line = refused("--disk", f"path={image}{options}", preexec_fn=without_rights)
        assert "owner or permissions" in line


def test_image_of_another_machine_is_refused_unless_both_only_read(
        kvm: None, fleet: Fleet, image: Path) -> None:
    reads = ["--disk", f"path={image},readonly=on"]
    options = {"guest": "stress", "guest_options": "tick=1ms", "cpus": 1}
    fleet.start("first", extra=reads, **options).ready()
    fleet.start("second", extra=reads, **options).ready()
    assert "lock" in refused("--disk", f"path={image}")


def test_one_image_twice_in_a_machine_is_refused(kvm: None, image: Path) -> None:
    disk = ["--disk", f"path={image}"]
    line = refused(*disk, *disk)
    assert "lock" in line and "disk1" in line


def test_image_truncated_under_a_guest_costs_it_errors_and_nothing_else(
        kvm: None, fleet: Fleet, image: Path) -> None:
    os.truncate(image, 16 * MIB)
    machine = fleet.start("shrunk", guest="blk", guest_options="span=16M,tick=1ms,reads=90", cpus=1,
                          extra=["--disk", f"path={image}"])
    machine.serial.wait_ticks(50)
    os.truncate(image, 0)
    machine.serial.wait_line(r"error \w+ dev=0")
    ops = machine.report()["ops"]
    machine.serial.wait_ticks(50)
    assert machine.report()["ops"] > ops and machine.status == "running"


# ---- networks


@pytest.fixture
def net(kvm: None) -> Iterator[Network]:
    yield from network.namespace()


def refused_there(net: Network, fleet: Fleet, card: str, **options) -> str:
    machine = fleet.start("refused", guest="net", network=net.name, extra=["--net", card], **options)
    assert machine.wait_end() == 1
    lines = machine.output.splitlines()
    assert len(lines) == 1 and f"--net {card}:" in lines[0], lines
    return lines[0]


@pytest.mark.parametrize("name", ["", "x" * 16, "a/b"])
def test_name_that_no_interface_can_have_is_refused(kvm: None, name: str) -> None:
    refused("--net", f"tap={name}")


def test_interface_that_is_no_tap_is_refused(net: Network, fleet: Fleet) -> None:
    net.bridge()
    refused_there(net, fleet, "tap=br0")


def test_tap_that_is_busy_is_named(net: Network, fleet: Fleet) -> None:
    net.bridge("tap0", queues=False)
    card = ["--net", "tap=tap0"]
    fleet.start("owner", guest="net", guest_options="mode=sink", network=net.name,
                extra=card).ready()
    line = refused_there(net, fleet, "tap=tap0")
    assert "tap0 is in use" in line


def test_tap_with_fewer_queues_than_wanted_is_named(net: Network, fleet: Fleet) -> None:
    net.bridge("tap0", queues=False)
    assert "multi_queue" in refused_there(net, fleet, "tap=tap0,queues=2")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")
def test_tap_that_this_user_may_not_make_is_refused(kvm: None) -> None:
    if not os.stat("/dev/kvm").st_mode & stat.S_IRGRP:
        pytest.skip("/dev/kvm is root's alone")
    assert "godwit-no" in refused("--net", "tap=godwit-no", preexec_fn=without_rights)


def test_two_cards_with_one_address_are_refused(net: Network, fleet: Fleet) -> None:
    net.bridge("tap0", "tap1")
    card = ",mac=52:54:00:00:00:09"
    machine = fleet.start("twins", guest="net", network=net.name,
                          extra=["--net", f"tap=tap0{card}", "--net", f"tap=tap1{card}"])
    assert machine.wait_end() == 1
    assert "52:54:00:00:00:09" in machine.output and len(machine.output.splitlines()) == 1


# ---- vhost-user


@pytest.mark.parametrize("kind", ["disk", "net"])
def test_socket_where_nobody_serves_is_named(kvm: None, folder: Path, kind: str) -> None:
    path = str(folder / "no")
    assert path in refused(f"--{kind}", f"vhost-user={path}")
    with socket.socket(socket.AF_UNIX) as unheard:
        unheard.bind(path)
        assert path in refused(f"--{kind}", f"vhost-user={path}")
    Path(path).unlink()
    Path(path).write_bytes(b"no socket")
    assert path in refused(f"--{kind}", f"vhost-user={path}")


@pytest.mark.parametrize("request_number, kind", [
    *((number, kind)
      for number in (GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_CONFIG)
      for kind in (SHORT, LONG, HUGE, TORN, WITH_FDS, OTHER, NO_FLAG, GONE)),
    # The answer after the last that is waited for is nobody's.
    *((number, TWICE) for number in (GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM)),
    (GET_FEATURES, SILENT), (GET_QUEUE_NUM, LATE), (GET_CONFIG, SILENT),
])
def test_back_end_that_talks_nonsense_at_first_is_refused(
        kvm: None, back_ends: BackEnds, image: Path, request_number: int, kind: int) -> None:
    fault = f"fault={request_number},{kind},0" + (",20000" if kind == LATE else "")
    back_end = back_ends.recorded("blk", image, fault)
    assert "disk0" in refused("--disk", f"vhost-user={back_end.socket}")


@pytest.mark.parametrize("size, queues, told", [(MIB, 2, "queues")])
def test_back_end_with_fewer_queues_is_refused(kvm: None, back_ends: BackEnds, folder: Path,
                                               size: int, queues: int, told: str) -> None:
    back_end = back_ends.recorded("blk", image_new(folder / "image", size))
    assert told in refused("--disk", f"vhost-user={back_end.socket},queues={queues}")


# ---- numbers


def test_devices_for_which_there_is_no_slot_are_refused(kvm: None) -> None:
    told = run("run", "--guest", "blk", "--serial", "null", *["--rng", "on"] * 32)
    assert told.returncode == 64
    assert "slots for 31 devices" in told.stderr.splitlines()[0]


def many_queues(image: Path, disks: int) -> list[str]:
    words = []
    for number in range(disks):
        path = image_new(image.with_name(f"image{number}"))
        words += ["--disk", f"path={path},queues=16"]
    return words


def test_soft_limit_of_open_files_does_not_limit_queues(kvm: None, fleet: Fleet, image: Path
                                                        ) -> None:
    machine = fleet.start("many", guest="blk", guest_options="span=512K,queues=all,tick=1ms",
                          cpus=1, extra=many_queues(image, 16), before=soft_limit)
    machine.serial.wait_ticks(1)
    assert len(os.listdir(f"/proc/{machine.process.pid}/fd")) > 256
    assert guest.ask(machine.serial, request=b"q")["errors"] == 0


def soft_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE,
                       (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def hard_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 256))


def test_hard_limit_of_open_files_is_told(kvm: None, image: Path) -> None:
    line = refused(*many_queues(image, 16), preexec_fn=hard_limit)
    assert "256 open files" in line and "ulimit -Hn" in line


# ---- source and destination that differ


def both(fleet: Fleet, source: list[str], destination: list[str], **options) -> tuple[Machine, str]:
    """The source, after a move that failed, and what it and the destination said."""
    options = {"guest": "stress", "guest_options": "hot=1M,rate=1000/s,tick=1ms", "cpus": 1,
               "memory": "64M", **options}
    here = fleet.start("source", extra=source, **options).ready()
    here.serial.wait_ticks(10)
    uri = f"unix:{fleet.folder}/move"
    there = fleet.start("destination", incoming=uri, extra=destination, **options).ready()
    start(here, uri)
    assert wait(here) == "failed"
    assert there.wait_end() == 6
    said = there.output.splitlines()
    assert len(said) == 1, said
    here.serial.wait_ticks(10)
    assert here.status == "running"
    return here, said[0] + here.qmp.command("query-migrate")["error-desc"]


RNG, CONSOLE, SHMEM = ["--rng", "on"], ["--console", "null"], ["--shmem", "size=1M"]


@pytest.mark.parametrize("source, destination, told", [
    (RNG, [], "no 'host-bridge-pci-setup' here; give both sides the same devices"),
    ([], RNG, "'host-bridge-pci-setup' is missing; give both sides the same devices"),
    (RNG, CONSOLE, "rng0"),
    (RNG + CONSOLE, CONSOLE + RNG, "give both sides the same devices in the same order"),
    (RNG + RNG, RNG, "rng1"),
    (RNG, RNG + RNG, "rng1"),
    (SHMEM, ["--shmem", "size=2M"], "shmem0"),
], ids=lambda value: "+".join(value) if isinstance(value, list) else value)
def test_devices_that_differ_fail_the_move_only(kvm: None, fleet: Fleet, source: list[str],
                                                destination: list[str], told: str) -> None:
    _, said = both(fleet, source, destination)
    assert told in said, said


@pytest.mark.parametrize("source, destination, told", [
    ("", ",queues=2", "disk0"),
    (",queues=4", ",queues=2", "disk0"),
    ("", ",readonly=on", "disk0"),
    (",readonly=on", "", "disk0"),
    ("", ",discard=off", "disk0"),
    (",serial=a", ",serial=b", "disk0"),
])
def test_disks_that_differ_fail_the_move_only(kvm: None, fleet: Fleet, image: Path, source: str,
                                              destination: str, told: str) -> None:
    _, said = both(fleet, ["--disk", f"path={image}{source}"],
                   ["--disk", f"path={image}{destination}"])
    assert told in said, said


def test_disk_of_another_size_fails_the_move_only(kvm: None, fleet: Fleet, image: Path) -> None:
    other = image_new(fleet.folder / "other", 2 * MIB)
    _, said = both(fleet, ["--disk", f"path={image}"], ["--disk", f"path={other}"])
    assert "disk0" in said and "sectors" in said, said


def test_back_end_of_another_size_fails_the_move_only(kvm: None, back_ends: BackEnds,
                                                      fleet: Fleet, image: Path) -> None:
    ends = [back_ends.recorded("a", image),
            back_ends.recorded("b", image_new(fleet.folder / "other", 2 * MIB))]
    _, said = both(fleet, *(["--disk", f"vhost-user={end.socket}"] for end in ends))
    assert "disk0" in said and "sectors" in said, said


@pytest.mark.parametrize("source, destination", [("", ",queues=2"), ("", ",mtu=1400")])
def test_cards_that_differ_fail_the_move_only(net: Network, fleet: Fleet, source: str,
                                              destination: str) -> None:
    net.bridge("tap0")
    _, said = both(fleet, ["--net", f"tap=tap0{source}"], ["--net", f"tap=tap0{destination}"],
                   network=net.name)
    assert "net0" in said, said
