# SPDX-License-Identifier: Apache-2.0
"""Someone at a Linux guest's serial port: logs in, stays through a move, is there at the end."""
from __future__ import annotations

import re
from typing import Callable

import pytest

from harness.machine import Fleet
from harness.move import move
from nested import linux, userland
from nested.terminal import LONG_S, Terminal
from nested.verdict import must_have_moved

REFUSING = "vmlinux"  # where a wrong password is tried, which busybox waits for: three seconds


def say(terminal: Terminal) -> str:
    """What the shell knows of itself."""
    terminal.type("echo shell $$ keeps $kept,")
    terminal.expect("$kept,")  # the echo of what was typed
    return terminal.expect(",")


@pytest.mark.parametrize("kernel", sorted(linux.KERNELS))
def test_login_lasts_through_a_move_and_the_power_button_ends_it(
        fleets: Callable[[str], Fleet], kernel: str) -> None:
    fleet = fleets("a")
    told = linux.options(kernel, cpus=2, initrd=userland.INITRD)
    source = fleet.start("source", **told)
    terminal = Terminal(source)
    terminal.expect("login: ")
    terminal.type(userland.USER)
    terminal.expect("Password: ")
    if kernel == REFUSING:
        terminal.type("not it")
        terminal.expect("Login incorrect")
        terminal.expect("login: ")
        terminal.type(userland.USER)
        terminal.expect("Password: ")
    terminal.type(userland.PASSWORD)
    terminal.expect("# ")
    terminal.type("kept=$(cat /proc/sys/kernel/random/uuid)")
    said = say(terminal)
    assert re.fullmatch(r"shell \d+ keeps [0-9a-f-]{36}", said)

    uri = f"unix:{fleet.folder}/login.move"
    destination = fleet.start("destination", incoming=uri, **told)
    source.qmp.command("migrate-set-parameters", downtime_limit=linux.DOWNTIME_MS)
    moved = move(source, destination, uri, is_silent=True)
    must_have_moved(moved)
    terminal = Terminal(destination)
    assert say(terminal) == said

    destination.qmp.command("system_powerdown")
    terminal.expect(userland.BUTTON)
    destination.qmp.wait_event("SHUTDOWN", LONG_S)
    assert destination.wait_end() == 0
