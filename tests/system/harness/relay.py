# SPDX-License-Identifier: Apache-2.0
"""A link between the two sides that breaks where a test wants it to."""
from __future__ import annotations

import socket
import struct
import threading

from .stream import HEADER_SIZE, RECORD_SIZE, TYPES, padded

END_S = 30.0
PIECE = 1 << 16


class Link:
    """Accepts once on @listen and relays to @target.

    It breaks, both ways at once, after @cut_after bytes from the source, or in
    front of the first record named @cut_before, whichever side sends it.
    """

    def __init__(self, listen: str, target: str, cut_after: int | None = None,
                 cut_before: str | None = None) -> None:
        self.cut_after = cut_after
        self.cut_before = TYPES[cut_before] if cut_before else None
        self.seen: set[int] = set()  # types of records that came by
        self.was_cut = threading.Event()
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(listen)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

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
        self._pass(reader, writer, head)
        while True:
            record = _exactly(reader, RECORD_SIZE)
            type_, length, _ = struct.unpack("<IIQ", record)
            if type_ == self.cut_before or self.was_cut.is_set():
                self.was_cut.set()
                return
            self.seen.add(type_)
            writer.sendall(record)
            self._pass(reader, writer, padded(length))

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
