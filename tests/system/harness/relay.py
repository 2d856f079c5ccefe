# SPDX-License-Identifier: Apache-2.0
"""A link between the two sides that breaks, holds or lies where a test wants it to."""
from __future__ import annotations

import select
import socket
import threading
from typing import Callable

from .edit import HEAD, HEADER_SIZE, NAMES, RUNS, TYPES, Edited

END_S = 30.0
PIECE = 1 << 16


class Link:
    """Accepts once on @listen and relays to @target.

    It breaks, both ways at once, after @cut_after bytes from the source, or in
    front of the first record named @cut_before, whichever side sends it.  At
    the first named @hold_before it stands still until release(), or until the
    sender is gone: then the record is lost with the link.  @edit may change
    what is no RAM.  @touch may change what frames it: it gets "header" and the
    stream's first bytes, or a record's name and its first bytes.
    """

    def __init__(self, listen: str, target: str, cut_after: int | None = None,
                 cut_before: str | None = None, hold_before: str | None = None,
                 edit: Callable[[Edited], Edited] | None = None,
                 touch: Callable[[str, bytes], bytes] | None = None) -> None:
        self.cut_after = cut_after
        self.hold_before = TYPES[hold_before] if hold_before else None
        self.edit = edit
        self.touch = touch or (lambda name, data: data)
        self.is_held = threading.Event()
        self.ram_flags: set[int] = set()  # of the RAM records that came by
        self._released = threading.Event()
        self.cut_before = TYPES[cut_before] if cut_before else None
        self.seen: set[int] = set()  # types of records that came by
        self.was_cut = threading.Event()
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(listen)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_held(self) -> None:
        assert self.is_held.wait(END_S), "the record to hold never came"

    def release(self) -> None:
        self._released.set()

    def join(self) -> None:
        self._thread.join(END_S)

    def _run(self) -> None:
        near, _ = self._listener.accept()
        self._listener.close()
        far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        far.connect(self._target)

        def pump(reader: socket.socket, writer: socket.socket, is_forward: bool) -> None:
            try:
                if self.cut_after is not None:
                    self._bytes(reader, writer, self.cut_after if is_forward else None)
                else:
                    self._records(reader, writer, HEADER_SIZE if is_forward else 0)
            except OSError:
                pass
            for sock in (near, far):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

        back = threading.Thread(target=pump, args=(far, near, False), daemon=True)
        back.start()
        pump(near, far, True)
        back.join(END_S)
        near.close()
        far.close()

    def _bytes(self, reader: socket.socket, writer: socket.socket, limit: int | None) -> None:
        while limit is None or limit > 0:
            data = reader.recv(PIECE if limit is None else min(PIECE, limit))
            if not data:
                return
            writer.sendall(data)
            limit = None if limit is None else limit - len(data)
        self.was_cut.set()

    def _records(self, reader: socket.socket, writer: socket.socket, head: int) -> None:
        writer.sendall(self.touch("header", _exactly(reader, head)))
        while True:
            record = _exactly(reader, HEAD.size)
            type_, length, _ = HEAD.unpack(record)
            size = length + -length % 8
            record = self.touch(NAMES.get(type_, "?"), record)
            if type_ == self.cut_before or self.was_cut.is_set():
                self.was_cut.set()
                return
            if type_ == self.hold_before and not self._released.is_set():
                self._hold(reader)
            self.seen.add(type_)
            if type_ == TYPES["RAM"]:
                body = _exactly(reader, RUNS.size)
                self.ram_flags.add(RUNS.unpack(body)[1])
                writer.sendall(record + body)
                self._pass(reader, writer, size - RUNS.size)
            elif self.edit:
                body = _exactly(reader, size)[:length]
                writer.sendall(self.edit(Edited(type_, body)).pack())
            else:
                writer.sendall(record)
                self._pass(reader, writer, size)

    def _hold(self, reader: socket.socket) -> None:
        poll = select.poll()
        poll.register(reader, select.POLLRDHUP)
        self.is_held.set()
        while not self._released.wait(0.002):
            if poll.poll(0):
                raise OSError("closed while held")

    def _pass(self, reader: socket.socket, writer: socket.socket, count: int) -> None:
        while count:
            data = reader.recv(min(PIECE, count))
            if not data:
                raise OSError("closed")
            writer.sendall(data)
            count -= len(data)


def _exactly(reader: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = reader.recv(count - len(data))
        if not piece:
            raise OSError("closed")
        data += piece
    return data
