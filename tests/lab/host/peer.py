# SPDX-License-Identifier: Apache-2.0
"""Pings a guest every 10 ms and has it echo one TCP stream, until SIGTERM; then says how that went.

usage: peer.py ADDRESS PORT
The last line is JSON: pings and answers, the longest times without one, bytes of the stream, their
SHA-256, the longest times without an echo, and whether each byte came back as it went.
"""
from __future__ import annotations

import hashlib
import heapq
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time

INTERVAL_S, END_S = 0.01, 20.0
CHUNK, WINDOW = 2 << 10, 128 << 10  # what it costs hosts that are emulated goes by packets
ECHO_REQUEST, ECHO_REPLY, IP_HEADER = 8, 0, 20
GAPS = 32  # more than there are moves


class Gaps:
    """The longest times between two happenings."""

    def __init__(self) -> None:
        self.count, self._last, self._longest_s = 0, 0.0, [0.0] * GAPS  # of which [0] is the least

    def happened(self) -> None:
        now = time.monotonic()
        if self.count:
            heapq.heappushpop(self._longest_s, now - self._last)
        self.count, self._last = self.count + 1, now

    @property
    def ms(self) -> list[int]:
        """The longest first."""
        return [round(gap * 1000) for gap in sorted(self._longest_s, reverse=True)]


class Ping:
    def __init__(self, address: str) -> None:
        self.sent, self.answers = 0, Gaps()
        self._address, self._id = address, os.getpid() & 0xffff
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.sock.setblocking(False)

    def send(self) -> None:
        head = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, self._id, self.sent & 0xffff)
        total = sum(struct.unpack("!4H", head))
        check = ~((total & 0xffff) + (total >> 16)) & 0xffff
        try:
            self.sock.sendto(head[:2] + struct.pack("!H", check) + head[4:], (self._address, 0))
        except OSError:  # nobody knows its MAC: not answered
            pass
        self.sent += 1

    def receive(self) -> None:
        packet = self.sock.recv(1024)
        kind, _, _, ident = struct.unpack_from("!BBHH", packet, IP_HEADER)
        if kind == ECHO_REPLY and ident == self._id:
            self.answers.happened()


class Stream:
    def __init__(self, address: str, port: int) -> None:
        self.sock = socket.create_connection((address, port), END_S)
        self.sock.setblocking(False)
        self.bytes, self.echoes, self.is_same = 0, Gaps(), True
        self.is_over = False
        self.hash = hashlib.sha256()
        self._random, self._ahead = random.Random(port), b""  # what was sent and not echoed yet

    def send(self) -> None:
        if len(self._ahead) >= WINDOW:
            return
        data = self._random.randbytes(CHUNK)
        try:
            data = data[:self.sock.send(data)]
        except BlockingIOError:
            return
        self.hash.update(data)
        self.bytes += len(data)
        self._ahead += data

    def receive(self) -> None:
        data = self.sock.recv(WINDOW)
        self.is_over = not data
        self.echoes.happened()
        self.is_same &= self._ahead.startswith(data)
        self._ahead = self._ahead[len(data):]

    def end(self) -> None:
        """All that is on its way comes back."""
        self.sock.shutdown(socket.SHUT_WR)
        self.sock.settimeout(END_S)
        while not self.is_over:
            self.receive()
        self.is_same &= not self._ahead


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    is_told = []
    signal.signal(signal.SIGTERM, lambda *_: is_told.append(True))
    ping, stream = Ping(address), Stream(address, port)
    due = time.monotonic()
    while not is_told and not stream.is_over:
        if time.monotonic() >= due:
            ping.send()
            stream.send()
            due = max(due + INTERVAL_S, time.monotonic())
        ready, _, _ = select.select([ping.sock, stream.sock], [], [],
                                    max(0, due - time.monotonic()))
        for which in (ping, stream):
            if which.sock in ready:
                which.receive()
    was_cut = stream.is_over
    if not was_cut:
        stream.end()
    print(json.dumps({"pings": ping.sent, "answers": ping.answers.count,
                      "gaps_ms": ping.answers.ms, "bytes": stream.bytes,
                      "sha256": stream.hash.hexdigest(), "echo_gaps_ms": stream.echoes.ms,
                      "is_same": stream.is_same and not was_cut}), flush=True)


if __name__ == "__main__":
    main()
