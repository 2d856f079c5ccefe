# SPDX-License-Identifier: Apache-2.0
"""How state is laid out at which version: for good, on KVM too, whose saved streams load on like hosts only.

streams/layouts.txt has what each version that was released takes.  What a machine with a
device of each kind describes of itself must be there, and fields that a newer version added
must leave the older ones as they were.
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness import network
from harness.back_end import BackEnds
from harness.edit import reader
from harness.machine import Fleet
from harness.network import Network
from harness.scene import save

LAYOUTS = Path(__file__).parent / "streams" / "layouts.txt"
IS_RENEWED = bool(os.environ.get("LAYOUTS_RENEW"))
# An entry's fields, as lines: name, kind, elements (at most, of a varying array), since which version.
Layout = list[str]
Layouts = dict[tuple[str, int], Layout]


@pytest.fixture
def net(kvm: None) -> Iterator[Network]:
    yield from network.namespace()


def line_of(field: Any) -> str:
    at_most = "<=" if field.is_varying else ""
    return f"{field.name} u{4 << field.kind} {at_most}{field.count} {field.since}"


def since(line: str) -> int:
    return int(line.split()[-1])


def described(stream: Path) -> Layouts:
    schemas = reader.verify(stream.read_bytes()).schemas.values()
    return {(each.name, each.version): [line_of(field) for field in each.fields]
            for each in schemas}


def kept() -> Layouts:
    layouts: Layouts = {}
    for line in LAYOUTS.read_text().splitlines():
        if line.startswith("  "):
            layouts[entry].append(line.strip())
        elif line and not line.startswith("#"):
            name, version = line.split()
            entry = (name, int(version))
            layouts[entry] = []
    return layouts


def keep(layouts: Layouts) -> None:
    head = [line for line in LAYOUTS.read_text().splitlines() if line.startswith("#")]
    for (name, version), fields in sorted(layouts.items()):
        head += [f"{name} {version}", *(f"  {field}" for field in fields)]
    LAYOUTS.write_text("\n".join(head) + "\n")


@pytest.fixture
def machine_layouts(fleet: Fleet, net: Network, back_ends: BackEnds, folder: Path) -> Layouts:
    """Of a machine with a device of each kind."""
    net.bridge("tap0")
    image = folder / "image"
    image.write_bytes(bytes(4 << 20))
    end = back_ends.recorded("end", image)
    machine = fleet.start("all", guest="blk", cpus=1, memory="64M", network=net.name,
                          guest_options="span=1M,tick=1ms",
                          extra=["--disk", f"path={image}", "--disk", f"vhost-user={end.socket}",
                                 "--net", "tap=tap0", "--rng", "on", "--console", "null",
                                 "--shmem", "size=1M"])
    machine.serial.wait_ticks(1)
    save(machine, folder / "saved")
    return described(folder / "saved")


def test_state_is_laid_out_as_its_version_was_when_it_was_released(machine_layouts: Layouts
                                                                   ) -> None:
    layouts = kept()
    missing = {entry: each for entry, each in machine_layouts.items() if entry not in layouts}
    if IS_RENEWED and missing:
        keep({**layouts, **missing})
        layouts = kept()
    gone = {name for name, _ in layouts} - {name for name, _ in machine_layouts}
    assert not gone, f"{gone}: a saved stream that has it does not load any more"
    for entry, fields in machine_layouts.items():
        assert entry in layouts, f"{entry} is new: HACKING.md says how it comes into {LAYOUTS}"
        assert fields == layouts[entry], f"{entry}: a layout that changed needs a new version"


def test_newer_version_leaves_the_fields_of_older_ones_as_they_were() -> None:
    layouts = kept()
    newest = {name: max(version for other, version in layouts if other == name)
              for name, _ in layouts}
    for (name, version), fields in layouts.items():
        now = layouts[name, newest[name]]
        assert [line for line in now if since(line) <= version] == fields, (name, version)
