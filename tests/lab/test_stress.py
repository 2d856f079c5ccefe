# SPDX-License-Identifier: Apache-2.0
"""The built-in guest, where KVM is kvm_amd with nested paging: other page tables, other logging."""
from __future__ import annotations

from typing import Callable

import pytest

from harness import guest
from harness.machine import Fleet, Machine
from harness.move import move
from nested.lab import Lab
from nested.verdict import must_be_right, must_have_moved

MEMORY_MIB, MOVES = 96, 2


def moved(source: Machine, destination: Machine, uri: str) -> Machine:
    """It works on over there, and every page is checked."""
    # In here the guest writes as fast as the link sends.
    source.qmp.command("migrate-set-parameters", downtime_limit=10_000)
    told = move(source, destination, uri)
    must_have_moved(told)
    destination.serial.wait_ticks(20)
    report = guest.ask(destination.serial, request=b"v")
    must_be_right(report["errors"] == 0, report)
    must_be_right(not guest.complaints(destination.serial), destination.lines)
    source.qmp.command("quit")
    source.wait_end()
    return destination


@pytest.mark.parametrize("options", [
    pytest.param({"cpus": 4}, id="four-vcpus"),
    pytest.param({"extra": ["--accel", "kvm,x-plain-log=on"]}, id="plain-log"),
    pytest.param({"memory": f"{MEMORY_MIB}M,hugepages=2M"}, id="huge-pages"),
])
def test_stress_guest_moves_and_loses_nothing(lab: Lab, fleets: Callable[[str], Fleet],
                                              options: dict) -> None:
    told = {"memory": f"{MEMORY_MIB}M", "guest_options": "hot=16M,rate=max,verify=on,tick=1ms",
            **options}
    lab.host("a").free_hugepages(2 * MEMORY_MIB // 2)
    machine = fleets("a").start("first", **told)
    machine.serial.wait_ticks(200)
    for number in range(MOVES):
        uri = f"unix:{fleets('a').folder}/{number}.move"
        machine = moved(machine, fleets("a").start(f"m{number}", incoming=uri, **told), uri)
