# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel as a guest: works on while it moves, between processes and between hosts."""
from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Callable

from harness.machine import binary
from nested import emulator
from nested.guest_clocks import assert_true_to, read_clocks
from nested.image import ROOT
from nested.lab import Lab
from nested.linux import STEADY_HASH, Traveller
from nested.trace import PortWrites
from nested.verdict import must_be_right

RESET, POWERED_OFF = 3, 0  # docs/exit-codes.md
RESET_PORT, HARD_RESET = 0xcf9, 0x06  # as the FADT has them

# Of each kind of work: some pages, and a hash that may have been begun at the source.  What never
# changes and is wrong stays wrong, so one of nothing but what arrived can wait for the last move.
ENOUGH = {"pages": 64, "ring0": 16, "passes": 1}
READ_S = 60.0


def works_on(lab: Lab, traveller: Traveller, hosts: list[str]) -> str:
    """One move to each of @hosts: every kind of work goes on there, and finds nothing wrong; its
    clocks are right at the end.  What the pauses were."""
    pauses = []
    traveller.work()
    clocks = read_clocks(lab, traveller)
    for host in hosts:
        traveller.wait_for("passes", 1)
        moved = traveller.move(host)
        arrived = traveller.check()  # what is more than this was done there
        for work, more in ENOUGH.items():
            report = traveller.wait_for(work, arrived[work] + more)
        must_be_right(report.members["hash"] == STEADY_HASH, report)
        pauses.append(moved.info["downtime"])
    report = traveller.wait_for("passes", report["passes"] + 1)
    must_be_right(report.members["hash"] == STEADY_HASH, report)
    assert_true_to(lab, clocks, read_clocks(lab, traveller))
    return f"pauses {', '.join(f'{pause} ms to {host}' for pause, host in zip(pauses, hosts))}"


def test_guest_works_on_through_five_moves_between_processes(
        lab: Lab, traveller: Traveller, record_property: Callable[[str, str], None]) -> None:
    record_property("figure", works_on(lab, traveller, ["a"] * 5))


def test_guest_works_on_through_moves_between_hosts(
        lab: Lab, traveller: Traveller, record_property: Callable[[str, str], None]) -> None:
    record_property("figure", works_on(lab, traveller, ["b", "a"]))


def test_bzimage_guest_on_huge_pages_works_on_through_moves_between_processes_and_hosts(
        lab: Lab, huge: Traveller, record_property: Callable[[str, str], None]) -> None:
    """Five between processes of one host, then to another host and back."""
    record_property("figure", works_on(lab, huge, ["a"] * 5 + ["b", "a"]))


def test_guest_saved_in_a_file_that_both_readers_accept_works_on_from_it(
        lab: Lab, traveller: Traveller, tmp_path: Path) -> None:
    at_last = traveller.work()
    for work, more in ENOUGH.items():
        at_last = traveller.wait_for(work, at_last[work] + more)
    path, saved = traveller.save(), tmp_path / "saved"
    lab.host(traveller.host).fetch(path, saved)
    for reader in ([binary(), "stream"], [str(ROOT / "tools" / "verify-stream")]):
        told = subprocess.run([*reader, str(saved)], capture_output=True, text=True,
                              timeout=READ_S, check=False)
        must_be_right(told.returncode == 0, told)
    traveller.restore(path)
    restored = traveller.check()
    assert all(restored[work] >= at_last[work] for work in ENOUGH)  # not another guest
    for work, more in ENOUGH.items():
        restored = traveller.wait_for(work, restored[work] + more)
    must_be_right(restored.members["hash"] == STEADY_HASH, restored)


def test_vector_registers_are_the_same_after_a_move(traveller: Traveller) -> None:
    """With AVX: all of XSAVE that the emulator has."""
    traveller.tell("hold 1")
    for _ in range(2):
        held = traveller.wait_for("holds", 1)
        assert held["vector"] == (256 if emulator.has_xsave() else 128)
        traveller.move()
        # On each processor one that was begun before the move, and one more.
        traveller.wait_for("holds", traveller.check()["holds"] + 2)


def test_guest_that_reboots_ends_its_process_as_documented(lab: Lab, huge: Traveller) -> None:
    """Through the register that the FADT names, and not by a way that the kernel would try next."""
    writes = PortWrites(lab.host(huge.host), RESET_PORT)
    assert huge.end("reboot") == RESET
    assert writes.end() == [HARD_RESET]


def test_guest_that_powers_off_ends_its_process_as_documented(traveller: Traveller) -> None:
    assert traveller.end("off") == POWERED_OFF
