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
# Of the guest that measures its stalls.
TOUCHED_MEMORY_MIB, TOUCHED_MIB = 256, 128
TOUCHED_LARGE = TOUCHED_MIB // 2 - 2  # where its memory lies is its kernel's business


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


def stop_beside_stalls(machine: Machine, uri: str) -> tuple[bool, guest.Report]:
    """Whether the end of a migration waited until what logging broke up was large again; and what
    accesses all over the guest's memory took until then."""
    machine.serial.wait_line(r"up\b", timeout_s=linux.BOOT_S)
    machine.serial.send(f"stalls {TOUCHED_MIB}\n".encode())
    machine.serial.wait_line(r"stalls\b", timeout_s=LONG_S)
    before = wait_for(machine, lambda now: now["pages_2m"] >= TOUCHED_LARGE)
    machine.qmp.command("migrate-set-parameters", downtime_limit=1, x_log_stop_delay=STALLS_DELAY_MS,
                        max_cpu_throttle=0)
    machine.qmp.command("migrate", uri=uri)
    low = wait_for(machine, lambda now: now["pages_2m"] <= before["pages_2m"] - TOUCHED_LARGE)
    machine.serial.send(b"phase 1\n")
    machine.qmp.command("migrate_cancel")
    assert wait(machine) == "cancelled"
    ended = mappings(machine)
    back = wait_for(machine, lambda now: now["pages_2m"] >= TOUCHED_LARGE)
    told = guest.ask(machine.serial, linux.ASK_S, b"stalled 1\n", "stalled")
    print(f"{machine.name}: before {before}, while logging {low}, cancelled {ended}, then {back}, "
          f"accesses in TSC cycles {told.members}")
    assert told["count"] > 0
    return ended["pages_4k"] == 0, told


def test_inline_stop_collapses_before_the_end_and_a_lazy_one_behind_it(
        lab: Lab, fleets: Callable[[str], Fleet]) -> None:
    """The guest's stalls are told and not compared: here KVM lets it run on while it collapses, and
    an inline stop shows as a stall only where it has the guest's processor."""
    options = linux.options("vmlinux", memory=f"{TOUCHED_MEMORY_MIB}M,hugepages=2M")
    lab.host("a").free_hugepages(TOUCHED_MEMORY_MIB // 2)
    fleet = fleets("a")
    for how in ("inline", "worker"):
        machine = fleet.start(how, **{
            **options, "extra": [*options["extra"], "--accel", f"kvm,x-log-stop={how}"]})
        waited, _ = stop_beside_stalls(machine, f"file:{fleet.folder}/{how}.save")
        assert waited == (how == "inline")
        fleet.retire(machine)  # its huge pages are the next one's
