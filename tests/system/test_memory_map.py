# SPDX-License-Identifier: Apache-2.0
"""query-memory-map: the regions and the flat view are what --memory and the devices imply."""
from __future__ import annotations

from typing import Any

import pytest

from harness.machine import Fleet

LOW_END = 3 << 30  # of the RAM below the hole for devices, which ends at 4 GiB
HIGH = 4 << 30
SIZES = {"2G": 2 << 30, "3G": 3 << 30, "3074M": 3074 << 20, "6G": 6 << 30}
GUEST = "hot=0,tick=10ms"


def numbers(entry: dict[str, Any]) -> dict[str, Any]:
    """Addresses and sizes are strings with 0x in front, as they may have 65 bits."""
    for key in ("address", "size", "offset", "target-offset"):
        if key in entry:
            assert entry[key].startswith("0x"), entry
            entry[key] = int(entry[key], 16)
    return entry


def memory_map(fleet: Fleet, memory: str, *extra: str
               ) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    machine = fleet.start(memory=memory, guest_options=GUEST, extra=extra).ready()
    told = machine.qmp.command("query-memory-map")
    assert set(told) == {"name", "regions", "view"}
    return told["name"], [numbers(region) for region in told["regions"]], \
        [numbers(entry) for entry in told["view"]]


def parts(size: int) -> list[tuple[str, int, int, int]]:
    """Name, address, size, and offset in RAM of each part of it."""
    low = min(size, LOW_END)
    return [("ram-low", 0, low, 0)] + [("ram-high", HIGH, size - low, low)] * (size > low)


def ram_regions(size: int) -> list[dict[str, Any]]:
    return [{"depth": 1, "name": name, "kind": "alias", "address": address, "size": part,
             "priority": 0, "enabled": True, "readonly": False, "target": "ram",
             "target-offset": offset} for name, address, part, offset in parts(size)]


def ram_ranges(size: int) -> list[dict[str, Any]]:
    return [{"address": address, "size": part, "region": "ram", "offset": offset, "ram": True,
             "readonly": False} for _, address, part, offset in parts(size)]


@pytest.mark.parametrize("memory", SIZES)
def test_memory_map_is_ram_below_and_above_4_gib(fleet: Fleet, memory: str) -> None:
    name, regions, view = memory_map(fleet, memory)
    assert name == "memory"
    assert regions[0] == {"depth": 0, "name": "memory", "kind": "container", "address": 0,
                          "size": 1 << 64, "priority": 0, "enabled": True, "readonly": False}
    assert regions[1:] == ram_regions(SIZES[memory])
    assert view == ram_ranges(SIZES[memory])


def test_devices_lie_in_the_hole_below_4_gib_or_above_ram(fleet: Fleet) -> None:
    size = SIZES["6G"]
    _, regions, view = memory_map(fleet, "6G", "--rng", "on", "--shmem", "size=1M")
    assert [region for region in regions if region.get("target") == "ram"] == ram_regions(size)
    windows = {region["name"]: region for region in regions if region.get("target") == "pci"}
    assert set(windows) == {"pci-low", "pci-high"}
    assert windows["pci-low"]["address"] == windows["pci-low"]["target-offset"] == LOW_END
    assert windows["pci-high"]["address"] >= HIGH + size - LOW_END
    # Ascending, and none over another; RAM is whole among them.
    assert all(one["address"] + one["size"] <= next_one["address"]
               for one, next_one in zip(view, view[1:]))
    assert [entry for entry in view if entry["region"] == "ram"] == ram_ranges(size)
    ecam, = (entry for entry in view if entry["region"] == "pci-ecam")
    assert LOW_END <= ecam["address"] < HIGH and not ecam["ram"]
