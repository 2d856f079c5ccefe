# SPDX-License-Identifier: Apache-2.0
"""Built-in guests, where KVM is kvm_amd with nested paging: other page tables, other logging."""
from __future__ import annotations

from typing import Callable

import pytest

from harness import guest
from harness.machine import Fleet, Machine
from harness.move import move
from nested import resident
from nested.lab import Lab
from nested.verdict import must_be_right, must_have_moved

MEMORY_MIB, MOVES = 96, 2
TAPS, RESETS = ("nonsense0", "nonsense1"), 5


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


def test_card_on_vhost_net_that_is_given_nonsense_asks_for_a_reset(
        lab: Lab, fleets: Callable[[str], Fleet]) -> None:
    """The kernel leaves such a queue, and says so by an eventfd only; then each frame comes back."""
    resident.taps(lab.host("a"), *TAPS)
    machine = fleets("a").start(
        "nonsense", memory="64M", guest="net", cpus=1,
        guest_options="tick=1ms,depth=8,ring=64,peer=1,churn=500ms,what=break",
        extra=[word for tap in TAPS for word in ("--net", f"tap={tap},vhost=on")])
    machine.serial.wait_line(r"ready\b")
    while machine.report()["resets"] < RESETS:
        machine.serial.wait_ticks(20)
    last = guest.ask(machine.serial, request=b"q")
    must_be_right(last["errors"] == 0 and last["lost"] == 0, last)
    must_be_right(last["back"] == last["flow_sent"] > 0, last)
