# SPDX-License-Identifier: Apache-2.0
"""`make demo`: it shows a guest that arrives, and fails when one does not."""
from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.machine import binary

DEMO = Path(__file__).resolve().parents[2] / "tools" / "demo"
MOVED = {"info": {"ram": {"dirty-sync-count": 3, "transferred": 1 << 20}, "verify": {"pages": 7},
                  "pause": {"phases": [{"name": "stop-vcpus", "side": "source", "us": 20.0},
                                       {"name": "send-ram", "side": "source", "us": 300.0},
                                       {"name": "dst-load", "side": "destination", "us": 90.0}]}},
         "pause_us": 400.0, "report": {"errors": 0, "pages": 10, "checked": 10}, "pids": (1, 2)}


def test_demo_moves_a_guest_and_says_where_its_pause_went(kvm: None) -> None:
    done = subprocess.run([sys.executable, DEMO, "--godwit", binary(), "--moves", "2", "--memory",
                           "256M", "--hot", "16M"], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "moved 2 times" in done.stdout and "lost none" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    head = next(row for row in rows if row[:2] == ["move", "rounds"])
    moves = [row for row in rows if len(row) > 8 and row[0] in ("1", "2")]
    assert len(moves) == 2 and "stop-backends" in head
    for row in moves:
        *_, total, pages = row
        phases = row[6:-2]  # behind: number, rounds, N MiB, N us
        assert abs(sum(map(int, phases)) - int(total)) <= len(phases)  # each is rounded
        assert int(pages) > 16 << 8


def demo() -> ModuleType:
    spec = importlib.util.spec_from_loader("demo", SourceFileLoader("demo", str(DEMO)))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("change, complaints, told", [
    ({}, [], ""),
    ({"report": {"errors": 3, "pages": 10, "checked": 10}}, [], "the guest counts 3 errors"),
    ({"info": {**MOVED["info"], "verify": {}}}, [], "the hashes were not compared"),
    ({}, ["@error lost gpa=0x1000"], "@error lost gpa=0x1000"),
], ids=["whole", "errors", "not-compared", "complaint"])
def test_demo_fails_when_anything_was_lost(monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str],
                                           change: dict[str, Any], complaints: list[str], told: str
                                           ) -> None:
    module = demo()

    def run(self: Any) -> None:
        self.moves.append({**MOVED, **change})
        self.complaints += complaints

    monkeypatch.setattr(module.Demo, "run", run)
    monkeypatch.setattr(module, "kvm_problem", lambda: "")
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert module.main() == (1 if told else 0)
    said = capsys.readouterr()
    assert told in said.err and ("LOST" in said.out) == bool(told)


def test_demo_fails_when_a_move_does(monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    module = demo()

    def run(self: Any) -> None:
        raise RuntimeError("move 1 failed: nobody knows")

    monkeypatch.setattr(module.Demo, "run", run)
    monkeypatch.setattr(module, "kvm_problem", lambda: "")
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert module.main() == 1
    assert "move 1 failed: nobody knows" in capsys.readouterr().err
