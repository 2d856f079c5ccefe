# SPDX-License-Identifier: Apache-2.0
"""One nested host: a QEMU process, and what may be asked of the agent in it."""
from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Sequence

from harness.qmp import Qmp

from . import agent, clock, emulator, watch
from .packages import LabError, Packages

BOOT_S, END_S, ASK_S = 25.0, 10.0, 30.0
BOOTS, MTU = 3, 60000
WINDOW = 4 << 20  # bytes of a connection on their way, at most
CLOCK_OFFSET = "/bin/clock_offset"
COMMAND_LINE = ("console=ttyS0 mitigations=off panic=-1 "
                # Who polls takes the time of who would wake it: two cores are four processors here.
                "kvm.halt_poll_ns=0 cryptomgr.notests=1 "
                # One frequency on every host and all the time, measured outside: two hosts'
                # clocks would drift apart by what their calibrations are off.
                "tsc=reliable tsc_early_khz={tsc_khz} hpet=disable pmtmr=0")


@dataclass
class Done:
    """A command that ran to its end."""
    code: int
    output: str


class Host:
    """Up once the constructor returns.

    Its own network card leads to the agent; with @link, a stream socket, a second one leads to
    whoever holds the other end, and has @address there.
    """

    def __init__(self, folder: Path, name: str, packages: Packages, initrd: Path, tsc_khz: int, *,
                 memory: str = "4G", cpus: int = 2, link: socket.socket | None = None,
                 address: str = "") -> None:
        self.name, self.folder, self.address = name, folder, address
        self.console = folder / f"{name}.console"
        self._page = clock.Page(folder / f"{name}.clock")
        argv = [*emulator.obtain(), "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt",
                "-smp", str(cpus), "-m", memory, "-nodefaults", "-no-reboot", "-display", "none",
                "-name", name, "-serial", f"file:{self.console}",
                "-qmp", f"unix:{folder}/{name}.qmp,server=on,wait=off",
                "-kernel", str(packages.vmlinux), "-initrd", str(initrd),
                "-append", COMMAND_LINE.format(tsc_khz=tsc_khz),
                "-netdev", f"user,id=agent,restrict=on,hostfwd=tcp:127.0.0.1:0-:{agent.PORT}",
                "-device", "virtio-net-pci,netdev=agent",
                "-object", f"memory-backend-file,id=clock,share=on,size={clock.SIZE},"
                           f"mem-path={folder}/{name}.clock",
                "-device", "ivshmem-plain,memdev=clock"]
        if link is not None:
            mac = f"52:54:00:00:00:{int(address.rpartition('.')[2]):02x}"
            argv += ["-netdev", f"socket,id=link,fd={link.fileno()}",
                     "-device", f"virtio-net-pci,netdev=link,mac={mac}"]
        self._argv, self._fds = argv, [link.fileno()] if link is not None else []
        for attempt in range(BOOTS):
            self._start()
            try:
                self._wait_up()
                break
            except LabError:  # the emulator's kernel hangs now and then while SMP comes up
                self.end()
                if attempt + 1 == BOOTS:
                    raise
        if address:
            self._join(address)
        watch.arm(self)

    def _join(self, address: str) -> None:
        """Bridge br0 leads to the wire; guests' taps can be added, which does not change its MAC.

        What a packet costs here is the same for every size, and nobody else has it split.  By default
        a window holds one of these, which would make each wait for the answer to the one before it.
        """
        self.sh(f"""for way in r w; do
                echo 4096 {WINDOW} {WINDOW} > /proc/sys/net/ipv4/tcp_${{way}}mem; done
            brctl addbr br0
            ip link set eth1 mtu {MTU}; ip link set br0 mtu {MTU}
            ip link set br0 address $(cat /sys/class/net/eth1/address)
            brctl addif br0 eth1; ip link set eth1 up; ip link set br0 up
            ip addr add {address}/24 dev br0""")

    def _start(self) -> None:
        self._log = (self.folder / f"{self.name}.log").open("wb")
        self.process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=self._log,
                                        stderr=self._log, pass_fds=self._fds)
        self._qmp: Qmp | None = None

    def _wait_up(self) -> None:
        deadline = time.monotonic() + BOOT_S
        self._qmp = Qmp(f"{self.folder}/{self.name}.qmp", is_alive=lambda: self.is_alive)
        told = self._qmp.command("human-monitor-command", command_line="info usernet")
        self._port = int(re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", told)[1])
        while "lab: up" not in self.told():
            if not self.is_alive or time.monotonic() > deadline:
                raise LabError(f"host {self.name} did not come up in {BOOT_S} s: {self.told()[-2000:]}")
            time.sleep(0.05)

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def told(self) -> str:
        """Its console, and what QEMU says."""
        texts = [path.read_text(errors="replace") for path in (self.console, Path(self._log.name))
                 if path.exists()]
        return "\n".join(texts)

    def end(self) -> None:
        if self._qmp is not None:
            self._qmp.close()
        self.process.kill()
        self.process.wait(END_S)
        self._log.close()

    def _ask(self, timeout_s: float, request: dict[str, Any]) -> tuple[dict[str, Any], socket.socket]:
        sock = socket.create_connection(("127.0.0.1", self._port), timeout_s)
        sock.sendall(json.dumps(request).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            # What follows the line is somebody else's.
            data = sock.recv(1 << 16, socket.MSG_PEEK)
            if not data:
                raise LabError(f"host {self.name} hung up on {request}: {self.told()[-2000:]}")
            line += sock.recv(data.find(b"\n") + 1 or len(data))
        return json.loads(line), sock

    def ask(self, do: str, timeout_s: float = ASK_S, **members: Any) -> dict[str, Any]:
        answer, sock = self._ask(timeout_s, {"do": do, **members})
        sock.close()
        if "error" in answer:
            raise LabError(f"host {self.name}: {do}: {answer['error']}")
        return answer

    def run(self, argv: Sequence[str], timeout_s: float = ASK_S) -> Done:
        answer = self.ask("run", timeout_s + END_S, argv=list(argv), limit_s=timeout_s)
        return Done(answer["code"], answer["output"])

    def sh(self, script: str, timeout_s: float = ASK_S) -> str:
        """A shell script that must succeed; what it prints."""
        done = self.run(["sh", "-e", "-c", script], timeout_s)
        if done.code:
            raise LabError(f"host {self.name}: {script}: exit {done.code}: {done.output}")
        return done.output

    def free_hugepages(self, count: int) -> None:
        """Have at least @count of 2 MiB that nobody uses."""
        self.sh(f"""pool=/proc/sys/vm/nr_hugepages
            free() {{ awk '/^HugePages_Free/ {{ print $2 }}' /proc/meminfo; }}
            test $(free) -ge {count} || echo $(($(cat $pool) + {count} - $(free))) > $pool
            test $(free) -ge {count}""")

    def clock_offset(self, *how: str) -> clock.Offset:
        """How far its realtime is ahead of ours; with "set", was until now."""
        with self._page:
            told = self.sh(" ".join([CLOCK_OFFSET, *how]))
        return clock.Offset(*map(int, told.split()))

    def stream(self, argv: Sequence[str], timeout_s: float) -> Iterator[bytes | int]:
        """What @argv prints, piece by piece, and lastly its exit status."""
        _, sock = self._ask(timeout_s, {"do": "stream", "argv": list(argv)})
        with sock:
            while data := sock.recv(1 << 16):
                text, end, status = data.partition(b"\0")
                yield text
                if end:
                    while data := sock.recv(64):
                        status += data
                    yield int(status)
                    return
        raise LabError(f"host {self.name} hung up: {self.told()[-2000:]}")

    def fetch(self, path: str, target: Path) -> None:
        """Its file @path becomes @target here."""
        answer, sock = self._ask(ASK_S, {"do": "fetch", "path": path})
        with sock, target.open("wb") as file:
            if "error" in answer:
                raise LabError(f"host {self.name}: fetch: {answer['error']}")
            while data := sock.recv(1 << 20):
                file.write(data)
        if target.stat().st_size != answer["size"]:
            raise LabError(f"host {self.name} hung up: {self.told()[-2000:]}")

    def connect(self, path: str) -> socket.socket:
        """To a UNIX socket in there; OSErrors as if it were here."""
        answer, sock = self._ask(ASK_S, {"do": "connect", "path": path})
        if "error" not in answer:
            sock.settimeout(None)
            return sock
        sock.close()
        if answer["error"].startswith("FileNotFoundError"):
            raise FileNotFoundError(answer["error"])
        if answer["error"].startswith("ConnectionRefusedError"):
            raise ConnectionRefusedError(answer["error"])
        raise LabError(f"host {self.name}: {answer['error']}")
