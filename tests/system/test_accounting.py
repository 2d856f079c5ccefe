# SPDX-License-Identifier: Apache-2.0
"""The pause is accounted for, events come in order, limits are obeyed."""
from __future__ import annotations

import time
from typing import Any

import pytest

from harness.machine import Fleet
from harness.move import move, start, statuses, wait
from harness.qmp import QmpError
from harness.scene import pair

pytestmark = pytest.mark.alone  # it compares times

ROUNDING_US = 2  # downtime-us has no fraction, the phases do
SOURCE_PHASES = ["stop-vcpus", "stop-backends", "save-state", "last-sync", "send-ram", "send-state",
                 "verify", "wait-ready", "wait-running"]


def phases(info: dict[str, Any], side: str) -> dict[str, float]:
    return {phase["name"]: phase["us"] for phase in info["pause"]["phases"]
            if phase["side"] == side}


def test_phases_sum_up_to_the_downtime(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet)
    moved = move(source, destination, uri)
    assert moved.status == "completed"
    told = phases(moved.info, "source")
    assert list(told) == SOURCE_PHASES
    downtime = moved.info["pause"]["downtime-us"]
    total = sum(told.values())
    assert downtime > 0
    assert abs(total - downtime) <= ROUNDING_US, (told, downtime)
    theirs = phases(moved.info, "destination")
    assert theirs and all(us >= 0 for us in theirs.values())
    # What the destination did happened while the source waited for it or sent.
    assert sum(theirs.values()) <= downtime + 300, (theirs, downtime)


def test_nothing_is_rewired_in_the_pause(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet)
    moved = move(source, destination, uri)
    assert moved.info["pause"]["switch-commits"] == 0
    calls = moved.info["pause"]["calls"]
    assert set(calls) == {"source", "destination"}
    for side in calls.values():
        assert set(side) == {"commits", "route-commits", "eventfd-calls", "vhost-calls",
                             "vhost-tables"}
        assert not any(side.values())


def test_events_come_in_the_order_of_the_switch(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet)
    moved = move(source, destination, uri)
    assert moved.status == "completed"
    # wait() took "completed"; what came before it is still there.
    events = source.qmp.take_events()
    told = [event["data"]["status"] for event in events if event["event"] == "MIGRATION"]
    assert told == ["setup", "active", "device"]
    names = [event["event"] for event in events]
    assert names.index("STOP") > names.index("MIGRATION")
    assert "RESUME" not in names
    passes = [event["data"]["pass"] for event in events if event["event"] == "MIGRATION_PASS"]
    assert passes == sorted(set(passes)) and passes
    destination.qmp.wait_event("RESUME")
    for event in events:
        stamp = event["timestamp"]
        assert abs(stamp["seconds"] - time.time()) < 60 and 0 <= stamp["microseconds"] < 1_000_000


def test_failed_migration_sends_no_stop(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet)
    source.qmp.command("migrate-set-parameters", max_bandwidth=40 << 20, downtime_limit=1,
                       max_cpu_throttle=0)
    start(source, uri)
    wait(source, 30, "active")
    destination.kill()
    assert wait(source) == "failed"
    assert "STOP" not in [event["event"] for event in source.qmp.take_events()]


def test_destination_states_are_told(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet)
    assert move(source, destination, uri).status == "completed"
    wait(destination, 10, "running", "completed")
    assert destination.qmp.command("query-migrate")["incoming"] is True
    assert "failed" not in statuses(destination)


@pytest.mark.parametrize("mib_a_second", [20, 100, 300])
def test_max_bandwidth_is_obeyed(fleet: Fleet, mib_a_second: int) -> None:
    source, _, uri = pair(fleet)
    rate = mib_a_second << 20
    source.qmp.command("migrate-set-parameters", max_bandwidth=rate, downtime_limit=0)  # never met
    start(source, uri)
    wait(source, 30, "active")
    # Two samples a second apart, each with its own time: the time between
    # them is measured, nothing is waited for.
    source.serial.wait_ticks(300)
    samples = []
    for _ in range(2):
        now = time.monotonic()
        sent = source.qmp.command("query-migrate")["ram"]["transferred"]
        samples.append((now, sent))
        deadline = now + 1.0
        while time.monotonic() < deadline:
            source.serial.wait_ticks(20)
    measured = (samples[1][1] - samples[0][1]) / (samples[1][0] - samples[0][0])
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    # Less is no breach: a busy machine has no time to send more.
    assert rate / 4 <= measured <= rate * 1.2, f"{measured / (1 << 20):.1f} MiB/s"


def test_bandwidth_may_be_raised_while_moving(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet)
    source.qmp.command("migrate-set-parameters", max_bandwidth=10 << 20)
    start(source, uri)
    wait(source, 30, "active")
    source.serial.wait_ticks(200)
    assert source.qmp.command("query-migrate")["status"] == "active"
    source.qmp.command("migrate-set-parameters", max_bandwidth=0)
    assert wait(source, 20) == "completed"
    destination.serial.wait_ticks(50)


def test_second_migration_while_one_is_under_way_is_refused(fleet: Fleet) -> None:
    source, _, uri = pair(fleet)
    source.qmp.command("migrate-set-parameters", max_bandwidth=10 << 20)
    start(source, uri)
    wait(source, 30, "active")
    with pytest.raises(QmpError):
        start(source, f"unix:{fleet.folder}/other")
    assert source.qmp.command("query-migrate")["status"] == "active"
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"


def test_moved_guest_cannot_be_moved_from_its_old_process(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet)
    assert move(source, destination, uri).status == "completed"
    with pytest.raises(QmpError):
        start(source, uri)


@pytest.mark.parametrize("arguments", [
    {"downtime-limit": -1}, {"downtime-limit": 2_000_001}, {"downtime-limit": "300"},
    {"downtime-limit": 1.5}, {"downtime-limit": True}, {"max-bandwidth": -1},
    {"max-cpu-throttle": -1}, {"max-cpu-throttle": 100}, {"max-cpu-throttle": "99"},
    {"max-bandwidth": "1G"}, {"max-bandwidth": 1 << 63}, {"no-such-parameter": 1},
    {"downtime-limit": None}, {"downtime-limit": 100, "max-bandwidth": []},
], ids=str)
def test_parameter_that_makes_no_sense_is_refused_and_changes_nothing(fleet: Fleet, arguments: dict
                                                                      ) -> None:
    machine = fleet.start(memory="32M", cpus=1, guest_options="hot=0,tick=1ms")
    before = machine.qmp.command("query-migrate-parameters")
    with pytest.raises(QmpError):
        machine.qmp.command("migrate-set-parameters", **arguments)
    assert machine.qmp.command("query-migrate-parameters") == before


def test_parameters_read_back_as_set(fleet: Fleet) -> None:
    machine = fleet.start(memory="32M", cpus=1, guest_options="hot=0,tick=1ms")
    assert machine.qmp.command("query-migrate-parameters")["downtime-limit"] == 300
    machine.qmp.command("migrate-set-parameters", max_bandwidth=123_000_000)
    machine.qmp.command("migrate-set-parameters", downtime_limit=77)
    told = machine.qmp.command("query-migrate-parameters")
    assert told["max-bandwidth"] == 123_000_000 and told["downtime-limit"] == 77


def test_query_before_any_migration_says_nothing_happened(fleet: Fleet) -> None:
    machine = fleet.start(memory="32M", cpus=1, guest_options="hot=0,tick=1ms")
    assert machine.qmp.command("query-migrate").get("status", "none") == "none"
