# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel between two hosts: its disk is on an NBD server, its network behind vhost-net."""
from __future__ import annotations

from typing import Callable, Iterator

import pytest

from nested import linux, resident
from nested.fleets import Fleets
from nested.lab import Lab
from nested.machine import RemoteProcess
from nested.resident import Peer, Resident

DISK, SIZE_MIB, NBD_PORT = "/tmp/nbd.image", 24, 10809
FOLDER, TAP, PAIRS = "/mnt", "tap0", 2
WAY = 5 * ["b", "a"]


def devices(host: str, count: int) -> list[str]:
    return ["--disk", f"nbd=nbd://{linux.ADDRESSES['a']}:{NBD_PORT}",
            "--net", f"tap={TAP},vhost=on,queues={PAIRS},mac={resident.MAC}"]


@pytest.fixture
def guest(lab: Lab) -> Iterator[Resident]:
    """On host a; so is its disk."""
    server = lab.host("a")
    resident.image(server, DISK, SIZE_MIB)
    RemoteProcess(server, ["nbdkit", "-f", "-p", str(NBD_PORT), "file", DISK], "/tmp/nbdkit.out")
    server.sh(f"until netstat -ltn | grep -q :{NBD_PORT}; do usleep 10000; done")
    for host in ("a", "b"):
        resident.taps(lab.host(host), TAP)
    fleets = Fleets(lab)
    guest = Resident(fleets, devices)
    yield guest.ready("a")
    print(guest.epitaph())
    fleets.end()


def test_stream_and_file_system_survive_moves_between_hosts(
        lab: Lab, guest: Resident, record_property: Callable[[str, str], None]) -> None:
    guest.write_files(FOLDER, "/dev/vda")
    peer = Peer(lab.host("b"), guest)
    pauses = []
    for host in WAY:
        moved, counts = guest.move(host)
        pauses.append(moved.info["downtime"])
        print(f"to {host}: pause {moved.info['downtime']} ms, {counts}")
        assert counts["kernel-scans"] * PAIRS == counts["kernel-ring-scans"] > 0
    print(f"files {guest.files_written(FOLDER)}")
    said = peer.end()
    record_property("figure", f"{len(WAY)} moves, {resident.gaps(said, pauses)}")
    resident.check_peer(said, pauses)
    assert guest.check_files(FOLDER) > 0
    guest.machine.qmp.command("quit")
    assert guest.machine.wait_end() == 0
    resident.check_image(lab.host("a"), DISK)
