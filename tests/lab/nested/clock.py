# SPDX-License-Identifier: Apache-2.0
"""The one clock that all nested hosts are compared with: this machine's.

A host asks through a page that QEMU shares with us (host/clock_offset.c); of many questions the
one answered fastest counts, and its bound is half the time it took.  Both sides spin, so that this
is a few microseconds.
"""
from __future__ import annotations

import ctypes
import mmap
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SIZE = 1 << 20
# Raw, so that nobody steers it while we measure.
_BASE_NS = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def now_ns() -> int:
    return _BASE_NS + time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


@dataclass(frozen=True)
class Offset:
    """How far a clock is ahead of now_ns(), and by how much that may be wrong."""
    ns: int
    bound_ns: int


class Page:
    """The shared page; answers while it is entered."""

    def __init__(self, path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(SIZE)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)
        self._asked, self._answered = (ctypes.c_uint64.from_buffer(self._map, at) for at in (0, 8))
        self._ns = ctypes.c_int64.from_buffer(self._map, 16)
        self._is_over = False

    def __enter__(self) -> None:
        self._is_over = False
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()

    def _answer(self) -> None:
        while not self._is_over:
            asked = self._asked.value
            if asked != self._answered.value:
                self._ns.value = now_ns()
                self._answered.value = asked
