# SPDX-License-Identifier: Apache-2.0
"""Drives gap_reader.c, and reads what the guest says of itself through it."""
from __future__ import annotations

import os
import selectors
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 30.0


@dataclass(frozen=True)
class Arrivals:
    """Of one side, in ns of CLOCK_MONOTONIC."""
    first: int
    last: int
    count: int
    longest_gap: int


class GapReader:
    def __init__(self, build: Path, sockets: tuple[str, str]) -> None:
        self.process = subprocess.Popen([str(build / "bench" / "gap_reader"), *sockets],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin and self.process.stdout
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._buffer = b""
        self.lines: list[tuple[int, int, str]] = []  # side, time, text after '@'
        self._expect("ready")

    def close(self) -> None:
        self._stdin.close()
        self.process.wait(10)
        self._stdout.close()

    def send(self, side: int, text: str) -> None:
        self._command(f"send {side} {text}")

    def mark(self) -> None:
        self._command("mark")

    def stats(self) -> tuple[Arrivals, Arrivals]:
        self._command("stats")
        numbers = [int(word) for word in self._expect("stats").split()[1:]]
        return Arrivals(*numbers[:4]), Arrivals(*numbers[4:])

    def ask(self, side: int, letter: str, kind: str) -> str:
        """What the guest answers to @letter: the text of its line "@kind ..."."""
        seen = len(self.lines)
        self.send(side, letter)
        return self.wait_line(side, kind, seen)

    def wait_line(self, side: int, kind: str, since: int = 0) -> str:
        deadline = time.monotonic() + LIMIT_S
        while True:
            for own, _, text in self.lines[since:]:
                if own == side and text.split(" ", 1)[0] == kind:
                    return text
            self._read(deadline)

    def report(self, side: int) -> dict[str, int]:
        words = self.ask(side, "g", "report").split()[1:]
        return {key: int(value) for key, value in (word.split("=", 1) for word in words)}

    def work(self, side: int) -> tuple[float, list[int]]:
        """Length of an interval in TSC ticks, and the pages of the last ones."""
        words = self.ask(side, "w", "work").split()
        return float(words[2]), [int(n) for n in words[3].split(",")] if len(words) > 3 else []

    def wait_first(self, side: int, limit_s: float = LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        while not self.stats()[side].count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"side {side} prints nothing")
            time.sleep(0.002)

    def _command(self, text: str) -> None:
        self._stdin.write(text.encode() + b"\n")
        self._stdin.flush()

    def _expect(self, word: str) -> str:
        deadline = time.monotonic() + LIMIT_S
        self._answer: str | None = None
        while self._answer is None or not self._answer.startswith(word):
            self._read(deadline)
        return self._answer

    def _read(self, deadline: float) -> None:
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"gap_reader: nothing in time; lines {self.lines[-2:]}")
            data = os.read(self._stdout.fileno(), 1 << 16)
            if not data:
                raise RuntimeError("gap_reader ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        text = line.decode(errors="replace")
        if text.startswith("line "):
            _, side, stamp, rest = text.split(" ", 3)
            self.lines.append((int(side), int(stamp), rest.removeprefix("@")))
        else:
            self._answer = text
