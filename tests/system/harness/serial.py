# SPDX-License-Identifier: Apache-2.0
"""The guest's serial port: every chunk with its time, ticks counted, lines parsed."""
from __future__ import annotations

import os
import re
import socket
import threading
import time
from typing import Callable

from .qmp import connect_soon, connect_unix

TIMEOUT_S = 30.0
LINE_MAX = 64 << 10


class SerialTimeout(Exception):
    """What was waited for did not come over the serial port."""


class Serial:
    """Reads on a thread of its own; everything else may be asked by any thread.

    What the guest prints is '.' per tick and lines that begin with '@'; an
    '@' opens a line wherever it stands, so that a tick in front of it does not
    hide it.
    """

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S,
                 is_alive: Callable[[], bool] = lambda: True,
                 connect: Callable[[str], socket.socket] = connect_unix) -> None:
        self.path = path
        self.ticks = 0
        self.last_tick_ns = 0
        self.first_byte_ns = 0
        self.longest_gap_ns = 0
        self.lines: list[tuple[int, str]] = []  # time, text without '@'
        self.other = b""  # what is neither tick nor line, at most LINE_MAX
        self.is_closed = False
        self._line: bytearray | None = None
        self._changed = threading.Condition()
        self._sock = connect_soon(path, timeout_s, is_alive, connect)
        self._thread = threading.Thread(target=self._read, name=f"serial {path}", daemon=True)
        self._thread.start()

    def hurry(self, is_urgent: bool) -> None:
        """Read what comes as it comes, however busy the guest keeps all processors; as far as
        this user may."""
        assert self._thread.native_id
        policy = os.SCHED_FIFO if is_urgent else os.SCHED_OTHER
        try:
            os.sched_setscheduler(self._thread.native_id, policy,
                                  os.sched_param(int(is_urgent)))
        except PermissionError:
            pass

    def close(self) -> None:
        try:
            self._sock.shutdown(2)
        except OSError:
            pass
        self._thread.join(5)
        self._sock.close()

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        """Until @condition holds; it is asked after every chunk."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self.is_closed:
                    why = "closed" if self.is_closed else f"{timeout_s} s passed"
                    raise SerialTimeout(f"{what}: {why}; {self.ticks} ticks, lines "
                                        f"{[line for _, line in self.lines[-3:]]}, "
                                        f"other {self.other[-200:]!r}")
                self._changed.wait(remaining)

    def wait_ticks(self, count: int, timeout_s: float = TIMEOUT_S) -> None:
        """@count more ticks from now on."""
        goal = self.ticks + count
        self.wait(lambda: self.ticks >= goal, f"{count} more ticks", timeout_s)

    def wait_line(self, pattern: str, since: int = 0, timeout_s: float = TIMEOUT_S) -> str:
        """The first line, of those from index @since on, that @pattern matches."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for _, line in self.lines[since:] if re.match(pattern, line)]
            return bool(found)

        self.wait(look, f"a line {pattern!r}", timeout_s)
        return found[0]

    def wait_closed(self, timeout_s: float = TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self.is_closed:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise SerialTimeout(f"{self.path}: still open")
                self._changed.wait(remaining)

    def _read(self) -> None:
        while True:
            try:
                data = self._sock.recv(65536)
            except OSError:
                data = b""
            now = time.monotonic_ns()
            with self._changed:
                if data:
                    self._take(now, data)
                else:
                    self.is_closed = True
                self._changed.notify_all()
            if not data:
                return

    def _take(self, now: int, data: bytes) -> None:
        self.first_byte_ns = self.first_byte_ns or now
        while data:
            if self._line is None:
                head, mark, data = data.partition(b"@")
                self._take_ticks(now, head)
                if mark:
                    self._line = bytearray()
            else:
                head, mark, data = data.partition(b"\n")
                self._line += head
                if mark or len(self._line) > LINE_MAX:
                    self.lines.append((now, self._line.decode(errors="replace").strip()))
                    self._line = None

    def _take_ticks(self, now: int, data: bytes) -> None:
        ticks = data.count(b".")
        if ticks:
            if self.last_tick_ns:
                self.longest_gap_ns = max(self.longest_gap_ns, now - self.last_tick_ns)
            self.ticks += ticks
            self.last_tick_ns = now
        rest = data.replace(b".", b"").replace(b"\r", b"").replace(b"\n", b"")
        self.other = (self.other + rest)[-LINE_MAX:]
