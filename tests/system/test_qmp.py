# SPDX-License-Identifier: Apache-2.0
"""The control socket: QMP as QEMU speaks it, whatever clients send."""
from __future__ import annotations

import json
import random
import socket
from typing import Any, Iterator

import pytest

from harness.machine import Fleet, Machine
from harness.qmp import Qmp, QmpError

LIMIT_S = 10


class Raw:
    """A client that sends what it likes."""

    def __init__(self, machine: Machine) -> None:
        machine.ready()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(machine.qmp_path)
        self.reader = self.sock.makefile("rb")
        self.greeting = self.read()

    def read(self) -> dict[str, Any] | None:
        while True:
            line = self.reader.readline()
            if not line:
                return None
            message = json.loads(line)
            if "event" not in message:
                return message

    def ask(self, data: bytes | dict) -> dict[str, Any] | None:
        if isinstance(data, dict):
            data = json.dumps(data).encode() + b"\n"
        self.sock.sendall(data)
        return self.read()

    def negotiate(self) -> "Raw":
        assert self.ask({"execute": "qmp_capabilities"}) == {"return": {}}
        return self


@pytest.fixture
def machine(fleet: Fleet) -> Iterator[Machine]:
    machine = fleet.start(memory="32M", cpus=1, guest_options="hot=1M,rate=1000/s,tick=1ms").ready()
    yield machine
    # Whatever happened: it still answers, and the guest works.
    assert machine.qmp.command("query-status")["running"] is True
    machine.serial.wait_ticks(10)


def test_greeting_is_that_of_qmp(machine: Machine) -> None:
    greeting = Raw(machine).greeting
    assert set(greeting) == {"QMP"}
    assert "capabilities" in greeting["QMP"]
    version = greeting["QMP"]["version"]
    assert all(isinstance(version["qemu"][part], int) for part in ("major", "minor", "micro"))


def test_commands_before_negotiation_are_refused(machine: Machine) -> None:
    raw = Raw(machine)
    assert raw.ask({"execute": "query-status"})["error"]["class"] == "CommandNotFound"
    raw.negotiate()
    assert "return" in raw.ask({"execute": "query-status"})


@pytest.mark.parametrize("request_, wanted", [
    ({"execute": "no-such-command"}, "CommandNotFound"),
    ({"execute": 7}, "GenericError"),
    ({"execute": "query-status", "arguments": 5}, "GenericError"),
    ({"execute": "query-status", "arguments": {"x": 1}}, "GenericError"),
    ({"execute": "query-status", "surplus": 1}, "GenericError"),
    ({"arguments": {}}, "GenericError"),
    ({"execute": "migrate"}, "GenericError"),
    ({"execute": "migrate", "arguments": {"uri": 5}}, "GenericError"),
    ({"execute": "migrate-incoming", "arguments": {"uri": "unix:/x"}}, "GenericError"),
    ({}, "GenericError"),
], ids=str)
def test_wrong_request_gets_the_error_class_of_qemu(machine: Machine, request_: dict, wanted: str
                                                    ) -> None:
    answer = Raw(machine).negotiate().ask({**request_, "id": "mine"})
    assert answer["error"]["class"] == wanted and answer["error"]["desc"]
    assert answer["id"] == "mine"


@pytest.mark.parametrize("value", [1, "x", [1, {"a": None}], {"deep": {"er": 1}}, True, 1.5, None],
                         ids=str)
def test_id_of_any_type_comes_back(machine: Machine, value: Any) -> None:
    answer = Raw(machine).negotiate().ask({"execute": "query-status", "id": value})
    assert answer["id"] == value


@pytest.mark.parametrize("data", [
    b"garbage\n", b"{\n}}\n", b"[1,2]\n", b"\"text\"\n", b"\xff\xfe\x00\x01\n", b"{'a':1}\n",
    b"{\"execute\": \"\xc3\x28\"}\n", b"\0" * 100 + b"\n", b"[" * 5000 + b"\n", b"nul\n",
], ids=["text", "braces", "list", "string", "bytes", "quotes", "utf8", "nul", "deep", "word"])
def test_garbage_gets_an_error_and_the_socket_lives(machine: Machine, data: bytes) -> None:
    raw = Raw(machine).negotiate()
    raw.sock.sendall(data)
    answer = raw.read()
    if answer is not None:  # it may also hang up, as long as others are served
        assert "error" in answer
    assert "return" in Raw(machine).negotiate().ask({"execute": "query-status"})


def test_random_bytes_never_harm(machine: Machine) -> None:
    source = random.Random(6)
    for _ in range(30):
        raw = Raw(machine)
        try:
            raw.sock.sendall(source.randbytes(source.randrange(1, 20000)))
        except OSError:
            pass
        raw.sock.close()
    assert "return" in Raw(machine).negotiate().ask({"execute": "query-status"})


def test_endless_request_is_cut_off(machine: Machine) -> None:
    raw = Raw(machine).negotiate()
    sent = 0
    try:
        raw.sock.sendall(b"{\"execute\": \"")
        while sent < 256 << 20:
            sent += raw.sock.send(b"x" * (1 << 20))
    except OSError:
        pass
    assert sent < 256 << 20
    status = f"/proc/{machine.process.pid}/status"
    anonymous = [line for line in open(status, encoding="ascii") if line.startswith("RssAnon")]
    assert int(anonymous[0].split()[1]) < 128 << 10


def test_request_in_single_bytes_is_understood(machine: Machine) -> None:
    raw = Raw(machine).negotiate()
    for byte in b"{\"execute\" :\n \"query-status\", \"id\": \"}{\\\"\"}\n":
        raw.sock.sendall(bytes([byte]))
    answer = raw.read()
    assert answer["return"]["running"] is True and answer["id"] == "}{\""


def test_many_requests_in_one_write_are_answered_in_order(machine: Machine) -> None:
    raw = Raw(machine).negotiate()
    raw.sock.sendall(b"".join(b"{\"execute\":\"query-status\",\"id\":%d}" % n for n in range(500)))
    assert [raw.read()["id"] for _ in range(500)] == list(range(500))


def test_client_who_never_reads_does_not_hold_up_others(machine: Machine) -> None:
    raw = Raw(machine).negotiate()
    raw.sock.settimeout(2)
    try:
        for _ in range(20000):
            raw.sock.sendall(b"{\"execute\":\"query-memory-map\"}" * 10)
    except OSError:
        pass  # it stopped listening to us: that is right
    with Qmp(machine.qmp_path) as other:
        assert other.command("query-status", timeout_s=5)["running"] is True
    status = f"/proc/{machine.process.pid}/status"
    anonymous = [line for line in open(status, encoding="ascii") if line.startswith("RssAnon")]
    assert int(anonymous[0].split()[1]) < 256 << 10
    raw.sock.close()


def test_client_who_leaves_in_the_middle_harms_nobody(machine: Machine) -> None:
    for cut in range(1, 26):
        raw = Raw(machine)
        raw.sock.sendall(b"{\"execute\":\"query-status\"}"[:cut])
        raw.sock.close()


def test_several_clients_all_get_events(machine: Machine) -> None:
    with Qmp(machine.qmp_path) as one, Qmp(machine.qmp_path) as two:
        one.command("stop")
        for client in (one, two, machine.qmp):
            client.wait_event("STOP")
        two.command("cont")
        for client in (one, two, machine.qmp):
            client.wait_event("RESUME")


def test_fifty_clients_at_once_are_served_or_refused(machine: Machine) -> None:
    clients = []
    for _ in range(50):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(machine.qmp_path)  # waits for room in the backlog
        sock.settimeout(LIMIT_S)
        clients.append(sock)
    for sock in clients:
        first = sock.makefile("rb").readline()
        assert not first or set(json.loads(first)) & {"QMP", "error"}
        sock.close()


def test_stop_and_cont_twice_are_harmless(machine: Machine) -> None:
    for name in ("stop", "stop", "cont", "cont"):
        machine.qmp.command(name)


def test_capabilities_read_back_as_set(machine: Machine) -> None:
    told = {c["capability"]: c["state"] for c in machine.qmp.command("query-migrate-capabilities")}
    assert told and not told.get("verify", False)
    machine.qmp.command("migrate-set-capabilities", capabilities=[
        {"capability": "verify", "state": True}])
    told = {c["capability"]: c["state"] for c in machine.qmp.command("query-migrate-capabilities")}
    assert told["verify"] is True
    for wrong in ([{"capability": "flying", "state": True}], [{"capability": "verify"}], [5], 5):
        with pytest.raises(QmpError):
            machine.qmp.command("migrate-set-capabilities", capabilities=wrong)
