# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel and the PCI bus: it finds it, uses all of it, resets a function, and moves."""
from __future__ import annotations

from typing import Callable

from harness.machine import Fleet
from harness.move import move
from nested import linux, userland
from nested.terminal import Terminal
from nested.verdict import must_be_right, must_have_moved

DEVICE = "/sys/bus/pci/devices/0000:00:01.0"
SIZE_MIB = 16  # large enough for the window above RAM
WORDS = {0x0: "0x64776F47", 0x345678: "0x12345678", (SIZE_MIB << 20) - 4: "0xCAFEF00D"}


def bar(terminal: Terminal, index: int) -> int:
    """Where the kernel has it."""
    line = terminal.run(f"sed -n {index + 1}p {DEVICE}/resource")
    return int(line.split()[0], 16)


def look(terminal: Terminal, memory: int) -> None:
    """All words that were written are there."""
    said = terminal.run("; ".join(f"devmem {memory + offset:#x}" for offset in WORDS))
    must_be_right(said.split() == list(WORDS.values()), said)


def test_linux_finds_resets_and_takes_along_a_function(fleets: Callable[[str], Fleet]) -> None:
    fleet = fleets("a")
    told = linux.options("vmlinux", cpus=2, initrd=userland.INITRD)
    told["extra"] += ["--shmem", f"size={SIZE_MIB}M"]
    source = fleet.start("source", **told)
    terminal = Terminal(source)
    terminal.log_in()
    assert terminal.run("ls /sys/bus/pci/devices").split() == ["0000:00:00,0", "0000:00:01,0"]
    assert terminal.run(f"cat {DEVICE}/vendor {DEVICE}/device {DEVICE}/class").split() == [
        "0x1af4", "0x1110", "0x050000"]
    # Extended configuration space: the kernel believes in ECAM.
    assert terminal.run(f"stat -c %s {DEVICE}/config") == "4096"
    assert "flr" in terminal.run(f"cat {DEVICE}/reset_method")
    complaints = terminal.run("dmesg | grep -iE 'pci|acpi|mmconfig' | grep -iE "
                              "'error|warn|conflict|fail|unable|can.t|invalid' || true")
    assert complaints == ""

    terminal.run(f"echo 1 > {DEVICE}/enable")
    memory_at = bar(terminal, 2)
    terminal.run("; ".join(f"devmem {memory_at + offset:#x} 32 {value}"
                           for offset, value in WORDS.items()))
    assert 4 << 30 <= memory_at < 68 << 30
    look(terminal, memory_at)
    terminal.run(f"echo 1 > {DEVICE}/reset")
    look(terminal, bar(terminal, 2))

    uri = f"unix:{fleet.folder}/pci.move"
    destination = fleet.start("destination", incoming=uri, **told)
    source.qmp.command("migrate-set-parameters", downtime_limit=linux.DOWNTIME_MS)
    moved = move(source, destination, uri, is_silent=True)
    must_have_moved(moved)
    terminal = Terminal(destination)
    look(terminal, bar(terminal, 2))
    # Removed and found again: sized, placed and mapped anew.
    terminal.run(f"echo 1 > {DEVICE}/remove; echo 1 > /sys/bus/pci/rescan")
    terminal.run(f"echo 1 > {DEVICE}/enable")
    look(terminal, bar(terminal, 2))
    assert int(terminal.run(f"devmem {bar(terminal, 0) + 8:#x}"), 16) == 0  # IVPosition
    destination.qmp.command("quit")
    destination.wait_end()
