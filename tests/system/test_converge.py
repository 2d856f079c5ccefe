# SPDX-License-Identifier: Apache-2.0
"""Guests that write faster than the link carries away, and move all the same."""
from __future__ import annotations

import subprocess
from typing import Any

import pytest

from harness import guest
from harness.machine import Fleet, Machine, binary
from harness.move import Move, move, start, wait
from harness.qmp import QmpError
from harness.scene import assert_moves, assert_works, listening, working

pytestmark = pytest.mark.alone  # guests and links that outrun each other
ACCELS = ["kvm", "kvm,dirty=ring", "sim", "sim,dirty=ring"]
# Bytes a second, outrun by two vCPUs, and not by two that have a hundredth of a processor each;
# simulated ones write many times as fast.
SLOW, SLOW_FOR_SIM = 150 << 20, 500 << 20
SLOWER = 100 << 20  # the same, of one
LIMIT_MS = 10
MOVES = 3
# Of the limit, one pause of them at least: other processes may be in the way of any.
FACTOR = 1.5
ROUNDS_MAX = 30
# All of it is written again before a round of that bandwidth is over.
HEAVY = "hot=64M,rate=max,verify=on,tick=1ms"


@pytest.fixture(params=ACCELS)
def accelerator(request: pytest.FixtureRequest) -> str:
    if request.param.startswith("kvm"):
        request.getfixturevalue("kvm")
    return request.param


def options(accelerator: str, guest_options: str = HEAVY, cpus: int = 2) -> dict[str, Any]:
    return {"cpus": cpus, "memory": "256M", "guest_options": guest_options,
            "extra": ["--accel", accelerator]}


def slow(accelerator: str) -> int:
    return SLOW if accelerator.startswith("kvm") else SLOW_FOR_SIM


def hurry(source: Machine, bandwidth: int = SLOW, **more: Any) -> None:
    source.qmp.command("migrate-set-parameters", max_bandwidth=bandwidth, downtime_limit=LIMIT_MS,
                       **more)


def moved(fleet: Fleet, told: dict[str, Any], bandwidth: int) -> Move:
    """It moves, on and on, until a pause was not longer than it may be."""
    machine, pauses = working(fleet, **told), []
    for number in range(MOVES):
        hurry(machine, bandwidth)
        there, uri = listening(fleet, f"m{number}", **told)
        result = move(machine, there, uri)
        assert result.status == "completed", result.info
        there.serial.wait_ticks(50)
        assert guest.ask(there.serial, request=b"v")["errors"] == 0
        pause = result.info["pause"]
        assert pause["expected-us"] <= LIMIT_MS * 1000
        pauses.append(pause["downtime-us"])
        if pauses[-1] <= FACTOR * LIMIT_MS * 1000:
            print(f"pauses: {pauses} us")
            return result
        fleet.retire(machine)
        machine = there
    pytest.fail(f"pauses: {pauses} us, at most {LIMIT_MS} ms each were expected")


def held_us(info: dict[str, Any]) -> dict[int, int]:
    return {vcpu["id"]: vcpu["throttle-us"] for vcpu in info["throttle"]["vcpus"]}


def test_guest_that_outruns_the_link_is_held_back_and_moves(fleet: Fleet, accelerator: str) -> None:
    info = moved(fleet, options(accelerator), slow(accelerator)).info
    throttle = info["throttle"]
    print(throttle)
    assert 0 < throttle["most-percentage"] <= 99
    assert abs(throttle["total-us"] - sum(held_us(info).values())) <= 2
    assert min(held_us(info).values()) > 0
    assert 0 < throttle["longest-us"] <= throttle["total-us"]
    assert "cpu-throttle-percentage" not in info  # nobody is held any more


def test_lesson_limit_is_met_and_vcpus_that_read_are_not_held(fleet: Fleet, accelerator: str) -> None:
    # Beside the writer, one that looks at its memory as fast as it can.
    told = options(accelerator, HEAVY.replace("hot=64M", "hot=128M") + ",writers=1")
    info = moved(fleet, told, SLOWER).info
    print(info["throttle"])
    assert held_us(info)[0] > 0
    assert held_us(info)[1] == 0


def test_guest_is_left_alone_when_it_is_to_be(fleet: Fleet, accelerator: str) -> None:
    source = working(fleet, **options(accelerator))
    hurry(source, slow(accelerator), max_cpu_throttle=0)
    destination, uri = listening(fleet, **options(accelerator))
    source.qmp.take_events()
    start(source, uri)
    for _ in range(6):
        source.qmp.wait_event("MIGRATION_PASS", 60)
    info = source.qmp.command("query-migrate")
    assert info["status"] == "active" and "throttle" not in info
    # From now on it may be held, and the same migration comes to its end.
    source.qmp.command("migrate-set-parameters", max_cpu_throttle=99)
    assert wait(source, 60) == "completed"
    assert source.qmp.command("query-migrate")["throttle"]["total-us"] > 0
    destination.serial.wait_ticks(50)
    assert guest.ask(destination.serial, request=b"v")["errors"] == 0


def test_guest_that_does_not_outrun_the_link_is_not_held(fleet: Fleet) -> None:
    told = {"guest_options": "hot=8M,rate=1000/s,tick=1ms"}
    source = working(fleet, **told)
    result = move(source, *listening(fleet, **told))
    assert result.status == "completed"
    assert "throttle" not in result.info


def held(fleet: Fleet, accelerator: str) -> tuple[Machine, Machine]:
    """Both sides of a migration that holds its guest, in a round that takes a minute."""
    source = working(fleet, **options(accelerator))
    destination, uri = listening(fleet, "first", **options(accelerator))
    hurry(source, slow(accelerator))
    source.qmp.take_events()
    start(source, uri)
    for _ in range(ROUNDS_MAX):
        info = source.qmp.command("query-migrate")
        if info.get("cpu-throttle-percentage"):
            break
        source.qmp.wait_event("MIGRATION_PASS", 60)
    else:
        pytest.fail(f"nobody was held in {ROUNDS_MAX} rounds: {info}")
    source.qmp.command("migrate-set-parameters", max_bandwidth=1 << 20)
    assert source.qmp.command("query-migrate")["status"] == "active"
    return source, destination


@pytest.mark.parametrize("how", ["cancel", "loss"])
def test_nobody_stays_held_after_a_migration_that_came_to_nothing(fleet: Fleet, accelerator: str,
                                                                  how: str) -> None:
    source, destination = held(fleet, accelerator)
    if how == "cancel":
        source.qmp.command("migrate_cancel")
    else:
        destination.kill()
    assert wait(source, 5) == ("cancelled" if how == "cancel" else "failed")
    before = source.qmp.command("query-migrate")["throttle"]["total-us"]
    assert_works(source)
    info = source.qmp.command("query-migrate")
    assert info["throttle"]["total-us"] == before
    assert "cpu-throttle-percentage" not in info
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, downtime_limit=300)
    assert_moves(fleet, source, **options(accelerator))


def test_limit_that_falls_out_of_reach_lets_the_guest_go(fleet: Fleet, accelerator: str) -> None:
    source, _ = held(fleet, accelerator)
    # No pause is that short, so that nothing is to be had for holding anybody.
    source.qmp.command("migrate-set-parameters", max_bandwidth=SLOW, downtime_limit=0)
    source.qmp.take_events()
    for _ in range(ROUNDS_MAX):
        info = source.qmp.command("query-migrate")
        if "cpu-throttle-percentage" not in info:
            break
        source.qmp.wait_event("MIGRATION_PASS", 60)
    else:
        pytest.fail(f"still held after {ROUNDS_MAX} rounds: {info}")
    assert info["status"] == "active"
    source.qmp.command("migrate_cancel")
    assert wait(source, 5) == "cancelled"
    assert_works(source)


def test_lesson_held_guest_stops_at_once(fleet: Fleet, accelerator: str) -> None:
    source, _ = held(fleet, accelerator)
    for _ in range(30):
        source.qmp.command("stop", timeout_s=5)
        assert source.qmp.command("query-status")["status"] == "paused"
        source.qmp.command("cont", timeout_s=5)
    source.serial.wait_ticks(20)
    source.qmp.command("migrate_cancel")
    assert wait(source, 5) == "cancelled"
    assert_works(source)


def test_terminal_tells_who_was_held(fleet: Fleet) -> None:
    source = working(fleet, cpus=2, guest_options=HEAVY)
    destination, uri = listening(fleet, cpus=2, guest_options=HEAVY)
    told = subprocess.run(
        [binary(), "migrate", "--qmp", f"unix:{source.qmp_path}", "--downtime-limit",
         str(LIMIT_MS), "--max-bandwidth", str(SLOW), "--max-cpu-throttle", "98", uri],
        capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    assert "writers held back by" in told.stderr
    assert "writers held back by up to" in told.stdout
    assert "  vCPU 0 " in told.stdout and "  vCPU 1 " in told.stdout
    assert source.qmp.command("query-migrate-parameters")["max-cpu-throttle"] == 98
    destination.serial.wait_ticks(10)


@pytest.mark.parametrize("percent", [100, 1 << 40])
def test_more_than_99_per_cent_is_refused(fleet: Fleet, percent: int) -> None:
    machine = fleet.start()
    with pytest.raises(QmpError, match="at most 99"):
        machine.qmp.command("migrate-set-parameters", max_cpu_throttle=percent)
    assert machine.qmp.command("query-migrate-parameters")["max-cpu-throttle"] == 99
