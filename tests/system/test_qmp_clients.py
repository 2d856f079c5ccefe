# SPDX-License-Identifier: Apache-2.0
"""Clients that disagree, stall, or talk rubbish: each gets an answer, and nobody waits for another."""
from __future__ import annotations

import json
import random
import socket
import threading
import time
from typing import Any, Callable

import pytest

from harness.injector import settled
from harness.machine import Fleet, Machine
from harness.move import MOVE_S, start, wait
from harness.qmp import Qmp, QmpClosed, QmpError
from harness.scene import assert_moves_after_all, assert_works, listening, working

SMALL = {"memory": "32M", "cpus": 1, "guest_options": "hot=1M,rate=10000/s,tick=1ms"}
ANSWER_S = 5.0
RSS_GROWTH_MAX_KIB = 16 << 10
ENDED_BY_HOST, INCOMING_FAILED = 0, 6  # docs/exit-codes.md


def rss_anon_kib(machine: Machine) -> int:
    with open(f"/proc/{machine.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def said(client: Qmp, command: str, **arguments: Any) -> str:
    """What it was told: "" for no error; "closed" when godwit is gone."""
    try:
        client.command(command, ANSWER_S, **arguments)
    except QmpError as error:
        return error.desc
    except (QmpClosed, OSError):
        return "closed"
    return ""


def at_once(*calls: Callable[[], str]) -> list[str]:
    """Each in a thread of its own, all let go together; what each was told."""
    gate, answers = threading.Barrier(len(calls)), [""] * len(calls)

    def run(number: int) -> None:
        gate.wait(ANSWER_S)
        answers[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,), daemon=True)
               for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * ANSWER_S)
        assert not thread.is_alive(), "a command has no answer"
    return answers


def test_of_two_clients_who_migrate_at_once_one_is_told_so(fleet: Fleet) -> None:
    source = working(fleet, **SMALL)
    for number in range(8):
        destination, uri = listening(fleet, f"d{number}", **SMALL)
        source.qmp.take_events()
        with Qmp(source.qmp_path) as one, Qmp(source.qmp_path) as two:
            answers = at_once(lambda: said(one, "migrate", uri=uri),
                              lambda: said(two, "migrate", uri=uri))
        refused = [answer for answer in answers if answer]
        # The second may also come when the first is through already.
        assert len(refused) == 1, answers
        assert "under way" in refused[0] or "postmigrate" in refused[0]
        assert wait(source) == "completed"
        assert wait(destination, MOVE_S, "running") == "running"  # and may move on
        source = destination
    assert_works(source)


def test_client_who_cancels_while_another_migrates_leaves_one_guest(fleet: Fleet) -> None:
    source = working(fleet, **SMALL)
    for number in range(12):
        destination, uri = listening(fleet, f"d{number}", **SMALL)
        source.qmp.take_events()
        with Qmp(source.qmp_path) as one, Qmp(source.qmp_path) as two:
            answers = at_once(lambda: said(one, "migrate", uri=uri),
                              lambda: (threading.Event().wait(number * 0.001),  # a spread
                                       said(two, "migrate_cancel"))[1])
        assert answers == ["", ""]
        if wait(source) == "completed":
            wait(destination, MOVE_S, "running")
            source = destination
        else:
            assert source.status == "running"
            destination.kill()  # a cancel before it connected is not heard of
    assert_moves_after_all(fleet, source, **SMALL)


def test_clients_who_stop_and_continue_a_moving_guest_are_all_answered(fleet: Fleet) -> None:
    source = working(fleet, **SMALL)
    destination, uri = listening(fleet, **SMALL)
    is_over = threading.Event()

    def hammer(client: Qmp, command: str) -> str:
        worst = 0.0
        while not is_over.is_set():
            started = time.monotonic()
            told = said(client, command)
            worst = max(worst, time.monotonic() - started)
            assert not told or "machine that is" in told or "destination" in told, told
        return f"{worst:.3f}"

    def moved() -> str:
        try:
            source.qmp.command("migrate", uri=uri)
            return wait(source)
        finally:
            is_over.set()

    with Qmp(source.qmp_path) as one, Qmp(source.qmp_path) as two:
        answers = at_once(lambda: hammer(one, "stop"), lambda: hammer(two, "cont"), moved)
    assert answers[2] == "completed"
    assert max(float(answer) for answer in answers[:2]) < ANSWER_S
    assert source.status == "postmigrate"
    destination.qmp.command("cont")
    assert_works(destination)


@pytest.mark.parametrize("delay_ms", [0, 1, 3, 10, 30])
def test_client_who_quits_while_another_migrates_leaves_at_most_one_guest(
        fleet: Fleet, delay_ms: int) -> None:
    source = working(fleet, **SMALL)
    destination, uri = listening(fleet, **SMALL)
    with Qmp(source.qmp_path) as one, Qmp(source.qmp_path) as two:
        answers = at_once(lambda: said(one, "migrate", uri=uri),
                          lambda: (threading.Event().wait(delay_ms / 1000),  # a spread
                                   said(two, "quit"))[1])
    assert answers[0] in ("", "closed") or "cannot move" in answers[0], answers
    assert answers[1] in ("", "closed"), answers
    assert source.wait_end() == ENDED_BY_HOST
    if answers[0] == "" and destination.is_alive:
        # It has the guest, or ends; or it was never connected to, and listens.
        try:
            status = destination.qmp.command("query-migrate")["status"]
        except QmpClosed:
            status = "gone"
        if status == "listening":
            return
        settled(source, destination, is_migrating=False)


def test_client_who_never_reads_its_events_costs_others_nothing(fleet: Fleet) -> None:
    machine = working(fleet, **SMALL)
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    silent.connect(machine.qmp_path)
    silent.sendall(b"{\"execute\": \"qmp_capabilities\"}\n")
    machine.qmp.command("query-status")
    before, worst = rss_anon_kib(machine), 0.0
    for _ in range(4000):
        for command in ("stop", "cont"):
            started = time.monotonic()
            machine.qmp.command(command, ANSWER_S)
            worst = max(worst, time.monotonic() - started)
        machine.qmp.take_events()
    assert worst < ANSWER_S
    assert rss_anon_kib(machine) - before < RSS_GROWTH_MAX_KIB
    # Kept for it, or it was dropped: whole lines either way.
    silent.settimeout(ANSWER_S)
    lines = silent.makefile("rb")
    events = 0
    while events < 8000 and (line := lines.readline()):
        events += "event" in json.loads(line)
    assert events > 0
    silent.close()
    assert_works(machine)


def test_client_who_sends_half_a_request_keeps_nobody_waiting(fleet: Fleet) -> None:
    machine = working(fleet, **SMALL)
    half = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    half.settimeout(ANSWER_S)
    half.connect(machine.qmp_path)
    half.sendall(b"{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"query-na")
    with Qmp(machine.qmp_path) as other:
        for _ in range(50):
            other.command("query-status", ANSWER_S)
    half.sendall(b"me\", \"id\": 7}\n")
    lines = half.makefile("rb")
    answers = [json.loads(lines.readline()) for _ in range(3)]
    assert answers[2]["id"] == 7 and answers[2]["return"]["name"] == "source"
    half.close()


MEGABYTE = {
    "random": random.Random(11).randbytes(1 << 20), "brackets": b"[" * (1 << 20),
    "braces": b"{\"a\":" * (1 << 18), "string": b"\"" + b"x" * (1 << 20) + b"\"",
    "zeroes": bytes(1 << 20), "newlines": b"\n" * (1 << 20),
    "numbers": b"1 " * (1 << 19), "objects": b"{}" * (1 << 19),
    "strings": b"\"\"" * (1 << 19), "quotes": b"\\\"" * (1 << 19),
}


@pytest.mark.parametrize("kind", MEGABYTE)
def test_megabyte_of_rubbish_is_answered_or_hung_up_on(fleet: Fleet, kind: str) -> None:
    machine = working(fleet, **SMALL)
    before = rss_anon_kib(machine)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(ANSWER_S)
    client.connect(machine.qmp_path)
    received = bytearray()

    def read() -> None:
        try:
            while data := client.recv(1 << 16):
                received.extend(data)
        except OSError:
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    is_open = True
    try:
        client.sendall(b"{\"execute\": \"qmp_capabilities\"}\n" + MEGABYTE[kind] + b"\n")
    except OSError:
        is_open = False  # it has heard enough
    with Qmp(machine.qmp_path) as other:
        assert other.command("query-status", ANSWER_S)["running"] is True
    if is_open:
        client.shutdown(socket.SHUT_WR)
    reader.join(ANSWER_S)
    client.close()
    lines = [json.loads(line) for line in bytes(received).splitlines()[:1000] if line]
    assert any("error" in line for line in lines) or not is_open or kind == "newlines"
    assert rss_anon_kib(machine) - before < RSS_GROWTH_MAX_KIB
    assert_works(machine)


def test_clients_who_come_and_go_during_a_migration_get_whole_events(fleet: Fleet) -> None:
    source = working(fleet, **SMALL)
    destination, uri = listening(fleet, **SMALL)
    is_over = threading.Event()

    def visit() -> str:
        seen = 0
        while not is_over.is_set():
            with Qmp(source.qmp_path) as client:
                client.command("query-migrate", ANSWER_S)
                seen += 1
        return str(seen)

    def moved() -> str:
        try:
            start(source, uri)
            return wait(source)
        finally:
            is_over.set()

    answers = at_once(visit, visit, moved)
    assert answers[2] == "completed" and all(int(answer) > 0 for answer in answers[:2])
    assert_works(destination)
