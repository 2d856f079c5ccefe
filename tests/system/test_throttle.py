# SPDX-License-Identifier: Apache-2.0
"""A migration that sleeps to obey max-bandwidth hears of what happens meanwhile."""
from __future__ import annotations

import time

import pytest

from harness import guest
from harness.machine import Fleet, Machine
from harness.move import move, start, wait

pytestmark = pytest.mark.alone  # it compares times

OPTIONS = {"memory": "64M", "guest_options": "hot=8M,rate=max,verify=on,tick=1ms"}
TRICKLE = 100_000  # bytes a second: the first record alone is 40 s


def throttled(fleet: Fleet) -> tuple[Machine, Machine]:
    source = fleet.start("source", **OPTIONS)
    source.serial.wait_ticks(50)
    uri = f"unix:{fleet.folder}/move"
    destination = fleet.start("destination", incoming=uri, **OPTIONS).ready()
    destination.serial
    source.qmp.command("migrate-set-parameters", max_bandwidth=TRICKLE)
    start(source, uri)
    wait(source, 30, "active")
    source.serial.wait_ticks(500)
    assert source.qmp.command("query-migrate")["status"] == "active"
    return source, destination


@pytest.mark.parametrize("bandwidth", [0, 4 << 30])
def test_bandwidth_that_is_raised_takes_effect_within_a_second(fleet: Fleet, bandwidth: int) -> None:
    source, destination = throttled(fleet)
    sent = source.qmp.command("query-migrate")["ram"]["transferred"]
    begun = time.monotonic()
    source.qmp.command("migrate-set-parameters", max_bandwidth=bandwidth)
    while True:
        info = source.qmp.command("query-migrate")
        if info["status"] != "active" or info["ram"]["transferred"] > sent + (1 << 20):
            break
        assert time.monotonic() - begun < 5, info
    assert time.monotonic() - begun < 1
    assert wait(source, 20) == "completed"
    destination.serial.wait_ticks(50)
    assert guest.ask(destination.serial, request=b"v")["errors"] == 0


def test_bandwidth_that_is_lowered_takes_effect(fleet: Fleet) -> None:
    source, _ = throttled(fleet)
    before = source.qmp.command("query-migrate")["ram"]["transferred"]
    source.serial.wait_ticks(1000)
    after = source.qmp.command("query-migrate")["ram"]["transferred"]
    assert after - before < 5 << 20  # a record is 4 MiB
    source.qmp.command("migrate_cancel")
    assert wait(source, 2) == "cancelled"


@pytest.mark.parametrize("how", ["kill", "quit"])
def test_destination_lost_while_throttled_is_noticed(fleet: Fleet, how: str) -> None:
    source, destination = throttled(fleet)
    if how == "kill":
        destination.kill()
    else:
        destination.qmp.command("quit")
    assert wait(source, 10) == "failed"  # asleep, it would be 40 s later
    assert source.status == "running"
    source.qmp.command("migrate-set-parameters", max_bandwidth=0)
    uri = f"unix:{fleet.folder}/last"
    last = fleet.start("last", incoming=uri, **OPTIONS)
    assert move(source, last, uri).status == "completed"
    last.serial.wait_ticks(50)
    assert guest.ask(last.serial, request=b"v")["errors"] == 0
