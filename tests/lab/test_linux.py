# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel as a guest: works on while it moves, between processes and between hosts."""
from __future__ import annotations

from nested import emulator
from nested.linux import STEADY_HASH, Traveller

MOVES = 5


def assert_works_on(traveller: Traveller, hosts: list[str]) -> None:
    """One move to each of @hosts: every kind of work goes on, and finds nothing wrong."""
    before = traveller.work()
    for host in hosts:
        moved = traveller.move(host)
        for work in ("pages", "ring0", "passes"):
            report = traveller.wait_for(work, before[work] + 1)
        print(f"pause {moved.info['downtime']} ms, {report}")
        assert report.members["hash"] == STEADY_HASH
        before = report


def test_guest_works_on_through_five_moves_between_processes(traveller: Traveller) -> None:
    assert_works_on(traveller, ["a"] * MOVES)


def test_guest_works_on_through_moves_between_hosts(traveller: Traveller) -> None:
    assert_works_on(traveller, ["b", "a"])


def test_bzimage_guest_on_huge_pages_works_on_through_five_moves(huge: Traveller) -> None:
    assert_works_on(huge, ["a"] * MOVES)


def test_vector_registers_are_the_same_after_a_move(traveller: Traveller) -> None:
    """With AVX: all of XSAVE that the emulator has."""
    traveller.tell("hold 1")
    for _ in range(2):
        before = traveller.check()
        assert before["vector"] == (256 if emulator.has_xsave() else 128)
        traveller.move()
        traveller.wait_for("holds", before["holds"] + 2 * traveller.cpus)
