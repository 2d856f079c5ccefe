# SPDX-License-Identifier: Apache-2.0
"""What logging does to large mappings, where KVM has a TDP MMU: they fall, and come back."""
from __future__ import annotations

import time
from typing import Callable

from harness import guest
from harness.machine import Fleet, Machine
from harness.move import wait
from nested import linux
from nested.lab import Lab
from nested.verdict import must_be_right

MEMORY_MIB, HOT_MIB = 96, 32
LARGE = HOT_MIB // 2  # what the guest rewrites, in pages of 2 MiB
DELAY_MS, STALLS_DELAY_MS, LONG_S = 2_000, 6_000, 40.0
LEAD_S = 0.3  # by which the guest is told ahead of a lazy stop's begin
# Of the guest that measures its stalls.
TOUCHED_MEMORY_MIB, TOUCHED_MIB = 256, 128
TOUCHED_LARGE = TOUCHED_MIB // 2 - 2  # where its memory lies is its kernel's business
QUIET, LOGGED, COLLAPSING, AFTER = range(4)  # its phases
QUIET_ACCESSES = 100_000  # what it is undisturbed by, to be compared with
LAZY_TRIES = 3
CROWDED, SPARED = 10, 2  # times as long as undisturbed; times shorter than that


def mappings(machine: Machine) -> dict[str, int]:
    vm, = machine.qmp.command("query-stats", target="vm",
                              providers=[{"provider": "kvm", "names": ["pages_4k", "pages_2m"]}])
    return {stat["name"]: stat["value"] for stat in vm["stats"]}


def wait_for(machine: Machine, condition: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    deadline = time.monotonic() + LONG_S
    while not condition(now := mappings(machine)):
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    return now


def test_large_mappings_fall_while_logging_and_come_back_after_the_lazy_stop(
        lab: Lab, fleets: Callable[[str], Fleet]) -> None:
    lab.host("a").free_hugepages(2 * MEMORY_MIB // 2)
    told = {"memory": f"{MEMORY_MIB}M,hugepages=2M", "cpus": 2,
            "guest_options": f"hot={HOT_MIB}M,rate=max,verify=on,tick=1ms"}
    fleet = fleets("a")
    source = fleet.start("source", **told)
    before = wait_for(source, lambda now: now["pages_2m"] >= LARGE)

    uri = f"unix:{fleet.folder}/log-stop.move"
    fleet.start("destination", incoming=uri, **told).ready()
    source.qmp.command("migrate-set-parameters", downtime_limit=1, x_log_stop_delay=DELAY_MS,
                       max_cpu_throttle=0)
    source.qmp.command("migrate", uri=uri)
    low = wait_for(source, lambda now: now["pages_2m"] <= before["pages_2m"] - LARGE)
    assert low["pages_4k"] > before["pages_4k"]

    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    cancelled = time.monotonic()
    held = mappings(source)
    assert time.monotonic() - cancelled > DELAY_MS / 1000 or \
        held["pages_2m"] <= before["pages_2m"] - LARGE  # nobody waits for the collapse
    back = wait_for(source, lambda now: now["pages_2m"] >= before["pages_2m"])
    print(f"before {before}, while logging {low}, cancelled {held}, after the stop {back}")
    source.serial.wait_ticks(100)
    report = source.report()
    must_be_right(report["errors"] == 0, report)


def stalled(machine: Machine, phase: int) -> guest.Report:
    return guest.ask(machine.serial, linux.ASK_S, f"stalled {phase}\n".encode(), "stalled")


def enter(machine: Machine, phase: int) -> None:
    machine.serial.send(f"phase {phase}\n".encode())


def wait_lazy(machine: Machine, cancelled: float) -> None:
    """Until shortly before the worker begins with a stop that came at @cancelled or later."""
    machine.wait_output("kvm_log_stop_later")
    time.sleep(max(0.0, cancelled + STALLS_DELAY_MS / 1000 - LEAD_S - time.monotonic()))
    assert "kvm_log_stopped" not in machine.output


def stop_beside_stalls(machine: Machine, uri: str, is_inline: bool) -> tuple[int, int]:
    """p99.9 of the guest's accesses all over its memory: undisturbed, and from the beginning of the
    stop until what logging broke up is large again."""
    machine.serial.wait_line(r"up\b", timeout_s=linux.BOOT_S)
    machine.serial.send(f"stalls {TOUCHED_MIB}\n".encode())
    machine.serial.wait_line(r"stalls\b", timeout_s=LONG_S)
    before = wait_for(machine, lambda now: now["pages_2m"] >= TOUCHED_LARGE)
    while (quiet := stalled(machine, QUIET))["count"] < QUIET_ACCESSES:
        time.sleep(0.2)
    machine.qmp.command("migrate-set-parameters", downtime_limit=1, x_log_stop_delay=STALLS_DELAY_MS,
                        max_cpu_throttle=0)
    enter(machine, LOGGED)
    machine.qmp.command("migrate", uri=uri)
    low = wait_for(machine, lambda now: now["pages_2m"] <= before["pages_2m"] - TOUCHED_LARGE)
    if is_inline:
        enter(machine, COLLAPSING)
    cancelled = time.monotonic()
    machine.qmp.command("migrate_cancel")
    assert wait(machine) == "cancelled"
    ended = mappings(machine)
    # Whether the end of the migration waited for that.
    assert (ended["pages_4k"] == 0) == is_inline
    if not is_inline:
        wait_lazy(machine, cancelled)
        enter(machine, COLLAPSING)
    back = wait_for(machine, lambda now: now["pages_4k"] == 0)
    enter(machine, AFTER)
    told = stalled(machine, COLLAPSING)
    print(f"{machine.name}: before {before}, while logging {low}, cancelled {ended}, then {back}, "
          f"accesses in TSC cycles: undisturbed {quiet.members}, then {told.members}")
    assert told["count"] > 0
    return quiet["p999"], told["p999"]


def test_guest_feels_a_lazy_stop_a_tenth_of_an_inline_one_or_neither(
        lab: Lab, fleets: Callable[[str], Fleet]) -> None:
    """On one processor, which an inline stop has to itself before the migration ends.  A lazy one may
    be tried again: whatever else runs on the hosts under the lab only makes it longer."""
    options = linux.options("vmlinux", memory=f"{TOUCHED_MEMORY_MIB}M,hugepages=2M")
    lab.host("a").free_hugepages(TOUCHED_MEMORY_MIB // 2)
    fleet = fleets("a")
    quiet = 0

    def p999(how: str, number: int = 0) -> int:
        nonlocal quiet
        name = f"{how}{number}"
        machine = fleet.start(name, **{**options, "extra": [
            *options["extra"], "--accel", f"kvm,x-log-stop={how}", "--trace", "kvm_log_stop*"]})
        lab.host("a").sh(f"taskset -ap 1 {machine.process.pid}")
        undisturbed, stall = stop_beside_stalls(machine, f"file:{fleet.folder}/{name}.save",
                                                how == "inline")
        quiet = max(quiet, undisturbed)
        fleet.retire(machine)  # its huge pages are the next one's
        return stall

    inline, lazy = p999("inline"), [p999("worker")]

    def is_spared() -> bool:
        return min(lazy) <= (inline / CROWDED if inline >= CROWDED * quiet else SPARED * quiet)

    while not is_spared() and len(lazy) < LAZY_TRIES:
        lazy.append(p999("worker", len(lazy)))
    print(f"an inline stop is {'felt' if inline >= CROWDED * quiet else 'not felt either'}")
    assert is_spared(), (inline, lazy, quiet)
