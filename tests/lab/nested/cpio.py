# SPDX-License-Identifier: Apache-2.0
"""Initial RAM disks: the kernel's "newc" cpio, written without root or the cpio program."""
from __future__ import annotations

import os
import stat
from pathlib import Path


class Archive:
    """Files by their path in the archive; parents are made as needed."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._seen: set[str] = set()

    def folder(self, name: str, mode: int = 0o755) -> None:
        if name.strip("/") not in self._seen:
            self._entry(name, stat.S_IFDIR | mode)

    def file(self, name: str, data: bytes, mode: int = 0o755, mtime: int = 0) -> None:
        self._entry(name, stat.S_IFREG | mode, data, mtime=mtime)

    def link(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def copy(self, source: Path, name: str | None = None) -> None:
        """The file that @source leads to, under @name or its own path.

        With its time: Python compiles anew what does not have the one it remembers.
        """
        about = os.stat(source)
        self.file(name or str(source), source.read_bytes(), stat.S_IMODE(about.st_mode),
                  int(about.st_mtime))

    def __contains__(self, name: str) -> bool:
        return name.strip("/") in self._seen

    def pack(self) -> bytes:
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)

    def _entry(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0),
               mtime: int = 0) -> None:
        name = name.strip("/")
        if name in self._seen:
            raise ValueError(f"{name} is in the archive already")
        parent = os.path.dirname(name)
        if parent:
            self.folder(parent)
        self._seen.add(name)
        path = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device, special device, name, no checksum
        fields = (len(self._seen), mode, 0, 0, 1, mtime, len(data), 0, 0, *device, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
