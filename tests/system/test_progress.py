# SPDX-License-Identifier: Apache-2.0
"""What `godwit migrate` says of a move that takes a while: one line on a terminal, lines elsewhere."""
from __future__ import annotations

import os
import re
import subprocess
import tty

from harness.machine import Fleet, binary
from harness.scene import pair

# Each round has all of it to send again, more than the limit has time for; a switch alone takes less.
MEMORY = {"memory": "128M", "guest_options": "hot=64M,rate=max,tick=1ms"}
SLOW = ("--max-bandwidth", "100M", "--downtime-limit", "20", "--max-cpu-throttle", "0")
ENOUGH = b"round 3 "
SIZE, TIME = r"[\d.]+ [KMGTP]?i?B", r"[\d.]+ (?:us|ms|s)"
STATE = re.compile(rf"(?P<status>[a-z-]+)  round (?P<round>\d+)  {SIZE} left  {SIZE}/s"
                   rf"(?:  \d+ pages/s dirtied)?  pause about {TIME}")


def read(fd: int) -> bytes:
    """Empty at the end; that of a terminal without a user is an error."""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""


def watched_move(fleet: Fleet, ours: int, theirs: int) -> tuple[str, str]:
    """What it wrote to @theirs, which is read from @ours, and to stdout."""
    source, destination, uri = pair(fleet, **MEMORY)
    with subprocess.Popen([binary(), "migrate", "--qmp", f"unix:{source.qmp_path}", *SLOW, uri],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs) as client:
        os.close(theirs)
        told, is_slow = b"", True
        while chunk := read(ours):
            told += chunk
            if is_slow and ENOUGH in told:
                source.qmp.command("migrate-set-parameters", max_bandwidth=0, downtime_limit=1000)
                is_slow = False
        os.close(ours)
        summary = client.stdout.read().decode()
        assert client.wait() == 0, told
    destination.serial.wait_ticks(20)
    return told.decode(), summary


def assert_tells_the_move(states: list[str], summary: str) -> None:
    told = [STATE.fullmatch(state) for state in states]
    assert all(told), states
    rounds = [int(state["round"]) for state in told]
    assert rounds == sorted(rounds) and {1, 2, 3} <= set(rounds), states
    assert {"active", "completed"} <= {state["status"] for state in told}, states
    assert summary.startswith("moved to ")


def test_progress_on_a_terminal_is_one_line_that_is_rewritten(fleet: Fleet) -> None:
    ours, theirs = os.openpty()
    tty.setraw(theirs)  # what is written is what is read
    told, summary = watched_move(fleet, ours, theirs)
    before, *drawn = told.split("\r")
    assert before == "" and "\n" not in told, told
    assert all(line.endswith("\033[K") for line in drawn), told
    states = [line.removesuffix("\033[K") for line in drawn]
    assert states.pop() == ""  # wiped: the summary begins at the edge
    assert_tells_the_move(states, summary)


def test_progress_elsewhere_is_a_plain_line_for_each_round(fleet: Fleet) -> None:
    told, summary = watched_move(fleet, *os.pipe())
    assert "\r" not in told and "\033" not in told and told.endswith("\n"), told
    states = told.splitlines()
    assert_tells_the_move(states, summary)
    news = [state.split(" left")[0].rsplit("  ", 1)[0] for state in states]
    assert len(set(news)) == len(news), states
