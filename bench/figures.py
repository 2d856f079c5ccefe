# SPDX-License-Identifier: Apache-2.0
"""Figures of a bench: median, min, max, the peer and the limit beside; table and JSON."""
from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass, field
from typing import Any


def spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values),
            "runs": len(values)}


@dataclass
class Figure:
    """One measured quantity.  Lower is better unless `is_floor`.

    `limit` is absolute, `ratio_limit` is of the peer's median; all that are
    set must hold.
    """
    name: str
    unit: str
    values: list[float]
    peer: str = ""
    peer_values: list[float] = field(default_factory=list)
    limit: float | None = None
    ratio_limit: float | None = None
    is_floor: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        if not self.peer_values:
            return None
        peer = statistics.median(self.peer_values)
        return self.median / peer if peer else None

    def is_ok(self) -> bool | None:
        """None without a limit."""
        checks = []
        if self.limit is not None:
            checks.append((self.median, self.limit))
        if self.ratio_limit is not None:
            checks.append((self.ratio, self.ratio_limit))
        if not checks:
            return None
        return all(value is not None and (value >= bound if self.is_floor else value <= bound)
                   for value, bound in checks)

    def as_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {"name": self.name, "unit": self.unit,
                                  **spread(self.values), "limit": self.limit,
                                  "ratio": self.ratio, "ratio_limit": self.ratio_limit,
                                  "is_floor": self.is_floor, "ok": self.is_ok()}
        if self.peer_values:
            result["peer"] = {"name": self.peer, **spread(self.peer_values)}
        return result

    def cells(self) -> list[str]:
        own = spread(self.values)
        sign = ">=" if self.is_floor else "<="
        limits = []
        if self.limit is not None:
            limits.append(f"{sign} {self.limit:g}")
        if self.ratio_limit is not None:
            limits.append(f"{sign} {self.ratio_limit:g} x")
        peer = ""
        if self.peer_values:
            other = spread(self.peer_values)
            peer = (f"{number(other['median'])} ({number(other['min'])}-{number(other['max'])}) "
                    f"{self.peer}")
        verdict = {True: "PASS", False: "MISS", None: ""}[self.is_ok()]
        return [self.name, self.unit,
                f"{number(own['median'])} ({number(own['min'])}-{number(own['max'])})",
                peer, "" if self.ratio is None else f"{self.ratio:.2f}",
                ", ".join(limits), verdict]


class Absent(Figure):
    """A line in the table that says why there is no figure."""

    def __init__(self, name: str, unit: str, why: str) -> None:
        super().__init__(f"{name} (n/a: {why})", unit, [])

    def is_ok(self) -> None:
        return None

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "unit": self.unit, "median": None, "ok": None}

    def cells(self) -> list[str]:
        return [self.name, self.unit, "n/a", "", "", "", ""]


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


HEADINGS = ["figure", "unit", "godwit: median (min-max)", "beside it", "ratio", "limit", ""]


def show(bench: str, figures: list[Figure], is_json: bool, **more: Any) -> int:
    """Print the table, the JSON when wanted; 0 when all limits hold."""
    rows = [HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    missed = [figure.name for figure in figures if figure.is_ok() is False]
    held = sum(1 for figure in figures if figure.is_ok())
    print(f"\n{bench}: {held} limits held, {len(missed)} missed"
          + (f": {', '.join(missed)}" if missed else ""))
    if is_json:
        print(json.dumps({"bench": bench, "figures": [f.as_json() for f in figures], **more}))
    sys.stdout.flush()
    return 1 if missed else 0
