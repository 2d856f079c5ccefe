# SPDX-License-Identifier: Apache-2.0
"""A TCP link that goes silent without a word: no reset, no close, no error of the network's."""
from __future__ import annotations

import errno
import os
import subprocess
import time
from typing import Iterator

import pytest

from harness import network
from harness.machine import Fleet
from harness.move import start, wait
from harness.network import Network
from harness.scene import assert_moves_after_all, slow, working

ADDRESS, MAC, PORT, LIMIT_S = "10.7.1.2", "52:54:00:00:71:02", 4000, 20
OPTIONS = {"memory": "64M", "cpus": 1, "guest_options": "hot=16M,rate=max,tick=1ms"}
INCOMING_FAILED = 6  # docs/exit-codes.md
# TCP_USER_TIMEOUT of 20 s (src/migrate/channel.c): it is looked at when a packet is sent again, or a
# probe, and these become rare.
DEAD_MIN_S, DEAD_MAX_S = 15, 60
GAP_MAX_NS = 1_500_000_000  # of a guest that runs, on a busy machine


@pytest.fixture
def near() -> Iterator[Network]:
    yield from network.namespace()


@pytest.fixture
def far(near: Network) -> Iterator[Network]:
    """At the other end of a wire."""
    name = f"{near.name}-far"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=LIMIT_S)
    try:
        there = Network(name)
        near.ip("link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", name)
        near.ip("addr", "add", "10.7.1.1/24", "dev", "wire")
        there.ip("link", "set", "wire", "address", MAC)
        there.ip("addr", "add", f"{ADDRESS}/24", "dev", "wire")
        for end in (near, there):
            end.ip("link", "set", "wire", "up")
        # Or the kernel would soon say that it cannot find it.
        near.ip("neigh", "replace", ADDRESS, "lladdr", MAC, "dev", "wire", "nud", "permanent")
        yield there
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=LIMIT_S)


def test_both_sides_give_up_on_a_silent_link_and_the_guest_runs_on(fleet: Fleet, near: Network,
                                                                   far: Network) -> None:
    source = working(fleet, network=near.name, **OPTIONS)
    uri = f"tcp:{ADDRESS}:{PORT}"
    destination = fleet.start("destination", incoming=uri, network=far.name, **OPTIONS).ready()
    slow(source, 4 << 20)
    start(source, uri)
    wait(source, 30, "active")
    source.serial.wait_ticks(200)
    source.serial.longest_gap_ns = 0
    far.ip("link", "set", "wire", "down")
    cut = time.monotonic()
    assert wait(source, DEAD_MAX_S) == "failed"
    assert DEAD_MIN_S < time.monotonic() - cut
    assert os.strerror(errno.ETIMEDOUT) in source.qmp.command("query-migrate")["error-desc"]
    assert source.serial.longest_gap_ns < GAP_MAX_NS
    assert destination.wait_end(DEAD_MAX_S) == INCOMING_FAILED
    assert_moves_after_all(fleet, source, **OPTIONS)
