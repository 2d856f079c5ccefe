# SPDX-License-Identifier: Apache-2.0
"""Streams that former versions saved (streams/README.md) still load."""
from __future__ import annotations

import lzma
import os
import re
from pathlib import Path

import pytest

from harness import guest
from harness.machine import Fleet, run
from harness.second import reader
from test_second_reader import assert_told_alike

STREAMS = Path(__file__).parent / "streams"
NAMES = sorted(path.name for path in STREAMS.glob("*.xz"))
DEVICES = ("--rng", "on", "--console", "null", "--shmem", "size=1M")


def unpacked(folder: Path, name: str) -> Path:
    path = folder / name.removesuffix(".xz")
    path.write_bytes(lzma.decompress((STREAMS / name).read_bytes()))
    return path


def devices(folder: Path, name: str) -> tuple[str, ...]:
    if "devices" not in name:
        return ()
    image = folder / "image"
    image.write_bytes(b"")
    os.truncate(image, 1 << 20)
    return ("--disk", f"path={image}", *DEVICES)


def test_each_minor_version_since_the_first_that_was_published_is_there() -> None:
    told = re.search(r"minor version, (\d+);", (STREAMS.parents[2] / "docs/spec/stream.md")
                     .read_text())
    assert told
    kept = {name.split("-")[0] for name in NAMES}
    assert kept == {f"1.{minor}" for minor in range(1, int(told[1]) + 1)}


@pytest.mark.parametrize("name", NAMES)
def test_old_stream_loads_and_its_guest_goes_on(fleet: Fleet, name: str) -> None:
    path = unpacked(fleet.folder, name)
    machine = fleet.start("restored", memory="32M", incoming=f"file:{path}",
                          guest_options="hot=1M,rate=2k/s,verify=on,tick=1ms",
                          extra=("--accel", "sim", *devices(fleet.folder, name)))
    machine.serial.wait_ticks(100)
    before = machine.report()
    machine.serial.wait_ticks(100)
    last = guest.ask(machine.serial, request=b"q")
    assert last["errors"] == 0 and last["pages"] > before["pages"] > 0, last
    assert machine.wait_end() == 0


@pytest.mark.parametrize("name", NAMES)
def test_old_stream_reads_alike_by_both_readers(tmp_path: Path, name: str) -> None:
    path = unpacked(tmp_path, name)
    told = run("stream", str(path))
    assert told.returncode == 0, told.stderr
    assert_told_alike(told.stdout, reader.verify(path.read_bytes()))
