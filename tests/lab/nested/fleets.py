# SPDX-License-Identifier: Apache-2.0
"""The machines of one test, or of many, in whichever host they are asked for."""
from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Iterator

from harness.machine import Fleet, Machine

from .lab import Lab
from .machine import LabMachine

_FOLDERS = itertools.count()


class Fleets:
    """One fleet a host, made when it is first asked for."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._fleets = lab, {}
        lab.fleets.append(self)

    def __call__(self, host: str) -> Fleet:
        here = self._lab.host(host)
        if here not in self._fleets:
            folder = Path(f"/tmp/{next(_FOLDERS)}")
            here.sh(f"mkdir {folder}")
            self._fleets[here] = Fleet(folder, functools.partial(LabMachine, here))
        return self._fleets[here]

    @property
    def generation(self) -> int:
        """Of the hosts."""
        return self._lab.generation

    def machines(self) -> Iterator[Machine]:
        for fleet in self._fleets.values():
            yield from fleet.machines

    def end(self) -> None:
        self._lab.fleets.remove(self)
        for fleet in self._fleets.values():
            print(fleet.end())
