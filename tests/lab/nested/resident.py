# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel as a guest with virtio devices, someone logged in, and peers that talk to it."""
from __future__ import annotations

import json
import shlex
import signal
import statistics
from typing import TYPE_CHECKING, Any, Callable

from harness.machine import Machine
from harness.move import Move, move

from . import linux, userland
from .host import Host
from .image import PYTHON
from .machine import RemoteProcess
from .terminal import Terminal
from .verdict import must_be_right, must_have_moved

if TYPE_CHECKING:
    from .fleets import Fleets

PEER, TAP = "/lab/peer.py", "/lab/tap.py"
ADDRESS, MASK, MAC, PORT = "10.7.0.9", 24, "52:54:00:00:01:09", 5000
CPUS = 2
PING_MS = 10  # from one to the next, as peer.py sends them
# Beyond the pause: what emulated hosts need to say where the guest is, at most and as a rule.
GAP_MS, USUAL_GAP_MS = 6_000, 1_500


def taps(host: Host, *names: str) -> None:
    """There, whoever asked first."""
    host.sh(f"test -e /sys/class/net/{names[0]} || {PYTHON} {TAP} {' '.join(names)}")


def image(host: Host, path: str, size_mib: int) -> None:
    """An empty ext4 in a new file."""
    host.sh(f"truncate -s {size_mib}M {path}; /usr/sbin/mke2fs -q -F -t ext4 {path}")


def check_image(host: Host, path: str) -> None:
    """Nothing of its file system wants to be repaired."""
    checked = host.run(["/usr/sbin/e2fsck", "-f", "-n", path])
    must_be_right(checked.code == 0, checked.output)


def gaps(said: dict[str, Any], pauses_ms: list[float]) -> str:
    pings, echoes = (said[name][:len(pauses_ms)] for name in ("gaps_ms", "echo_gaps_ms"))
    return (f"pauses of {min(pauses_ms)} to {max(pauses_ms)} ms: longest times without a ping "
            f"{pings} ms, without an echo {echoes} ms")


def check_peer(said: dict[str, Any], pauses_ms: list[float]) -> None:
    """Every byte arrived, and came back.  Pings went unanswered about as long as the guest paused:
    there is a gap a move, and little is missing beside these.  TCP resends after ever twice the
    time, so the first echo may come as late again as the pause was long."""
    must_be_right(said["is_same"] and said["sha256"] == said["guest"], said)
    assert said["bytes"] > 0
    pings, echoes = (said[name][:len(pauses_ms)] for name in ("gaps_ms", "echo_gaps_ms"))
    assert max(*pings, *echoes) < max(pauses_ms) + GAP_MS, (said, pauses_ms)
    usual_ms = statistics.median(pauses_ms)
    assert statistics.median_low(pings) < usual_ms + USUAL_GAP_MS, (said, pauses_ms)
    assert statistics.median_low(echoes) < 2 * usual_ms + USUAL_GAP_MS, (said, pauses_ms)
    missing = said["pings"] - said["answers"] - sum(said["gaps_ms"]) / PING_MS
    assert missing < said["pings"] / 10, (said, pauses_ms)


class Peer:
    """On @host: host/peer.py, with the guest's echo at the other end."""

    def __init__(self, host: Host, resident: "Resident") -> None:
        self._host, self._resident = host, resident
        resident.terminal.run(
            "rm -f /tmp/copy /tmp/hashed; mkfifo /tmp/copy /tmp/hashed || exit; "
            "{ sha256sum < /tmp/copy > /tmp/hash; : > /tmp/hashed; } > /dev/null 2>&1 & "
            f"nc -l -p {PORT} -e tee /tmp/copy > /dev/null 2>&1 < /dev/null & "
            f"while ! netstat -ltn | grep -q :{PORT}; do usleep 10000; done")
        self._output = f"/tmp/peer{resident.count}.out"
        self._process = RemoteProcess(host, [str(PYTHON), PEER, ADDRESS, str(PORT)], self._output)

    def end(self) -> dict[str, Any]:
        """What it says; the guest's own hash of what it received is "guest"."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(linux.ASK_S)
        text = self._host.ask("read", path=self._output)["text"]
        said = json.loads(text.splitlines()[-1])
        hashed = self._resident.terminal.run("cat /tmp/hashed /tmp/hash")
        return {**said, "guest": hashed.split()[0]}


class Resident:
    """Its processes differ in what @devices says for a host and the number of the process."""

    def __init__(self, fleets: "Fleets", devices: Callable[[str, int], list[str]]) -> None:
        self._fleets, self._devices = fleets, devices
        self._generation = -1  # of the hosts that it was booted in
        self.count = self.number = 0  # of processes ever started; which of them has the guest
        self.host, self.machine = "", None
        self.terminal: Terminal | None = None

    def ready(self, host: str = "a") -> "Resident":
        """Booted on @host, logged in, its card has its address; or as the last test left it."""
        if not self.is_here:
            self._generation = self._fleets.generation
            self.goes_on_in(self._start(host), host)
            self.terminal.log_in()
            self.terminal.run(f"ip link set eth0 up; ip addr add {ADDRESS}/{MASK} dev eth0")
        assert self.machine.is_alive, self.epitaph()
        return self

    @property
    def is_here(self) -> bool:
        """It was booted in these hosts: nobody has ended it."""
        return self._generation == self._fleets.generation

    def goes_on_in(self, machine: Machine, host: str) -> None:
        """@machine, the last one that was started."""
        self.machine, self.host, self.number = machine, host, self.count
        self.terminal = Terminal(machine)

    def destination(self, host: str = "") -> tuple[Machine, str]:
        """A process that waits for it, and where."""
        host = host or self.host
        uri = f"unix:{self._fleets(host).folder}/{self.count}.move" if host == self.host else \
            f"tcp:{linux.ADDRESSES[host]}:{linux.PORT}"
        return self._start(host, uri).ready(), uri

    def move(self, host: str = "") -> tuple[Move, dict[str, int]]:
        """To a new process; also what the source counted of vhost."""
        following, uri = self.destination(host)
        moved = move(self.machine, following, uri, is_silent=True)
        must_have_moved(moved)
        assert moved.info["verify"]["pages"] > 0  # both sides' hashes were compared
        counts = vhost_counts(self.machine)
        self.machine.qmp.command("quit")
        assert self.machine.wait_end() == 0
        self.goes_on_in(following, host or self.host)
        return moved, counts

    def write_files(self, folder: str, disk: str) -> None:
        """Below @folder, on @disk, until checked: files whose sums are only in memory."""
        self.terminal.run(f"mkdir -p {folder}; mount {disk} {folder} && rm -rf {folder}-sums && "
                          f"mkdir {folder}-sums && mkfifo {folder}-sums/stopped && "
                          f"echo 0 > {folder}-sums/count && {userland.WRITER} {folder} "
                          "> /dev/null 2>&1 < /dev/null & true")

    def files_written(self, *folders: str) -> list[int]:
        """How many in each."""
        return [*map(int, self.terminal.run(f"cat {_counts(*folders)}").split())]

    def wait_for_files(self, folder: str, more: int) -> None:
        """Until @more were written than there are."""
        count = _counts(folder)
        self.terminal.run(f"goal=$(($(cat {count}) + {more})); "
                          f"while [ $(cat {count}) -lt $goal ]; do usleep 20000; done")

    def check_files(self, folder: str) -> int:
        """Stop writing; each file is on the disk as it was written: how many."""
        told = self.terminal.run(
            f"touch {folder}-sums/stop && cat {folder}-sums/stopped && sync && "
            f"echo 3 > /proc/sys/vm/drop_caches && cd {folder} && "
            f"cat {folder}-sums/of-* | {{ sha256sum -c || true; }} && cd / && umount {folder}")
        must_be_right("FAILED" not in told, told)
        return told.count(": OK")

    def epitaph(self) -> str:
        if self.machine is None or self.machine.is_alive:
            return ""
        return f"{shlex.join(self.machine.argv)}: {self.machine.output}"

    def _start(self, host: str, incoming: str | None = None) -> Machine:
        self.count += 1
        told = linux.options("vmlinux", cpus=CPUS, initrd=userland.INITRD)
        told["extra"] += self._devices(host, self.count)
        machine = self._fleets(host).start(f"resident{self.count}", incoming=incoming, **told)
        machine.qmp.command("migrate-set-capabilities",
                            capabilities=[{"capability": "verify", "state": True}])
        machine.qmp.command("migrate-set-parameters", downtime_limit=linux.DOWNTIME_MS)
        return machine


def _counts(*folders: str) -> str:
    return " ".join(f"{folder}-sums/count" for folder in folders)


def vhost_counts(machine: Machine) -> dict[str, int]:
    provider, = machine.qmp.command("query-stats", target="vm", providers=[{"provider": "vhost"}])
    return {stat["name"]: stat["value"] for stat in provider["stats"]}
