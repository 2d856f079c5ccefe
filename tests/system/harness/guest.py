# SPDX-License-Identifier: Apache-2.0
"""What the built-in guest `stress` says about itself (guest/README.md)."""
from __future__ import annotations

import re
from dataclasses import dataclass

from .serial import Serial, TIMEOUT_S


@dataclass(frozen=True)
class Report:
    """One "@report" or "@final" line: its key=value members."""
    kind: str
    members: dict[str, str]

    def number(self, key: str) -> int:
        return int(re.match(r"-?\d+", self.members[key]).group(), 10)  # type: ignore[union-attr]

    def __getitem__(self, key: str) -> int:
        return self.number(key)


def parse(line: str) -> Report:
    words = line.split()
    members = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    return Report(words[0] if words else "", members)


def ask(serial: Serial, timeout_s: float = TIMEOUT_S, request: bytes = b"g",
        kind: str = "report") -> Report:
    """Send @request and wait for the line it causes."""
    since = len(serial.lines)
    serial.send(request)
    return parse(serial.wait_line(rf"{kind}\b", since, timeout_s))


def complaints(serial: Serial) -> list[str]:
    """The "@error" lines: memory was not as the guest left it."""
    return [line for _, line in serial.lines if line.startswith("error")]
