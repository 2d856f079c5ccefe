# SPDX-License-Identifier: Apache-2.0
"""Which failures no second run may hide: something is not what was written."""
from __future__ import annotations

from typing import TYPE_CHECKING

from harness.move import Move

from .packages import LabError

if TYPE_CHECKING:
    from .lab import Lab

DIFFERS = "RAM differs"  # what a source says of the destination's hash


class WrongContent(AssertionError):
    """Memory, a disk or a stream is not as it was left."""


def must_be_right(is_right: bool, what: object) -> None:
    if not is_right:
        raise WrongContent(str(what))


def must_have_moved(moved: Move) -> None:
    must_be_right(DIFFERS not in moved.info.get("error-desc", ""), moved.info)
    assert moved.status == "completed", moved.info


def wrong_content(lab: "Lab") -> str:
    """What a guest or a godwit has said of it, whatever the test failed for; empty when none did."""
    for fleets in lab.fleets:
        for machine in fleets.machines():
            if not machine.host.is_alive:
                continue
            told = [line for line in machine.lines if line.startswith("error")]
            try:
                told += [line for line in machine.output.splitlines() if DIFFERS in line]
            except (OSError, LabError):
                pass  # its host does not answer
            if told:
                return f"{machine.name}: {told[0]}"
    return ""
